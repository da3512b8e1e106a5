"""A threshold for a target, with its uncertainty, from a finished run.

A share of large tokens is predicted from the glimpses: the steps whose entropy is at or above a threshold would have
been large. Accuracy and latency are interpolated between the thresholds that the run has measured. Both are
approximations, as a route changes the steps behind it: what the run measured itself stands beside what is predicted.
"""

import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from glimp_engine.errors import ConfigError
from glimp_engine.evaluation.run_files import Line, RunFiles

__all__ = ["Proposal", "Target", "parse_target", "propose"]

NUM_RESAMPLES = 500
KINDS = "share=0.25 (of large tokens), latency=12.5 (mean seconds), accuracy=-0.02 (against large only)"


@dataclass(frozen=True)
class Target:
    """What a threshold is wanted for."""

    kind: str  # share, latency, accuracy
    value: float


@dataclass(frozen=True)
class Proposal:
    """A threshold in nats, its 95% interval, and what is predicted of it beside what was measured near it."""

    threshold: float
    interval: tuple[float, float]
    predicted: dict[str, tuple[float, float, float]]  # name -> (value, 95% interval)
    checks: list[tuple[float, float, float]]  # measured thresholds: (threshold, predicted share, measured share)
    num_problems: int


def parse_target(text: str) -> Target:
    """Raises: ConfigError on a text that names no target."""
    kind, _, value = text.partition("=")
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    allowed = {"share": 0 <= number <= 1, "latency": 0 < number < math.inf, "accuracy": -1 <= number <= 0}
    if not allowed.get(kind, False):
        raise ConfigError(f"target is {text!r}; allowed: {KINDS}")
    return Target(kind, number)


def propose(run: RunFiles, target: Target) -> Proposal:
    """The threshold that meets the target at the least cost.

    Raises: ConfigError when the run doesn't have what the target takes.
    """
    glimpses = Glimpses(run)
    choose = chooser(run, target, glimpses)
    problems = sorted({result["problem"] for result in run.results})
    threshold = choose(problems)
    measures: dict[str, Callable[[list[str]], float]] = {}
    measures["share_of_large_tokens"] = lambda drawn: glimpses.share(threshold, drawn)
    if target.kind != "share":
        curve = Curve(run, target.kind)
        measures[target.kind] = lambda drawn: curve.at(threshold, drawn)
    resampled = resamples(problems)
    predicted = {name: (of(problems), *interval([of(drawn) for drawn in resampled])) for name, of in measures.items()}
    bounds = interval([choose(drawn) for drawn in resampled])
    return Proposal(threshold, bounds, predicted, checks(run, glimpses, problems), len(problems))


def interval(values: list[float]) -> tuple[float, float]:
    low, high = np.quantile(values, [0.025, 0.975], method="nearest")
    return float(low), float(high)


def resamples(problems: list[str]) -> list[list[str]]:
    generator = np.random.default_rng(0)
    draws = (generator.integers(len(problems), size=len(problems)) for _ in range(NUM_RESAMPLES))
    return [[problems[i] for i in draw] for draw in draws]


def chooser(run: RunFiles, target: Target, glimpses: "Glimpses") -> Callable[[list[str]], float]:
    """From problems, repeated as often as they count, to a threshold."""
    if target.kind == "share":
        return lambda problems: glimpses.threshold(target.value, problems)
    curve = Curve(run, target.kind)
    if target.kind == "latency":
        return lambda problems: curve.lowest(lambda value, _: value <= target.value, problems)
    return lambda problems: curve.highest(lambda value, large: value >= large + target.value, problems)


class Glimpses:
    """By problem: the entropy and the length of each routed step, and the tokens that are not routed."""

    def __init__(self, run: RunFiles) -> None:
        """Takes them from the answers that the small model alone has written, or else a router with both."""
        router = source_of(run)
        self._steps = defaultdict[str, list[tuple[float, int]]](list)
        self._fixed = defaultdict[str, list[int]](lambda: [0, 0])  # [small, large]
        for result in run.of(router)[0]:
            for step in result["steps"]:
                if step["signals"] is None:
                    self._fixed[result["problem"]][step["model"] == "large"] += step["num_tokens"]
                else:
                    self._steps[result["problem"]].append((step["entropy"], step["num_tokens"]))

    def share(self, threshold: float, problems: list[str]) -> float:
        """The share of tokens that the large model would write."""
        large = total = 0
        for problem in problems:
            small_tokens, large_tokens = self._fixed[problem]
            large += large_tokens + sum(n for entropy, n in self._steps[problem] if entropy >= threshold)
            total += small_tokens + large_tokens + sum(n for _, n in self._steps[problem])
        return large / max(total, 1)

    def threshold(self, share: float, problems: list[str]) -> float:
        """The lowest threshold with at most this share."""
        steps = sorted((step for problem in problems for step in self._steps[problem]), reverse=True)
        fixed = [sum(self._fixed[problem][i] for problem in problems) for i in (0, 1)]
        room = share * (sum(fixed) + sum(n for _, n in steps)) - fixed[1]
        for entropy, num_tokens in steps:
            room -= num_tokens
            if room < 0:
                return math.nextafter(entropy, math.inf)
        return 0.0


