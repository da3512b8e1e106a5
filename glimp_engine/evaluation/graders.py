"""Graders: which answer a text gives, and whether it's right.

An answer is looked for in what stands behind the last `</think>`, first in the last `\\boxed{}`. A model writes what it
likes, and a file has what it likes: a grader takes time in proportion to a text's length, and raises nothing but
`check_reference`'s ValueError.
"""

import math
import re
import reprlib
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from glimp_engine.errors import ConfigError

__all__ = ["GRADERS", "Grader", "last_boxed", "make_grader"]

NUMBER = re.compile(r"-?(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?:[eE][+-]?\d+)?(?:\s*/\s*\d[\d,]*)?")
MAX_ANSWER_CHARS = 10_000  # what is longer is no answer but a text
MAX_VALUES = 1_000  # of a table's reference: each is compared with each of the answer's
ANSWER_IS = re.compile(r"(?:answer|solution)\W{0,4}(?:is|:)\W{0,4}([^\n]+)", re.IGNORECASE)


class Grader(Protocol):
    """Judges what a model has written. Threads may ask it at once."""

    containment: str | None  # what shuts programs in, one of containment.LEVELS; None where none are run

    def check_reference(self, answer: Any) -> None:
        """Raise ValueError, saying what was found and expected, if nothing can be compared with this answer."""

    def extract(self, text: str) -> str | None:
        """The answer that a text gives; None if it gives none."""

    def is_correct(self, extracted: str, answer: Any) -> bool:
        """Whether it's the right one."""

    def close(self) -> None:
        """End what is still being judged; nothing can be asked from then on."""


class TextGrader:
    """The part that is the same for graders which look at texts alone."""

    containment: str | None = None

    def close(self) -> None:
        pass


def shown(answer: Any) -> str:
    """An answer as a message has it: short, however long or deep it is."""
    form = reprlib.Repr()
    form.maxstring = form.maxother = form.maxlong = 60
    try:
        return form.repr(answer)
    except (ValueError, RecursionError):  # an integer of more digits than Python prints
        return f"a {type(answer).__name__}"


def plain(answer: Any) -> str:
    """A scalar of a file as text; empty if it's none, or nothing that anybody could answer."""
    if answer is None or isinstance(answer, (list, tuple, dict, set)):
        return ""
    try:
        text = str(answer)
    except ValueError:  # an integer of more digits than Python prints
        return ""
    return text if len(text) <= MAX_ANSWER_CHARS else ""


def answer_part(text: str) -> str:
    return text.rpartition("</think>")[2]


def last_boxed(text: str) -> str | None:
    """The contents of the last \\boxed{}, braces within it included; None if there is none that is closed."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    begin, depth = start + len("\\boxed{"), 1
    for end in range(begin, len(text)):
        depth += {"{": 1, "}": -1}.get(text[end], 0)
        if depth == 0:
            return text[begin:end].strip()
    return None


def stated(text: str) -> str | None:
    """What a text says its answer is: boxed, or behind "answer is" or "answer:", or else its last line."""
    text = answer_part(text)
    boxed = last_boxed(text)
    if boxed is not None:
        return short(boxed)
    said = ANSWER_IS.findall(text)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return short(said[-1].strip() if said else lines[-1] if lines else None)


def short(text: str | None) -> str | None:
    return text if text is not None and len(text) <= MAX_ANSWER_CHARS else None


def normal(text: str) -> str:
    """Without case, accents' encoding, repeated space, enclosing quotes and a final full stop."""
    text = unicodedata.normalize("NFKC", text).casefold().replace("\\text", "")
    return re.sub(r"\s+", " ", text).strip(" \t\n.\"'`*${}")


def value_of(text: str) -> float | None:
    """The only number of a text, by value: commas, a currency, a percent sign or a unit don't matter."""
    text = re.sub(r"\\d?frac\{(-?\d+)\}\{(\d+)\}", r"\1/\2", text)
    found = NUMBER.findall(text)
    if len(found) != 1:
        return None
    above, _, below = found[0].replace(",", "").partition("/")
    value = float(above) / float(below or 1) if float(below or 1) else math.inf
    return value if math.isfinite(value) else None  # infinity would be close to everything


def is_close(a: float, b: float) -> bool:
    return abs(a - b) <= 1e-6 * max(1.0, abs(a), abs(b))


class ExactGrader(TextGrader):
    """The same text, but for case, space, quotes and a final full stop."""

    def check_reference(self, answer: Any) -> None:
        if not isinstance(answer, (str, int, float)) or not normal(plain(answer)):
            raise ValueError(f"answer is {shown(answer)}; expected text")

    def extract(self, text: str) -> str | None:
        return stated(text)

    def is_correct(self, extracted: str, answer: Any) -> bool:
        return normal(extracted) == normal(str(answer))


class NumberGrader(TextGrader):
    """The same number: the last one of the text, or of its last \\boxed{}."""

    def check_reference(self, answer: Any) -> None:
        if isinstance(answer, bool) or value_of(plain(answer)) is None:
            raise ValueError(f"answer is {shown(answer)}; expected a number")

    def extract(self, text: str) -> str | None:
        text = answer_part(text)
        found = NUMBER.findall(last_boxed(text) or text)
        return short(found[-1].strip() if found else None)

    def is_correct(self, extracted: str, answer: Any) -> bool:
        ours, theirs = value_of(extracted), value_of(str(answer))
        return ours is not None and theirs is not None and is_close(ours, theirs)


