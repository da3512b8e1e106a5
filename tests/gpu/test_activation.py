"""`silu_mul` in Triton against the reference in float64."""

import pytest
import torch
from on_gpu import HALF
from ragged import is_close, randn

from glimp_engine.kernels.reference import ReferenceOps

REFERENCE = ReferenceOps()


@pytest.mark.parametrize("dtype", [torch.float32, HALF])
@pytest.mark.parametrize(("num_tokens", "f"), [(0, 7), (1, 1), (7, 111), (2, 989), (1, 9728)])
def test_any_size(ops, device, num_tokens, f, dtype):
    x = randn(num_tokens, 2 * f, dtype=dtype) * 4
    out = ops.silu_mul(x.to(device)).cpu()
    assert out.dtype == dtype
    assert is_close(out, REFERENCE.silu_mul(x), REFERENCE.silu_mul(x.double()))


def test_any_gate(ops, device):
    gate = torch.tensor([-200.0, -90.0, -1e-30, 0.0, 1e-30, 90.0, 3e38])
    out = ops.silu_mul(torch.cat([gate, torch.ones_like(gate)])[None].to(device))[0].cpu()
    exact = gate.double() * gate.double().sigmoid()
    assert ((out.double() - exact).abs() <= 8 * 2.0**-24 * exact.abs() + 1e-36).all()
