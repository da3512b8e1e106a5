"""Tokenizers from GGUF metadata: cuts, kinds of tokens, what stands around a prompt, what is refused, the way out."""

from pathlib import Path

import pytest
from tiny import make_tokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode
from unit.test_gguf import TOKENS, make_model, write_model

from glimp_engine import CheckpointError, ConfigError, Engine, LoadedModel, SamplingParams
from glimp_engine.cli.main import main
from glimp_engine.text.gguf_cuts import CUTS
from glimp_engine.text.gguf_tokenizer import build_gguf_tokenizer
from glimp_engine.text.messages import Chat
from glimp_engine.text.tokenizer import Text, ordinary_bytes

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED = range(1, 6)
PATH = Path("a.gguf")


def ids_of(tokenizer, text, add_special=False):
    return tokenizer.encode(text, add_special_tokens=add_special).ids


# Cuts.

PROBE = "I'm 12345, DON'T!?\n\n  camelCase a//\n 你好かな한 हि"
PIECES = {
    (
        "gpt-2",
        "phi-2",
        "a.x-4.0",
        "mpt",
        "olmo",
    ): "I|'m| 12345|,| DON|'|T|!?|\n\n | camelCase| a|//|\n| 你好かな한| ह|ि",
    ("starcoder", "refact", "smollm", "command-r"): (
        "I|'m| |1|2|3|4|5|,| DON|'|T|!?|\n\n | camelCase| a|//|\n| 你好かな한| ह|ि"
    ),
    ("llama-bpe", "llama3", "llama-v3", "smaug-bpe", "dbrx", "glm4", "glm5", "chatglm-bpe"): (
        "I|'m| |123|45|,| DON|'T|!?\n\n| | camelCase| a|//\n| 你好かな한| ह|ि"
    ),
    ("qwen2", "deepseek-r1-qwen", "hunyuan", "bailingmoe", "bailingmoe2"): (
        "I|'m| |1|2|3|4|5|,| DON|'T|!?\n\n| | camelCase| a|//\n| 你好かな한| ह|ि"
    ),
    ("qwen35",): "I|'m| |1|2|3|4|5|,| DON|'T|!?\n\n| | camelCase| a|//\n| 你好かな한| हि",
    ("seed-coder",): "I|'m| |1|2|3|4|5|,| DON|'T|!?|\n\n| | camelCase| a|//|\n| 你好かな한| ह|ि",
    ("gpt-4o", "llama4", "gigachat", "minimax-m2"): (
        "I'm| |123|45|,| DON'T|!?\n\n| | camel|Case| a|//\n| 你好かな한| हि"
    ),
    ("tekken", "pixtral"): "I|'m| |1|2|3|4|5|,| DON|'T|!?\n\n| | camel|Case| a|//\n| 你好かな한| हि",
    ("kimi-k2",): "I'm| |123|45|,| DON'T|!?\n\n| | camel|Case| a|//\n| |你好|かな한| हि",
    ("deepseek-llm",): "I|'|m| |1|2|3|4|5|,| DON|'|T|!?|\n|\n| | camelCase| a|//|\n| |你好かな한| |हि",
    ("deepseek-coder",): "I|'|m| |1|2|3|4|5|,| DON|'|T|!?|\n|\n| | camelCase| a|//|\n| |你好かな한| |ह|ि",
    ("deepseek-v3", "joyai-llm"): ("I|'m| |123|45|,| DON|'T|!?\n\n| | camelCase| a|//\n| |你好かな|한| हि"),
}


ASCII_PROBE = "I'm 12345, $5.00 = x?!\n\n  y"
ASCII_PIECES = {("falcon",): "I|'|m| |123|45|,| |$|5|.|00| |=| x|?!|\n\n | y"}  # its digits are looked for in bytes


@pytest.mark.parametrize(
    ("name", "probe", "pieces"),
    [
        (name, probe, pieces)
        for probe, table in ((PROBE, PIECES), (ASCII_PROBE, ASCII_PIECES))
        for names, pieces in table.items()
        for name in names
    ],
)
def test_a_cut_gives_these_words(name, probe, pieces):
    found = [ordinary_bytes(piece, True).decode() for piece, _ in CUTS[name].pre_tokenizer().pre_tokenize_str(probe)]
    assert "|".join(found) == pieces


def test_every_cut_is_in_the_tables():
    assert {name for names in (*PIECES, *ASCII_PIECES) for name in names} == CUTS.keys()