class BoxedGrader:
    """The same mathematical object, by the library math-verify."""

    containment: str | None = None

    def __init__(self) -> None:
        from glimp_engine.evaluation.math_processes import MathProcesses

        self._processes = MathProcesses()

    def check_reference(self, answer: Any) -> None:
        if not plain(answer).strip() or not self._processes.ask(plain(answer)):
            raise ValueError(f"answer is {shown(answer)}; expected a mathematical expression")

    def extract(self, text: str) -> str | None:
        return short(last_boxed(answer_part(text)))

    def is_correct(self, extracted: str, answer: Any) -> bool:
        return self._processes.ask(plain(answer), extracted)

    def close(self) -> None:
        self._processes.close()


class ChoiceGrader(TextGrader):
    """The same letter of a multiple choice."""

    _patterns = (
        re.compile(r"answer\W{0,4}(?:is|:)?\W{0,12}(?:option\s+)?\(?([A-J])\b", re.IGNORECASE),
        re.compile(r"^[^\w\n]*([A-J])[^\w\n]*$", re.MULTILINE),  # no newlines: at 16,000 it would take hours
        re.compile(r"\b([A-J])\b"),
    )

    def check_reference(self, answer: Any) -> None:
        if not isinstance(answer, str) or not re.fullmatch(r"[A-Ja-j]", answer.strip()):
            raise ValueError(f"answer is {shown(answer)}; expected a letter from A to J")

    def extract(self, text: str) -> str | None:
        text = answer_part(text)
        boxed = last_boxed(text)
        for pattern in self._patterns:
            found = pattern.findall(text if boxed is None else boxed)
            if found:
                return str(found[-1]).upper()
        return None

    def is_correct(self, extracted: str, answer: Any) -> bool:
        return extracted == str(answer).strip().upper()


class TableGrader(TextGrader):
    """The same set of values, in any order; numbers by value, to `tolerance` of their size.

    Source: WikiTableQuestions (Pasupat and Liang 2015), whose evaluator compares sets of numbers, dates and texts.
    """

    def __init__(self, tolerance: float = 1e-6) -> None:
        self._tolerance = tolerance

    def check_reference(self, answer: Any) -> None:
        if not 0 < len(self._items(answer)) <= MAX_VALUES:
            raise ValueError(f"answer is {shown(answer)}; expected a value, or a list of at most {MAX_VALUES} values")
        if isinstance(answer, (list, tuple)) and any(value and not plain(value) for value in answer):
            raise ValueError(f"answer is {shown(answer)}; expected a value, or a list of values and no other lists")

    def extract(self, text: str) -> str | None:
        return stated(text)

    def is_correct(self, extracted: str, answer: Any) -> bool:
        wanted = self._items(answer)
        if len(wanted) == 1:
            return self._is_same(Value.of(extracted), Value.of(wanted[0]))
        spaced = re.sub(r"\s+", lambda space: "\n" if "\n" in space[0] else " ", extracted)
        parts = [part for part in re.split(r"\s?[|;\n]\s?|, | and ", spaced) if part]
        if len(parts) != len(wanted):
            return False
        given = [Value.of(part) for part in parts]
        return all(any(self._is_same(part, each) for part in given) for each in map(Value.of, wanted))

    def _items(self, answer: Any) -> list[str]:
        values = answer if isinstance(answer, (list, tuple)) else [answer]
        return [plain(value) for value in values if plain(value).strip()]

    def _is_same(self, given: "Value", wanted: "Value") -> bool:
        if given.text == wanted.text:
            return True
        ours, theirs = given.number, wanted.number
        if ours is None or theirs is None:
            return False
        percent = ours / 100 if given.is_percent and not wanted.is_percent else ours
        return any(abs(value - theirs) <= self._tolerance * max(1.0, abs(theirs)) for value in (ours, percent))


@dataclass(frozen=True)
class Value:
    """A cell of a table, read once for all comparisons."""

    text: str
    number: float | None
    is_percent: bool

    @classmethod
    def of(cls, text: str) -> "Value":
        return cls(normal(text), value_of(text), "%" in text)


def make_grader(name: str, is_unsafe_allowed: bool = False) -> Grader:
    """The grader of that name; where programs can't be contained, one that runs them must be allowed to all the same.

    Raises: ConfigError on a name that is none, a library that is missing, or programs that can't be contained.
    """
    if name not in GRADERS:
        raise ConfigError(f"grader is {name!r}; allowed: {', '.join(GRADERS)}")
    return GRADERS[name](is_unsafe_allowed)


def code_grader(is_unsafe_allowed: bool) -> Grader:
    from glimp_engine.evaluation.code_grader import CodeGrader
    from glimp_engine.evaluation.containment import find_containment

    return CodeGrader(find_containment(is_unsafe_allowed))


GRADERS: dict[str, Callable[[bool], Grader]] = {  # of whether programs may be run that can't be contained
    "exact": lambda _: ExactGrader(),
    "number": lambda _: NumberGrader(),
    "boxed": lambda _: BoxedGrader(),
    "choice": lambda _: ChoiceGrader(),
    "table": lambda _: TableGrader(),
    "finance": lambda _: TableGrader(tolerance=5e-3),  # FinQA's answers are rounded to a few digits
    "code": code_grader,
}
