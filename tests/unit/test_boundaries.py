"""The boundary automaton against a plain reading of the text."""

import itertools
import re
from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from glimp_engine.errors import ConfigError
from glimp_engine.text.boundaries import Boundary, BoundaryTable

PIECES = ["\n", "\n\n", " ", "\t", "\r", "`", "``", "```", "a", "é", "world", ".\n\n", "\n```\n", "\n```py\n", "x"]
tokens_of_text = st.lists(st.lists(st.sampled_from(PIECES), max_size=4).map("".join), max_size=24)


def naive_boundaries(
    tokens: list[str], skip_code_fences: bool, whole: Iterable[bool] = itertools.repeat(True)
) -> list[bool]:
    """For each token: does a blank line end within it, with content in its step before and no fence open?

    Not if the token ends inside a character, of which `whole` knows.
    """
    text, step_start, found = "", 0, []
    for token, is_whole in zip(tokens, whole, strict=False):
        before, text = len(text), text + token
        ends = [
            place.start() + 2
            for place in re.finditer(r"(?=\n\n)", text)
            if place.start() + 2 > before
            and text[step_start : place.start()].strip(" \t\r\n")
            and not (skip_code_fences and fence_is_open(text[: place.start()]))
        ]
        found.append(bool(ends) and is_whole)
        if found[-1]:
            step_start = len(text)
    return found


def fence_is_open(text: str) -> bool:
    return sum(line.lstrip(" \t\r").startswith("```") for line in text.split("\n")) % 2 == 1


def table_of(tokens: list[bytes], skip_code_fences: bool = False, thinking=(), end=(), extra: int = 0) -> BoundaryTable:
    return BoundaryTable.build(tokens, thinking, end, len(tokens) + extra, skip_code_fences)


def walk(table: BoundaryTable, ids) -> list[Boundary]:
    state, found = table.start_state, []
    for token_id in ids:
        state, boundary = table.advance(state, int(table.token_class[token_id]))
        found.append(boundary)
    return found


@given(tokens=tokens_of_text, skip=st.booleans())
def test_automaton_agrees_with_the_text(tokens, skip):
    found = walk(table_of([token.encode() for token in tokens], skip), range(len(tokens)))
    assert [boundary == Boundary.BLANK_LINE for boundary in found] == naive_boundaries(tokens, skip)


@given(text=st.lists(st.sampled_from(PIECES), max_size=30).map("".join), data=st.data(), skip=st.booleans())
def test_any_split_into_bytes_agrees_with_the_text(text, data, skip):
    """Tokens that cut UTF-8 characters: one byte each is the finest tokenisation there is."""
    raw = text.encode()
    cuts = sorted(data.draw(st.sets(st.integers(0, len(raw)), max_size=10)) | {0, len(raw)})
    tokens = [raw[a:b] for a, b in itertools.pairwise(cuts)]
    found = walk(table_of(tokens, skip), range(len(tokens)))
    as_text = [token.decode("latin-1") for token in tokens]  # one character a byte: the oracle reads no UTF-8
    whole = [raw[:cut].decode(errors="ignore").encode() == raw[:cut] for cut in cuts[1:]]
    assert [boundary == Boundary.BLANK_LINE for boundary in found] == naive_boundaries(as_text, skip, whole)


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        (["a", ".\n\n", "b"], [0, 1, 0]),
        (["a", "\n", "\n", "b"], [0, 0, 1, 0]),
        (["a", "\n", "\n", "\n", "\n\n"], [0, 0, 1, 0, 0]),
        (["\n\n", "a", "\n\n"], [0, 0, 1]),
        (["a", "\n\nfoo", "\n\n", "b\n\n"], [0, 1, 0, 1]),
        (["a\n", " \n", "\n"], [0, 0, 1]),
        (["a\n \n", "b"], [0, 0]),
        (["a\n\nb\n\n", "c\n\n"], [1, 1]),
        (["a\r\n\r\n"], [0]),
    ],
)
def test_known_cases(tokens, expected):
    assert walk(table_of([token.encode() for token in tokens]), range(len(tokens))) == expected


def test_a_fence_hides_its_blank_lines_only_with_the_option():
    tokens = [b"code:\n", b"```py\n", b"x\n\n", b"y\n", b"```", b"\n\n", b"z"]
    assert walk(table_of(tokens, False), range(7)) == [0, 0, 1, 0, 0, 1, 0]
    assert walk(table_of(tokens, True), range(7)) == [0, 0, 0, 0, 0, 1, 0]


def test_inline_backticks_open_no_fence():
    tokens = [b"see ```x", b"\n\n", b"``", b"y\n\n"]
    assert walk(table_of(tokens, True), range(4)) == [0, 1, 0, 1]


def test_special_tokens_always_end_a_step_and_the_fence():
    tokens = [b"```\n", b"</think>", b"<|im_end|>", b"\n\n", b"a\n\n"]
    table = table_of(tokens, True, thinking={1}, end={2})
    assert walk(table, [1]) == [Boundary.END_OF_THINKING]
    assert walk(table, [0, 1, 3, 4, 2, 2]) == [0, Boundary.END_OF_THINKING, 0, 1, Boundary.END, Boundary.END]


def test_a_step_cut_short_starts_without_content():
    table = table_of([b"a", b"\n\n"])
    state, _ = table.advance(table.start_state, int(table.token_class[0]))
    assert table.advance(state, int(table.token_class[1]))[1] == Boundary.BLANK_LINE
    assert table.advance(table.start_step(state), int(table.token_class[1]))[1] == Boundary.NONE


def test_padding_ids_are_visible_content():
    table = table_of([b"\n\n"], extra=3)
    assert table.token_class.dtype == np.uint8
    assert table.token_class.shape == (4,)
    assert walk(table, [0, 3, 0]) == [0, 0, 1]


def test_the_automaton_is_small():
    assert len(table_of([b"a"], False).next_state) <= 6
    assert len(table_of([b"a"], True).next_state) <= 20


def test_bad_arguments_are_named():
    with pytest.raises(ConfigError, match="vocab_size: 1 is less than the number of token texts"):
        BoundaryTable.build([b"a", b"b"], [], [], 1, False)
    with pytest.raises(ConfigError, match="end_token_ids: 7 is outside the vocabulary of 2"):
        BoundaryTable.build([b"a", b"b"], [], [7], 2, False)
