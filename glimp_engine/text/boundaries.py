"""Where a step ends: one class per vocabulary token, and an automaton over the classes.

A boundary is the token within which a blank line is completed: two newlines with nothing between them, not even a
space, after visible content in the current step. A step is a span of whole tokens, so what follows the blank line
within that token ("\\n\\nfoo") belongs to the step that ends there, and the next step starts without content; only
the place within the line carries over. So every step that a blank line ends has visible content among its own
tokens, and a run of newlines gives no empty step. `</think>` and end tokens are always boundaries. No step ends inside
a character: a token that does completes no blank line.

Visible is every byte that is not ASCII white space: a token may hold part of a UTF-8 character, and that is content.

A line that begins with three backticks, after any indentation, opens a code fence, or closes the open one.
"""

import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

import numpy as np

from glimp_engine.errors import ConfigError

__all__ = ["Boundary", "BoundaryTable"]


class Boundary(IntEnum):
    """What a token completes."""

    NONE = 0
    BLANK_LINE = 1
    END_OF_THINKING = 2
    END = 3
    BEGIN_OF_THINKING = 4  # told by what is written at an output's beginning, not by one token


class _Line(IntEnum):
    """Where in its line the text stands."""

    START = 0
    INDENT = 1
    ONE_BACKTICK = 2
    TWO_BACKTICKS = 3
    INSIDE = 4


class _State(NamedTuple):
    has_content: bool
    line: _Line
    in_fence: bool


_START = _State(has_content=False, line=_Line.START, in_fence=False)
_NEWLINE, _BACKTICK, _SPACE, _VISIBLE = b"n`sv"
_AFTER_BACKTICK = {
    _Line.START: _Line.ONE_BACKTICK,
    _Line.INDENT: _Line.ONE_BACKTICK,
    _Line.ONE_BACKTICK: _Line.TWO_BACKTICKS,
    _Line.TWO_BACKTICKS: _Line.INSIDE,
    _Line.INSIDE: _Line.INSIDE,
}

# Classes 0 to 2 are fixed; those of texts follow. A class is one byte on the device.
_PLAIN, _END_OF_THINKING, _END = range(3)
_MAX_CLASSES = 256


@dataclass(frozen=True)
class BoundaryTable:
    """The class of every token, and what each class does in each state.

    Shapes: token_class uint8 [V]; next_state and completes [states][classes].
    """

    token_class: np.ndarray
    start_state: int
    next_state: tuple[tuple[int, ...], ...]
    completes: tuple[tuple[Boundary, ...], ...]
    step_start: tuple[int, ...]

    @classmethod
    def build(
        cls,
        token_texts: Iterable[bytes],
        end_of_thinking_ids: Collection[int],
        end_token_ids: Collection[int],
        vocab_size: int,
        skip_code_fences: bool,
    ) -> "BoundaryTable":
        """The table of a vocabulary; with skip_code_fences a blank line inside a fence is no boundary.

        Shapes: token_texts at most V entries; ids from there up to vocab_size are plain visible tokens.
        Cost:   one pass over the vocabulary, about 0.2 s for 150,000 tokens.
        Raises: ConfigError if vocab_size or an id does not fit, or the texts need more than 256 classes.
        """
        _check_ids("end_of_thinking_ids", end_of_thinking_ids, vocab_size)
        _check_ids("end_token_ids", end_token_ids, vocab_size)
        states = _reachable_states(skip_code_fences)
        index = {state: number for number, state in enumerate(states)}
        class_of_effect = {_effect(b"v", states): _PLAIN}
        class_of_skeleton: dict[tuple[bytes, bool], int] = {}
        columns = [_effect(b"v", states), *[_ending_effect(b, states) for b in _ENDINGS]]
        token_class = np.full(vocab_size, _PLAIN, dtype=np.uint8)
        for token_id, (skeleton, is_whole) in enumerate(_skeletons(token_texts, skip_code_fences)):
            if token_id >= vocab_size:
                raise ConfigError(f"vocab_size: {vocab_size} is less than the number of token texts")
            if (skeleton, is_whole) not in class_of_skeleton:
                effect = _effect(skeleton, states, is_whole)
                if effect not in class_of_effect:
                    class_of_effect[effect] = len(columns)
                    columns.append(effect)
                class_of_skeleton[skeleton, is_whole] = class_of_effect[effect]
                if len(columns) > _MAX_CLASSES:
                    raise ConfigError(f"token_texts: more than {_MAX_CLASSES} boundary classes are needed")
            token_class[token_id] = class_of_skeleton[skeleton, is_whole]
        token_class[list(end_of_thinking_ids)] = _END_OF_THINKING
        token_class[list(end_token_ids)] = _END
        return cls(
            token_class=token_class,
            start_state=index[_START],
            next_state=tuple(tuple(index[column[row][0]] for column in columns) for row in range(len(states))),
            completes=tuple(tuple(column[row][1] for column in columns) for row in range(len(states))),
            step_start=tuple(index[state._replace(has_content=False)] for state in states),
        )

    def advance(self, state: int, token_class: int) -> tuple[int, Boundary]:
        """The state after a token of this class, and what the token completes.

        After a boundary the state is that of a new step: without content.
        """
        return self.next_state[state][token_class], self.completes[state][token_class]

    def pass_over(self, state: int) -> tuple[int, Boundary]:
        """The state after an end token that doesn't end anything: it's visible, and completes nothing."""
        return self.advance(state, _PLAIN)

    def start_step(self, state: int) -> int:
        """The state of a step that starts here without a boundary, as at the limit of tokens per step."""
        return self.step_start[state]


