"""Reading what a model answers, one character after the other: its content, and where it calls a tool.

A parser can't look ahead, so the pieces a text comes in change nothing. What may become a call is held until it's
certain to be one, or to be none: then it's content, as all text outside calls.
"""

import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, TypeVar

from glimp_engine.serving.parameter_values import parameters_of

__all__ = ["CALL", "CALL_END", "CallDelta", "CallParser", "ContentDelta", "Deltas", "NoCallError", "Reading"]

T = TypeVar("T")
Reading: TypeAlias = Generator[None, str, T]  # gets the text's characters, and "" behind the last
CALL, CALL_END = "<tool_call>", "</tool_call>"


@dataclass(frozen=True, slots=True)
class ContentDelta:
    """More of the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class CallDelta:
    """More of a call: its id and name with the first, of its arguments the JSON that has come."""

    index: int
    arguments: str = ""
    id: str | None = None
    name: str | None = None


Deltas: TypeAlias = list[ContentDelta | CallDelta]


class NoCallError(Exception):
    """What was read is no call after all."""


class CallParser(ABC):
    """Content and calls of a text that comes in pieces.

    White space before a call belongs to no content, nor does that behind the last call. Calls that the text's end cuts
    off have arguments that are cut off too, unless only what closes the call is missing.
    """

    begins: tuple[str, ...]  # marks that may begin a call

    def __init__(self, tools: Sequence[Any] = ()) -> None:
        """tools as in a request to OpenAI's API."""
        self._parameters = parameters_of(tools)
        self._writer = DeltaWriter()
        self._char = ""  # that is looked at: read, and not yet taken
        self._held: list[str] = []  # what is taken, and may be content or not
        self._take_in: Callable[[str], None] = self._held.append
        self._is_behind_call = False
        self._reading = self._read()
        next(self._reading)

    def push(self, text: str) -> Deltas:
        """What this makes certain; what belongs together is one delta."""
        for char in text:
            self._reading.send(char)
        return self._writer.take()

    def finish(self) -> Deltas:
        """What was held back."""
        with suppress(StopIteration):
            self._reading.send("")
        return self._writer.take()

    @abstractmethod
    def _call(self, mark: str) -> Reading[str]:
        """Read a call behind its first mark; returns the mark of the next one if it has read that too, else nothing.

        Raises: NoCallError, with all that was read held.
        """

    def _read(self) -> Reading[None]:
        self._char = yield
        while self._char:
            mark = yield from self._content(self.begins)
            while mark:
                try:
                    mark = yield from self._call(mark)
                except NoCallError:
                    mark = ""
        if not self._is_behind_call or "".join(self._held).strip():
            self._writer.add_content("".join(self._held))

    def _content(self, marks: Sequence[str]) -> Reading[str]:
        """Content up to one of these marks, which is held with the white space before it; or to the end."""
        self._show()
        while self._char:
            if self._char == "<":
                mark = yield from self._mark(marks)
                if mark:
                    return mark
                self._show()
            else:
                self._held.append(self._char)
                if not self._char.isspace():
                    self._show()
                self._char = yield
        return ""

    def _show(self) -> None:
        """What is held is content, but for white space at its end, which is so only if content follows."""
        held = "".join(self._held)
        shown = held.rstrip()
        if shown:
            self._is_behind_call = False
            self._writer.add_content(shown)
        self._held[:] = held[len(shown) :]

    def _begin(self, name: str) -> None:
        """What is held is a call's beginning."""
        self._held.clear()
        self._is_behind_call = True
        self._writer.begin_call(name)

    def _behind(self) -> Reading[str]:
        """Read over a call's end mark, if it's there, or read the mark of the next call."""
        yield from self._spaces()
        mark = yield from self._mark((CALL_END, *self.begins))
        if mark in self.begins:
            return mark
        if mark or not self._char:  # it may be cut off
            self._held.clear()
        return ""

    # Each takes what it reads.

    def _take(self) -> Reading[None]:
        self._take_in(self._char)
        self._char = yield

    def _spaces(self) -> Reading[None]:
        while self._char.isspace():
            yield from self._take()

    def _mark(self, marks: Sequence[str]) -> Reading[str]:
        """The mark that is written here, or nothing: then what it has in common with one is taken."""
        read = ""
        while self._char and any(mark.startswith(read + self._char) for mark in marks):
            read += self._char
            yield from self._take()
            if read in marks:
                return read
        return ""


class DeltaWriter:
    """Deltas in the making."""

    def __init__(self) -> None:
        self._num_calls = 0
        self._done: Deltas = []
        self._texts: list[str] = []  # of the delta that is written
        self._head: CallDelta | None = None  # ... if it's of a call

    def add_content(self, text: str) -> None:
        if text:
            if self._head is not None:
                self._end()
            self._texts.append(text)

    def begin_call(self, name: str) -> None:
        """A call begins; arguments are its own until the next one does."""
        self._end()
        self._head = CallDelta(self._num_calls, id=f"call_{secrets.token_hex(12)}", name=name)
        self._num_calls += 1

    def add_arguments(self, text: str) -> None:
        if text:
            if self._head is None:
                self._end()
                self._head = CallDelta(self._num_calls - 1)
            self._texts.append(text)

    def take(self) -> Deltas:
        """What has been written since the last time."""
        self._end()
        done, self._done = self._done, []
        return done

    def _end(self) -> None:
        text = "".join(self._texts)
        if self._head is not None:
            self._done.append(replace(self._head, arguments=text))
        elif text:
            self._done.append(ContentDelta(text))
        self._texts, self._head = [], None
