"""What a call from Python into a native op costs: the budget of a forward is 5% of its time.

The ways: ctypes with addresses taken from tensors at each call, as NativeOps.sample does; ctypes with addresses kept
from before; nanobind with either, or with the tensors themselves (where `pip install nanobind` has been run); a planned
list of ops, prepared once and run by one call. The op itself does nothing.
"""

import ctypes
import importlib.util
import os
import subprocess
import tempfile
from pathlib import Path
from sysconfig import get_path
from typing import Any

import torch
from ceilings import measure_ceilings
from harness import measure, report

NUM_OPS = 270  # of a forward of SmolLM2-135M: 30 layers of 9
WEIGHT_BYTES = 135e6 * 5 / 8  # of the same in Q4_1, which a forward reads once

PLAN = r"""
#include <stdint.h>
typedef struct { int32_t op; int32_t sizes[8]; void *pointers[8]; } planned_op;
static int32_t (*volatile run_op)(const planned_op *);
static int32_t nothing(const planned_op *op) { return op->sizes[0]; }
int32_t run_plan(const planned_op *ops, int64_t n) {
    run_op = nothing;
    int32_t sum = 0;
    for (int64_t i = 0; i < n; ++i) sum += run_op(&ops[i]);
    return sum;
}
int32_t call(void *a, void *b, void *c, void *d, void *e, void *f, void *g, void *h, int64_t n) { return (int32_t)n; }
"""


NANOBIND = r"""
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
using T = nanobind::ndarray<>;
using A = uintptr_t;
NB_MODULE(nb_call, m) {
    m.def("addresses", [](A, A, A, A, A, A, A, A, int64_t n) { return n; });
    m.def("tensors", [](T, T, T, T, T, T, T, T, int64_t n) { return n; });
}
"""


class PlannedOp(ctypes.Structure):
    """One entry of a plan: which op, its sizes, its pointers."""

    _fields_ = [("op", ctypes.c_int32), ("sizes", ctypes.c_int32 * 8), ("pointers", ctypes.c_void_p * 8)]


def compiled(directory: str) -> ctypes.CDLL:
    """The functions above, as a shared library."""
    source, library = Path(directory) / "plan.c", Path(directory) / "plan.so"
    source.write_text(PLAN)
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", library, source], check=True)
    return ctypes.CDLL(str(library))


def with_nanobind(directory: str) -> Any:
    """The functions above as a Python module; None without nanobind."""
    if importlib.util.find_spec("nanobind") is None:
        return None
    import nanobind

    source, library = Path(directory) / "nb_call.cpp", Path(directory) / "nb_call.so"
    source.write_text(NANOBIND)
    own = Path(nanobind.source_dir())
    includes = [f"-I{p}" for p in (nanobind.include_dir(), own.parent / "ext/robin_map/include", get_path("include"))]
    sources = [source, own / "nb_combined.cpp"]
    flags = ["-O2", "-std=c++17", "-fvisibility=hidden", "-fno-strict-aliasing", "-DNDEBUG", "-shared", "-fPIC"]
    subprocess.run(["c++", *flags, *includes, "-o", library, *sources], check=True)
    spec = importlib.util.spec_from_file_location("nb_call", library)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    assert spec.loader is not None
    spec.loader.exec_module(module)
    return module


def main() -> None:
    """Measure and report, each as the cost of one op and of all the ops of a forward."""
    tensors = [torch.zeros(4) for _ in range(8)]
    addresses = [tensor.data_ptr() for tensor in tensors]
    plan = (PlannedOp * NUM_OPS)()
    ceilings = measure_ceilings(os.cpu_count() or 1)
    forward_us = WEIGHT_BYTES / ceilings["read_bytes_per_s"] * 1e6
    with tempfile.TemporaryDirectory() as directory:
        library = compiled(directory)
        call = library.call
        call.argtypes = [ctypes.c_void_p] * 8 + [ctypes.c_int64]
        library.run_plan.argtypes = [ctypes.c_void_p, ctypes.c_int64]

        def from_tensors() -> None:
            for _ in range(NUM_OPS):
                call(*[tensor.data_ptr() for tensor in tensors], 4)

        def from_addresses() -> None:
            for _ in range(NUM_OPS):
                call(*addresses, 4)

        ways = {
            "ctypes, data_ptr at each call": from_tensors,
            "ctypes, addresses kept": from_addresses,
            "planned list, one ctypes call": lambda: library.run_plan(plan, NUM_OPS),
            "torch.empty and a view, no call": lambda: [torch.empty(1, 576).view(1, 9, 64) for _ in range(NUM_OPS)],
        }
        module = with_nanobind(directory)
        if module is not None:
            ways |= {
                "nanobind, data_ptr at each call": lambda: [
                    module.addresses(*[tensor.data_ptr() for tensor in tensors], 4) for _ in range(NUM_OPS)
                ],
                "nanobind, addresses kept": lambda: [module.addresses(*addresses, 4) for _ in range(NUM_OPS)],
                "nanobind, tensors": lambda: [module.tensors(*tensors, 4) for _ in range(NUM_OPS)],
            }
        cases = []
        for name, way in ways.items():
            timing = measure(way)
            cases.append(
                {
                    "case": name,
                    "us_per_op": timing["median_us"] / NUM_OPS,
                    "us_per_forward": timing["median_us"],
                    "share_of_forward": timing["median_us"] / forward_us,
                    **timing,
                }
            )
    report("call_cost", cases, ceilings, forward_us=forward_us, budget_us=0.05 * forward_us)


if __name__ == "__main__":
    main()
