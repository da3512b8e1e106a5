"""Masks of grammars: each token of a vocabulary against what the grammar's own words say of it."""

import json
import random
import sys
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import THINKING, make_text

from glimp_engine import ConfigError, RequestError, StructuredOutputs
from glimp_engine.text import GrammarReader, Grammars

pytest.importorskip("llguidance")

WORDS = (
    " w",
    '{"',
    '": ',
    "na",
    "name",
    '"}',
    "ab",
    "abc",
    "ye",
    "yes",
    " yes",
    "\n\n",
    " \t",
    "tr",
    "true",
    "12",
    ", ",
)
TEXT = make_text(words=WORDS)
V = TEXT.num_tokens
GRAMMARS = Grammars(TEXT)
ENDS = TEXT.end_token_ids
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 5},
        "ok": {"type": "boolean"},
        "é": {"enum": [1, "ab", None]},
    },
    "required": ["name"],
    "additionalProperties": False,
}
KINDS = {
    "json": {"json": SCHEMA},
    "json_object": {"json_object": True},
    "regex": {"regex": r"(ab|yes)+[0-9]{1,3}é?"},
    "choice": {"choice": ["yes", "yes, name", "no", 'é/"\\\n']},
    "grammar": {"grammar": 'root ::= "ab"+ (" " name)?\nname ::= "name" | "na"'},
    "lark": {"grammar": 'start: "ab"+ (" " NAME)?\nNAME: "name" | "na"'},
}


def reader_of(vocab_size=V, **asked):
    return GrammarReader(GRAMMARS.compile(StructuredOutputs(**asked), vocab_size))


def allowed(mask, vocab_size=V):
    """The ids that a mask leaves."""
    assert len(mask) == 4 * -(-vocab_size // 32)
    return set(np.flatnonzero(np.unpackbits(np.frombuffer(mask, np.uint8), bitorder="little")).tolist())


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=9), min_size=1, max_size=5),
    st.randoms(use_true_random=False),
)
def test_a_choice_leaves_what_goes_on_with_one_of_them(choices, rng):
    reader = reader_of(choice=choices)
    words = [each.encode() for each in choices]
    for _ in range(8):
        word = rng.choice(words)
        written = word[: rng.randrange(len(word) + 1)]
        expected = {
            i
            for i in range(V)
            if (own := TEXT.answer_bytes(i)) and any(each.startswith(written + own) for each in words)
        }
        assert allowed(reader.mask_after(written, False)) == expected | (ENDS if written in words else set())


@pytest.mark.parametrize("kind", KINDS)
def test_a_token_may_come_where_its_bytes_may(kind):
    """Whole tokens against their bytes, one at a time, which are tokens too."""
    reader, by_byte, rng = reader_of(**KINDS[kind]), reader_of(**KINDS[kind]), random.Random(kind)
    token_of = {own[0]: i for i in range(V) if len(own := TEXT.answer_bytes(i)) == 1}
    for _ in range(2):
        written = b""
        while len(written) < 24:
            left = allowed(reader.mask_after(written, False))
            for token in set(range(V)) - ENDS:
                fits, before = bool(TEXT.answer_bytes(token)), written
                for byte in TEXT.answer_bytes(token):
                    fits = fits and token_of[byte] in allowed(by_byte.mask_after(before, False))
                    before += bytes([byte])
                    if not fits:
                        break
                assert (token in left) == fits, (written, TEXT.answer_bytes(token))
            assert left & ENDS in (ENDS, set())
            if not left - ENDS:
                break
            written += TEXT.answer_bytes(rng.choice(sorted(left - ENDS)))


@pytest.mark.parametrize("kind", KINDS)
def test_a_mask_depends_on_the_answer_alone(kind):
    """Whatever was read before, forth and back, with whatever came of it."""
    rng, walks = random.Random(kind), reader_of(**KINDS[kind])
    written = b""
    for _ in range(300):
        if rng.random() < 0.3:
            written = written[: rng.randrange(len(written) + 1)]
        left = sorted(allowed(walks.mask_after(written, False)) - ENDS)
        if left and rng.random() < 0.9:
            written += TEXT.answer_bytes(rng.choice(left))
        broken = written + rng.choice([b"\xff", b"\x00", b"\xff{"])
        assert walks.mask_after(broken, False) is None
        fresh = reader_of(**KINDS[kind])
        assert walks.mask_after(written, False) == fresh.mask_after(written, False)


