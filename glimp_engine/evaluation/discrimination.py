"""How well a signal tells the steps that the small model must not write from those that it may.

A branch counts as failed to the extent that its samples were wrong: with 4 samples, 1 right, it's 3/4 failed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Discrimination", "auc", "discriminate", "risk_coverage"]

NUM_RESAMPLES = 1000
SIGNALS = (
    *("entropy", "top20_entropy", "max_probability", "margin", "step_entropy", "step_perplexity", "number_entropy"),
    "late",  # tokens before the step: the control
)


@dataclass(frozen=True)
class Discrimination:
    """A signal's area under the ROC curve, and its risk over coverage."""

    signal: str
    auc: float
    interval: tuple[float, float]  # 95%, by resampling problems
    coverage: np.ndarray  # share of the steps left to the small model, those of the lowest signal first
    risk: np.ndarray  # share of these that fail


def discriminate(branches: list[dict[str, Any]]) -> list[Discrimination]:
    """Each signal of a run's branches, older ones have not all; none where they all failed, or none did.

    A step that has nothing which a signal is measured of is the first that the small model may write.
    """
    failed = np.array([1 - branch["num_right"] / branch["num_samples"] for branch in branches])
    if not len(branches) or failed.sum() == 0 or failed.sum() == len(failed):
        return []
    problems = np.array([branch["problem"] for branch in branches])
    found = []
    for signal in SIGNALS:
        if not all(signal in branch["signals"] for branch in branches):
            continue
        measured = [branch["signals"][signal] for branch in branches]
        values = np.array([-np.inf if value is None else value for value in measured])
        coverage, risk = risk_coverage(values, failed)
        found.append(
            Discrimination(signal, auc(values, failed), auc_interval(values, failed, problems), coverage, risk)
        )
    return found


def auc(values: Sequence[float] | np.ndarray, failed: Sequence[float] | np.ndarray) -> float:
    """The probability that a failed step has a higher value than one that hasn't failed, ties counted half.

    Shapes: values, failed [N]; failed from 0 to 1.
    """
    unique, place = np.unique(np.asarray(values), return_inverse=True)
    bad = np.bincount(place, weights=np.asarray(failed), minlength=len(unique))
    good = np.bincount(place, weights=1 - np.asarray(failed), minlength=len(unique))
    below = np.cumsum(good) - good
    return float((bad * (below + good / 2)).sum() / (bad.sum() * good.sum()))


def auc_interval(values: np.ndarray, failed: np.ndarray, problems: np.ndarray) -> tuple[float, float]:
    generator = np.random.default_rng(0)
    names = np.unique(problems)
    rows = [np.flatnonzero(problems == name) for name in names]
    drawn = []
    for _ in range(NUM_RESAMPLES):
        chosen = np.concatenate([rows[i] for i in generator.integers(len(names), size=len(names))])
        share = failed[chosen].mean()
        if 0 < share < 1:
            drawn.append(auc(values[chosen], failed[chosen]))
    low, high = np.quantile(drawn, [0.025, 0.975]) if drawn else (np.nan, np.nan)
    return float(low), float(high)


def risk_coverage(values: np.ndarray, failed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(coverage, risk) where the steps below each value in turn are left to the small model."""
    order = np.argsort(values, kind="stable")
    counts = np.arange(1, len(values) + 1)
    return counts / len(values), np.cumsum(failed[order]) / counts
