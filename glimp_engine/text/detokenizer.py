"""From token ids to text, one token at a time."""

import codecs
from collections.abc import Callable, Sequence
from typing import Any

__all__ = ["Detokenizer", "StopStrings", "TextWithout"]

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

    @property
    def is_inside_character(self) -> bool:
        """Whether the last token has left a character unfinished."""
        return self._decoder.getstate()[0] != b""

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
        held_len = len_to_hold(text, self.stops)
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


class TextWithout:
    """The text of one sequence with one piece of it left out, wherever it stands."""

    def __init__(self, piece: str) -> None:
        self._piece = piece
        self._held = ""

    def push(self, text: str) -> str:
        """The text that certainly doesn't belong to the piece."""
        text = (self._held + text).replace(self._piece, "")
        num_shown = len(text) - len_to_hold(text, (self._piece,))
        self._held = text[num_shown:]
        return text[:num_shown]

    def flush(self) -> str:
        """The text held back for a piece that never came."""
        held, self._held = self._held, ""
        return held


def len_to_hold(text: str, pieces: Sequence[str]) -> int:
    """Length of the longest end of the text that begins one of the pieces."""
    longest = min(len(text), max(map(len, pieces), default=1) - 1)
    for length in range(longest, 0, -1):
        end = text[len(text) - length :]
        if any(piece.startswith(end) for piece in pieces):
            return length
    return 0
