"""Graders: which answer a text gives, and whether it's right.

An answer is looked for in what stands behind the last `</think>`, first in the last `\\boxed{}`.
"""

import re
import unicodedata
from collections.abc import Callable
from typing import Any, Protocol

from glimp_engine.errors import ConfigError

__all__ = ["GRADERS", "Grader", "last_boxed", "make_grader"]

NUMBER = re.compile(r"-?(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?:\s*/\s*\d[\d,]*)?")
ANSWER_IS = re.compile(r"(?:answer|solution)\W{0,4}(?:is|:)\W{0,4}([^\n]+)", re.IGNORECASE)


class Grader(Protocol):
    """Judges what a model has written."""

    def check_reference(self, answer: Any) -> None:
        """Raise ValueError, saying what was found and expected, if nothing can be compared with this answer."""

    def extract(self, text: str) -> str | None:
        """The answer that a text gives; None if it gives none."""

    def is_correct(self, extracted: str, answer: Any) -> bool:
        """Whether it's the right one."""


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
        return boxed
    said = ANSWER_IS.findall(text)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return said[-1].strip() if said else lines[-1] if lines else None


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
    return float(above) / float(below or 1) if float(below or 1) else None


def is_close(a: float, b: float) -> bool:
    return abs(a - b) <= 1e-6 * max(1.0, abs(a), abs(b))


class ExactGrader:
    """The same text, but for case, space, quotes and a final full stop."""

    def check_reference(self, answer: Any) -> None:
        if not isinstance(answer, (str, int, float)) or not normal(str(answer)):
            raise ValueError(f"answer is {answer!r}; expected text")

    def extract(self, text: str) -> str | None:
        return stated(text)

    def is_correct(self, extracted: str, answer: Any) -> bool:
        return normal(extracted) == normal(str(answer))


class NumberGrader:
    """The same number: the last one of the text, or of its last \\boxed{}."""

    def check_reference(self, answer: Any) -> None:
        if isinstance(answer, bool) or value_of(str(answer)) is None:
            raise ValueError(f"answer is {answer!r}; expected a number")

    def extract(self, text: str) -> str | None:
        text = answer_part(text)
        found = NUMBER.findall(last_boxed(text) or text)
        return found[-1].strip() if found else None

    def is_correct(self, extracted: str, answer: Any) -> bool:
        ours, theirs = value_of(extracted), value_of(str(answer))
        return ours is not None and theirs is not None and is_close(ours, theirs)


class BoxedGrader:
    """The same mathematical object, by the library math-verify."""

    def __init__(self) -> None:
        try:
            import math_verify
        except ImportError:
            raise ConfigError("grader is 'boxed', which takes math-verify: pip install 'glimp_engine[eval]'") from None
        self._library = math_verify

    def check_reference(self, answer: Any) -> None:
        if not self._parse(str(answer)):
            raise ValueError(f"answer is {answer!r}; expected a mathematical expression")

    def extract(self, text: str) -> str | None:
        return last_boxed(answer_part(text))

    def is_correct(self, extracted: str, answer: Any) -> bool:
        return bool(self._library.verify(self._parse(str(answer)), self._parse(extracted)))

    def _parse(self, expression: str) -> list[Any]:
        # no timeout: that works by a signal, which the main thread alone may set
        return list(self._library.parse(f"${expression.strip('$ ')}$", parsing_timeout=None))


class ChoiceGrader:
    """The same letter of a multiple choice."""

    _patterns = (
        re.compile(r"answer\W{0,4}(?:is|:)?\W{0,12}(?:option\s+)?\(?([A-J])\b", re.IGNORECASE),
        re.compile(r"^\W*\(?([A-J])\)?\W*$", re.MULTILINE),
        re.compile(r"\b([A-J])\b(?!.*\b[A-J]\b)", re.DOTALL),
    )

    def check_reference(self, answer: Any) -> None:
        if not isinstance(answer, str) or not re.fullmatch(r"[A-Ja-j]", answer.strip()):
            raise ValueError(f"answer is {answer!r}; expected a letter from A to J")

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


class TableGrader:
    """The same set of values, in any order; numbers by value, to `tolerance` of their size.

    Source: WikiTableQuestions (Pasupat and Liang 2015), whose evaluator compares sets of numbers, dates and texts.
    """

    def __init__(self, tolerance: float = 1e-6) -> None:
        self._tolerance = tolerance

    def check_reference(self, answer: Any) -> None:
        if not self._items(answer):
            raise ValueError(f"answer is {answer!r}; expected a value, or a list of values")

    def extract(self, text: str) -> str | None:
        return stated(text)

    def is_correct(self, extracted: str, answer: Any) -> bool:
        wanted = self._items(answer)
        if len(wanted) == 1:
            return self._is_same(extracted, wanted[0])
        given = [item for item in re.split(r"\s*[|;\n]\s*|,\s+|\s+and\s+", extracted) if item]
        return len(given) == len(wanted) and all(any(self._is_same(item, each) for item in given) for each in wanted)

    def _items(self, answer: Any) -> list[str]:
        values = answer if isinstance(answer, (list, tuple)) else [answer]
        return [str(value) for value in values if value is not None and str(value).strip()]

    def _is_same(self, given: str, wanted: str) -> bool:
        if normal(given) == normal(wanted):
            return True
        ours, theirs = value_of(given), value_of(wanted)
        if ours is None or theirs is None:
            return False
        percent = ours / 100 if "%" in given and "%" not in wanted else ours
        return any(abs(value - theirs) <= self._tolerance * max(1.0, abs(theirs)) for value in (ours, percent))


def make_grader(name: str) -> Grader:
    """The grader of that name.

    Raises: ConfigError on a name that is none, or a library that is missing.
    """
    if name not in GRADERS:
        raise ConfigError(f"grader is {name!r}; allowed: {', '.join(GRADERS)}")
    return GRADERS[name]()


def finance_grader() -> TableGrader:
    """FinQA's answers are rounded to a few digits."""
    return TableGrader(tolerance=5e-3)


def code_grader() -> Grader:
    from glimp_engine.evaluation.code_grader import CodeGrader

    return CodeGrader()


GRADERS: dict[str, Callable[[], Grader]] = {
    "exact": ExactGrader,
    "number": NumberGrader,
    "boxed": BoxedGrader,
    "choice": ChoiceGrader,
    "table": TableGrader,
    "finance": finance_grader,
    "code": code_grader,
}
