"""From token ids to text, one token at a time."""

import codecs
from collections.abc import Callable, Sequence
from typing import Any

__all__ = ["Detokenizer", "StopStrings"]

_new_decoder = codecs.getincrementaldecoder("utf-8")


class Detokenizer:
    """The text of one sequence, as it grows.

    Bytes that are no UTF-8 become U+FFFD, as in `bytes.decode(errors="replace")`.
    """

    def __init__(self, written_bytes: Callable[[int], bytes]) -> None:
        self._written_bytes = written_bytes  # of a token id
        self._decoder = _new_decoder(errors="replace")

    def push(self, token_id: int) -> str:
        """The characters this token completes; the bytes of an unfinished one wait for the next token."""
        return self._decoder.decode(self._written_bytes(token_id))

    def flush(self) -> str:
        """What still waits: U+FFFD if the last character is cut short, else nothing."""
        return self._decoder.decode(b"", final=True)

    def mark(self) -> Any:
        """Where it stands, for `take_back`."""
        return self._decoder.getstate()

    def take_back(self, mark: Any) -> None:
        """Forget the tokens since the mark."""
        self._decoder.setstate(mark)


class StopStrings:
    """The text of one sequence up to its first stop string.

    First is the stop that is complete first, whatever the pieces the text comes in; of two that end at the same
    character, the longer. Text that may be the beginning of a stop is held back.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self.stops = tuple(stops)
        self.matched: str | None = None
        self._held = ""

    def push(self, text: str) -> str:
        """The text that may be shown now; nothing more once a stop has matched."""
        if self.matched is not None:
            return ""
        text = self._held + text
        found = [(start + len(stop), start, stop) for stop in self.stops if (start := text.find(stop)) >= 0]
        if found:
            _, start, self.matched = min(found)
            self._held = ""
            return text[:start]
        held_len = self._len_to_hold(text)
        self._held = text[len(text) - held_len :]
        return text[: len(text) - held_len]

    def flush(self) -> str:
        """The text held back for a stop that never came."""
        held, self._held = self._held, ""
        return held

    def mark(self) -> tuple[str | None, str]:
        """Where it stands, for `take_back`."""
        return self.matched, self._held

    def take_back(self, mark: tuple[str | None, str]) -> None:
        """Forget the text since the mark."""
        self.matched, self._held = mark

    def _len_to_hold(self, text: str) -> int:
        """Length of the longest end of the text that begins a stop string."""
        longest = min(len(text), max(map(len, self.stops), default=1) - 1)
        for length in range(longest, 0, -1):
            end = text[len(text) - length :]
            if any(stop.startswith(end) for stop in self.stops):
                return length
        return 0
