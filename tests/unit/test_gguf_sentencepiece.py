"""SentencePiece from a GGUF file's scores, on small vocabularies: spaces, bytes, merges, and what is refused."""

import random
from itertools import pairwise
from pathlib import Path

import pytest
from unit.test_gguf import make_model, write_model

from glimp_engine import CheckpointError
from glimp_engine.text.gguf_tokenizer import build_gguf_tokenizer
from glimp_engine.text.tokenizer import Text

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
PATH = Path("a.gguf")
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
PIECES_OF = {"▁": -1.0, "a": -2.0, "b": -3.0, "ab": -4.0, "▁a": -5.0, "▁▁": -6.0, "▁▁▁▁": -7.0, "ab▁": -8.0}


def sentencepiece(pieces=PIECES_OF, more=(), kinds=(), bytes_=tuple(BYTES), **flags):
    """Metadata of a vocabulary of <unk>, <s>, </s>, all bytes, the pieces, and what is given."""
    tokens = ["<unk>", "<s>", "</s>", *bytes_, *pieces, *more]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [0.0] * (3 + len(bytes_)) + [*pieces.values()] + [-1000.0] * len(more),
        "tokenizer.ggml.token_type": [UNKNOWN, CONTROL, CONTROL]
        + [BYTE] * len(bytes_)
        + [NORMAL] * len(pieces)
        + [*kinds],
        **{f"tokenizer.ggml.{key}": value for key, value in flags.items()},
    }


def ids_of(tokenizer, text, add_special=False):
    return tokenizer.encode(text, add_special_tokens=add_special).ids


def tokens_of(metadata, text, add_special=False):
    tokenizer = build_gguf_tokenizer(metadata, PATH)
    return [metadata["tokenizer.ggml.tokens"][i] for i in ids_of(tokenizer, text, add_special)]


@pytest.mark.parametrize(
    ("text", "with_space", "without"),
    [
        ("", [], []),
        ("ab", ["▁", "ab"], ["ab"]),
        (" a", ["▁", "▁a"], ["▁a"]),
        ("a   b", ["▁a", "▁▁", "▁", "b"], ["a", "▁▁", "▁", "b"]),
        ("é", ["▁", "<0xC3>", "<0xA9>"], ["<0xC3>", "<0xA9>"]),
        ("\n", ["▁", "<0x0A>"], ["<0x0A>"]),
        ("a<s>a", ["▁a", "<s>", "▁a"], ["a", "<s>", "a"]),
        ("ab▁", ["▁", "ab▁"], ["ab▁"]),
    ],
)
def test_spaces_and_bytes(text, with_space, without):
    assert tokens_of(sentencepiece(), text) == with_space
    assert tokens_of(sentencepiece(add_space_prefix=False), text) == without
    assert tokens_of(sentencepiece(), text, add_special=True) == ["<s>", *with_space]
    assert tokens_of(sentencepiece(add_bos_token=False, add_eos_token=True), text, True) == [*with_space, "</s>"]


def test_what_is_special_is_not_made_of_pieces():
    pieces = {**PIECES_OF, "<": -9.0, ">": -10.0, "s": -11.0, "<s": -12.0, "0": -13.0, "x": -14.0, "A": -15.0}
    tokenizer = build_gguf_tokenizer(sentencepiece(pieces, add_space_prefix=False), PATH)
    tokenizer.encode_special_tokens = True
    assert [tokenizer.id_to_token(i) for i in ids_of(tokenizer, "<s>")] == ["<s", ">"]
    assert tokenizer.decode(ids_of(tokenizer, "<0x0A>")) == "<0x0A>"


def test_user_defined_tokens_are_taken_before_all():
    metadata = sentencepiece(more=["   ", "\n\n"], kinds=[USER_DEFINED] * 2, add_space_prefix=False)
    assert tokens_of(metadata, "a     b\n\n\n") == ["a", "   ", "▁▁", "b", "\n\n", "<0x0A>"]


def test_phi_3_takes_the_spaces_behind_its_special_tokens():
    metadata = sentencepiece(more=["<|end|>"], kinds=[CONTROL], add_space_prefix=False)
    assert tokens_of(metadata, "<|end|> a<s> a") == ["<|end|>", "▁a", "<s>", "▁a"]
    metadata["general.architecture"] = "phi3"
    assert tokens_of(metadata, "<|end|> a<s> a") == ["<|end|>", "a", "<s>", "▁a"]