def source_of(run: RunFiles) -> str:
    """The router whose glimpses are looked at: of those with a threshold the one in the middle, as it's the nearest."""
    measured = [router for _, router in thresholds_of(run)]
    if measured:
        return measured[len(measured) // 2]
    if "small" in run.routers:
        return "small"
    raise ConfigError("the run has no glimpses: run `glimp eval` with --routers small, or some glimp:THRESHOLD")


def thresholds_of(run: RunFiles) -> list[tuple[float, str]]:
    """(threshold, router) of the entropy routers of a run, ascending."""
    found = []
    for router in run.routers:
        name, _, value = router.partition(":")
        if name == "glimp" and value and ":" not in value and not value.endswith("%"):
            found.append((float(value), router))
    return sorted(found)


class Curve:
    """Accuracy or latency over the threshold, as measured, and straight between the measured ones."""

    def __init__(self, run: RunFiles, kind: str) -> None:
        points = [(threshold, router) for threshold, router in thresholds_of(run) if math.isfinite(threshold)]
        lowest, highest = (points[0][0], points[-1][0]) if points else (0.0, 0.0)
        usable = run.timed_alike() if kind == "latency" else run.routers
        last = "small" if "small" in usable else "glimp:inf"  # which are the same, and no place on a line is infinite
        ends = [(0.0, "large")] * (lowest > 0) + points + [(2 * highest + 1.0, last)]
        self._points = [(threshold, router) for threshold, router in ends if router in usable]
        if len(points) < 2 or "large" not in run.routers:
            raise ConfigError(
                f"target is {kind}, which takes a run with large and at least two glimp:THRESHOLD; "
                f"found {', '.join(run.routers)}"
            )
        if len(self._points) < 2:
            raise ConfigError(
                f"target is {kind}, which takes thresholds that were timed with as many problems at once as "
                f"{run.routers[0]}; found {', '.join(usable)}"
            )
        self._by_problem = {router: by_problem(run, router, kind) for _, router in self._points}
        self._large = by_problem(run, "large", kind)

    def at(self, threshold: float, problems: list[str]) -> float:
        """The value at a threshold."""
        xs = [x for x, _ in self._points]
        return float(np.interp(threshold, xs, self._values(problems)))

    def highest(self, is_met: Callable[[float, float], bool], problems: list[str]) -> float:
        """The highest threshold up to which the target is met; 0 if it's met nowhere."""
        found = [x for x in self._grid() if is_met(self.at(x, problems), mean(self._large, problems))]
        return max(found, default=0.0)

    def lowest(self, is_met: Callable[[float, float], bool], problems: list[str]) -> float:
        """The lowest threshold that meets the target; that of small only if none does."""
        found = [x for x in self._grid() if is_met(self.at(x, problems), mean(self._large, problems))]
        return min(found, default=self._points[-1][0])

    def _values(self, problems: list[str]) -> list[float]:
        return [mean(self._by_problem[router], problems) for _, router in self._points]

    def _grid(self) -> list[float]:
        between = [np.linspace(a, b, 21) for (a, _), (b, _) in pairwise(self._points)]
        return [float(x) for x in np.unique(np.concatenate(between))]


def by_problem(run: RunFiles, router: str, kind: str) -> dict[str, float]:
    """The mean over the repeats of each problem."""
    results, timings = run.of(router)
    values = defaultdict[str, list[float]](list)
    for result, timing in zip(results, timings, strict=True):
        values[result["problem"]].append(timing["seconds"] if kind == "latency" else float(result["is_correct"]))
    return {problem: sum(own) / len(own) for problem, own in values.items()}


def mean(values: dict[str, float], problems: list[str]) -> float:
    return sum(values[problem] for problem in problems) / len(problems)


def checks(run: RunFiles, glimpses: Glimpses, problems: list[str]) -> list[tuple[float, float, float]]:
    """What would have been predicted of each threshold that the run has measured."""
    return [(x, glimpses.share(x, problems), large_share(run.of(router)[0])) for x, router in thresholds_of(run)]


def large_share(results: list[Line]) -> float:
    total = sum(result["num_tokens"] for result in results)
    return float(sum(result["num_large_tokens"] for result in results) / max(total, 1))
