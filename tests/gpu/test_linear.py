"""`linear` of few rows in Triton against the reference in float64, and batch invariance."""

import pytest
import torch
from on_gpu import HALF
from ragged import is_close, randn

from glimp_engine.kernels.reference import ReferenceOps

REFERENCE = ReferenceOps()
SIZES = [(1, 1), (7, 33), (111, 989), (16, 4096), (40, 2050)]


@pytest.mark.parametrize("dtype", [torch.float32, HALF])
@pytest.mark.parametrize("num_tokens", [0, 1, 2, 16, 17, 40])
@pytest.mark.parametrize(("n", "k"), SIZES)
def test_any_size(ops_of_a_mode, device, num_tokens, n, k, dtype):
    x, weight = randn(num_tokens, k, dtype=dtype), randn(n, k, seed=1, dtype=dtype)
    bias = randn(n, seed=2, dtype=dtype) if n % 2 else None
    out = ops_of_a_mode.linear(x.to(device), weight.to(device), None if bias is None else bias.to(device))
    plain = REFERENCE.linear(x, weight, bias)
    exact = REFERENCE.linear(x.double(), weight.double(), None if bias is None else bias.double())
    assert out.shape == (num_tokens, n)
    assert out.dtype == dtype
    assert is_close(out.cpu(), plain, exact, magnitude=k**0.5)


@pytest.mark.parametrize("num_tokens", [0, 1, 5, 20])
@pytest.mark.parametrize(("f", "k"), [(1, 5), (33, 111), (20, 2050)])
def test_linear_silu_mul(ops_of_a_mode, device, num_tokens, f, k):
    x, weight = randn(num_tokens, k, dtype=torch.float32), randn(2 * f, k, seed=1, dtype=torch.float32) * k**-0.5
    out = ops_of_a_mode.linear_silu_mul(x.to(device), weight.to(device))
    plain, exact = (REFERENCE.silu_mul(REFERENCE.linear(x.to(t), weight.to(t))) for t in (x.dtype, torch.float64))
    assert is_close(out.cpu(), plain, exact, magnitude=k**0.5)


def test_the_tolerance_sees_small_faults(ops_of_a_mode, device):
    x, weight = randn(16, 989, dtype=torch.float32), randn(111, 989, seed=1, dtype=torch.float32)
    plain, exact = (REFERENCE.linear(x.to(t), weight.to(t)) for t in (torch.float32, torch.float64))
    out = ops_of_a_mode.linear(x.to(device), weight.to(device)).cpu()
    assert is_close(out, plain, exact)
    assert not is_close(out * 1.01, plain, exact)
    out[7] = 0
    assert not is_close(out, plain, exact)


@pytest.mark.parametrize("dtype", [torch.float32, HALF])
def test_a_row_is_a_row(invariant_ops, device, dtype):
    x, weight = randn(40, 2050, dtype=dtype).to(device), randn(33, 2050, seed=1, dtype=dtype).to(device)
    together = invariant_ops.linear(x, weight)
    # on a CPU a row's sums depend on its place in a tile, as the interpreter multiplies with BLAS
    anywhere = [(3, 19), (39, 40)] if device.type == "cuda" else []
    for begin, end in [(0, 1), (0, 19), (16, 40), (32, 33), *anywhere]:
        assert torch.equal(invariant_ops.linear(x[begin:end], weight), together[begin:end])
