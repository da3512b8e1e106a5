"""Products of a few rows with a matrix that is read once, at the speed of memory; many rows are the library's.

A weight [n, k] is cut into blocks of outputs, one program each. Where there are too few to fill the chip, k is split
too, and a second launch adds the parts, in their order.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from glimp_engine.kernels.gpu.launch import launch_options, prefetch_rows, wait_for_inputs

__all__ = ["MAX_ROWS", "linear", "linear_silu_mul", "rows_at_a_time"]

MAX_ROWS = 16  # beyond it the matrix units' own tiles are full, and the library's kernels are as fast
# (outputs, values of k) at a time. One row: 16 KiB that threads load straight into registers, of which a chip's 2 to 5
# programs a processor keep enough under way; several rows: 8 KiB, four of them on their way into shared memory
BLOCKS = {1: (8, 1024), MAX_ROWS: (16, 256)}
MIN_SPLIT_LEN = 1024  # of k: with less a second launch costs more than it gains
PREFETCHED = tl.constexpr(1024)  # values of each row that are asked for before the inputs are there


@triton.jit
def _rows_times_weight(
    x_ptr, weight_ptr, rows, num_rows, n, k, x_stride_t, k_begin, k_end, outputs,
    BLOCK_T: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """x[rows, k_begin:k_end] times the weight's rows `outputs` [BLOCK_N]: fp32 [BLOCK_T, BLOCK_N]."""
    at = tl.arange(0, BLOCK_K)
    is_output = outputs < n
    weight_rows = weight_ptr + outputs.to(tl.int64)[:, None] * k
    if BLOCK_T == 1:
        sums = tl.zeros([BLOCK_N, BLOCK_K], tl.float32)
        for start in range(k_begin, k_end, BLOCK_K):
            inside = start + at < k_end
            x = tl.load(x_ptr + start + at, mask=inside, other=0.0).to(tl.float32)
            weight = tl.load(weight_rows + (start + at), mask=is_output[:, None] & inside, other=0.0)
            sums += weight.to(tl.float32) * x
        acc = tl.sum(sums, 1)[None, :]
    else:
        acc = tl.zeros([BLOCK_T, BLOCK_N], tl.float32)
        for start in range(k_begin, k_end, BLOCK_K):
            inside = start + at < k_end
            x_at = x_ptr + rows.to(tl.int64)[:, None] * x_stride_t + (start + at)
            x = tl.load(x_at, mask=(rows < num_rows)[:, None] & inside, other=0.0)
            weight = tl.load(weight_rows + (start + at), mask=is_output[:, None] & inside, other=0.0)
            acc = tl.dot(x, tl.trans(weight), acc, input_precision=PRECISION)
    return acc


