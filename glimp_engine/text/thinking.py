"""How models mark their thinking, and where in a text it's open.

A model's marks are found in what its template renders, else in its vocabulary; never in the template's source, which
also names marks that it only takes away.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

__all__ = ["FAMILIES", "MarkReader", "ThinkingMarks", "find_marks"]


@dataclass(frozen=True)
class ThinkingMarks:
    """What stands before and behind the thinking: one token each, or several."""

    begin: str
    end: str
    after_end: str = "\n\n"  # between a forced end and the answer

    @property
    def closing(self) -> str:
        """What closes a thinking that has just been opened."""
        return f"\n{self.end}{self.after_end}"


FAMILIES = (
    ThinkingMarks("<think>", "</think>"),  # DeepSeek, Qwen, GLM, Kimi K2, MiniMax M2, Nemotron, SmolLM3, ...
    ThinkingMarks("[THINK]", "[/THINK]", after_end=""),  # Magistral, Ministral 3
    ThinkingMarks("<seed:think>", "</seed:think>", after_end="\n"),  # Seed-OSS
    ThinkingMarks("<mm:think>", "</mm:think>", after_end=""),  # MiniMax M3
    ThinkingMarks("<think:opensource>", "</think:opensource>", after_end=""),  # Hunyuan 3
    ThinkingMarks("<|START_THINKING|>", "<|END_THINKING|>", after_end=""),  # Command
    ThinkingMarks("<|inner_prefix|>", "<|inner_suffix|>", after_end=""),  # Apertus
    ThinkingMarks("<|channel>thought", "<channel|>", after_end=""),  # Gemma 4
    ThinkingMarks("<|open|>think<|sep|>", "<|close|>think<|sep|>", after_end=""),  # Kimi K3
    ThinkingMarks(  # gpt-oss
        "<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>", after_end=""
    ),
    ThinkingMarks("<|think|>", "<|end|><|begin|>assistant<|content|>", after_end=""),  # Solar Open
    ThinkingMarks("to=self<|message|>", "<|eom|><|start|>assistant to=user<|message|>", after_end=""),  # Muse
    ThinkingMarks("Here are my reasoning steps:", "[BEGIN FINAL RESPONSE]", after_end="\n"),  # Apriel 1.6
)


def find_marks(rendered: Iterable[str], is_token: Callable[[str], bool]) -> ThinkingMarks | None:
    """The marks of a model whose template renders these texts, else those that are made of its vocabulary's tokens."""
    texts = list(rendered)
    for marks in FAMILIES:
        if any(mark in text for text in texts for mark in (marks.begin, marks.end)):
            return marks
    for marks in FAMILIES:
        if all(map(is_token, re.findall(r"<[^<>]*>|\[[^][]*\]", marks.begin + marks.end))):
            return marks
    return None


class MarkReader:
    """Finds marks in what is written, token by token, whatever tokens they are made of.

    A thinking can only begin where the output does; behind anything else a mark is text.
    """

    def __init__(self, may_begin: bool = True) -> None:
        self.may_begin = may_begin  # until the output has something else in it than a beginning
        self._last = b""  # what may be a part of a mark

    def begins(self, token: bytes, marks: ThinkingMarks) -> bool:
        """Whether the output's first tokens, with this one, are a beginning; asked as long as one may be."""
        begin, self._last = marks.begin.encode(), (self._last + token).lstrip()
        is_begun = self._last.startswith(begin)
        self.may_begin = not is_begun and begin.startswith(self._last)
        self._last = self._last if self.may_begin else b""
        return is_begun

    def ends(self, token: bytes, marks: ThinkingMarks) -> bool:
        """Whether this token completes an end."""
        self.may_begin, end = False, marks.end.encode()
        self._last = (self._last + token)[1 - len(end) - len(token) :]
        return end in self._last

    def mark(self) -> tuple[bool, bytes]:
        """Where it stands, for `take_back`."""
        return self.may_begin, self._last

    def take_back(self, mark: tuple[bool, bytes]) -> None:
        """Forget the tokens since the mark."""
        self.may_begin, self._last = mark