COMPOSED = {
    "mpt",
    "olmo",
    "command-r",
    "qwen2",
    "seed-coder",
    "bailingmoe",
    "bailingmoe2",
    "minimax-m2",
}
WHOLE_WORDS = {"llama-bpe", "llama3", "llama-v3", "smaug-bpe", "dbrx", "glm4", "glm5", "chatglm-bpe"}
WHOLE_WORDS |= {"gpt-4o", "llama4", "gigachat", "tekken", "pixtral", "kimi-k2"}
BEGINNING = {"llama-bpe", "llama3", "llama-v3", "tekken", "pixtral"}


def byte_level(pre="gpt-2", more=(), kinds=(), merges=("a b",), **flags):
    """Metadata of a vocabulary of all bytes, `ab`, `<s>` and what is given."""
    tokens = [*bytes_to_unicode().values(), "ab", "<s>", *more]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [NORMAL] * 257 + [CONTROL, *kinds],
        "tokenizer.ggml.merges": list(merges),
        **{f"tokenizer.ggml.{key}": value for key, value in flags.items()},
    }


def test_what_goes_on_beside_the_cut():
    for name in CUTS:
        metadata = byte_level(name, more=["abc"], kinds=[NORMAL], bos_token_id=257)
        tokenizer, tokens = build_gguf_tokenizer(metadata, PATH), metadata["tokenizer.ggml.tokens"]
        assert (ids_of(tokenizer, "e\u0301") == ids_of(tokenizer, "é")) == (name in COMPOSED), name
        assert ([tokens[i] for i in ids_of(tokenizer, "abc")] == ["abc"]) == (name in WHOLE_WORDS), name
        assert (ids_of(tokenizer, "a", add_special=True)[0] == 257) == (name in BEGINNING), name
        assert tokenizer.decode(ids_of(tokenizer, " é 語 1234\n\n x")) == (" é 語 1234\n\n x"), name


# What stands around a prompt.


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({}, ["ab"]),
        ({"add_bos_token": True, "bos_token_id": 257}, ["<s>", "ab"]),
        ({"add_bos_token": False, "bos_token_id": 257}, ["ab"]),
        ({"add_eos_token": True, "eos_token_id": 258}, ["ab", "A"]),
        ({"add_bos_token": True, "add_eos_token": True, "bos_token_id": 257, "eos_token_id": 258}, ["<s>", "ab", "A"]),
    ],
)
def test_begin_and_end_tokens_are_put_where_the_file_says(flags, expected):
    metadata = byte_level(more=["A:"], kinds=[CONTROL], **flags)  # a name that a template would read otherwise
    tokens = metadata["tokenizer.ggml.tokens"]
    tokenizer = build_gguf_tokenizer(metadata, PATH)
    assert [tokens[i].removesuffix(":") for i in ids_of(tokenizer, "ab", add_special=True)] == expected
    assert ids_of(tokenizer, "ab") == [256]


@pytest.mark.parametrize("kind", ["bos", "eos"])
def test_a_token_that_is_to_be_added_has_a_name(kind):
    with pytest.raises(CheckpointError, match=f"{kind}_token_id: expected the token that add_{kind}_token adds"):
        build_gguf_tokenizer(byte_level(**{f"add_{kind}_token": True}), PATH)
    with pytest.raises(CheckpointError, match=f"{kind}_token_id is 9999; expected an integer from 0 to 257"):
        build_gguf_tokenizer(byte_level(**{f"add_{kind}_token": True, f"{kind}_token_id": 9999}), PATH)


def test_llama_3_without_a_begin_token_has_none():
    assert ids_of(build_gguf_tokenizer(byte_level("llama-bpe"), PATH), "ab", add_special=True) == [256]


# What is refused.

WAY_OUT = r"tokenizer=DIR, a directory with the model's own tokenizer.json \(small_tokenizer, large_tokenizer\)"


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("pre", None, "tokenizer.ggml.pre: expected one of "),
        ("pre", "", "tokenizer.ggml.pre is ''; expected one of "),
        *(
            ("pre", name, f"tokenizer.ggml.pre is '{name}'; ")
            for name in ("default", "falcon3", "exaone", "GPT-2", "x")
        ),
        *(("model", name, f"tokenizer.ggml.model is '{name}'; ") for name in ("bert", "t5", "rwkv", "plamo2", "none")),
    ],
)
def test_a_kind_that_is_not_known_is_refused_by_its_name(key, value, message):
    metadata = {**byte_level(), f"tokenizer.ggml.{key}": value}
    with pytest.raises(CheckpointError, match=WAY_OUT) as caught:
        build_gguf_tokenizer(metadata, PATH)
    assert str(caught.value).startswith(f"a.gguf: {message}")


