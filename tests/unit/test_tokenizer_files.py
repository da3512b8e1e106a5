"""The tokenizer is what tokenizer.json says: no class, and no section about lengths, changes it."""

import json

import pytest
from tiny import make_tokenizer, save_checkpoint
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from glimp_engine import CheckpointError, Engine
from glimp_engine.text.messages import Chat
from glimp_engine.text.tokenizer import Text
from glimp_engine.text.tokenizer_files import read_special_tokens, read_template

CLASSES = (
    *("GPT2Tokenizer", "Qwen2Tokenizer", "Qwen2TokenizerFast", "LlamaTokenizer", "LlamaTokenizerFast"),
    *("PreTrainedTokenizerFast", "TokenizersBackend", "GemmaTokenizer", "CohereTokenizerFast", "NoSuchTokenizer"),
)
LINES = ["1234 12.5", "e\u0301 ﬁ", " leading", "a  b\n\n c", "don't WON'T", "<|im_end|>x", "日本語 ½"]


def byte_level(digits, normalizer=None, prefix=False):
    """A byte-level tokenizer whose digits are cut as told, with a merge across them that shows it."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: i for i, letter in enumerate([*alphabet, "12", "34", "1234", "Ġl"])}
    merges = [("1", "2"), ("3", "4"), ("12", "34"), ("Ġ", "l")]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.normalizer = normalizer
    cut = Regex(rf"\p{{N}}{digits}| ?\p{{L}}+|\s+|[^\s\p{{L}}\p{{N}}]+")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(cut, "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens([AddedToken("<|im_end|>", special=True, normalized=False)])
    return tokenizer


def save(path, tokenizer, **config):
    tokenizer.save(str(path / "tokenizer.json"))
    (path / "tokenizer_config.json").write_text(json.dumps(config))
    return path


def edit(file, **sections):
    file.write_text(json.dumps({**json.loads(file.read_text()), **sections}))


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("digits", ["", "{1,3}", "+"])
@pytest.mark.parametrize("normalizer", [None, normalizers.NFC(), normalizers.NFKC()])
def test_a_class_beside_the_file_changes_nothing(tmp_path, name, digits, normalizer):
    backend = byte_level(digits, normalizer)
    options = {"add_prefix_space": True, "add_bos_token": True, "add_eos_token": True, "legacy": True}
    path = save(tmp_path, backend, tokenizer_class=name, bos_token="<s>", eos_token="<|im_end|>", **options)
    (path / "config.json").write_text(json.dumps({"model_type": "qwen2"}))
    text = Text.load(path, backend.get_vocab_size())
    for line in LINES:
        assert text.encode(line, allow_special=True) == backend.encode(line).ids
    assert text.num_tokens == backend.get_vocab_size()  # <s> is nobody's token
    assert text.end_token_ids == {backend.token_to_id("<|im_end|>")}


def test_sections_about_lengths_neither_cut_nor_pad(tmp_path):
    backend = byte_level("{1,3}")
    path = save(tmp_path, backend)
    want = backend.encode("a b c d e f").ids
    backend.enable_truncation(3)
    backend.enable_padding(length=64, pad_id=0, pad_token="!")
    save(tmp_path, backend)
    assert json.loads((path / "tokenizer.json").read_text())["truncation"]["max_length"] == 3
    assert Text.load(path, 300).encode("a b c d e f", allow_special=True) == want


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ((), "expected tokenizer.json, found no tokenizer"),
        (("tokenizer.model",), "found tokenizer.model (transformers' AutoTokenizer writes one with save_pretrained)"),
        (("vocab.json", "merges.txt"), "found merges.txt, vocab.json (transformers'"),
        (("tekken.json",), "found tekken.json (transformers'"),
    ],
)
def test_a_directory_without_one_says_what_is_there(small_path, tmp_path, files, message):
    for file in ("config.json", "model.safetensors"):
        (tmp_path / file).write_bytes((small_path / file).read_bytes())
    for file in files:
        (tmp_path / file).write_text("{}")
    with pytest.raises(CheckpointError) as caught:
        Engine(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert message in str(caught.value)


def test_a_tokenizer_with_more_words_than_the_embedding_has_rows_is_refused(tmp_path):
    path = save(tmp_path, byte_level("{1,3}"))
    with pytest.raises(CheckpointError, match=r"has 261 tokens, and the embedding 258 rows: '1234' is number 258"):
        Text.load(path, 258)


def test_a_tokenizer_of_another_model_is_refused(tmp_path):
    path = save(tmp_path, byte_level("{1,3}"))
    with pytest.raises(CheckpointError, match=r"has 261 tokens, and the embedding 151936 rows; expected the model's"):
        Text.load(path, 151936)
    assert Text.load(path, 512).num_tokens == 261  # padding is no fault


def test_an_added_token_without_a_row_is_no_fault_until_it_is_used(tmp_path, caplog):
    tokenizer = make_tokenizer()
    save_checkpoint(tmp_path, tokenizer, seed=5)
    backend = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    backend.add_special_tokens(["[PAD]"])
    backend.save(str(tmp_path / "tokenizer.json"))
    engine = Engine(tmp_path, kv_cache_bytes=1 << 20)
    assert "none for '[PAD]'" in caplog.text
    bad, good = engine.generate(["a[PAD]", "a"], use_tqdm=False)
    assert "beyond the small model's embedding" in bad.error
    assert good.error is None


# What is taken from the files beside it.


def test_special_tokens_have_the_names_that_templates_use(tmp_path):
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"bos_token": "<old>", "pad_token": "<pad>"}))
    config = {
        "bos_token": {"content": "<s>", "lstrip": False},
        "eos_token": "</s>",
        "unk_token": None,
        "additional_special_tokens": ["<a>", {"content": "<b>"}],
        "extra_special_tokens": {"image_token": "<image>"},
        "model_max_length": 5,
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    assert read_special_tokens(tmp_path) == {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "pad_token": "<pad>",
        "image_token": "<image>",
        "additional_special_tokens": ["<a>", "<b>"],
    }


def test_a_token_that_is_named_special_is_special_wherever_it_stands(tmp_path):
    backend = byte_level("{1,3}")
    end = backend.token_to_id("1234")
    path = save(tmp_path, backend, eos_token="1234", pad_token="<nobody's>")
    text = Text.load(path, 300)
    assert text.encode("a1234", allow_special=True)[-1] == end
    assert end not in text.encode("a1234", allow_special=False)
    assert text.end_token_ids >= {end}
    assert text.num_tokens == backend.get_vocab_size()


@pytest.mark.parametrize(
    ("files", "template"),
    [
        ({}, None),
        ({"tokenizer_config.json": {"chat_template": "a"}}, "a"),
        ({"tokenizer_config.json": {"chat_template": "a"}, "chat_template.jinja": "b"}, "b"),
        ({"chat_template.json": {"chat_template": "c"}}, "c"),
        (
            {"tokenizer_config.json": {"chat_template": [{"name": n, "template": n} for n in ("default", "rag")]}},
            {"default": "default", "rag": "rag"},
        ),
        (
            {"chat_template.jinja": "b", "additional_chat_templates/tool_use.jinja": "t"},
            {"default": "b", "tool_use": "t"},
        ),
    ],
)
def test_templates_are_found_where_they_are_kept(tmp_path, files, template):
    for name, contents in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(contents if isinstance(contents, str) else json.dumps(contents))
    assert read_template(tmp_path) == template


def test_the_template_for_tools_is_taken_where_there_are_tools(tmp_path):
    templates = [{"name": "default", "template": "d"}, {"name": "tool_use", "template": "t"}]
    text = Text.load(save(tmp_path, byte_level(""), chat_template=templates), 300)
    messages = [{"role": "user", "content": "a"}]
    assert text.decode(text.encode_chat(Chat(messages))) == "d"
    assert text.decode(text.encode_chat(Chat(messages, tools=[{"type": "function"}]))) == "t"


# A text that goes on, and one that begins twice.


def pieces(normalizer, pre_tokenizer):
    """Whole words and letters, with ▁ for a space."""
    words = ["▁", *"abcd\n<>/think", "▁a", "▁b", "▁ab", "ab"]
    merges = [("▁", "a"), ("▁", "b"), ("a", "b"), ("▁a", "b")]
    tokenizer = Tokenizer(models.BPE({word: i for i, word in enumerate(dict.fromkeys(words))}, merges))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, pre_tokenizer
    tokenizer.decoder = decoders.Replace("▁", " ")
    tokenizer.add_special_tokens(["<s>"])
    return tokenizer


STARTS = {
    "prepend": (normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]), None),
    "prepend only": (normalizers.Prepend("▁"), pre_tokenizers.Metaspace(prepend_scheme="never", split=False)),
    "always": (None, pre_tokenizers.Metaspace(prepend_scheme="always", split=False)),
    "first": (None, pre_tokenizers.Metaspace(prepend_scheme="first", split=False)),
    "sequence": (None, pre_tokenizers.Sequence([pre_tokenizers.Metaspace(split=False)])),
    "strip": (
        normalizers.Sequence([normalizers.Strip(), normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]),
        None,
    ),
}


@pytest.mark.parametrize("name", STARTS)
def test_text_that_goes_on_has_no_space_put_before_it(tmp_path, name):
    tokenizer = pieces(*STARTS[name])
    text = Text.load(save(tmp_path, tokenizer), 64)
    for _ in range(2):  # neither way leaves a trace in the other
        assert text.decode(text.encode("ab", allow_special=True)) == " ab"
        for line in ("ab", " ab", "\nab", "a b", "\n\n"):
            assert text.decode(text.encode(line, allow_special=False)) == line
            assert text.decode(text.encode_carried(line)) == line


def test_byte_level_prefix_spaces_too(tmp_path):
    text = Text.load(save(tmp_path, byte_level("", prefix=True)), 300)
    assert text.decode(text.encode("ab", allow_special=True)) == " ab"
    assert text.decode(text.encode("ab", allow_special=False)) == "ab"


def test_a_begin_token_that_is_there_is_not_doubled(tmp_path, caplog):
    tokenizer = pieces(*STARTS["first"])
    begin = tokenizer.token_to_id("<s>")
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", None, [("<s>", begin)])
    text = Text.load(save(tmp_path, tokenizer, bos_token="<s>"), 64)
    assert text.encode("ab", allow_special=True).count(begin) == 1
    assert "<s>" not in caplog.text
    assert text.encode("<s>ab", allow_special=True)[0] == begin
    assert text.encode("<s>ab", allow_special=True).count(begin) == 1
    assert "'<s>ab'" in caplog.text
    assert text.encode("<s>a<s>b", allow_special=True).count(begin) == 2  # another one is the user's own
