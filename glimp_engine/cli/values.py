"""Types of the options that are values: each reads a text, or says what it found and what is allowed."""

import argparse
import json
from collections.abc import Callable
from typing import Any

from glimp_engine.errors import ConfigError, check_integer

__all__ = ["integer", "integer_from", "json_object", "number"]

NUM_SHOWN = 60  # characters of a text that is no number


def integer(text: str) -> int:
    """Any integer, for an option whose range is checked where it's used."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"found {text[:NUM_SHOWN]!r}; allowed: an integer") from None


def number(text: str) -> float:
    """Any number, for an option whose range is checked where it's used."""
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"found {text[:NUM_SHOWN]!r}; allowed: a number") from None


def integer_from(low: int, high: int | None = None) -> Callable[[str], int]:
    """The type of the integers from low to high."""

    def read(text: str) -> int:
        try:
            value: int | str = int(text)
        except ValueError:
            value = text[:NUM_SHOWN]
        try:
            check_integer("it", value, low, high)
        except ConfigError as error:
            raise argparse.ArgumentTypeError(str(error)) from None
        return int(value)

    return read


def json_object(text: str) -> dict[str, Any]:
    """A JSON object."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"found {text[:NUM_SHOWN]!r}; allowed: a JSON object")
    return value
