"""What every benchmark here needs: the machine's facts, its bandwidth, timing, and the JSON of a run."""

import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

RESULTS = Path(__file__).parent / "results"


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


def read_bandwidth(num_bytes: int = 1 << 29) -> float:
    """Bytes a second that the processor reads from memory, with all of torch's threads."""
    data = torch.ones(num_bytes // 4)
    return num_bytes / (measure(data.sum, min_seconds=1.0)["p10_us"] * 1e-6)


def machine() -> dict[str, Any]:
    """Where and with what a run was made."""
    names = [line.split(":")[1].strip() for line in cpu_info() if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.processor(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("torch", "numpy", "transformers")},
    }


def cpu_info() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def commit() -> str:
    """The commit that was measured; with + if files differ from it."""
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty=+", "--abbrev=12"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return described.stdout.strip() or "unknown"


def report(name: str, cases: list[dict[str, Any]], ceilings: dict[str, float]) -> None:
    """Write the run to benchmarks/results/ and print it, the JSON on the last line."""
    run = {
        "name": name,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": machine(),
        "ceilings": ceilings,
        "cases": cases,
    }
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps(run)
    (RESULTS / f"{name}.json").write_text(json.dumps(run, indent=1) + "\n")
    for case in cases:
        print(
            "  ".join(f"{key} {value:.4g}" if isinstance(value, float) else f"{value}" for key, value in case.items())
        )
    print(text, file=sys.stdout)
