"""What is thought and what is answered, whatever pieces a text comes in."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from glimp_engine.serving.reasoning import ReasoningSplitter
from glimp_engine.text.thinking import FAMILIES, ThinkingMarks

THINK = FAMILIES[0]


def split(pieces, is_thinking=False, marks=THINK):
    """Reasoning and content of all pieces, joined."""
    splitter = ReasoningSplitter(marks, is_thinking)
    parts = [*map(splitter.push, pieces), splitter.finish()]
    assert splitter.finish() == ("", "")
    return tuple(map("".join, zip(*parts, strict=True)))


@pytest.mark.parametrize(
    ("text", "reasoning", "content"),
    [
        ("<think>\nhm\n</think>\n\nYes.", "hm", "Yes."),
        ("<think>hm</think>Yes.", "hm", "Yes."),
        (" \n<think>\n\nhm\n\nha\n\n</think>\nYes.\n", "hm\n\nha", "Yes.\n"),
        ("<think>\n  hm \n</think>\n  Yes.", "  hm ", "  Yes."),  # only line breaks are the marks' own
        ("<think>\n\n</think>\n\nYes.", "", "Yes."),
        ("<think></think>", "", ""),
        ("<think>hm</think>a</think>b<think>c", "hm", "a</think>b<think>c"),
        ("<think>a<think>b</think>c", "a<think>b", "c"),
        ("<think>a</thin</think>c", "a</thin", "c"),
        ("<think>\nhm\n\n", "hm\n\n", ""),  # cut off
        ("<think>hm</thi", "hm</thi", ""),
        ("<thi", "", "<thi"),
        (" \n", "", " \n"),
        ("\nYes.\n", "", "\nYes.\n"),
        ("Yes: <think>hm</think>", "", "Yes: <think>hm</think>"),
        ("<thin>", "", "<thin>"),
        ("</think>Yes.", "", "</think>Yes."),
        ("", "", ""),
    ],
)
def test_it_may_begin_where_the_text_does(text, reasoning, content):
    assert split([text]) == split(text) == (reasoning, content)


@pytest.mark.parametrize(
    ("text", "reasoning", "content"),
    [
        ("hm\n</think>\n\nYes.", "hm", "Yes."),
        ("\n\nhm</think>Yes.", "hm", "Yes."),
        (" hm", " hm", ""),
        ("\n</think>\n", "", ""),
        ("</think>Yes.", "", "Yes."),
        ("\n<think>\nhm</think>Yes.", "hm", "Yes."),  # begun once more
        ("<thi", "<thi", ""),
        ("\n<thick>", "<thick>", ""),
        ("hm <think> ha</think>", "hm <think> ha", ""),
        ("\n", "", ""),
    ],
)
def test_it_may_have_begun_in_the_prompt(text, reasoning, content):
    assert split([text], is_thinking=True) == split(text, is_thinking=True) == (reasoning, content)


def test_without_marks_all_is_content():
    assert split(["<think>", "a"], marks=None) == ("", "<think>a")


@pytest.mark.parametrize("marks", FAMILIES, ids=lambda marks: marks.begin)
def test_each_family(marks):
    assert split(f"{marks.begin}\nhm{marks.closing}Yes.", marks=marks) == ("hm", "Yes.")
    assert split(f"hm{marks.closing}Yes.", is_thinking=True, marks=marks) == ("hm", "Yes.")


def test_only_what_may_be_a_part_of_a_mark_is_held_back():
    splitter = ReasoningSplitter(THINK, False)
    pushed = [splitter.push(piece) for piece in ("<think", ">a", "b\n", "\nc<", "/x", "\n</think>", "\n", "d<", "\n")]
    assert pushed == [
        ("", ""),
        ("a", ""),
        ("b", ""),
        ("\n\nc", ""),
        ("</x", ""),
        ("", ""),
        ("", ""),
        ("", "d<"),
        ("", "\n"),
    ]


def reference(text, is_thinking, marks):
    """The same of a whole text."""
    begun = text.lstrip().startswith(marks.begin)
    if not begun and not is_thinking:
        return "", text
    thought = text.lstrip()[len(marks.begin) :] if begun else text
    reasoning, end, content = thought.partition(marks.end)
    return reasoning.strip("\n") if end else reasoning.lstrip("\n"), content.lstrip("\n")


ODD = ThinkingMarks("aab", "aabaac")  # marks that begin within themselves
PIECES = st.lists(
    st.one_of(
        st.text("<think>/\n é", max_size=4), st.text("aabc\n", max_size=6), st.sampled_from(["<think>", "</think>"])
    )
)


@settings(deadline=None)
@given(PIECES, st.booleans(), st.sampled_from([THINK, ODD]))
@example(["aabaabaac"], True, ODD)
@example(["\n", "<thi"], True, THINK)
def test_pieces_change_nothing(pieces, is_thinking, marks):
    text = "".join(pieces)
    assert split(pieces, is_thinking, marks) == split(text, is_thinking, marks) == reference(text, is_thinking, marks)
