"""One row a router: how often it's right, how long it takes, and how much the large model has to do."""

import random
from collections import defaultdict
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from statistics import fmean, median
from typing import Any

from rich.console import Console
from rich.table import Table

from glimp_engine.evaluation.containment import LEVELS
from glimp_engine.evaluation.run_files import RunFiles, routed_steps

__all__ = ["RouterSummary", "print_table", "summarise"]

NUM_RESAMPLES = 2000
Z = 1.96  # of 95%
COLUMNS = (
    "router",
    "right",
    "95% interval",
    "median s",
    "mean s",
    "tokens/s",
    "large tokens",
    "large steps",
    "hand-overs",
    "redone tokens",
    "proposed tokens",
    "accepted",
)


@dataclass(frozen=True)
class RouterSummary:
    """What a router's answers come to; shares from 0 to 1, times in seconds, counts a problem."""

    router: str
    num_answers: int
    num_errors: int
    accuracy: float
    interval: tuple[float, float]  # 95%: Wilson's, or with repeats by resampling problems
    median_seconds: float
    mean_seconds: float
    tokens_per_second: float
    large_token_share: float
    intervention_rate: float | None  # share of the routed steps that the large model wrote
    hand_overs: float
    redone_tokens: float
    proposed_tokens: float | None  # None: a run of before there were any
    acceptance: float | None  # share of the proposed tokens; None where there were none

    def cells(self) -> list[str]:
        """As text, one a column of COLUMNS."""
        rate = "-" if self.intervention_rate is None else f"{self.intervention_rate:.1%}"
        low, high = self.interval
        return [
            self.router,
            f"{self.accuracy:.1%}",
            f"{low:.1%} to {high:.1%}",
            f"{self.median_seconds:.3g}",
            f"{self.mean_seconds:.3g}",
            f"{self.tokens_per_second:.4g}",
            f"{self.large_token_share:.1%}",
            rate,
            f"{self.hand_overs:.1f}",
            f"{self.redone_tokens:.1f}",
            "-" if self.proposed_tokens is None else f"{self.proposed_tokens:.1f}",
            "-" if self.acceptance is None else f"{self.acceptance:.1%}",
        ]


def summarise(run: RunFiles, router: str) -> RouterSummary:
    """The row of one router."""
    results, timings = run.of(router)
    seconds = [timing["seconds"] for timing in timings]
    num_tokens = sum(result["num_tokens"] for result in results)
    steps = routed_steps(results)
    is_counted = all("num_proposed_tokens" in timing and "num_accepted_tokens" in timing for timing in timings)
    num_proposed = sum(timing["num_proposed_tokens"] for timing in timings) if is_counted else 0
    return RouterSummary(
        router=router,
        num_answers=len(results),
        num_errors=sum(result["error"] is not None for result in results),
        accuracy=fmean(result["is_correct"] for result in results),
        interval=interval_of(results),
        median_seconds=median(seconds),
        mean_seconds=fmean(seconds),
        tokens_per_second=num_tokens / max(busy_seconds(timings), 1e-9),
        large_token_share=sum(result["num_large_tokens"] for result in results) / max(num_tokens, 1),
        intervention_rate=fmean(step["model"] == "large" for step in steps) if steps else None,
        hand_overs=fmean(result["hand_overs"] for result in results),
        redone_tokens=fmean(result["num_redone_tokens"] for result in results),
        proposed_tokens=num_proposed / len(timings) if is_counted else None,
        acceptance=sum(timing["num_accepted_tokens"] for timing in timings) / num_proposed if num_proposed else None,
    )


def interval_of(results: list[dict[str, Any]]) -> tuple[float, float]:
    """95% of the accuracy: answers to one problem are not independent, so with repeats problems are resampled."""
    by_problem = defaultdict[str, list[bool]](list)
    for result in results:
        by_problem[result["problem"]].append(result["is_correct"])
    means = [fmean(answers) for answers in by_problem.values()]
    if len(means) == len(results):
        return wilson(sum(means), len(means))
    generator = random.Random(0)
    drawn = sorted(fmean(generator.choices(means, k=len(means))) for _ in range(NUM_RESAMPLES))
    return drawn[int(0.025 * NUM_RESAMPLES)], drawn[int(0.975 * NUM_RESAMPLES) - 1]


def wilson(num_right: float, count: int) -> tuple[float, float]:
    """Wilson's score interval of a share, 95%."""
    share, z2 = num_right / count, Z * Z
    centre = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = Z * sqrt(share * (1 - share) / count + z2 / (4 * count * count)) / (1 + z2 / count)
    return max(centre - half, 0.0), min(centre + half, 1.0)


def busy_seconds(timings: list[dict[str, Any]]) -> float:
    """How long at least one answer was being written: pauses, as after a kill, don't count."""
    total, end = 0.0, float("-inf")
    for began, ended in sorted((timing["began"], timing["ended"]) for timing in timings):
        total += max(ended - max(began, end), 0.0)
        end = max(end, ended)
    return total


def print_table(directory: Path) -> None:
    """The run's table, on the console."""
    run = RunFiles.read(directory)
    told = "; ".join(f"{level} ({LEVELS.get(level, 'unknown')})" for level in run.containments)
    table = Table(
        title=f"{run.settings['problems']}: {run.settings['num_problems']} problems",
        caption=f"Programs were contained by {told}." if told else None,
    )
    for column in COLUMNS:
        table.add_column(column, justify="left" if column == "router" else "right")
    for router in run.routers:
        table.add_row(*summarise(run, router).cells())
    console = Console()
    (console if console.is_terminal else Console(width=176)).print(table)  # a file is as wide as the table needs