@pytest.mark.parametrize(
    ("more", "kinds", "message"),
    [
        (["x"], [], "tokenizer.ggml.token_type: expected one for each of 259 tokens, found 258"),
        (["x" * 5000], [NORMAL], "expected words of at most 4096 characters, found one of 5000"),
        ([f"<{i}>" for i in range(1 << 17)], [CONTROL] * (1 << 17), "at most 131072 special tokens, found 131073"),
    ],
)
def test_lists_that_do_not_go_together_are_refused(more, kinds, message):
    with pytest.raises(CheckpointError, match=message):
        build_gguf_tokenizer(byte_level(more=more, kinds=kinds), PATH)


# Kinds of tokens.


def test_kinds_of_tokens():
    more = ["<user>", "  ", "[unk]", "[pad]"]
    kinds = [USER_DEFINED, USER_DEFINED, UNKNOWN, UNUSED]
    tokenizer = build_gguf_tokenizer(byte_level(more=more, kinds=kinds), PATH)
    assert ids_of(tokenizer, "ab<user>ab<s>  [unk]") == [256, 258, 256, 257, 259, 260]
    tokenizer.encode_special_tokens = True  # then what is special is text, and what a user defined is not
    assert ids_of(tokenizer, "<user>  ") == [258, 259]
    assert not {257, 260, 261} & set(ids_of(tokenizer, "<s>[unk][pad]"))
    assert tokenizer.id_to_token(261) is None


# The way out.


@pytest.fixture
def refused(tmp_path):
    """A file whose tokenizer is refused, and a directory with one for it."""
    make_tokenizer(words=()).save_pretrained(tmp_path / "own")
    return write_model(tmp_path, make_model("qwen2"), "qwen2", {"tokenizer.ggml.pre": "nobody's"}), tmp_path / "own"


def test_a_directorys_tokenizer_takes_the_place_of_the_files(refused):
    path, directory = refused
    with pytest.raises(CheckpointError, match=WAY_OUT):
        Text.load(path, len(TOKENS))
    own = Text.load(directory, len(TOKENS))
    chat = [{"role": "user", "content": "ab"}]
    text = Text.load(path, len(TOKENS), directory)
    assert text.tokens() == own.tokens()
    assert text.encode_chat(Chat(chat)) == own.encode_chat(Chat(chat))
    assert text.end_token_ids == own.end_token_ids | {TOKENS.index("<|im_end|>")}  # the model's hold as well
    for other in directory.iterdir():
        if other.name != "tokenizer.json":
            other.unlink()
    assert Text.load(path, len(TOKENS), directory).encode_chat(Chat(chat)) == own.encode_chat(
        Chat(chat)
    )  # by the file's template
    with pytest.raises(CheckpointError, match=f"{path.parent}: expected a directory with a tokenizer.json, found none"):
        Text.load(path, len(TOKENS), path.parent)


def test_an_engine_takes_a_tokenizer_for_each_model(refused, capsys):
    path, directory = refused
    sampling = SamplingParams(max_tokens=3, temperature=0.0)
    with pytest.raises(CheckpointError, match=WAY_OUT):
        Engine(path)
    small = Engine(path, small_tokenizer=directory)
    [expected] = small.generate(["ab"], sampling, use_tqdm=False)
    assert small.token_text(256) == "<|im_start|>"  # which the file calls ab
    pair = Engine(path, str(path), small_tokenizer=directory, large_tokenizer=str(directory))
    [output] = pair.generate(["ab"], sampling, use_tqdm=False)
    assert output.outputs[0].token_ids == expected.outputs[0].token_ids
    with pytest.raises(CheckpointError, match=WAY_OUT):  # the large one's is still its own
        Engine(path, path, small_tokenizer=directory)
    run = ["run", "--small", str(path), "--max-tokens", "3", "ab"]
    assert main(run) == 1
    assert "tokenizer=DIR" in capsys.readouterr().err
    assert main([*run, "--small-tokenizer", str(directory)]) == 0
    assert (
        main([*run, "--large", str(path), *("--small-tokenizer", str(directory), "--large-tokenizer", str(directory))])
        == 0
    )


def test_a_tokenizer_for_nothing_is_refused(refused):
    path, directory = refused
    loaded = LoadedModel(None, Text.load(directory, len(TOKENS)))
    for arguments, options, message in (
        ([path], {"large_tokenizer": directory}, "large_tokenizer is .* without a large model; allowed: None"),
        ([loaded], {"small_tokenizer": directory}, "small_tokenizer is .* and small is a LoadedModel; allowed: None"),
        ([path], {"small_tokenizer": directory / "x"}, "small_tokenizer is .*; allowed: None, a directory with a tok"),
        ([path], {"small_tokenizer": 3}, "small_tokenizer is 3; allowed: None, a directory with a tokenizer.json"),
    ):
        with pytest.raises(ConfigError, match=message):
            Engine(*arguments, **options)
