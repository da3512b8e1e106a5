"""Tokenizers made here, those of real GGUF files where they are present, and how vocabularies relate."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from record_transformers import CHAT, RECORDED, TEXTS
from tiny import CHAT_TEMPLATE, THINKING_TEMPLATE, chat_format, make_text, make_tokenizer
from tokenizers import Tokenizer, decoders, models, normalizers, processors
from transformers import PreTrainedTokenizerFast

from glimp_engine import CheckpointError, Model, RequestError
from glimp_engine.sequences.streams import Dictionary
from glimp_engine.text.messages import Chat
from glimp_engine.text.pairs import relate
from glimp_engine.text.tokenizer import Text

HELLO = [{"role": "user", "content": "The cat"}]
OPENED_TEMPLATE = CHAT_TEMPLATE + "{{ '<think>\n' }}"
CLOSED_TEMPLATE = CHAT_TEMPLATE + "<think>\n\n</think>\n\n"
REFUSING_TEMPLATE = "{{ raise_exception('roles alternate') }}"

any_text = st.text(st.sampled_from("ab .\n\té語👩\u0301"), max_size=30) | st.text(max_size=20)
few = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def plain():
    return make_text(special=("<|im_start|>", "<|im_end|>"))


@pytest.fixture(scope="module")
def thinking():
    return make_text(template=THINKING_TEMPLATE)


@pytest.fixture(scope="module")
def pieces():
    """As Llama 2's: words begin with ▁, what isn't in the vocabulary is written in bytes, a prompt begins with <s>."""
    tokens = ["<unk>", "<s>", "</s>", *[f"<0x{byte:02X}>" for byte in range(256)], *"▁The cat", "▁t", "at"]
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    merges = [("▁", "t"), ("a", "t")]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", pair=None, special_tokens=[("<s>", 1)])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>")
    return Text(tokenizer, chat_format(fast), len(fast), [2])


def id_of(text, token):
    return [text.bytes_of(i) for i in range(text.num_tokens)].index(token.encode())


@few
@given(written=any_text)
def test_text_survives_the_round_trip(plain, written):
    ids = plain.encode(written, allow_special=False)
    assert b"".join(plain.bytes_of(i) for i in ids) == written.encode()
    assert plain.decode(ids) == written


@few
@given(data=st.data())
def test_any_ids_decode_as_the_tokenizer_decodes_them(plain, data):
    ids = data.draw(st.lists(st.integers(0, plain.num_tokens - 1), max_size=20))
    expected = make_tokenizer(special=("<|im_start|>", "<|im_end|>")).decode(ids, skip_special_tokens=True)
    assert plain.decode(ids) == expected


@few
@given(written=st.text("The cat\n語é👩", max_size=20))
def test_byte_fallback_goes_on_as_written(pieces, written):
    ids = pieces.encode(written, allow_special=False)
    assert pieces.decode(ids) == written  # without the ▁ that a text's beginning has


def test_byte_fallback_tokens_have_their_bytes(pieces):
    assert pieces.bytes_of(3 + 10) == b"\n"
    assert id_of(pieces, " t")


def test_prompts_begin_as_configured_and_continuations_do_not(pieces):
    assert pieces.encode("The", allow_special=True)[0] == id_of(pieces, "<s>")
    assert id_of(pieces, "<s>") not in pieces.encode("The", allow_special=False)


def test_special_tokens_in_text_are_parsed_only_where_allowed(plain):
    end = id_of(plain, "<|im_end|>")
    for _ in range(2):  # neither way leaves a trace in the other
        assert end in plain.encode("a<|im_end|>", allow_special=True)
        assert end not in plain.encode("a<|im_end|>", allow_special=False)
    assert plain.decode(plain.encode("a<|im_end|>", allow_special=False)) == "a<|im_end|>"


def test_what_the_other_model_wrote_may_think_but_not_end(thinking, plain):
    ids = thinking.encode_carried("<think>a</think><|im_end|>")
    assert ids[0] == thinking.begin_thinking_id
    assert thinking.end_thinking_id in ids
    assert id_of(thinking, "<|im_end|>") not in ids
    assert plain.decode(plain.encode_carried("<think>a</think>")) == "<think>a</think>"


def save(path, tokenizer, **config):
    tokenizer.save_pretrained(path)
    (path / "config.json").write_text(json.dumps(config))
    return path


def test_end_tokens_are_the_union_of_what_the_files_say(tmp_path):
    tokenizer = make_tokenizer(special=("<|im_end|>", "<|endoftext|>", "<halt>"))
    path = save(tmp_path, tokenizer, eos_token_id=5)
    halt = tokenizer.convert_tokens_to_ids("<halt>")
    (path / "generation_config.json").write_text(json.dumps({"eos_token_id": [6, halt]}))
    known = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    assert Text.load(path, len(tokenizer)).end_token_ids == {5, 6, halt, *known}


def test_thinking_is_opened_where_the_template_leaves_it_to_the_model(thinking):
    ids = thinking.encode_chat(Chat(HELLO))
    assert thinking.is_thinking_open(ids)
    assert b"".join(thinking.bytes_of(i) for i in ids).endswith(b"assistant\n<think>\n")
    assert make_text(template=OPENED_TEMPLATE).encode_chat(Chat(HELLO)) == ids


def test_thinking_stays_closed_where_the_template_closes_it():
    closed = make_text(template=CLOSED_TEMPLATE)
    ids = closed.encode_chat(Chat(HELLO))
    assert closed.end_thinking_id in ids
    assert not closed.is_thinking_open(ids)


def test_a_model_without_thinking_tokens_does_not_think(plain):
    assert (plain.begin_thinking_id, plain.end_thinking_id) == (None, None)
    ids = plain.encode_chat(Chat(HELLO))
    assert ids == plain.encode("<|im_start|>user\nThe cat<|im_end|>\n<|im_start|>assistant\n", allow_special=True)
    assert not plain.is_thinking_open(ids)


@pytest.mark.parametrize("written", ["", "a", "a\n", "a\n\n"])
def test_thinking_ends_on_a_line_of_its_own(thinking, written):
    text = written + thinking.decode(thinking.end_of_thinking(written, thinking.marks))
    assert text == (written if written.endswith("\n") else written + "\n") + "</think>\n\n"


def test_thinking_tokens_are_written_and_end_tokens_are_not(thinking):
    ids = [thinking.begin_thinking_id, id_of(thinking, "a"), thinking.end_thinking_id]
    assert thinking.decode([*ids, id_of(thinking, "<|im_end|>")]) == "<think>a</think>"
    assert thinking.is_thinking_open(ids[:2])
    assert not thinking.is_thinking_open(ids)


@pytest.mark.parametrize("message", ["hello", {"content": "a"}, {"role": "user"}, {"role": "user", "content": 3}])
def test_malformed_messages_are_named(plain, message):
    with pytest.raises(RequestError, match=r"messages\[1\].* is .*; allowed: (a dict with role and content|text, )"):
        plain.encode_chat(Chat([*HELLO, message]))


def test_a_template_that_refuses_or_is_missing_is_a_request_error():
    with pytest.raises(RequestError, match="no chat template"):
        make_text(template=None).encode_chat(Chat(HELLO))
    with pytest.raises(RequestError, match="roles alternate"):
        make_text(template=REFUSING_TEMPLATE).encode_chat(Chat(HELLO))


def test_what_is_no_tokenizer_is_a_checkpoint_error(tmp_path):
    with pytest.raises(CheckpointError, match=r"expected tokenizer\.json, found no tokenizer"):
        Text.load(tmp_path, 10)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"tokenizer.json: expected JSON, found: "):
        Text.load(tmp_path, 10)


# Pairs.


def test_one_vocabulary_of_two_widths():
    tokenizer = make_tokenizer()
    narrow, wide = (
        Text(tokenizer.backend_tokenizer, chat_format(tokenizer), len(tokenizer) + padding, []) for padding in (0, 3)
    )
    pair = relate(narrow, wide)
    assert pair.kind == "identical"
    assert wide.decode([len(tokenizer) + 1]) == ""  # padding writes nothing
    dictionary = Dictionary((narrow, wide), pair, (len(tokenizer), len(tokenizer) + 3))
    assert dictionary.unknown_to_other(Model.SMALL) == []
    assert dictionary.unknown_to_other(Model.LARGE) == [len(tokenizer) + i for i in range(3)]


def test_vocabularies_that_differ_in_special_tokens_are_mapped(thinking):
    cousin = make_text(special=("<|extra|>", "</think>", "<think>", "<|im_end|>"))
    pair = relate(thinking, cousin)
    assert pair.kind == "mapped"
    assert pair.to_large[thinking.end_thinking_id] == cousin.end_thinking_id
    assert pair.to_large[id_of(thinking, "<|im_start|>")] == -1
    assert pair.to_small[id_of(cousin, "<|extra|>")] == -1
    for small_id, large_id in enumerate(pair.to_large):
        if large_id >= 0:
            assert cousin.bytes_of(large_id) == thinking.bytes_of(small_id)
            assert pair.to_small[large_id] == small_id
    sizes = (thinking.num_tokens, cousin.num_tokens)
    forbidden = [Dictionary((thinking, cousin), pair, sizes).unknown_to_other(model) for model in Model]
    assert forbidden == [[id_of(thinking, "<|im_start|>")], [id_of(cousin, "<|extra|>")]]


@pytest.mark.parametrize("options", [{"special": ("<|im_end|>",)}, {"words": (" other",)}], ids=["thinking", "words"])
def test_vocabularies_with_other_words_or_no_thinking_are_unrelated(thinking, options):
    pair = relate(thinking, make_text(**options))
    assert (pair.kind, pair.to_large, pair.to_small) == ("unrelated", None, None)


# Real files.

WIDTHS = {"smollm2": 49152, "qwen-small": 151936, "qwen-large": 151936}


@pytest.fixture(scope="module")
def real_texts(real_models):
    return {name: Text.load(path, WIDTHS[name]) for name, path in real_models.items()}


@pytest.mark.real
@pytest.mark.parametrize("name", WIDTHS)
def test_ids_are_those_of_transformers(real_texts, name):
    text, record = real_texts[name], json.loads(RECORDED.read_text())["models"][name]
    for line, ids in zip(TEXTS, record["texts"], strict=True):
        assert text.encode(line, allow_special=True) == ids
        assert text.decode(ids) == line
    assert text.encode_chat(Chat(CHAT)) == record["chat"]


@pytest.mark.real
def test_digits_and_accents_are_cut_as_the_models_were_trained(real_texts):
    smollm2, qwen = real_texts["smollm2"], real_texts["qwen-small"]
    cut = [smollm2.bytes_of(i) for i in smollm2.encode("x  12", allow_special=False)]
    assert cut == [b"x", b"  ", b"1", b"2"]
    assert qwen.encode("e\u0301", allow_special=False) == qwen.encode("é", allow_special=False)


@pytest.mark.real
def test_real_vocabularies(real_texts):
    qwen = real_texts["qwen-small"]
    with_blank_line = [token for i in range(qwen.num_tokens) if b"\n\n" in (token := qwen.bytes_of(i))]
    assert len(with_blank_line) == 565
    assert [token for token in with_blank_line if not token.endswith(b"\n\n")] == [b"\n\n    \n"]
    assert {qwen.bytes_of(i) for i in qwen.end_token_ids} == {b"<|im_end|>", b"<|endoftext|>"}
    assert relate(qwen, real_texts["qwen-large"]).kind == "identical"
    assert relate(qwen, real_texts["smollm2"]).kind == "unrelated"