@triton.jit
def _linear_kernel(
    x_ptr, weight_ptr, bias_ptr, out_ptr, num_rows, n, k, x_stride_t, split_len,
    HAS_BIAS: tl.constexpr, PDL: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """out [splits, num_rows, n]: the products over each split of k; the bias belongs to the first."""
    split = tl.program_id(1)
    rows = tl.program_id(2) * BLOCK_T + tl.arange(0, BLOCK_T)
    outputs = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    begin = split * split_len
    end = tl.minimum(begin + split_len, k)
    if PDL:
        prefetch_rows(weight_ptr + tl.minimum(outputs, n - 1).to(tl.int64)[:, None] * k, begin, end, PREFETCHED)
    wait_for_inputs(PDL)
    acc = _rows_times_weight(
        x_ptr, weight_ptr, rows, num_rows, n, k, x_stride_t, begin, end, outputs,
        BLOCK_T, BLOCK_N, BLOCK_K, PRECISION,
    )  # fmt: skip
    if HAS_BIAS:  # noqa: SIM102  one is known to the compiler, the other isn't
        if split == 0:
            acc += tl.load(bias_ptr + outputs, mask=outputs < n, other=0.0).to(tl.float32)[None, :]
    at = out_ptr + ((split * num_rows + rows)[:, None]).to(tl.int64) * n + outputs
    tl.store(at, acc.to(out_ptr.dtype.element_ty), mask=(rows < num_rows)[:, None] & (outputs < n))


@triton.jit
def _add_splits_kernel(parts_ptr, out_ptr, num_values, num_splits, PDL: tl.constexpr, BLOCK: tl.constexpr):
    """out = sum over the splits, in their order."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < num_values
    wait_for_inputs(PDL)
    acc = tl.zeros([BLOCK], tl.float32)
    for split in range(0, num_splits):
        acc += tl.load(parts_ptr + split * num_values + at, mask=inside, other=0.0)
    tl.store(out_ptr + at, acc.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _linear_silu_mul_kernel(
    x_ptr, weight_ptr, out_ptr, num_rows, f, k, x_stride_t,
    PDL: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """out = silu(x gate^T) * (x up^T), gate and up being the two halves [f, k] of the weight."""
    outputs = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    rows = tl.arange(0, BLOCK_T)
    if PDL:
        gate_rows = weight_ptr + tl.minimum(outputs, f - 1).to(tl.int64)[:, None] * k
        prefetch_rows(gate_rows, 0, k, PREFETCHED)
        prefetch_rows(gate_rows + f.to(tl.int64) * k, 0, k, PREFETCHED)
    wait_for_inputs(PDL)
    gate = _rows_times_weight(
        x_ptr, weight_ptr, rows, num_rows, f, k, x_stride_t, 0, k, outputs, BLOCK_T, BLOCK_N, BLOCK_K, PRECISION
    )
    up = _rows_times_weight(
        x_ptr, weight_ptr + f.to(tl.int64) * k, rows, num_rows, f, k, x_stride_t, 0, k, outputs,
        BLOCK_T, BLOCK_N, BLOCK_K, PRECISION,
    )  # fmt: skip
    dtype: tl.constexpr = out_ptr.dtype.element_ty
    # rounded where the two ops round
    gate, up = gate.to(dtype).to(tl.float32), up.to(dtype).to(tl.float32)
    silu = (gate / (1.0 + tl.exp(-gate))).to(dtype).to(tl.float32)
    at = out_ptr + rows.to(tl.int64)[:, None] * f + outputs
    tl.store(at, (silu * up).to(dtype), mask=(rows < num_rows)[:, None] & (outputs < f))


def rows_at_a_time(num_rows: int) -> int:
    """The block_t for few rows: one has a kernel of its own."""
    return 1 if num_rows == 1 else MAX_ROWS


def linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, num_processors: int, block_t: int, has_pdl: bool = False
) -> Tensor:
    """See `Ops.linear`.

    Shapes: x [T, k] with contiguous rows, weight [n, k] contiguous; result [T, n].
    Cost:   the weight is read once for block_t rows, 1 or MAX_ROWS; a row's result depends on block_t and the chip.
    """
    num_rows, k = x.shape
    n = weight.shape[0]
    out = torch.empty(num_rows, n, dtype=x.dtype, device=x.device)
    if not num_rows:
        return out
    block_n, block_k = BLOCKS[block_t]
    num_blocks = triton.cdiv(n, block_n)
    num_splits = max(min(2 * num_processors // num_blocks, k // MIN_SPLIT_LEN), 1)
    split_len = triton.cdiv(triton.cdiv(k, num_splits), block_k) * block_k
    num_splits = triton.cdiv(k, split_len)
    parts = torch.empty(num_splits, num_rows, n, dtype=torch.float32, device=x.device) if num_splits > 1 else out
    _linear_kernel[(num_blocks, num_splits, triton.cdiv(num_rows, block_t))](
        x, weight, bias, parts, num_rows, n, k, x.stride(0), split_len,
        HAS_BIAS=bias is not None, **constants(x.dtype, block_t), **launch_options(has_pdl),
    )  # fmt: skip
    if num_splits > 1:
        grid = (triton.cdiv(num_rows * n, 256),)
        _add_splits_kernel[grid](
            parts, out, num_rows * n, num_splits, BLOCK=256, num_warps=2, **launch_options(has_pdl)
        )
    return out


def linear_silu_mul(x: Tensor, weight: Tensor, block_t: int, has_pdl: bool = False) -> Tensor:
    """silu_mul(linear(x, weight)) for at most block_t rows: x [T, k], weight [2 f, k] -> [T, f]."""
    num_rows, k = x.shape
    f = weight.shape[0] // 2
    out = torch.empty(num_rows, f, dtype=x.dtype, device=x.device)
    _linear_silu_mul_kernel[(triton.cdiv(f, BLOCKS[block_t][0]),)](
        x, weight, out, num_rows, f, k, x.stride(0), **constants(x.dtype, block_t), **launch_options(has_pdl)
    )
    return out


def constants(dtype: torch.dtype, block_t: int) -> dict[str, int | str]:
    """What the kernels are compiled for."""
    return {
        "BLOCK_T": block_t,
        "BLOCK_N": BLOCKS[block_t][0],
        "BLOCK_K": BLOCKS[block_t][1],
        "PRECISION": "ieee" if dtype == torch.float32 else "tf32",
        "num_warps": 4,
        "num_stages": 4,
    }
