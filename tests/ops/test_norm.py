"""`rms_norm` of the native ops: against the reference in float64, and bit for bit against itself."""

import pytest
import torch
from ragged import is_close, randn

from glimp_engine.kernels.reference import ReferenceOps

REFERENCE = ReferenceOps()
EPS = 1e-6


def plain_and_exact(x, *others):
    """The reference in float32 and float64, of (x, weight, residual)."""
    for dtype in (torch.float32, torch.float64):
        x, weight, *residual = (t.to(dtype) for t in (x, *others))
        yield REFERENCE.rms_norm(x, weight, EPS, *residual)[0]


@pytest.mark.parametrize("num_tokens", [0, 1, 7, 111])
@pytest.mark.parametrize("d", [1, 7, 16, 111, 896, 989])
def test_any_size(ops, num_tokens, d):
    x, weight, residual = randn(num_tokens, d) * 3, randn(d, seed=1), randn(num_tokens, d, seed=2)
    x, weight, residual = x.float(), weight.float(), residual.float()
    before = x.clone()
    normed, summed = ops.rms_norm(x, weight, EPS)
    assert torch.equal(summed, before)
    assert is_close(normed, *plain_and_exact(x, weight))
    normed, summed = ops.rms_norm(x, weight, EPS, residual)
    assert torch.equal(x, before)
    assert torch.equal(summed, x + residual)
    assert is_close(normed, *plain_and_exact(x, weight, residual))


def test_the_tolerance_sees_small_faults(ops):
    x, weight = randn(989, 111, dtype=torch.float32), randn(111, seed=1, dtype=torch.float32)
    plain, exact = plain_and_exact(x, weight)
    out = ops.rms_norm(x, weight, EPS)[0]
    assert is_close(out, plain, exact)
    assert not is_close(out * 1.01, plain, exact)
    out[500] = 0
    assert not is_close(out, plain, exact)


def test_a_row_is_a_row(native):
    x, weight = randn(60, 989, dtype=torch.float32), randn(989, seed=1, dtype=torch.float32)
    together = native[1].rms_norm(x, weight, EPS)[0]
    for num_threads, ops in native.items():
        assert torch.equal(ops.rms_norm(x, weight, EPS)[0], together), num_threads
        for row in (0, 13, 59):
            assert torch.equal(ops.rms_norm(x[row : row + 1], weight, EPS)[0], together[row : row + 1])


def test_the_ends_of_the_range(ops):
    x = torch.tensor([[0.0] * 20, [1e-25] * 20, [1e18] * 20, [1.0] * 19 + [torch.nan]])
    normed = ops.rms_norm(x, torch.ones(20), EPS)[0]
    assert normed[0].tolist() == [0.0] * 20
    _, exact = plain_and_exact(x, torch.ones(20))
    torch.testing.assert_close(normed[1:3], exact[1:3].float())
    assert normed[3].isnan().all()


def test_what_does_not_fit(native):
    ops, x, weight = native[1], torch.zeros(2, 8), torch.zeros(8)
    for message, arguments in (
        ("x is", (x.double(), weight, EPS)),
        ("x has shape", (x[0], weight, EPS)),
        ("x has strides", (torch.zeros(8, 2).T, weight, EPS)),
        ("weight is", (x, weight[:7], EPS)),
        ("residual is", (x, weight, EPS, x.half())),
    ):
        with pytest.raises(ValueError, match=message):
            ops.rms_norm(*arguments)
