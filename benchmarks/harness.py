"""What every benchmark here needs: arguments, timing, the machine's facts, the table and the JSON of a run."""

import argparse
import json
import os
import platform
import subprocess
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).parent / "results"
MODELS = (
    "smollm2-135m-instruct-q4_1.gguf",
    "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
    "qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
)

Case = dict[str, Any]


def arguments(doc: str, repeats: int | None, models: Iterable[str] = MODELS) -> argparse.ArgumentParser:
    """The options that the benchmarks of whole models have in common; `models` are looked for in GLIMP_MODELS."""
    directory = Path(os.environ.get("GLIMP_MODELS", "~/.cache/glimp-models")).expanduser()
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--models", type=Path, nargs="+", default=[directory / name for name in models], help=".gguf files"
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    if repeats is not None:
        parser.add_argument("--repeats", type=int, default=repeats)
    parser.add_argument("--peer-python", help="a Python with llama-cpp-python; without it there is no peer")
    parser.add_argument("--name", help="of the result file, instead of the benchmark's own")
    return parser


def measure(run: Callable[[], object], min_seconds: float = 0.5, warm_up: int = 3) -> dict[str, float]:
    """Median, p10 and p90 of a call in microseconds."""
    for _ in range(warm_up):
        run()
    times, began = [], time.perf_counter()
    while len(times) < 5 or time.perf_counter() - began < min_seconds:
        start = time.perf_counter_ns()
        run()
        times.append((time.perf_counter_ns() - start) / 1e3)
    p10, median, p90 = np.percentile(times, [10, 50, 90])
    return {"median_us": float(median), "p10_us": float(p10), "p90_us": float(p90), "num_runs": len(times)}


def summary(values: list[float]) -> dict[str, float]:
    """Median, p10 and p90 of what was measured."""
    p10, median, p90 = np.percentile(values, [10, 50, 90])
    return {"median": float(median), "p10": float(p10), "p90": float(p90), "num_runs": len(values)}


def machine() -> dict[str, Any]:
    """Where and with what a run was made."""
    names = [line.split(":")[1].strip() for line in cpu_info() if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "load_average": os.getloadavg()[0],
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("glimp_engine", "torch", "numpy")},
    }


def cpu_info() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def commit() -> str:
    """The commit that was measured; with + if files other than results differ from it."""
    found = git("rev-parse", "--short=12", "HEAD")
    if found.returncode:
        return "unknown"
    differs = git("diff", "--quiet", "HEAD", "--", ":(top)", ":(top,exclude)benchmarks/results").returncode
    return found.stdout.strip() + "+" * bool(differs)


def git(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A git command in this repository."""
    return subprocess.run(["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True, check=False)


def report(
    name: str, cases: list[Case], ceilings: dict[str, Any], rows: list[Case] | None = None, **facts: Any
) -> None:
    """Write the run to benchmarks/results/ and print it: `rows`, or else the cases, as a table, the JSON last.

    `ceilings` are the machine's, or those in the minutes of each group of cases.
    """
    run = {
        "name": name,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": machine(),
        **facts,
        "ceilings": ceilings,
        "cases": cases,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(run, indent=1) + "\n")
    shown = {key: value for key, value in facts.items() if not isinstance(value, list)}
    print(f"{name} at {run['commit']}, {run['machine']['processor']}, {shown}")
    groups = ceilings if all(isinstance(value, dict) for value in ceilings.values()) else {"machine": ceilings}
    print_table([{"ceilings": group, **values} for group, values in groups.items()])
    print_table(cases if rows is None else rows)
    print(json.dumps(run))


def print_table(rows: list[Case]) -> None:
    """One line a row, a column for each key that any row has; `-` is what was not measured."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [columns] + [[cell(row.get(column)) for column in columns] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    for line in cells:
        print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


def cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
