"""A typed reader of what JSON files and GGUF metadata say under a key."""

import math
from collections.abc import Mapping
from enum import Enum
from typing import Any, TypeVar

from glimp_engine.errors import CheckpointError

__all__ = ["MISSING", "Fields"]

T = TypeVar("T")
SHOWN_CHARS = 80  # of a value that was found


class Missing(Enum):
    """Stands for the default of a key that must be there."""

    MISSING = 0


MISSING = Missing.MISSING


class Fields:
    """Values by key, each of the type and in the range that it's asked for.

    A key that isn't there, or null, gives the default; without one, or with another value than asked for, a
    CheckpointError names `where` (a file), the key, what was found and what was expected.
    """

    def __init__(self, values: Mapping[str, Any], where: str, prefix: str = "") -> None:
        self.where = where
        self._values = values
        self._prefix = prefix  # of all keys

    def __contains__(self, key: str) -> bool:
        return self._values.get(self._prefix + key) is not None

    def has(self, key: str) -> bool:
        """Whether the key is there, be it null."""
        return self._prefix + key in self._values

    def raw(self, key: str) -> Any:
        """The value, whatever it is; None where there is none."""
        return self._values.get(self._prefix + key)

    def integer(self, key: str, low: int, high: int, default: int | Missing = MISSING) -> int:
        """An integer from low to high."""
        value, expected = self.raw(key), f"an integer from {low} to {high}"
        if value is None:
            return self._default(key, expected, default)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise self.error(key, expected)
        return value

    def number(self, key: str, low: float, high: float, default: float | Missing = MISSING) -> float:
        """A number from low to high, as a float; not NaN."""
        value, expected = self.raw(key), f"a number from {low} to {high}"
        if value is None:
            return self._default(key, expected, default)
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not low <= value <= high:
            raise self.error(key, expected)
        assert not math.isnan(value)
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        """True or false; 1 and 0 are too."""
        value = self.raw(key)
        if value is None:
            return default
        if not isinstance(value, int) or value not in (0, 1):
            raise self.error(key, "true or false")
        return bool(value)

    def text(self, key: str, default: str | Missing = MISSING) -> str:
        """A string."""
        value = self.raw(key)
        if value is None:
            return self._default(key, "a string", default)
        if not isinstance(value, str):
            raise self.error(key, "a string")
        return value

    def texts(self, key: str) -> list[str]:
        """A list of strings, which must be there."""
        return self._list(key, str, "a list of strings")

    def integers(self, key: str) -> list[int]:
        """A list of integers, which must be there."""
        return self._list(key, int, "a list of integers")

    def numbers(
        self, key: str, length: int | None = None, low: float = -math.inf, high: float = math.inf
    ) -> list[float]:
        """A list of numbers from low to high, of this length; it must be there, unless that is 0."""
        value, expected = self.raw(key), f"a list of {'' if length is None else f'{length} '}numbers"
        if value is None and length == 0:
            return []
        if not isinstance(value, list) or length not in (None, len(value)):
            raise self.error(key, expected)
        for i, item in enumerate(value):
            if type(item) not in (int, float) or not low <= item <= high:
                raise CheckpointError(
                    f"{self.where}: {self._prefix}{key}[{i}] is {shown(item)}; expected a number from {low} to {high}"
                )
        return value

    def one_or_more_integers(self, key: str) -> list[int]:
        """An integer, or a list of them; none where there is nothing."""
        value = self.raw(key)
        if value is None:
            return []
        if isinstance(value, list):
            return self._list(key, int, "an integer or a list of integers")
        if not isinstance(value, int) or isinstance(value, bool):
            raise self.error(key, "an integer or a list of integers")
        return [value]

    def mapping(self, key: str) -> dict[str, Any]:
        """An object; an empty one where there is none."""
        value = self.raw(key)
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise self.error(key, "an object")
        return value

    def error(self, key: str, expected: str) -> CheckpointError:
        """What to raise for a value that isn't as expected."""
        if self.raw(key) is None:
            return CheckpointError(f"{self.where}: {self._prefix}{key}: expected {expected}, found none")
        return CheckpointError(f"{self.where}: {self._prefix}{key} is {shown(self.raw(key))}; expected {expected}")

    def _default(self, key: str, expected: str, default: T | Missing) -> T:
        if isinstance(default, Missing):
            raise self.error(key, expected)
        return default

    def _list(self, key: str, kind: type[T], expected: str) -> list[T]:
        value = self.raw(key)
        if not isinstance(value, list):
            raise self.error(key, expected)
        for i, item in enumerate(value):
            if type(item) is not kind:  # a bool is no integer
                raise CheckpointError(
                    f"{self.where}: {self._prefix}{key}[{i}] is {shown(item)}; expected {expected.split()[-1][:-1]}"
                )
        return value


def shown(value: Any) -> str:
    """The value as a message has it, cut where it's long."""
    if isinstance(value, (list, dict)) and len(value) > SHOWN_CHARS:
        return f"a {type(value).__name__} of {len(value)}"
    try:
        written = repr(value)
    except ValueError:  # an integer of more digits than Python writes
        return f"a {type(value).__name__} too long to write"
    return written if len(written) <= SHOWN_CHARS else f"{written[:SHOWN_CHARS]}..."
