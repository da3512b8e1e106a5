"""The files of a finished run, read back."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from glimp_engine.errors import ConfigError
from glimp_engine.evaluation.journal import read_jsonl
from glimp_engine.evaluation.run_lines import (
    check_branch,
    check_refused,
    check_result,
    check_settings_of,
    check_timing,
    parse_line,
    read_text,
)

__all__ = ["RunFiles", "routed_steps"]

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
        """Raises: ConfigError when there is no finished run, or a line of it is damaged."""
        if not (directory / "run.json").exists() or not (directory / "results.jsonl").exists():
            raise ConfigError(f"{directory}: expected the files of a finished `glimp eval`, found no results.jsonl")
        path = directory / "run.json"
        settings = parse_line(str(path), read_text(path), check_settings_of)
        results = read_jsonl(directory / "results.jsonl", check_result)
        timings = read_jsonl(directory / "timings.jsonl", check_timing)
        branches = read_jsonl(directory / "branches.jsonl", check_branch)
        refused = read_jsonl(directory / "problems_refused.jsonl", check_refused)
        if not results:
            raise ConfigError(f"{directory / 'results.jsonl'}: expected a line for each answer, found none")
        if len(results) != len(timings):
            raise ConfigError(
                f"{directory / 'timings.jsonl'}: expected as many lines as results.jsonl has, {len(results)}; "
                f"found {len(timings)}"
            )
        found = cls(settings, results, timings, branches, refused)
        found.check_problems(directory / "results.jsonl")
        return found

    def check_problems(self, path: Path) -> None:
        """Raise ConfigError unless each router has answered the same problems."""
        problems = {result["problem"] for result in self.results}
        for router in self.routers:
            missing = problems - {result["problem"] for result in self.results if result["router"] == router}
            if missing:
                raise ConfigError(f"{path}: expected all problems of each router, found no {min(missing)} for {router}")

    @cached_property
    def routers(self) -> list[str]:
        """In the order they were run."""
        return list(dict.fromkeys(result["router"] for result in self.results))

    def of(self, router: str) -> tuple[list[Line], list[Line]]:
        """(results, timings) of a router."""
        pairs = zip(self.results, self.timings, strict=True)
        own = [(result, timing) for result, timing in pairs if result["router"] == router]
        return [result for result, _ in own], [timing for _, timing in own]

    @cached_property
    def containments(self) -> list[str]:
        """What has contained the programs of the answers; none where none were run."""
        return sorted({str(timing["containment"]) for timing in self.timings if timing.get("containment")})

    def timed_alike(self) -> list[str]:
        """The routers whose answers were timed with as many at once as the first one's: latencies compare only then."""
        found = {router: {timing["concurrency"] for timing in self.of(router)[1]} for router in self.routers}
        return [router for router in self.routers if found[router] == found[self.routers[0]]]


def routed_steps(results: Iterable[Line]) -> list[Line]:
    """The steps for which a glimpse was taken."""
    return [step for result in results for step in result["steps"] if step["signals"] is not None]
