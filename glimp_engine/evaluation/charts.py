"""The report's figures, as SVG: they open offline, scale, and take a few KB each, where plotly's script takes 4 MB."""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from glimp_engine.errors import ConfigError
from glimp_engine.evaluation.discrimination import Discrimination
from glimp_engine.evaluation.summary import RouterSummary

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["accuracy_and_latency", "entropies", "risk_and_coverage", "time_by_model"]

# Okabe and Ito's colours, which the colour-blind can tell apart
BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#666666"
PURPLE = "#CC79A7"
FAMILIES = (("glimp", BLUE), ("random", ORANGE), ("late", PURPLE), ("small", GREY), ("large", GREY), ("", GREEN))


class Figure:
    """One figure; `svg` has it once it's drawn."""

    svg = ""


@contextmanager
def figure(width: float, height: float, title: str) -> Iterator[tuple[Figure, "Axes"]]:
    """An empty figure to draw on, in inches."""
    try:
        import matplotlib
        from matplotlib.figure import Figure as Canvas
    except ImportError:
        raise ConfigError("a report takes matplotlib: pip install 'glimp_engine[eval]'") from None
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": title, "font.size": 10}):
        canvas = Canvas(figsize=(width, height), layout="constrained")
        axes = canvas.add_subplot()
        axes.spines[["top", "right"]].set_visible(False)
        drawn, buffer = Figure(), io.StringIO()
        yield drawn, axes
        canvas.savefig(buffer, format="svg", metadata={"Date": None, "Title": title})
        svg = buffer.getvalue()
        drawn.svg = re.sub("<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)


def accuracy_and_latency(rows: list[RouterSummary]) -> str:
    """A point a router with its interval; thresholds of one kind are joined."""
    with figure(8, 4.5, "Accuracy against seconds a problem") as (drawn, axes):
        for prefix, colour in FAMILIES:
            own = [row for row in rows if family_of(row.router) == prefix]
            seconds = [row.mean_seconds for row in own]
            shares = [100 * row.accuracy for row in own]
            errors = [[100 * abs(row.accuracy - row.interval[end]) for row in own] for end in (0, 1)]
            axes.errorbar(seconds, shares, errors, fmt="o", color=colour, capsize=2, elinewidth=0.7)
            if prefix in ("glimp", "random", "late") and len(own) > 1:
                points = sorted(zip(seconds, shares, strict=True))
                axes.plot(*zip(*points, strict=True), color=colour, linewidth=1, alpha=0.6)
            for row, x, y in zip(own, seconds, shares, strict=True):
                axes.annotate(row.router, (x, y), xytext=(5, 4), textcoords="offset points", fontsize=8)
        axes.set_xlabel("mean seconds a problem")
        axes.set_ylabel("right, %")
    return drawn.svg


def family_of(router: str) -> str:
    return next(prefix for prefix, _ in FAMILIES if router.startswith(prefix))


def entropies(values: list[float], failed: list[float], thresholds: list[float]) -> str:
    """A histogram of first-token entropies, and of those behind which the small model fails, with thresholds in it."""
    with figure(8, 3.2, "First-token entropies") as (drawn, axes):
        bins = np.linspace(0, max([*values, *failed, 1e-3]), 41).tolist()
        axes.hist(values, bins=bins, color=BLUE, alpha=0.5, label="all routed steps")
        if failed:
            axes.hist(failed, bins=bins, color=RED, alpha=0.7, label="steps that fail by the small model")
        for threshold in thresholds:
            if threshold < bins[-1]:
                axes.axvline(threshold, color=GREY, linestyle="--", linewidth=1)
        axes.set_yscale("symlog")
        axes.set_xlabel("nats")
        axes.set_ylabel("steps")
        axes.legend(frameon=False)
    return drawn.svg


def risk_and_coverage(found: list[Discrimination]) -> str:
    """A curve a signal: what share of the steps left to the small model fail."""
    colours = (BLUE, "#56B4E9", GREEN, ORANGE, RED, PURPLE, "#000000", GREY)
    styles = zip(found, colours, ("-", "--", "-.", ":", "-", "--", "-", ":"), strict=False)
    with figure(8, 4, "Risk and coverage") as (drawn, axes):
        for each, colour, line in styles:
            label = f"{each.signal} (AUC {each.auc:.2f})"
            axes.plot(100 * each.coverage, 100 * each.risk, line, color=colour, label=label)
        axes.set_xlabel("steps left to the small model, %")
        axes.set_ylabel("of these fail, %")
        axes.legend(frameon=False, fontsize=8)
    return drawn.svg


def time_by_model(parts: dict[str, dict[str, float]]) -> str:
    """A bar a router: seconds a problem by (model, phase)."""
    names = list(dict.fromkeys(name for own in parts.values() for name in own))
    colours: dict[str, Any] = dict(zip(names, (BLUE, "#56B4E9", ORANGE, RED, GREEN, GREY), strict=False))
    with figure(8, 0.45 * len(parts) + 1.2, "Time by model and phase") as (drawn, axes):
        routers = list(parts)[::-1]
        left = np.zeros(len(routers))
        for name in names:
            widths = np.array([parts[router].get(name, 0.0) for router in routers])
            axes.barh(routers, widths, left=left, color=colours.get(name), label=name)
            left += widths
        axes.set_xlabel("seconds a problem")
        axes.legend(frameon=False, fontsize=8)
    return drawn.svg
