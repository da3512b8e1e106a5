"""Every error the engine raises. A message names the argument, what was found, and what is allowed."""

import math
import sys
from collections.abc import Callable, Mapping
from typing import Any

__all__ = [
    "CapacityError",
    "Check",
    "CheckpointError",
    "ConfigError",
    "EngineError",
    "GlimpError",
    "RequestError",
    "check_choice",
    "check_count",
    "check_fields",
    "check_finite",
    "check_integer",
    "check_number",
    "check_text",
    "shown",
]

MAX_SHOWN_CHARS = 200
Check = Callable[[str, Any], None]  # (name, value), which raises ConfigError


class GlimpError(Exception):
    """The base of all errors of this package."""


class ConfigError(GlimpError, ValueError):
    """A bad argument: names it, what was found, and what is allowed."""


class CheckpointError(GlimpError):
    """A checkpoint that can't be read: file, tensor, expected and found."""


class CapacityError(GlimpError):
    """More was asked for than there is: asked and available, in tokens or bytes."""


class EngineError(GlimpError, RuntimeError):
    """The engine is called where it can't be: from two threads at once, in its own tick, in a forked process."""


class RequestError(GlimpError, ValueError):
    """One request's fault: only that request ends."""


def check_number(name: str, value: Any, low: float, high: float) -> None:
    """Raise ConfigError unless value is a number in [low, high]."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if is_number and low <= value <= high:
        return
    allowed = f"a number from {low} " + ("on" if high == math.inf else f"to {high}")
    raise ConfigError(f"{name} is {shown(value)}; allowed: {allowed}")


def check_integer(name: str, value: object, low: int, high: int | None = None) -> None:
    """Raise ConfigError unless value is an integer from low to high."""
    if not isinstance(value, int) or isinstance(value, bool) or value < low or (high is not None and value > high):
        allowed = f"an integer from {low} " + ("on" if high is None else f"to {high}")
        raise ConfigError(f"{name} is {shown(value)}; allowed: {allowed}")


def check_choice(name: str, value: object, allowed: tuple[str, ...]) -> None:
    """Raise ConfigError unless value is one of the allowed words."""
    if value not in allowed:
        raise ConfigError(f"{name} is {shown(value)}; allowed: {', '.join(allowed)}")


def check_count(name: str, value: object) -> None:
    """Raise ConfigError unless value is an integer from 0 on."""
    check_integer(name, value, 0)


def check_finite(name: str, value: Any) -> None:
    """Raise ConfigError unless value is a number, and neither infinite nor NaN."""
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not abs(value) <= sys.float_info.max:
        raise ConfigError(f"{name} is {shown(value)}; allowed: a finite number")


def check_text(name: str, value: object) -> None:
    """Raise ConfigError unless value is text."""
    if not isinstance(value, str):
        raise ConfigError(f"{name} is {shown(value)}; allowed: text")


def check_fields(prefix: str, value: object, checks: Mapping[str, Check]) -> None:
    """Raise ConfigError unless value is an object of JSON with at least these keys, each with a value of its kind."""
    missing = [prefix + key for key in checks if not isinstance(value, dict) or key not in value]
    if missing:
        raise ConfigError(f"no {', '.join(missing)}")
    assert isinstance(value, dict)
    for key, check in checks.items():
        check(prefix + key, value[key])


def shown(value: object) -> str:
    """As much of a value as a message needs."""
    text = repr(value)
    return text if len(text) <= MAX_SHOWN_CHARS else f"{text[:MAX_SHOWN_CHARS]}..."