def test_what_no_answer_is_made_of_is_banned():
    """Marks of thinking, special tokens, and ids beyond the tokens; all bytes of any text may come."""
    vocab_size = V + 50
    reader = reader_of(vocab_size, regex=r"(?s:.*)")
    left = allowed(reader.mask_after(b"", False), vocab_size)
    marks = {i for i in range(V) if TEXT.bytes_of(i).decode(errors="replace") in (*THINKING, "<|im_start|>")}
    assert len(marks) == 3
    assert not left & marks
    assert max(left) < V
    assert left >= ENDS | {i for i in range(V) if TEXT.answer_bytes(i).isascii() and TEXT.answer_bytes(i)}


def test_a_model_with_fewer_logits_than_tokens_gets_a_shorter_mask():
    full = allowed(reader_of(regex="[ab1-9]+").mask_after(b"a", False))
    for vocab_size in (V - 1, 97, 33, 32, 31, 1):
        left = allowed(reader_of(vocab_size, regex="[ab1-9]+").mask_after(b"a", False), vocab_size)
        assert {i for i in left if i < vocab_size} == {i for i in full if i < vocab_size}


SPACES = {i for i in range(V) if TEXT.answer_bytes(i) and not TEXT.answer_bytes(i).strip(b" \t\r\n")}


def test_white_space_may_stand_between_a_thinking_and_its_answer():
    reader = reader_of(json=SCHEMA)
    start = allowed(reader.mask_after(b"", False))
    assert not start & SPACES
    assert len(SPACES) == 6
    assert allowed(reader.mask_after(b"", True)) == start | SPACES
    assert allowed(reader.mask_after(b"\n\n \t", True)) == start | SPACES
    assert allowed(reader.mask_after(b"\n" * 16, True)) == start  # then it has to begin
    assert allowed(reader.mask_after(b"\n" * 30, True)) == start
    for written in (b"{", b'{"name"', b'{"name": "ab"}'):
        assert reader.mask_after(b"\r\n " + written, True) == reader.mask_after(written, False)
        assert reader.mask_after(written, True) == reader.mask_after(written, False)
        assert reader.mask_after(b"\n" + written, False) is None


def test_white_space_that_a_grammar_begins_with_is_the_grammars():
    reader = reader_of(regex=r" yes|\n\nab")
    start = allowed(reader.mask_after(b"", False))
    others = {i for i in SPACES if not set(TEXT.answer_bytes(i)) & set(b" \n")}
    assert allowed(reader.mask_after(b"", True)) == start | others
    assert reader.mask_after(b"\t\r yes", True) == reader.mask_after(b" yes", False)
    assert allowed(reader.mask_after(b" ", True)) == allowed(reader.mask_after(b" ", False))
    assert reader.mask_after(b" \nab", True) is None


