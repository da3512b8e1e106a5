"""`rope_and_store` in Triton against the reference."""

import pytest
import torch
from on_gpu import HALF, moved
from ragged import is_close, make_attention, randn

from glimp_engine.kernels.reference import ReferenceOps

REFERENCE = ReferenceOps()


def run(ops, device, dtype, head_dim, heads, page_size, with_norm, table_dtype):
    """q rotated, and both caches, which begin as NaN."""
    num_heads, num_kv_heads = heads
    batch = make_attention([3, 1, 5], [9, 20, 5], page_size)
    num_pages = sum(-(-n // page_size) for n in (9, 20, 5)) + 2
    qkv = randn(9, num_heads + 2 * num_kv_heads, head_dim).to(dtype)
    angles = torch.outer(torch.arange(40.0), 100.0 ** (-torch.arange(head_dim // 2) / head_dim)).double()
    cos_sin = torch.stack([angles.cos(), angles.sin()], 1).to(table_dtype)
    caches = [torch.full((num_pages, num_kv_heads, page_size, head_dim), torch.nan, dtype=dtype) for _ in "kv"]
    norms = [randn(head_dim, seed=s).to(dtype) for s in (8, 9)] if with_norm else [None, None]
    inputs = [x if x is None else x.to(device) for x in (qkv, cos_sin, *caches, *norms)]
    qkv, cos_sin, k_cache, v_cache, *norms = inputs
    q, k, v = qkv.split([num_heads, num_kv_heads, num_kv_heads], dim=1)
    q = ops.rope_and_store(q, k, v, cos_sin, moved(batch, device), k_cache, v_cache, *norms, eps=1e-3)
    return q.cpu(), k_cache.cpu(), v_cache.cpu()


@pytest.mark.parametrize("with_norm", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, HALF])
@pytest.mark.parametrize(("head_dim", "heads"), [(6, (1, 1)), (64, (14, 2)), (80, (6, 2)), (128, (4, 4))])
@pytest.mark.parametrize("page_size", [1, 16])
def test_any_shape(ops, device, dtype, head_dim, heads, page_size, with_norm):
    shape = (head_dim, heads, page_size, with_norm)
    out = run(ops, device, dtype, *shape, torch.float32)
    plain = run(REFERENCE, torch.device("cpu"), dtype, *shape, torch.float32)
    exact = run(Rounded(dtype), torch.device("cpu"), torch.float64, *shape, torch.float64)
    for ours, theirs, oracle in zip(out, plain, exact, strict=True):
        assert torch.equal(ours.isnan(), oracle.isnan())  # nothing but the batch's slots is written
        assert is_close(ours.nan_to_num(), theirs.nan_to_num(), oracle.nan_to_num(), magnitude=4.0)
    assert torch.equal(out[2].nan_to_num(), plain[2].nan_to_num())


class Rounded:
    """The reference in float64, on inputs rounded to a dtype."""

    def __init__(self, dtype):
        self.dtype = dtype

    def rope_and_store(self, q, k, v, cos_sin, batch, k_cache, v_cache, q_norm, k_norm, eps):
        q, k, v, *norms = (None if x is None else x.to(self.dtype).double() for x in (q, k, v, q_norm, k_norm))
        return REFERENCE.rope_and_store(q, k, v, cos_sin, batch, k_cache, v_cache, *norms, eps=eps)