@pytest.mark.parametrize("alphabet", ["ab▁", "abc▁", "aé▁"])
@pytest.mark.parametrize("crosses_spaces", [True, False])
def test_merges_are_those_of_the_rule(alphabet, crosses_spaces):
    """The best score first, of equal ones the leftmost; with scores that are often equal."""
    choose = random.Random(alphabet)
    for _ in range(20):
        pieces = {letter: float(-choose.randint(1, 3)) for letter in alphabet if choose.random() < 0.9}
        for _ in range(30):
            piece = "".join(choose.choices(alphabet, k=choose.randint(2, 6)))
            pieces[piece if crosses_spaces else piece[0] + piece[1:].replace("▁", "a")] = float(-choose.randint(1, 9))
        metadata = sentencepiece(pieces, add_space_prefix=False)
        tokenizer, tokens = build_gguf_tokenizer(metadata, PATH), metadata["tokenizer.ggml.tokens"]
        for _ in range(20):
            text = "".join(choose.choices(alphabet, k=choose.randint(0, 90)))
            assert [tokens[i] for i in ids_of(tokenizer, text.replace("▁", " "))] == by_the_rule(text, pieces)


def by_the_rule(text, pieces):
    symbols = list(text)
    while True:
        pairs = [
            (pieces[left + right], -i) for i, (left, right) in enumerate(pairwise(symbols)) if left + right in pieces
        ]
        if not pairs:
            break
        at = -max(pairs)[1]
        symbols[at : at + 2] = [symbols[at] + symbols[at + 1]]
    written = ([symbol] if symbol in pieces else [BYTES[byte] for byte in symbol.encode()] for symbol in symbols)
    return [token for tokens in written for token in tokens]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scores": None}, "scores: expected a list of numbers, found none"),
        ({"scores": [0.0]}, "expected one for each of 267 tokens"),
        ({"scores": [float("nan")] * 267}, r"scores\[0\] is nan; expected a number"),
        ({"scores": ["a"] * 267}, r"scores\[0\] is 'a'; expected a number"),
        ({"remove_extra_whitespaces": True}, "remove_extra_whitespaces is True; expected false"),
        ({"precompiled_charsmap": [1, 2]}, "precompiled_charsmap is .*; expected none"),
        ({"pre": "chatglm-spm"}, "tokenizer=DIR"),
        ({"bos_token_id": 267}, "bos_token_id is 267; expected an integer from 0 to 266"),
    ],
)
def test_what_is_not_done_as_the_file_says_is_refused(changes, message):
    metadata = {**sentencepiece(), **{f"tokenizer.ggml.{key}": value for key, value in changes.items()}}
    with pytest.raises(CheckpointError, match=message):
        build_gguf_tokenizer(metadata, PATH)


def test_a_byte_may_be_a_piece_and_must_be_something():
    without_tab = [name for name in BYTES if name != "<0x09>"]
    with pytest.raises(CheckpointError, match="expected one for each byte, found none for <0x09>"):
        build_gguf_tokenizer(sentencepiece(bytes_=without_tab), PATH)
    assert tokens_of(sentencepiece({**PIECES_OF, "\t": -9.0}, bytes_=without_tab), "\t") == ["▁", "\t"]


def test_a_texts_bytes_are_those_of_its_tokens(tmp_path):
    metadata = sentencepiece(more=["  "], kinds=[USER_DEFINED])
    metadata["tokenizer.ggml.eos_token_id"] = 2
    text = Text.load(write_model(tmp_path, make_model("qwen2"), "qwen2", metadata), 268)
    ids = text.encode(" a é\n  ab", allow_special=True)
    assert b"".join(map(text.bytes_of, ids)) == "<s>  a é\n   ab".encode()
    assert text.end_token_ids == {2}


def test_gemma_4_merges_over_spaces_and_falls_back_to_bytes():
    metadata = {**sentencepiece(), "tokenizer.ggml.model": "gemma4", "tokenizer.ggml.unknown_token_id": 0}
    metadata["tokenizer.ggml.bos_token_id"] = 1
    metadata["tokenizer.ggml.merges"] = ["a b", "ab ▁", "▁ ▁"]
    assert tokens_of(metadata, "ab  é", add_special=True) == ["<s>", "ab▁", "▁", "<0xC3>", "<0xA9>"]
