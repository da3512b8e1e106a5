"""What the lines of a run's files must have for the rest of this room to read them; what has not is named."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from glimp_engine.errors import ConfigError
from glimp_engine.evaluation.router_list import check_spec

__all__ = [
    "check_branch",
    "check_entry",
    "check_refused",
    "check_result",
    "check_settings_of",
    "check_timing",
    "parse_line",
    "read_text",
]

Line = dict[str, Any]
Kinds = Mapping[str, type | tuple[type, ...]]
NUMBER = (int, float)
NONE = type(None)
RESULT: Kinds = {
    "problem": str,
    "router": str,
    "repeat": int,
    "seed": int,
    "is_correct": bool,
    "error": (str, NONE),
    "text": str,
    "num_tokens": int,
    "num_large_tokens": int,
    "num_redone_tokens": int,
    "hand_overs": int,
    "steps": list,
}
STEP: Kinds = {"phase": str, "model": str, "num_tokens": int, "entropy": (*NUMBER, NONE), "signals": (dict, NONE)}
TIMING: Kinds = {"began": NUMBER, "ended": NUMBER, "seconds": NUMBER, "concurrency": int, "step_seconds": list}
NEWER_TIMING: Kinds = {"num_proposed_tokens": int, "num_accepted_tokens": int}  # older runs don't have them
TOKENS: Kinds = {"prompt_token_ids": list, "token_ids": list, "token_starts": list, "text_starts": list}
BRANCH: Kinds = {
    "problem": str,
    "step": int,
    "signals": dict,
    "num_samples": int,
    "rest": str,
    "num_right": int,
}
SETTINGS: Kinds = {"fingerprints": dict, "small": str, "problems": str, "num_problems": int, "repeats": int}
KEYS = {"answer": (str, str, int, str), "branch": (str, str, int, int, str)}


def read_text(path: Path) -> str:
    """Raises: ConfigError when it can't be read as text."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: expected UTF-8, found {error.reason} at byte {error.start}") from None


def parse_line(where: str, line: str | bytes, check: Callable[[Line], None]) -> Line:
    """The object of a line. Raises: ConfigError that names where it stands."""
    try:
        loaded = json.loads(line)
        if not isinstance(loaded, dict):
            raise ValueError(f"expected an object, found {kind_of(loaded)}")
        check(loaded)
    except (ValueError, RecursionError) as error:  # JSON's and Unicode's errors are ValueErrors
        raise ConfigError(f"{where}: damaged: {error}") from None
    return loaded


def check_entry(entry: Line) -> None:
    """A line of journal.jsonl. Raises: ValueError, as all of these."""
    expect(entry, {"key": list, "item": dict}, "the line")
    key, item = entry["key"], entry["item"]
    kinds = KEYS.get(key[0]) if key and isinstance(key[0], str) else None
    if kinds is None or len(key) != len(kinds) or not all(map(is_a, key, kinds)):
        raise ValueError(f"key is {str(key)[:80]}; expected [answer, router, repeat, problem] or that of a branch")
    if key[0] == "branch":
        expect(item, {"branch": dict}, "item")
        check_branch(item["branch"])
        return
    expect(item, {"result": dict, "timing": dict}, "item")
    check_result(item["result"])
    check_timing(item["timing"])
    if [item["result"][name] for name in ("router", "repeat", "problem")] != key[1:]:
        raise ValueError(f"key is {str(key)[:80]}, and its result is another's")
    if "tokens" in item:
        expect(item, {"tokens": dict}, "item")
        expect(item["tokens"], TOKENS, "tokens")


def check_result(result: Line) -> None:
    expect(result, RESULT, "result")
    try:
        check_spec(result["router"])
    except ConfigError as error:
        raise ValueError(f"router is {result['router']!r}: {error}") from None
    for number, step in enumerate(result["steps"]):
        if not isinstance(step, dict):
            raise ValueError(f"steps[{number}] is {kind_of(step)}; expected an object")
        expect(step, STEP, f"steps[{number}]")


def check_timing(timing: Line) -> None:
    expect(timing, TIMING, "timing")
    expect(timing, {field: kind for field, kind in NEWER_TIMING.items() if field in timing}, "timing")
    if not all(is_a(seconds, NUMBER) for seconds in timing["step_seconds"]):
        raise ValueError("step_seconds has what is no number")


def check_branch(branch: Line) -> None:
    expect(branch, BRANCH, "branch")


def check_refused(line: Line) -> None:
    expect(line, {"where": str, "what": str}, "the line")


def check_settings_of(settings: Line) -> None:
    """What the report and the table say of a run."""
    expect(settings, SETTINGS, "the file")
    for model in ("small", *(["large"] if "large" in settings else [])):
        expect(settings, {model: str}, "the file")
        try:
            expect(settings["fingerprints"], {model: str}, "it")
        except ValueError as error:
            raise ValueError(f"fingerprints: {error}") from None


def expect(line: Line, kinds: Kinds, name: str) -> None:
    for field, kind in kinds.items():
        if field not in line:
            raise ValueError(f"{name} has no {field}")
        if not is_a(line[field], kind):
            raise ValueError(f"{field} is {kind_of(line[field])}; expected {words(kind)}")


def is_a(value: object, kind: type | tuple[type, ...]) -> bool:
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def kind_of(value: object) -> str:
    return "null" if value is None else type(value).__name__


def words(kind: type | tuple[type, ...]) -> str:
    kinds = kind if isinstance(kind, tuple) else (kind,)
    return " or ".join("null" if each is NONE else each.__name__ for each in kinds)
