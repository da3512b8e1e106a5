"""Everything that wants a GPU, in the order of worth, within a time: tests, then benchmarks; one JSON as it goes.

It needs the repository and a Python with torch, triton, transformers and pytest; nothing is installed. Parts that the
result file has already, of this commit, are left out, so a run that was cut off goes on. Without a GPU it rehearses:
the same parts on tiny sizes under Triton's interpreter, whose numbers mean nothing.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).parent
IS_REHEARSAL = not torch.cuda.is_available()
MIN_SECONDS = 20  # with less left no part is begun


@dataclass(frozen=True)
class Part:
    """A command that prints a JSON line last, or nothing but what a person reads."""

    name: str
    command: list[str]
    max_seconds: int
    has_json: bool = True


def python(*arguments: str) -> list[str]:
    return [sys.executable, "-W", "ignore", *arguments]


def parts() -> list[Part]:
    """In the order of their worth."""
    ops, models = str(HERE / "bench_ops.py"), str(HERE / "bench_models.py")
    tests = [str(ROOT / "tests" / "gpu"), "-q", "--maxfail=10", "-p", "no:cacheprovider", "--import-mode=importlib"]
    quick = ["-k", "activation or norm or buckets"] if IS_REHEARSAL else ["--deselect", "tests/gpu/test_compile.py"]
    listed = [
        Part("tests", python("-m", "pytest", *tests, *quick), 240, has_json=False),
        Part("ops: sample", python(ops, "sample", "entropy"), 90),
        Part("models: decode-4b", python(models, "decode-4b"), 120),
        Part("ops: linear", python(ops, "linear"), 90),
        Part("ops: attention", python(ops, "attention"), 90),
        Part("models: pair", python(models, "pair"), 150),
        Part("ops: small", python(ops, "small"), 40),
        Part("models: decode-32b", python(models, "decode-32b"), 120),
        Part("models: invariant", python(models, "invariant"), 120),
        Part("models: peer", python(models, "peer"), 200),
    ]
    sanitizer = shutil.which("compute-sanitizer")
    if sanitizer:
        memcheck = [sanitizer, "--tool", "memcheck", "--error-exitcode", "9"]
        chosen = python("-m", "pytest", *tests, "-k", "activation or norm or rope")
        listed.insert(1, Part("memcheck", [*memcheck, *chosen], 120, has_json=False))
    return listed


def make_site(directory: Path) -> Path:
    """The package as it's laid out when installed, for a Python that doesn't have it."""
    site = directory / "site"
    shutil.rmtree(site, ignore_errors=True)
    shutil.copytree(ROOT / "glimp_engine", site / "glimp_engine")
    kernels = site / "glimp_engine" / "kernels"
    shutil.copytree(ROOT / "kernels", kernels)
    if nvcc := shutil.which("nvcc"):
        architecture = "sm_90" if IS_REHEARSAL else "native"
        command = [nvcc, f"-arch={architecture}", "-std=c++17", "-O3", "-shared", "-Xcompiler", "-fPIC"]
        subprocess.run([*command, ROOT / "csrc/cuda/step_loop.cu", "-o", kernels / "libglimp_cuda.so"], check=True)
    return site


def run(part: Part, environment: dict[str, str], log: Path, seconds: float) -> dict[str, Any]:
    """What came of a part; its output goes to the log."""
    began = time.monotonic()
    try:
        done = subprocess.run(
            part.command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=seconds, check=False
        )
        out, err, code = done.stdout, done.stderr, done.returncode
    except subprocess.TimeoutExpired as expired:
        out, err = (x.decode() if isinstance(x, bytes) else x or "" for x in (expired.stdout, expired.stderr))
        code = None
    log.write_text(f"{out}\n{err}")
    lines = out.strip().splitlines()
    result: dict[str, Any] = {"is_ok": code == 0, "exit_code": code, "seconds": round(time.monotonic() - began, 1)}
    if code == 0 and part.has_json:
        return {**result, **json.loads(lines[-1])}
    return {**result, "last_lines": (lines or err.strip().splitlines())[-5:]}


def commit() -> str:
    """The commit that is measured."""
    done = subprocess.run(
        ["git", "rev-parse", "--short=12", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "unknown"


def main() -> int:
    """1 if a part failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=9.5, help="for everything")
    parser.add_argument("--only", nargs="*", default=[], help="parts of names of parts")
    parser.add_argument("--again", action="store_true", help="also the parts that the result file has")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "benchmarks" / "results", help="directory of result and logs"
    )
    args = parser.parse_args()
    deadline = time.monotonic() + 60 * args.minutes
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / ("gpu_rehearsal.json" if IS_REHEARSAL else "gpu.json")
    result = json.loads(path.read_text()) if path.exists() else {}
    if result.get("commit") != commit():
        result = {"name": path.stem, "commit": commit(), "parts": {}}
    build = ROOT / "build" / "gpu"
    build.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "PYTHONPATH": f"{make_site(build)}:{ROOT / 'tests'}"}
    if IS_REHEARSAL:
        environment["TRITON_INTERPRET"] = "1"
    for part in parts():
        left = deadline - time.monotonic()
        is_known = result["parts"].get(part.name, {}).get("is_ok", False)
        is_asked = not args.only or any(word in part.name for word in args.only)
        if not is_asked or (is_known and not args.again):
            continue
        if left < MIN_SECONDS:
            print(f"{part.name:24} no time left")
            continue
        log = args.out / f"gpu_{part.name.replace(': ', '_')}.log"
        found = run(part, environment, log, min(left, part.max_seconds))
        result["parts"][part.name] = found
        result["date"] = datetime.now(UTC).isoformat(timespec="seconds")
        path.write_text(json.dumps(result, indent=1) + "\n")
        print(f"{part.name:24} {'ok' if found['is_ok'] else 'FAILED'} in {found['seconds']} s", flush=True)
        for line in found.get("last_lines", []):
            print(f"    {line}")
        print_cases(found.get("cases", []))
    return 0 if all(found["is_ok"] for found in result["parts"].values()) else 1


def print_cases(cases: list[dict[str, Any]]) -> None:
    """A line for each case: time, share of its floor, and times the peer's speed."""
    for case in cases:
        if "median_us" in case:
            ratios = [f"{case[key]:.3g} {key}" for key in SHOWN if case.get(key) is not None]
            print(f"    {case['case']:52} {case['median_us']:12.1f} us  {'  '.join(ratios)}")


SHOWN = (
    "tokens_per_s",
    "share_of_floor",
    "times_peer",
    "times_host_loop",
    "times_without_entropy",
    "share_of_weighted_sum",
    "share_of_large_tokens",
)


if __name__ == "__main__":
    sys.exit(main())
