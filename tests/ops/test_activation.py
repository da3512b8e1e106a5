"""`silu_mul` of the native ops: against the reference in float64, and bit for bit against itself."""

import pytest
import torch
from ragged import is_close, randn

from glimp_engine.kernels.reference import ReferenceOps

REFERENCE = ReferenceOps()


@pytest.mark.parametrize("num_tokens", [0, 1, 7])
@pytest.mark.parametrize("f", [1, 7, 16, 111, 989, 4096, 8960])
def test_any_size(ops, num_tokens, f):
    x = randn(num_tokens, 2 * f, dtype=torch.float32) * 4
    plain, exact = REFERENCE.silu_mul(x), REFERENCE.silu_mul(x.double())
    assert is_close(ops.silu_mul(x), plain, exact)


def test_the_tolerance_sees_small_faults(ops):
    x = randn(300, 222, dtype=torch.float32) * 4
    plain, exact, out = REFERENCE.silu_mul(x), REFERENCE.silu_mul(x.double()), ops.silu_mul(x)
    assert is_close(out, plain, exact)
    assert not is_close(out * 1.01, plain, exact)
    out[150] = 0
    assert not is_close(out, plain, exact)


def test_any_gate(ops):
    """From underflow to overflow: each value right in itself, not just in the norm."""
    gate = torch.cat([torch.linspace(-200, 200, 4001), torch.tensor([-3e38, -0.0, 0.0, 1e-40, -1e-40, 1e-30, 3e38])])
    out = ops.silu_mul(torch.cat([gate, torch.ones_like(gate)])[None])[0]
    exact = gate.double() * gate.double().sigmoid()
    assert ((out.double() - exact).abs() <= 8 * 2.0**-24 * exact.abs() + 1e-36).all()
    assert ops.silu_mul(torch.tensor([[torch.nan, torch.inf, 1.0, 1.0]])).tolist()[0][1] == torch.inf
    assert ops.silu_mul(torch.tensor([[torch.nan, 1.0]])).isnan().all()


def test_a_row_is_a_row(native):
    x = randn(9, 2 * 5000, dtype=torch.float32) * 4
    together = native[1].silu_mul(x)
    for num_threads, ops in native.items():
        assert torch.equal(ops.silu_mul(x), together), num_threads
        assert torch.equal(ops.silu_mul(x[8:]), together[8:])
    narrow = torch.cat([x[:, :33], x[:, 5000:5033]], dim=1)  # a value depends on its gate and factor alone
    assert torch.equal(native[1].silu_mul(narrow), together[:, :33])


def test_what_does_not_fit(native):
    ops = native[1]
    for message, x in (
        ("x is", torch.zeros(2, 8).half()),
        ("x has shape", torch.zeros(8)),
        ("x has 7 columns", torch.zeros(2, 7)),
        ("x has strides", torch.zeros(8, 2).T),
    ):
        with pytest.raises(ValueError, match=message):
            ops.silu_mul(x)