_ENDINGS = (Boundary.END_OF_THINKING, Boundary.END)
_Effect = tuple[tuple[_State, Boundary], ...]  # one entry a state: the state after the token, what it completes


def _check_ids(name: str, token_ids: Collection[int], vocab_size: int) -> None:
    for token_id in token_ids:
        if not 0 <= token_id < vocab_size:
            raise ConfigError(f"{name}: {token_id} is outside the vocabulary of {vocab_size} tokens")


def _skeletons(texts: Iterable[bytes], skip_code_fences: bool) -> Iterator[tuple[bytes, bool]]:
    """Each text with one letter a byte (newline, backtick, space, visible), and what can't matter removed.

    Beside it, whether the text ends with a whole character.
    """
    letters = bytearray(b"v" * 256)
    for byte in b" \t\r\v\f":
        letters[byte] = _SPACE
    letters[ord("\n")] = _NEWLINE
    if skip_code_fences:
        letters[ord("`")] = _BACKTICK
    # After a visible letter nothing matters up to the end of the line; nor does the length of a run of spaces.
    redundant = re.compile(rb"(?<=v)[`sv]+|(?<=s)s+|(?<=nn)n+")
    return ((redundant.sub(b"", text.translate(bytes(letters))), _ends_whole(text)) for text in texts)


def _ends_whole(text: bytes) -> bool:
    """Whether no UTF-8 character has begun that lacks some of its bytes."""
    for num_bytes, byte in enumerate(reversed(text[-3:]), start=1):
        if byte & 0xC0 != 0x80:  # a character's first byte, which says how many it has
            return num_bytes >= 1 + (byte >= 0xC0) + (byte >= 0xE0) + (byte >= 0xF0)
    return True


def _read(state: _State, letter: int) -> tuple[_State, bool]:
    """The state after one letter, and whether it completes a blank line that ends a step."""
    has_content, line, in_fence = state
    if letter == _NEWLINE:
        completes = line == _Line.START and has_content and not in_fence
        return _State(has_content and not completes, _Line.START, in_fence), completes
    if letter == _SPACE:
        line = _Line.INDENT if line in (_Line.START, _Line.INDENT) else _Line.INSIDE
        return _State(has_content, line, in_fence), False
    if letter == _BACKTICK:
        is_fence = line == _Line.TWO_BACKTICKS
        return _State(True, _AFTER_BACKTICK[line], in_fence != is_fence), False
    return _State(True, _Line.INSIDE, in_fence), False


def _effect(skeleton: bytes, states: list[_State], is_whole: bool = True) -> _Effect:
    """What a text does in each state; one that ends inside a character completes nothing."""
    effect = []
    for state in states:
        completed = False
        for letter in skeleton:
            state, completes = _read(state, letter)
            completed = completed or (completes and is_whole)
        if completed:
            state = state._replace(has_content=False)
        effect.append((state, Boundary.BLANK_LINE if completed else Boundary.NONE))
    return tuple(effect)


def _ending_effect(boundary: Boundary, states: list[_State]) -> _Effect:
    """A token that always ends a step; what follows it starts afresh, outside any fence."""
    return tuple((_START, boundary) for _ in states)


def _reachable_states(skip_code_fences: bool) -> list[_State]:
    """Every state some text leads to, the start first."""
    letters = [_NEWLINE, _SPACE, _VISIBLE] + [_BACKTICK] * skip_code_fences
    states = [_START]
    for state in states:  # grows while it is read
        after = [_read(state, letter)[0] for letter in letters]
        for found in [*after, state._replace(has_content=False)]:
            if found not in states:
                states.append(found)
    return states
