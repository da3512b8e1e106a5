"""Native ops against the machine's floor and against PyTorch, at the sizes of Qwen2.5 1.5B; correctness first.

An op is called through the C ABI with addresses prepared before, as a forward calls it. Inputs that a forward would
find in memory (weights, K/V) rotate, so that they aren't found in a cache. The floor is the larger of the bytes over
the read bandwidth and the operations over the rate of the unit that the op could use.
"""

import argparse
import os
from itertools import cycle

import torch
from ceilings import Ceilings, measure_ceilings
from harness import Case, measure, print_table, report
from kernel_cases import KernelCase, attention_cases, elementwise_cases, linear_cases, sample_cases
from tqdm import tqdm

from glimp_engine.kernels.native import NativeOps


def bench(case: KernelCase, ceilings: Ceilings) -> Case:
    """One line: the check, then the time, the floor, and PyTorch."""
    assert case.runs[0]() == 0, f"{case.name}: the op refused"
    error = relative_error(case.out, case.expected)
    turns = cycle(case.runs)
    timing = measure(lambda: next(turns)(), warm_up=len(case.runs))
    floor_us, bound = floor_of(case, ceilings)
    peer = None if case.torch is None else measure(case.torch)["median_us"]
    return {
        "case": case.name,
        "is_correct": error <= case.tolerance,
        "error": error,
        **timing,
        "bytes": case.num_bytes,
        "ops": case.num_ops,
        "floor_us": floor_us,
        "bound": bound,
        "share_of_floor": None if floor_us is None else floor_us / timing["median_us"],
        "torch_us": peer,
        "times_torch": None if peer is None else peer / timing["median_us"],
    }


def floor_of(case: KernelCase, ceilings: Ceilings) -> tuple[float | None, str | None]:
    """Microseconds that it takes at least, and what sets them: the memory, or a unit's rate."""
    if not case.unit:
        return None, None
    memory_us = case.num_bytes / ceilings["read_bytes_per_s"] * 1e6
    unit = case.unit if ceilings[f"{case.unit}_ops_per_s"] else "fp32"
    rate_us = case.num_ops / ceilings[f"{unit}_ops_per_s"] * 1e6
    return (memory_us, "memory") if memory_us >= rate_us else (rate_us, unit)


def relative_error(out: torch.Tensor, expected: torch.Tensor) -> float:
    """||out - expected|| / ||expected||, in float64."""
    expected = expected.double()
    return float((out.double() - expected).norm() / expected.norm())


def main() -> None:
    """All ops, or those whose names have `--only` in them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--path", default="best", help="code path, one of abi.PATHS")
    parser.add_argument("--only", default="", help="part of a case's name; then nothing is written to results/")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    ops, ceilings, cases = NativeOps(args.threads, args.path), measure_ceilings(args.threads), []
    makers = [
        make
        for make_all in (linear_cases, attention_cases, elementwise_cases, sample_cases)
        for name, make in make_all(ops).items()
        if args.only in name
    ]
    for make in tqdm(makers):
        cases += [bench(case, ceilings) for case in make()]
    if args.only:
        print_table(cases)
    else:
        report("kernels", cases, ceilings, threads=args.threads, path=ops.path)


if __name__ == "__main__":
    main()
