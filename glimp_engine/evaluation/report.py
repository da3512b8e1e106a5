"""One page about a run: the table, the figures, and how to read them."""

import json
from collections import defaultdict
from html import escape
from pathlib import Path

from glimp_engine.evaluation import charts
from glimp_engine.evaluation.containment import LEVELS
from glimp_engine.evaluation.discrimination import Discrimination, discriminate
from glimp_engine.evaluation.journal import write_atomically
from glimp_engine.evaluation.run_files import RunFiles, routed_steps
from glimp_engine.evaluation.summary import COLUMNS, RouterSummary, summarise

__all__ = ["write_report"]

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; background: #fff; }
body { max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .6rem; text-align: right; border-bottom: 1px solid #ddd; }
th:first-child, td:first-child { text-align: left; }
.scroll { overflow-x: auto; } svg { max-width: 100%; height: auto; } h2 { margin-top: 2.2rem; }
.how { color: #555; max-width: 46rem; } pre { background: #f5f5f5; padding: .8rem; overflow-x: auto; }
"""


def write_report(directory: Path) -> Path:
    """The path of report.html, made of a finished run's files; it needs nothing from anywhere else.

    Raises: ConfigError when there is no finished run, or no matplotlib.
    """
    run = RunFiles.read(directory)
    rows = [summarise(run, router) for router in run.routers]
    found = discriminate(run.branches)
    sections = [table_section(rows), latency_section(run, rows), entropy_section(run)]
    sections += [signal_section(run, found)] if run.branches else []
    sections += [time_section(run), run_section(run)]
    title = f"Routing on {escape(str(run.settings['problems']))}"
    head = f'<meta charset="utf-8"><title>{title}</title><style>{STYLE}</style>'
    body = "\n".join([f"<h1>{title}</h1>", pair_line(run), *sections])
    page = f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>{body}</body></html>\n'
    path = directory / "report.html"
    write_atomically(path, page)
    return path


def section(title: str, body: str, how: str) -> str:
    return f'<section><h2>{escape(title)}</h2>\n{body}\n<p class="how">{how}</p></section>'


def pair_line(run: RunFiles) -> str:
    small, large = (escape(Path(str(run.settings.get(name, "none"))).name) for name in ("small", "large"))
    count, repeats = run.settings["num_problems"], run.settings["repeats"]
    return f"<p>Small: <b>{small}</b>. Large: <b>{large}</b>. {count} problems, {repeats} answers to each.</p>"


def table_section(rows: list[RouterSummary]) -> str:
    head = "".join(f"<th>{column}</th>" for column in COLUMNS)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row.cells()) + "</tr>\n" for row in rows)
    how = (
        "<i>large tokens</i>: share of all tokens that the large model wrote, its answers after the thinking too. "
        "<i>large steps</i>: of the steps that were routed. <i>hand-overs</i>, <i>redone tokens</i> (of drafts that "
        "were taken back) and <i>proposed tokens</i> are a problem's. <i>accepted</i>: the share of these that the "
        "model that wrote the step confirmed; they change times, and no token. random@ is the control: it hands over "
        "as many steps as the router behind the @, but not the same ones; late: makes all steps behind so many tokens "
        "large. A router is worth something where it's right more often than its controls."
    )
    return section("Routers", f'<div class="scroll"><table><tr>{head}</tr>\n{body}</table></div>', how)


def latency_section(run: RunFiles, rows: list[RouterSummary]) -> str:
    alike = run.timed_alike()
    left_out = ", ".join(escape(router) for router in run.routers if router not in alike)
    how = f"Left out, as they ran with another number of problems at once: {left_out}. " if left_out else ""
    how += (
        "Up and left is better. Bars are 95% intervals. Points on the line between <i>small</i> and <i>large</i> are "
        "what mixing at random gives; thresholds above it are worth their hand-overs."
    )
    return section(
        "Accuracy and latency", charts.accuracy_and_latency([row for row in rows if row.router in alike]), how
    )


def entropy_section(run: RunFiles) -> str:
    values = [step["entropy"] for step in routed_steps(run.results)]
    failed = [b["signals"]["entropy"] for b in run.branches if b["num_right"] < b["num_samples"]]
    thresholds = [float(name.split(":")[1]) for name in run.routers if is_threshold(name)]
    how = (
        "How unsure the small model is of the first token of a step, over all routed steps of all routers. Dashed: the "
        "thresholds of this run. Where steps that fail lie to the right of most others, a threshold can part them."
    )
    return section("First-token entropies", charts.entropies(values, failed, thresholds), how)


def is_threshold(router: str) -> bool:
    parts = router.split(":")
    return parts[0] == "glimp" and len(parts) == 2 and not parts[1].endswith("%")


def signal_section(run: RunFiles, found: list[Discrimination]) -> str:
    lines = ""
    for each in found:
        low, high = each.interval
        lines += f"<tr><td>{each.signal}</td><td>{each.auc:.3f}</td><td>{low:.3f} to {high:.3f}</td></tr>"
    if not found:
        return section("Signals", "<p>Every branch failed, or none did: there is nothing to tell apart.</p>", "")
    table = f"<table><tr><th>signal</th><th>AUC</th><th>95% interval</th></tr>{lines}</table>"
    num_failed = sum(b["num_right"] < b["num_samples"] for b in run.branches)
    rest = run.branches[0]["rest"]
    how = (
        f"Each step of each right answer was written by the small model instead, and the rest by the {rest} one: "
        f"{num_failed} of {len(run.branches)} steps then failed to reach the right answer at least once. AUC: the "
        "probability that a step that fails has the higher signal; 0.5 is chance. The curve: if the steps of the "
        "lowest signal are left to the small model, what share of them fails. The step_ signals and number_entropy, of "
        "tokens with a digit, are known only after the step; a step without a digit comes first. late is the control: "
        "how many tokens stand before the step."
    )
    return section("Signals", charts.risk_and_coverage(found) + table, how)


def time_section(run: RunFiles) -> str:
    parts: dict[str, dict[str, float]] = {}
    for router in run.timed_alike():
        results, timings = run.of(router)
        own = defaultdict[str, float](float)
        for result, timing in zip(results, timings, strict=True):
            for step, seconds in zip(result["steps"], timing["step_seconds"], strict=True):
                own[f"{step['model']}, {step['phase']}"] += seconds / len(results)
        parts[router] = dict(own)
    how = (
        "Wall clock of the steps by who wrote them: glimpse, catch-up and, with several problems at once, waiting "
        "included."
    )
    return section("Time by model and phase", charts.time_by_model(parts), how)


def run_section(run: RunFiles) -> str:
    refused = "".join(f"<li>{escape(line['where'])}: {escape(line['what'])}</li>" for line in run.refused)
    listed = f"<p>Refused problems:</p><ul>{refused}</ul>" if refused else ""
    told = "; ".join(f"<b>{escape(level)}</b>: {LEVELS.get(level, 'unknown')}" for level in run.containments)
    listed += f"<p>How the answers' programs were contained. {told}.</p>" if told else ""
    settings = escape(json.dumps(run.settings, indent=2, ensure_ascii=False))
    errors = sum(result["error"] is not None for result in run.results)
    return section("The run", f"{listed}<pre>{settings}</pre>", f"{errors} requests ended with an error.")
