"""RMSNorm, with the residual added first."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from glimp_engine.kernels.gpu.launch import launch_options, wait_for_inputs

__all__ = ["rms_norm"]


@triton.jit
def _rms_norm_kernel(
    x_ptr, residual_ptr, weight_ptr, out_ptr, sum_ptr, x_stride_t, d, eps,
    HAS_RESIDUAL: tl.constexpr, PDL: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """out = weight * (s / sqrt(mean(s^2) + eps)) with s = x + residual; one program a row."""
    t = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    inside = at < d
    weight = tl.load(weight_ptr + at, mask=inside, other=0.0).to(tl.float32)
    wait_for_inputs(PDL)
    x = tl.load(x_ptr + t * x_stride_t + at, mask=inside, other=0.0)
    wide = x.to(tl.float32)
    if HAS_RESIDUAL:
        wide += tl.load(residual_ptr + t * d + at, mask=inside, other=0.0).to(tl.float32)
        rounded = wide.to(x.dtype)  # the sum goes on as the model's dtype has it
        tl.store(sum_ptr + t * d + at, rounded, mask=inside)
        wide = rounded.to(tl.float32)
    scale = tl.rsqrt(tl.sum(wide * wide) / d + eps)
    normed = (wide * scale).to(x.dtype).to(tl.float32)
    tl.store(out_ptr + t * d + at, (normed * weight).to(x.dtype), mask=inside)


def rms_norm(
    x: Tensor, weight: Tensor, eps: float, residual: Tensor | None = None, has_pdl: bool = False
) -> tuple[Tensor, Tensor]:
    """See `Ops.rms_norm`.

    Shapes: x [T, d] with rows of any stride, residual [T, d] contiguous, weight [d]; all of x's dtype.
    Cost:   reads x and residual once, writes as much; 4 warps a row.
    """
    num_tokens, d = x.shape
    out = torch.empty(num_tokens, d, dtype=x.dtype, device=x.device)
    summed = x if residual is None else torch.empty_like(out)
    if num_tokens:
        _rms_norm_kernel[(num_tokens,)](
            x, residual, weight, out, summed, x.stride(0), d, eps,
            HAS_RESIDUAL=residual is not None, BLOCK=triton.next_power_of_2(d), num_warps=4 if d <= 4096 else 16,
            **launch_options(has_pdl),
        )  # fmt: skip
    return out, summed
