"""From token ids to text, one token at a time."""

import codecs
from collections.abc import Callable, Sequence
from itertools import compress
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
    character, the longer. Text that may be the beginning of a stop is held back. A stop string is looked for both in
    the text and in the text with its hidden parts, the names of special tokens.
    """

    def __init__(self, stops: Sequence[str], is_stop_shown: bool = False) -> None:
        """With is_stop_shown the stop string that ends the text belongs to it."""
        self.stops = tuple(stops)
        self.matched: str | None = None
        self._is_stop_shown = is_stop_shown
        self._held = ""
        self._held_mask: tuple[bool, ...] = ()  # of each character held back whether it's shown

    def push(self, text: str, hidden: str = "", may_match: bool = True) -> str:
        """The text that may be shown now, of what is held back and this, with something hidden behind it.

        Nothing more once a stop has matched; without may_match none does that is complete by now.
        """
        if self.matched is not None:
            return ""
        if not self.stops:
            return text
        full = self._held + text + hidden
        mask = (*self._held_mask, *[True] * len(text), *[False] * len(hidden))
        found = self._find(full, mask) if may_match else []
        if found:
            _, start, self.matched = min(found)
            self._held, self._held_mask = "", ()
            return visible(full[:start], mask) + (self.matched if self._is_stop_shown else "")
        begin = self._hold_from(full, mask)
        self._held, self._held_mask = full[begin:], mask[begin:]
        return visible(full[:begin], mask)

    def flush(self) -> str:
        """The text held back for a stop that never came."""
        held = visible(self._held, self._held_mask)
        self._held, self._held_mask = "", ()
        return held

    def mark(self) -> tuple[str | None, str, tuple[bool, ...]]:
        """Where it stands, for `take_back`."""
        return self.matched, self._held, self._held_mask

    def take_back(self, mark: tuple[str | None, str, tuple[bool, ...]]) -> None:
        """Forget the text since the mark."""
        self.matched, self._held, self._held_mask = mark

    def _find(self, full: str, mask: tuple[bool, ...]) -> list[tuple[int, int, str]]:
        """(end, start, stop) of each stop string, its ends as places in the full text."""
        found = []
        for text, places in views(full, mask):
            for stop in self.stops:
                start = text.find(stop)
                if start >= 0:
                    found.append((places[start + len(stop) - 1] + 1, places[start], stop))
        return found

    def _hold_from(self, full: str, mask: tuple[bool, ...]) -> int:
        """Where in the full text the longest end begins that begins a stop string, in either view."""
        begins = [len(full)]
        for text, places in views(full, mask):
            length = len_to_hold(text, self.stops)
            if length:
                begins.append(places[len(text) - length])
        return min(begins)


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

    def mark(self) -> str:
        """Where it stands, for `take_back`."""
        return self._held

    def take_back(self, mark: str) -> None:
        """Forget the text since the mark."""
        self._held = mark


def len_to_hold(text: str, pieces: Sequence[str]) -> int:
    """Length of the longest end of the text that begins one of the pieces."""
    longest = min(len(text), max(map(len, pieces), default=1) - 1)
    for length in range(longest, 0, -1):
        end = text[len(text) - length :]
        if any(piece.startswith(end) for piece in pieces):
            return length
    return 0


def visible(text: str, mask: Sequence[bool]) -> str:
    """The characters of the text that are shown; the mask may be longer."""
    return "".join(compress(text, mask))


def views(full: str, mask: Sequence[bool]) -> list[tuple[str, Sequence[int]]]:
    """The text in full and, where that's another, as it's shown; each with its characters' places in the full one."""
    places = range(len(full))
    if all(mask):
        return [(full, places)]
    return [(full, places), (visible(full, mask), list(compress(places, mask)))]
