"""Programmatic dependent launch: a kernel begins while the one before it ends, and waits where it needs its results.

From sm_90 on, inside a graph too. Every kernel that is launched so waits before it reads or writes what others do, so
one that waits for its predecessor has waited for all before.
"""

import triton
import triton.language as tl

__all__ = ["launch_options", "prefetch_rows", "wait_for_inputs"]


def launch_options(has_pdl: bool) -> dict[str, bool]:
    """What a launch is given; the interpreter knows no such option."""
    return {"PDL": True, "launch_pdl": True} if has_pdl else {"PDL": False}


@triton.jit
def wait_for_inputs(PDL: tl.constexpr):
    """Let the next kernel begin, then wait for the results of those before."""
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()


@triton.jit
def prefetch_rows(rows_ptr, begin, end, NUM_VALUES: tl.constexpr):
    """Ask the L2 cache for values begin ... begin + NUM_VALUES - 1, as far as `end`, of rows [N] of 2-byte values."""
    at = begin + tl.arange(0, NUM_VALUES // 64) * 64  # of each line of 128 bytes, the first
    lines = rows_ptr + tl.minimum(at, end - 1)
    tl.inline_asm_elementwise(
        "prefetch.global.L2 [$1]; mov.u32 $0, 0;", "=r,l", [lines], dtype=tl.int32, is_pure=False, pack=1
    )