@pytest.mark.parametrize(
    ("asked", "cause"),
    [
        ({"json": {"type": "array", "uniqueItems": True}}, 'json that .*Unimplemented keys: .*uniqueItems'),
        ({"json": {"not": {"type": "string"}}}, "json that .*not"),
        ({"json": {"$ref": "http://example.org/schema"}}, "json that .*example.org"),
        ({"json": {"type": "string", "format": "colour"}}, "json that .*Unknown format: colour"),
        ({"json": {"type": "strin"}}, "json that .*strin"),
        ({"json": False}, "json that .*Unsatisfiable"),
        ({"json": {"required": ["b"], "additionalProperties": False, "type": "object"}}, "json that .*'b'"),
        ({"regex": "a(b"}, "regex that .*unclosed group"),
        ({"regex": "a(?=b)"}, "regex that .*look-ahead"),
        ({"regex": r"(a)\1"}, "regex that .*backreferences"),
        ({"grammar": "root ::= nobody"}, "grammar that .*(?i:nobody)"),
        ({"grammar": 'root ::= "a'}, "grammar that "),
        ({"grammar": 'begin: "a"'}, "grammar that .*begin"),
    ],
)  # fmt: skip
def test_what_can_not_be_followed_is_refused_by_name(asked, cause):
    with pytest.raises(RequestError, match=f"structured_outputs has a {cause}") as caught:
        reader_of(**asked)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["a/b", "a\nb", "a//b", 'a"b', "a\\\\b", "#a", "a\tb", "é€😀", "a'b", "(a)", "%json", "a b"]
)
def test_a_text_in_any_kind(text):
    """Whatever stands in it is no part of the language that it's written down in."""
    named = {"type": "object", "properties": {text: {"const": 1}}, "required": [text], "additionalProperties": False}
    escapes = {"\\": r"\\", "\n": r"\n", "\t": r"\t"}
    kinds = {
        "json": ({"json": {"const": text}}, json.dumps(text, ensure_ascii=False).encode()),
        "property": ({"json": named}, json.dumps({text: 1}, ensure_ascii=False).encode()),
        "choice": ({"choice": [text, "other"]}, text.encode()),
        "regex": ({"regex": "".join(escapes.get(each, f"[{each}]") for each in text)}, text.encode()),
    }
    for asked, written in kinds.values():
        reader = reader_of(**asked)
        assert allowed(reader.mask_after(written, False)) >= ENDS, asked
        assert not allowed(reader.mask_after(written[:-1], False)) & ENDS


def test_a_grammar_is_compiled_once_and_the_oldest_is_forgotten(monkeypatch):
    grammars = Grammars(TEXT)
    first = grammars.compile(StructuredOutputs(regex="a"), V)._matcher
    assert grammars.compile(StructuredOutputs(regex="a"), V)._matcher is first
    assert grammars.compile(StructuredOutputs(choice=["a"]), V)._matcher is not first
    for i in range(62):
        grammars.compile(StructuredOutputs(regex=f"b{i}"), V)
    assert grammars.compile(StructuredOutputs(regex="a"), V)._matcher is first
    for i in range(63):
        grammars.compile(StructuredOutputs(regex=f"c{i}"), V)
    assert grammars.compile(StructuredOutputs(regex="a"), V)._matcher is first
    for i in range(64):
        grammars.compile(StructuredOutputs(regex=f"d{i}"), V)
    assert grammars.compile(StructuredOutputs(regex="a"), V)._matcher is not first
    assert len(grammars._compiled) == 64


def test_threads_compile_side_by_side():
    grammars, found = Grammars(TEXT), []

    def compile_some(seed):
        rng = random.Random(seed)
        for _ in range(30):
            reader = GrammarReader(grammars.compile(StructuredOutputs(regex=f"ab{rng.randrange(9)}"), V))
            found.append(allowed(reader.mask_after(b"a", False)))

    threads = [threading.Thread(target=compile_some, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 180
    assert all(TEXT.token_of(b"b", False) in left for left in found)


def test_a_model_without_an_end_token_can_not_follow_one():
    text = make_text(words=WORDS)
    text.end_token_ids = frozenset()
    with pytest.raises(RequestError, match="the model has no end token"):
        Grammars(text).compile(StructuredOutputs(regex="a"), V)


def test_without_the_library_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(ConfigError, match=r"llguidance isn't installed; allowed: None, or `pip install glimp_engine\["):
        Grammars(TEXT).compile(StructuredOutputs(regex="a"), V)


def test_a_grammar_that_grows_too_complex_says_so_and_begins_anew(monkeypatch):
    reader = reader_of(regex="ab*")
    before = reader.mask_after(b"a", False)

    class Broken:
        def get_error(self):
            return "too\ncomplex"

        def rollback(self, num_tokens):
            return False

        def try_consume_tokens(self, tokens):
            return 0

        def compute_bitmask(self):
            return b"\xff" * 99

    monkeypatch.setattr(reader, "_matcher", Broken())
    with pytest.raises(RequestError, match="structured_outputs can't be followed any further: too complex"):
        reader.mask_after(b"ab", False)
    assert reader.mask_after(b"a", False) == before
