"""`paged_attention` in Triton against the reference in float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from on_gpu import HALF, moved
from paged import HEADS, LONG, REFERENCE, Case, ragged
from ragged import is_close

from glimp_engine.kernels.gpu import attention

few = settings(max_examples=8, deadline=None)


class Rounded:
    """An implementation on inputs that are rounded to a dtype and then kept in another: [T, H, D] on the CPU."""

    def __init__(self, ops, dtype, kept=None, device="cpu"):
        self.ops, self.dtype, self.kept, self.device = ops, dtype, kept or dtype, device

    def paged_attention(self, q, k_cache, v_cache, batch, scale):
        q, k_cache, v_cache = (
            x.to(self.dtype).to(self.kept).to(self.device) for x in (q, k_cache.mT.contiguous(), v_cache)
        )
        return self.ops.paged_attention(q, k_cache, v_cache, moved(batch, self.device), scale).cpu()


def agrees(case, out, dtype, page_size=16):
    plain = case.run(Rounded(REFERENCE, dtype), page_size)
    exact = case.run(Rounded(REFERENCE, dtype, torch.float64), page_size)
    return is_close(out, plain, exact, case.largest_score())


@few
@given(
    ragged=ragged(longest=160),
    page_size=st.sampled_from([1, 3, 16, 48]),
    heads=st.sampled_from(HEADS),
    head_dim=st.sampled_from([5, 16, 64, 80, 128]),
    dtype=st.sampled_from([torch.float32, HALF]),
    seed=st.integers(0, 100),
)
def test_any_batch(ops_of_a_mode, device, ragged, page_size, heads, head_dim, dtype, seed):
    case = Case(*ragged, *heads, head_dim, seed)
    assert agrees(case, case.run(Rounded(ops_of_a_mode, dtype, device=device), page_size, seed), dtype, page_size)


@few
@given(
    ragged=ragged(longest=160),
    heads=st.sampled_from(HEADS),
    splits=st.sampled_from([(1, 0), (5, 0), (19, 16), (40, 0)]),
    block_m=st.sampled_from([32, 64]),
)
def test_any_tiling(device, ragged, heads, splits, block_m):
    """The result is the same to rounding, whatever the tiles and splits; some splits have no key for a row."""
    case = Case(*ragged, *heads, 16)
    tiling = attention.Tiling(block_m, 16, *splits, num_warps=4, num_stages=2)

    class Tiled:
        def paged_attention(self, q, k_cache, v_cache, batch, scale):
            return attention.paged_attention(q, k_cache, v_cache, batch, scale, tiling)

    assert agrees(case, case.run(Rounded(Tiled(), torch.float32, device=device)), torch.float32)


def test_the_tolerance_sees_small_faults(ops_of_a_mode, device):
    case = Case([3, 1, 20], [150, 290, 20])
    out = case.run(Rounded(ops_of_a_mode, torch.float32, device=device))
    assert agrees(case, out, torch.float32)
    assert not agrees(case, out * 1.01, torch.float32)
    out[3] = 0
    assert not agrees(case, out, torch.float32)


def test_large_scores(ops_of_a_mode, device):
    case = Case([40, 1], [40, 200])
    case.scale = 20.0
    assert agrees(case, case.run(Rounded(ops_of_a_mode, torch.float32, device=device)), torch.float32)


def test_a_nan_reaches_no_other_row(ops_of_a_mode, device):
    case, run = Case([40, 3], [40, 150], 6, 2, 16), Rounded(ops_of_a_mode, torch.float32, device=device)
    expected = case.run(run)
    case.queries[0][11] = torch.nan
    case.keys[0][25] = torch.nan
    out = case.run(run)
    fine = [t for t in range(43) if t != 11 and not 25 <= t < 40]
    assert torch.equal(out[fine], expected[fine])
    assert out[11].isnan().all()


@pytest.mark.parametrize("heads", [(4, 4), (14, 2), (7, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, HALF])
def test_a_row_is_a_row(invariant_ops, device, heads, dtype):
    """In the batch-invariant mode: prefill at once, in chunks and token by token, alone and in company."""
    case, run = Case([LONG, 1, 7], [LONG, 200, 150], *heads, 16), Rounded(invariant_ops, dtype, device=device)
    at_once = case.run(run)
    assert torch.equal(case.prefix(1, 200, 1).run(run), at_once[LONG : LONG + 1])
    # on a CPU a row's sums depend on its place in a tile, as the interpreter multiplies with BLAS
    anywhere = [(14, 100), (290, LONG)] if device.type == "cuda" else []
    for begin, end in [(0, 1), (16, 100), (288, LONG), *anywhere]:
        assert torch.equal(case.prefix(0, end, end - begin).run(run), at_once[begin:end])


def test_nothing_to_do(ops_of_a_mode, device):
    assert Case([0, 0], [5, 0], 2, 2, 8).run(Rounded(ops_of_a_mode, torch.float32, device=device)).shape == (0, 2, 8)
