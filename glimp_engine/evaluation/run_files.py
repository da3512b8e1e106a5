"""The files of a finished run, read back."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from glimp_engine.errors import ConfigError
from glimp_engine.evaluation.journal import read_jsonl

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
        """Raises: ConfigError when there is no finished run."""
        if not (directory / "run.json").exists() or not (directory / "results.jsonl").exists():
            raise ConfigError(f"{directory}: expected the files of a finished `glimp eval`, found no results.jsonl")
        names = ("results", "timings", "branches", "problems_refused")
        settings = json.loads((directory / "run.json").read_text(encoding="utf-8"))
        return cls(settings, *(read_jsonl(directory / f"{name}.jsonl") for name in names))

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
