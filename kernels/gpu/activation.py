"""The gate of the MLP."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from glimp_engine.kernels.gpu.launch import launch_options, wait_for_inputs

__all__ = ["silu_mul"]

BLOCK = 1024


@triton.jit
def _silu_mul_kernel(x_ptr, out_ptr, f, PDL: tl.constexpr, BLOCK: tl.constexpr):
    """out = x[:f] * sigmoid(x[:f]) * x[f:]; one program a row and BLOCK of its outputs."""
    t = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < f
    wait_for_inputs(PDL)
    gate = tl.load(x_ptr + t * 2 * f + at, mask=inside, other=0.0)
    up = tl.load(x_ptr + t * 2 * f + f + at, mask=inside, other=0.0).to(tl.float32)
    wide = gate.to(tl.float32)
    silu = (wide / (1.0 + tl.exp(-wide))).to(gate.dtype).to(tl.float32)
    tl.store(out_ptr + t * f + at, (silu * up).to(gate.dtype), mask=inside)


def silu_mul(x: Tensor, has_pdl: bool = False) -> Tensor:
    """See `Ops.silu_mul`.

    Shapes: x [T, 2f] contiguous; result [T, f].
    """
    num_tokens, f = x.shape[0], x.shape[1] // 2
    out = torch.empty(num_tokens, f, dtype=x.dtype, device=x.device)
    if num_tokens:
        _silu_mul_kernel[(num_tokens, triton.cdiv(f, BLOCK))](
            x, out, f, BLOCK=BLOCK, num_warps=4, **launch_options(has_pdl)
        )
    return out
