"""Rotary embedding, the heads' norms before it, and the store into the K/V pages: one launch."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from glimp_engine.kernels import Attention
from glimp_engine.kernels.gpu.launch import launch_options, wait_for_inputs

__all__ = ["rope_and_store"]


@triton.jit
def _load_halves(ptr, at, half, inside):
    """The first and the second half of a head's vector, in float32."""
    low = tl.load(ptr + at, mask=inside, other=0.0).to(tl.float32)
    return low, tl.load(ptr + half + at, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def _store_halves(ptr, low, high, at, half, inside):
    dtype = ptr.dtype.element_ty
    tl.store(ptr + at, low.to(dtype), mask=inside)
    tl.store(ptr + half + at, high.to(dtype), mask=inside)


@triton.jit
def _normalize(low, high, weight_ptr, eps, at, half, inside, dtype: tl.constexpr):
    """RMSNorm over a head (Qwen3), rounded where the model rounds."""
    scale = tl.rsqrt((tl.sum(low * low) + tl.sum(high * high)) / (2 * half) + eps)
    weight_low, weight_high = _load_halves(weight_ptr, at, half, inside)
    low = ((low * scale).to(dtype).to(tl.float32) * weight_low).to(dtype).to(tl.float32)
    high = ((high * scale).to(dtype).to(tl.float32) * weight_high).to(dtype).to(tl.float32)
    return low, high


@triton.jit
def _rope_and_store_kernel(
    q_ptr, k_ptr, v_ptr, q_out_ptr, k_cache_ptr, v_cache_ptr, cos_sin_ptr, q_norm_ptr, k_norm_ptr,
    positions_ptr, slots_ptr, q_stride_t, k_stride_t, v_stride_t, num_heads, num_kv_heads, page_size, half, eps,
    HAS_NORM: tl.constexpr, PDL: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One program for a token's head: query heads, then key heads, then value heads."""
    t, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    at = tl.arange(0, BLOCK)
    inside = at < half
    d = 2 * half
    dtype: tl.constexpr = q_ptr.dtype.element_ty
    wait_for_inputs(PDL)
    slot = tl.load(slots_ptr + t)
    kv_head = (head - num_heads) % num_kv_heads
    to_cache = ((slot // page_size * num_kv_heads + kv_head) * page_size + slot % page_size) * d
    if head >= num_heads + num_kv_heads:
        low, high = _load_halves(v_ptr + t * v_stride_t + kv_head * d, at, half, inside)
        _store_halves(v_cache_ptr + to_cache, low, high, at, half, inside)
    else:
        position = tl.load(positions_ptr + t)
        cos, sin = _load_halves(cos_sin_ptr + position * d, at, half, inside)
        if head < num_heads:
            low, high = _load_halves(q_ptr + t * q_stride_t + head * d, at, half, inside)
            if HAS_NORM:
                low, high = _normalize(low, high, q_norm_ptr, eps, at, half, inside, dtype)
            to = q_out_ptr + (t * num_heads + head) * d
            _store_halves(to, low * cos - high * sin, high * cos + low * sin, at, half, inside)
        else:
            low, high = _load_halves(k_ptr + t * k_stride_t + kv_head * d, at, half, inside)
            if HAS_NORM:
                low, high = _normalize(low, high, k_norm_ptr, eps, at, half, inside, dtype)
            to = k_cache_ptr + to_cache
            rotated_low = (low * cos - high * sin).to(dtype)
            _store_halves(to, rotated_low, (high * cos + low * sin).to(dtype), at, half, inside)


def rope_and_store(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cos_sin: Tensor,
    batch: Attention,
    k_cache: Tensor,
    v_cache: Tensor,
    q_norm: Tensor | None = None,
    k_norm: Tensor | None = None,
    eps: float = 0.0,
    has_pdl: bool = False,
) -> Tensor:
    """See `Ops.rope_and_store`.

    Shapes: q [T, H, D], k and v [T, Hk, D], whose tokens may lie apart; cos_sin fp32; result contiguous.
    """
    num_tokens, num_heads, d = q.shape
    num_kv_heads, page_size = k_cache.shape[1:3]
    out = torch.empty(num_tokens, num_heads, d, dtype=q.dtype, device=q.device)
    if num_tokens:
        _rope_and_store_kernel[(num_tokens, num_heads + 2 * num_kv_heads)](
            q, k, v, out, k_cache, v_cache, cos_sin, q_norm, k_norm, batch.positions, batch.slots,
            q.stride(0), k.stride(0), v.stride(0), num_heads, num_kv_heads, page_size, d // 2, eps,
            HAS_NORM=q_norm is not None, BLOCK=triton.next_power_of_2(d // 2), num_warps=1,
            **launch_options(has_pdl),
        )  # fmt: skip
    return out
