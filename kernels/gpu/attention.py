"""Attention of ragged queries over paged keys and values: decode, catch-up and prefill by one kernel.

The query heads that share a key head stand side by side in the rows of one tile, so a page is read once for all of
them. Where there are too few tiles to fill the chip, the keys are split and partial results merged by their
log-sum-exps (FlashDecoding; arXiv 2205.14135 for the online softmax).
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from glimp_engine.kernels import Attention
from glimp_engine.kernels.gpu.launch import launch_options, wait_for_inputs

__all__ = ["Tiling", "choose_tiling", "paged_attention"]

LOG2_E = 1.4426950408889634
MIN_ROWS = 16  # of a tile: what the matrix units take


@triton.jit
def _sequence_of(block, query_start_ptr, num_sequences, BLOCK_Q: tl.constexpr):
    """The sequence that has query block `block`: sequence b's blocks begin at query_start[b] // BLOCK_Q + b."""
    low, high = 0, num_sequences
    while low < high:
        middle = (low + high) // 2
        if tl.load(query_start_ptr + middle) // BLOCK_Q + middle <= block:
            low = middle + 1
        else:
            high = middle
    return low - 1


@triton.jit
def _weigh(scores, most):
    """One step of the online softmax: the scores' weights, what sums so far are rescaled by, the new largest score."""
    new_most = tl.maximum(most, tl.max(scores, 1))
    # a row without a key so far has no maximum to subtract
    pivot = tl.where(new_most == float("-inf"), 0.0, new_most)
    return tl.exp2(scores - pivot[:, None]), tl.exp2(most - pivot), new_most


