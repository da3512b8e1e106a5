"""Time on the device: calls are recorded in one graph and its replays timed, as launches are cheap there.

Without a GPU, in a rehearsal, a call is made once and timed by the host's clock: its numbers mean nothing.
"""

import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import torch

__all__ = ["DEVICE", "IS_REHEARSAL", "ceilings", "describe_device", "measure", "num_copies"]

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
IS_REHEARSAL = DEVICE.type == "cpu"
NUM_CALLS = 20  # in a graph
NUM_REPLAYS = 30
CACHE_BYTES = 128 << 20  # more than any L2: inputs are rotated over as much

Call = Callable[[int], object]


def measure(call: Call, num_inputs: int = 1, num_replays: int = NUM_REPLAYS) -> dict[str, float]:
    """Median, p10 and p90 in microseconds of call(i), with i from 0 to num_inputs - 1 in turn."""
    if IS_REHEARSAL:
        began = time.perf_counter()
        call(0)
        return quantiles([1e6 * (time.perf_counter() - began)])
    call(0)
    torch.cuda.synchronize()
    num_calls = max(NUM_CALLS, num_inputs)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for i in range(num_calls):
            call(i % num_inputs)
    graph.replay()
    events = [torch.cuda.Event(enable_timing=True) for _ in range(num_replays + 1)]
    events[0].record()
    for event in events[1:]:
        graph.replay()
        event.record()
    torch.cuda.synchronize()
    spans = [1e3 * a.elapsed_time(b) / num_calls for a, b in pairwise(events)]
    return quantiles(spans)


def measure_host(call: Call, num_runs: int = NUM_REPLAYS) -> dict[str, float]:
    """As `measure`, by the host's clock from call to result; for what synchronises or can't be recorded."""
    call(0)
    spans = []
    for i in range(1 if IS_REHEARSAL else num_runs):
        if not IS_REHEARSAL:
            torch.cuda.synchronize()
        began = time.perf_counter()
        call(i)
        if not IS_REHEARSAL:
            torch.cuda.synchronize()
        spans.append(1e6 * (time.perf_counter() - began))
    return quantiles(spans)


def quantiles(spans: list[float]) -> dict[str, float]:
    p10, median, p90 = np.percentile(spans, [10, 50, 90])
    return {"median_us": float(median), "p10_us": float(p10), "p90_us": float(p90), "num_runs": len(spans)}


def num_copies(num_bytes: int) -> int:
    """How many inputs of this size are more than the cache holds."""
    return 1 if IS_REHEARSAL else max(CACHE_BYTES // max(num_bytes, 1) + 1, 1)


def ceilings() -> dict[str, float]:
    """What the chip reaches by itself: bytes read and written by a large copy, read by a sum; operations of bf16."""
    num_bytes, n = (1 << 20, 256) if IS_REHEARSAL else (4 << 30, 8192)
    a = torch.empty(num_bytes // 2, dtype=torch.bfloat16, device=DEVICE).fill_(1)
    b = torch.empty_like(a)
    copy_us = measure(lambda _: b.copy_(a), num_replays=5)["median_us"]
    wide = a.view(torch.int32)
    read_us = measure(lambda _: wide.amax(), num_replays=5)["median_us"]
    x, y = (torch.randn(n, n, device=DEVICE, dtype=torch.bfloat16) for _ in "xy")
    matmul_us = measure(lambda _: x @ y, num_replays=5)["median_us"]
    return {
        "copy_bytes_per_s": 2e6 * num_bytes / copy_us,
        "read_bytes_per_s": 1e6 * num_bytes / read_us,
        "bf16_ops_per_s": 2e6 * n**3 / matmul_us,
    }


def describe_device() -> dict[str, Any]:
    """The chip and what runs on it."""
    import triton

    versions = {"torch": torch.__version__, "triton": triton.__version__, "cuda": torch.version.cuda}
    if IS_REHEARSAL:
        return {"name": "none: a rehearsal", "versions": versions}
    properties = torch.cuda.get_device_properties(DEVICE)
    return {
        "name": properties.name,
        "memory_bytes": properties.total_memory,
        "multiprocessors": properties.multi_processor_count,
        "versions": versions,
    }
