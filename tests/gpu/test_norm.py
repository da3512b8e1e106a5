"""`rms_norm` in Triton against the reference in float64."""

import pytest
import torch
from on_gpu import HALF
from ragged import is_close, randn

from glimp_engine.kernels.reference import ReferenceOps

REFERENCE = ReferenceOps()


@pytest.mark.parametrize("dtype", [torch.float32, HALF])
@pytest.mark.parametrize("with_residual", [False, True])
@pytest.mark.parametrize(("num_tokens", "d"), [(0, 7), (1, 1), (3, 7), (2, 111), (1, 989), (2, 5120)])
def test_any_size(ops, device, num_tokens, d, with_residual, dtype):
    x, weight = randn(num_tokens, d, dtype=dtype), randn(d, seed=1, dtype=dtype)
    residual = randn(num_tokens, d, seed=2, dtype=dtype) * 3 if with_residual else None
    on_device = [None if tensor is None else tensor.to(device) for tensor in (x, weight, residual)]
    normed, summed = ops.rms_norm(*on_device[:2], 1e-6, on_device[2])
    plain = REFERENCE.rms_norm(x, weight, 1e-6, residual)
    exact = REFERENCE.rms_norm(x.double(), weight.double(), 1e-6, None if residual is None else residual.double())
    assert normed.dtype == summed.dtype == dtype
    assert torch.equal(summed.cpu(), plain[1])
    assert is_close(normed.cpu(), plain[0], exact[0])


def test_the_tolerance_sees_small_faults(ops, device):
    x, weight = randn(20, 111, dtype=torch.float32), randn(111, seed=1, dtype=torch.float32)
    plain, exact = (REFERENCE.rms_norm(x.to(t), weight.to(t), 1e-6)[0] for t in (torch.float32, torch.float64))
    out = ops.rms_norm(x.to(device), weight.to(device), 1e-6)[0].cpu()
    assert is_close(out, plain, exact)
    assert not is_close(out * 1.01, plain, exact)
    out[7] = 0
    assert not is_close(out, plain, exact)


def test_rows_may_lie_apart(ops, device):
    x, weight = randn(5, 64, dtype=torch.float32).to(device), randn(32, seed=1, dtype=torch.float32).to(device)
    apart, _ = ops.rms_norm(x[:, :32], weight, 1e-6)
    together, _ = ops.rms_norm(x[:, :32].contiguous(), weight, 1e-6)
    assert torch.equal(apart, together)