@triton.jit
def _paged_attention_kernel(
    q_ptr, k_cache_ptr, v_cache_ptr, out_ptr, lse_ptr, query_start_ptr, page_table_ptr, kv_len_ptr,
    num_sequences, num_tokens, num_heads, q_stride_t, page_table_stride_b, scale_log2, split_len, num_splits,
    HEAD_DIM: tl.constexpr, PAGE_SIZE: tl.constexpr, GROUP: tl.constexpr, IS_SPLIT: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, PRECISION: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    """One program for a block of queries, one key head and one split of the keys.

    Row m of the tile is query m // GROUP of the block and query head m % GROUP of the key head.
    """
    BLOCK_Q: tl.constexpr = BLOCK_M // GROUP
    kv_head, split = tl.program_id(1), tl.program_id(2)
    wait_for_inputs(PDL)
    b = _sequence_of(tl.program_id(0), query_start_ptr, num_sequences, BLOCK_Q)
    query_begin = tl.load(query_start_ptr + b)
    num_queries = tl.load(query_start_ptr + b + 1) - query_begin
    first = (tl.program_id(0) - (query_begin // BLOCK_Q + b)) * BLOCK_Q
    kv_len = tl.load(kv_len_ptr + b)
    # the last query of the block sees no key from here on
    end = kv_len - num_queries + tl.minimum(first + BLOCK_Q, num_queries)
    begin = 0
    if IS_SPLIT:
        if split_len == 0:
            split_len = tl.cdiv(tl.cdiv(kv_len, num_splits), BLOCK_N) * BLOCK_N
        begin = split * split_len
        end = tl.minimum(end, begin + split_len)
    if first >= num_queries:
        return

    m = tl.arange(0, BLOCK_M)
    query, head = first + m // GROUP, kv_head * GROUP + m % GROUP
    is_row = (m < BLOCK_Q * GROUP) & (query < num_queries)
    position = kv_len - num_queries + query
    d = tl.arange(0, BLOCK_D)
    is_dim = d < HEAD_DIM
    token = (query_begin + query).to(tl.int64)
    row = token * num_heads + head
    if IS_SPLIT:
        row += split.to(tl.int64) * num_tokens * num_heads
        if begin >= end:  # the queries see none of these keys
            tl.store(lse_ptr + row, tl.full([BLOCK_M], float("-inf"), tl.float32), mask=is_row)
            return
    q_at = token * q_stride_t + head * HEAD_DIM
    q = tl.load(q_ptr + q_at[:, None] + d, mask=is_row[:, None] & is_dim, other=0.0)

    most = tl.full([BLOCK_M], float("-inf"), tl.float32)  # of the scores so far, in units of log 2
    total = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    n = tl.arange(0, BLOCK_N)
    for start in range(begin, end, BLOCK_N):
        key = start + n
        is_key = key < end
        # written out here: as a function of its own it costs a spilled register on sm_90
        page = tl.load(page_table_ptr + b * page_table_stride_b + key // PAGE_SIZE, mask=is_key, other=0)
        heads_before = page.to(tl.int64) * tl.num_programs(1) + kv_head
        at = (heads_before * PAGE_SIZE + key % PAGE_SIZE) * HEAD_DIM
        k = tl.load(k_cache_ptr + at[None, :] + d[:, None], mask=is_key[None, :] & is_dim[:, None], other=0.0)
        scores = tl.dot(q, k, input_precision=PRECISION) * scale_log2
        scores = tl.where(is_key[None, :] & (key[None, :] <= position[:, None]), scores, float("-inf"))
        weights, rescale, most = _weigh(scores, most)
        v = tl.load(v_cache_ptr + at[:, None] + d, mask=is_key[:, None] & is_dim, other=0.0)
        total = total * rescale + tl.sum(weights, 1)
        acc = acc * rescale[:, None] + tl.dot(weights.to(v.dtype), v, input_precision=PRECISION)

    acc = acc / tl.where(total > 0, total, 1.0)[:, None]
    if IS_SPLIT:
        lse = tl.where(total > 0, most + tl.log2(total), float("-inf"))
        tl.store(lse_ptr + row, lse, mask=is_row)
    to = out_ptr + row[:, None] * HEAD_DIM + d
    tl.store(to, acc.to(out_ptr.dtype.element_ty), mask=is_row[:, None] & is_dim)


@triton.jit
def _merge_splits_kernel(
    partial_ptr, lse_ptr, out_ptr, num_heads, num_splits,
    HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_SPLITS: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """out = sum_i 2^(lse_i - most) partial_i / sum_i 2^(lse_i - most); one program for a token's head.

    Splits without a key add exact zeros, so their number changes nothing.
    """
    wait_for_inputs(PDL)
    row = tl.program_id(0).to(tl.int64) * num_heads + tl.program_id(1)
    num_rows = tl.num_programs(0).to(tl.int64) * num_heads
    d = tl.arange(0, BLOCK_D)
    is_dim = d < HEAD_DIM
    most, total = float("-inf"), 0.0
    acc = tl.zeros([BLOCK_D], tl.float32)
    for start in range(0, num_splits, BLOCK_SPLITS):
        split = start + tl.arange(0, BLOCK_SPLITS)
        at = split * num_rows + row
        lse = tl.load(lse_ptr + at, mask=split < num_splits, other=float("-inf"))
        new_most = tl.maximum(most, tl.max(lse))  # the first split has a key for every query
        weights, rescale = tl.exp2(lse - new_most), tl.exp2(most - new_most)
        has_keys = lse > float("-inf")
        partial = tl.load(partial_ptr + at[:, None] * HEAD_DIM + d, mask=has_keys[:, None] & is_dim, other=0.0)
        acc = acc * rescale + tl.sum(partial * weights[:, None], 0)
        total = total * rescale + tl.sum(weights)
        most = new_most
    tl.store(out_ptr + row * HEAD_DIM + d, (acc / total).to(out_ptr.dtype.element_ty), mask=is_dim)


@dataclass(frozen=True)
class Tiling:
    """How the kernel cuts its work."""

    block_m: int  # rows of a tile: queries times the heads of a group
    block_n: int  # keys at a time
    num_splits: int  # of the keys of a sequence; 1: none
    split_len: int  # keys of a split, a multiple of block_n; 0: a sequence's keys over num_splits
    num_warps: int
    num_stages: int


INVARIANT_SPLIT_LEN = 512  # with splits of one length a row's sums don't depend on the other sequences
MIN_SPLIT_LEN = 128  # below it a program's start costs more than its keys


def choose_tiling(
    num_tokens: int, num_sequences: int, max_kv_len: int, group: int, num_kv_heads: int, num_processors: int,
    batch_invariant: bool,
) -> Tiling:  # fmt: skip
    """The tiling for a batch: small tiles and splits for decoding, large tiles for prefill."""
    narrow = max(MIN_ROWS, triton.next_power_of_2(group))
    if batch_invariant:
        num_splits = triton.cdiv(max_kv_len, INVARIANT_SPLIT_LEN)
        return Tiling(narrow, 64, num_splits, INVARIANT_SPLIT_LEN, num_warps=4, num_stages=2)
    is_wide = num_tokens * group >= 4 * narrow * num_sequences
    block_m = max(64, narrow) if is_wide else narrow
    num_tiles = num_blocks(num_tokens, num_sequences, block_m // group) * num_kv_heads
    num_splits = max(min(2 * num_processors // num_tiles, triton.cdiv(max_kv_len, MIN_SPLIT_LEN)), 1)
    num_stages = 2 if is_wide else 3
    num_warps = 8 if is_wide else 4
    return Tiling(block_m, 64, num_splits, 0, num_warps, num_stages)


def num_blocks(num_tokens: int, num_sequences: int, block_q: int) -> int:
    """At least as many as there are query blocks: each sequence may have one that isn't full."""
    return num_tokens // block_q + num_sequences


def paged_attention(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    batch: Attention,
    scale: float,
    tiling: Tiling,
    has_pdl: bool = False,
) -> Tensor:
    """See `Ops.paged_attention`.

    Shapes: q [T, H, D] whose tokens may lie apart; caches [P, Hk, S, D]; result [T, H, D] contiguous.
    Cost:   each key and value is read once for a query block and the heads of its group; no host sync.
    """
    num_tokens, num_heads, head_dim = q.shape
    _, num_kv_heads, page_size, _ = k_cache.shape
    group, num_sequences = num_heads // num_kv_heads, len(batch.kv_len)
    out = torch.empty(num_tokens, num_heads, head_dim, dtype=q.dtype, device=q.device)
    if not num_tokens:
        return out
    num_splits = tiling.num_splits
    is_split = num_splits > 1
    lse = torch.empty(num_splits, num_tokens, num_heads, dtype=torch.float32, device=q.device) if is_split else out
    partial = torch.empty(*lse.shape, head_dim, dtype=torch.float32, device=q.device) if is_split else out
    block_d = max(16, triton.next_power_of_2(head_dim))
    grid = (num_blocks(num_tokens, num_sequences, tiling.block_m // group), num_kv_heads, num_splits)
    _paged_attention_kernel[grid](
        q, k_cache, v_cache, partial, lse, batch.query_start, batch.page_table, batch.kv_len,
        num_sequences, num_tokens, num_heads, q.stride(0), batch.page_table.stride(0), scale * LOG2_E,
        tiling.split_len, num_splits,
        HEAD_DIM=head_dim, PAGE_SIZE=page_size, GROUP=group, IS_SPLIT=is_split,
        BLOCK_M=tiling.block_m, BLOCK_N=tiling.block_n, BLOCK_D=block_d,
        PRECISION="ieee" if q.dtype == torch.float32 else "tf32",
        num_warps=tiling.num_warps, num_stages=tiling.num_stages, **launch_options(has_pdl),
    )  # fmt: skip
    if is_split:
        _merge_splits_kernel[(num_tokens, num_heads)](
            partial, lse, out, num_heads, num_splits, HEAD_DIM=head_dim, BLOCK_D=block_d, BLOCK_SPLITS=16, num_warps=2,
            **launch_options(has_pdl),
        )  # fmt: skip
    return out
