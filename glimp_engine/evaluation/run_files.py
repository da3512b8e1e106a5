"""The files of a finished run, read back."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from glimp_engine.errors import (
    Check,
    ConfigError,
    check_choice,
    check_count,
    check_fields,
    check_finite,
    check_text,
    shown,
)
from glimp_engine.evaluation.router_list import check_spec

__all__ = ["LINES", "RunFiles", "check_key", "check_object", "parsed", "read_json", "routed_steps"]

Line = dict[str, Any]


@dataclass(frozen=True)
class RunFiles:
    """What an evaluation has left in its directory."""

    settings: Line
    results: list[Line]
    timings: list[Line]  # as results, line for line
    branches: list[Line]
    refused: list[Line]

    @classmethod
    def read(cls, directory: Path) -> "RunFiles":
        """Raises: ConfigError that names the file and the line when there is no finished run, or a damaged one."""
        if not (directory / "run.json").exists() or not (directory / "results.jsonl").exists():
            raise ConfigError(f"{directory}: expected the files of a finished `glimp eval`, found no results.jsonl")
        settings = read_json(directory / "run.json", check_settings)
        names = ("results", "timings", "branches", "problems_refused")
        found = cls(settings, *(read_lines(directory / f"{name}.jsonl", LINES[name]) for name in names))
        found.check_whole(directory)
        return found

    def check_whole(self, directory: Path) -> None:
        """Raise ConfigError unless each router has answered the same problems, and each answer was timed."""
        results = directory / "results.jsonl"
        if not self.results:
            raise ConfigError(f"{results}: expected a line for each answer, found none")
        if len(self.timings) != len(self.results):
            found = f"{len(self.timings)} lines in {directory / 'timings.jsonl'} and {len(self.results)} in {results}"
            raise ConfigError(f"{found}; expected as many")
        problems = {result["problem"] for result in self.results}
        for router in self.routers:
            missing = problems - {result["problem"] for result in self.results if result["router"] == router}
            if missing:
                raise ConfigError(
                    f"{results}: expected all problems for each router, found no {min(missing)} for {router}"
                )

    @cached_property
    def routers(self) -> list[str]:
        """In the order they were run."""
        return list(dict.fromkeys(result["router"] for result in self.results))

    def of(self, router: str) -> tuple[list[Line], list[Line]]:
        """(results, timings) of a router."""
        pairs = zip(self.results, self.timings, strict=True)
        own = [(result, timing) for result, timing in pairs if result["router"] == router]
        return [result for result, _ in own], [timing for _, timing in own]

    def timed_alike(self) -> list[str]:
        """The routers whose answers were timed with as many at once as the first one's: latencies compare only then."""
        found = {router: {timing["concurrency"] for timing in self.of(router)[1]} for router in self.routers}
        return [router for router in self.routers if found[router] == found[self.routers[0]]]


def routed_steps(results: Iterable[Line]) -> list[Line]:
    """The steps for which a glimpse was taken."""
    return [step for result in results for step in result["steps"] if step["signals"] is not None]


def read_json(path: Path, check: Callable[[Any], None]) -> Any:
    """A file of one JSON value. Raises: ConfigError that names the file."""
    return parsed(str(path), path.read_bytes(), check)


def read_lines(path: Path, check: Callable[[Any], None]) -> list[Line]:
    """The objects of a file with one a line, none if there is no file. Raises: ConfigError that names file and line."""
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")  # and not by str.splitlines, which takes U+2028 in a text for an end
    return [parsed(f"{path}:{number}", line, check) for number, line in enumerate(lines, start=1) if line]


def parsed(where: str, encoded: bytes, check: Callable[[Any], None]) -> Any:
    try:
        value = json.loads(encoded.decode())
        check(value)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{where}: expected what `glimp eval` has written, found {error}") from None
    return value


def check_settings(settings: Any) -> None:
    check_fields("", settings, SETTINGS)
    if "large" in settings:
        check_text("large", settings["large"])
        check_fields("fingerprints.", settings["fingerprints"], {"large": check_text})


def check_object(name: str, value: Any) -> None:
    if not isinstance(value, dict):
        raise ConfigError(f"{name} is {shown(value)}; allowed: an object")


def check_key(name: str, value: Any) -> None:
    """What an answer or a branch is known by."""
    is_one = isinstance(value, list) and all(isinstance(part, (str, int)) for part in value)
    if not is_one or value[:1] not in (["answer"], ["branch"]):
        raise ConfigError(f"{name} is {shown(value)}; allowed: a list of answer or branch, and texts and integers")


def check_texts(name: str, value: Any) -> None:
    if not isinstance(value, dict):
        raise ConfigError(f"{name} is {shown(value)}; allowed: an object of texts")
    for key, text in value.items():
        check_text(f"{name}.{key}", text)


def check_router(name: str, value: Any) -> None:
    check_text(name, value)
    try:
        check_spec(value)
    except ConfigError as error:
        raise ConfigError(f"{name} is {value!r}: {error}") from None


def check_flag(name: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise ConfigError(f"{name} is {shown(value)}; allowed: true, false")


def check_steps(name: str, value: Any) -> None:
    if not isinstance(value, list):
        raise ConfigError(f"{name} is {shown(value)}; allowed: a list")
    for i, step in enumerate(value):
        check_fields(f"{name}[{i}].", step, STEP)
        if step["signals"] is not None:
            check_finite(f"{name}[{i}].entropy", step["entropy"])


def check_model(name: str, value: Any) -> None:
    check_choice(name, value, ("small", "large"))


def check_signals(name: str, value: Any) -> None:
    """None where no glimpse was taken."""
    if value is not None and not isinstance(value, dict):
        raise ConfigError(f"{name} is {shown(value)}; allowed: an object, null")


def check_entropy(name: str, value: Any) -> None:
    if value is not None:
        check_finite(name, value)


def line_of(checks: Mapping[str, Check]) -> Callable[[Any], None]:
    """Checks a line that is an object with these fields."""

    def check(value: Any) -> None:
        if not isinstance(value, dict):
            raise ConfigError(f"{shown(value)}, which is no object")
        check_fields("", value, checks)

    return check


SETTINGS = {"small": check_text, "fingerprints": check_texts, "problems": check_text}
STEP = {"model": check_model, "num_tokens": check_count, "signals": check_signals, "entropy": check_entropy}
RESULT = {
    "problem": check_text,
    "router": check_router,
    "is_correct": check_flag,
    "num_tokens": check_count,
    "num_large_tokens": check_count,
    "steps": check_steps,
}
TIMING = {"seconds": check_finite, "concurrency": check_count}
LINES = {
    "results": line_of(RESULT),
    "timings": line_of(TIMING),
    "branches": line_of({}),
    "problems_refused": line_of({"where": check_text, "what": check_text}),
}
