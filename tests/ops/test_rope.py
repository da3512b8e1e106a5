"""`rope_and_store` of the native ops: against the reference in float64, and bit for bit against itself."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ragged import is_close, make_attention, randn

from glimp_engine.kernels.reference import ReferenceOps

REFERENCE = ReferenceOps()
EPS = 1e-6
NUM_POSITIONS = 60


@st.composite
def ragged(draw):
    kv_lens = draw(st.lists(st.integers(1, 50), min_size=1, max_size=4))
    return [draw(st.integers(0, kv_len)) for kv_len in kv_lens], kv_lens


class Case:
    """q, k and v of one ragged batch."""

    def __init__(self, new_tokens, kv_lens, page_size=16, heads=(6, 2), head_dim=16, with_norm=False):
        self.batch = make_attention(new_tokens, kv_lens, page_size)
        num_tokens, (num_heads, num_kv_heads) = sum(new_tokens), heads
        self.q, self.k, self.v = (
            randn(num_tokens, num, head_dim, seed=i, dtype=torch.float32) * 3
            for i, num in enumerate((num_heads, num_kv_heads, num_kv_heads))
        )
        angles = torch.outer(torch.arange(NUM_POSITIONS), 100.0 ** -torch.linspace(0, 1, head_dim // 2).double())
        self.cos_sin = torch.stack([angles.cos(), angles.sin()], 1).float()
        self.norms = [randn(head_dim, seed=i, dtype=torch.float32) for i in (8, 9)] if with_norm else [None, None]
        num_pages = sum(-(-n // page_size) for n in kv_lens) + 2
        self.cache_shape = (num_pages, num_kv_heads, page_size, head_dim)

    def run(self, ops, dtype=torch.float32, cache_dtype=None):
        """q rotated, and the caches [P, Hk, S, D] with what was stored in them; NaN elsewhere."""
        k_cache, v_cache = (torch.full(self.cache_shape, torch.nan, dtype=cache_dtype or dtype) for _ in "kv")
        if ops is not REFERENCE:
            k_cache = k_cache.mT.contiguous()
        q, k, v, cos_sin = (x.to(dtype) for x in (self.q, self.k, self.v, self.cos_sin))
        norms = [None if x is None else x.to(dtype) for x in self.norms]
        out = ops.rope_and_store(q, k, v, cos_sin, self.batch, k_cache, v_cache, *norms, EPS)
        return out, k_cache if ops is REFERENCE else k_cache.mT, v_cache

    def row(self, t):
        """The case of token t alone."""
        alone = object.__new__(Case)
        vars(alone).update(vars(self))
        alone.q, alone.k, alone.v = (x[t : t + 1] for x in (self.q, self.k, self.v))
        alone.batch = dataclasses.replace(
            self.batch, positions=self.batch.positions[t : t + 1], slots=self.batch.slots[t : t + 1]
        )
        return alone


@pytest.mark.parametrize("with_norm", [False, True])
@settings(max_examples=20, deadline=None)
@given(
    ragged=ragged(),
    page_size=st.sampled_from([1, 3, 16, 32]),
    heads=st.sampled_from([(1, 1), (6, 2), (4, 4), (7, 1)]),
    head_dim=st.sampled_from([2, 6, 10, 32, 64, 80, 128]),
)
def test_any_batch(ops, with_norm, ragged, page_size, heads, head_dim):
    case = Case(*ragged, page_size, heads, head_dim, with_norm)
    before = [x.clone() for x in (case.q, case.k, case.v)]
    outs, plains, exacts = case.run(ops), case.run(REFERENCE), case.run(REFERENCE, torch.float64)
    assert all(map(torch.equal, (case.q, case.k, case.v), before))
    for out, plain, exact in zip(outs, plains, exacts, strict=True):
        assert torch.equal(out.isnan(), exact.isnan())  # nothing else was written
        assert is_close(*(x.nan_to_num() for x in (out, plain, exact)), 2.0)  # a norm, then a rotation
    assert torch.equal(outs[2].nan_to_num(), plains[2].nan_to_num())


def test_the_tolerance_sees_small_faults(ops):
    case = Case([40, 3], [40, 20], head_dim=64, with_norm=True)
    outs, plains, exacts = case.run(ops), case.run(REFERENCE), case.run(REFERENCE, torch.float64)
    for out, plain, exact in zip(outs[:2], plains, exacts, strict=False):
        out, plain, exact = (x.nan_to_num() for x in (out, plain, exact))
        assert is_close(out, plain, exact)
        assert not is_close(out * 1.01, plain, exact)
        pages = out.clone()
        pages[[0, 1]] = pages[[1, 0]]
        assert not is_close(pages, plain, exact)
        out[1] = 0
        assert not is_close(out, plain, exact)


@pytest.mark.parametrize("head_dim", [10, 64])
def test_float16_pages_round_to_nearest_and_saturate(ops, head_dim):
    case = Case([9, 20], [30, 20], head_dim=head_dim)
    case.k[3], case.v[3], case.v[4] = 3e5, -1e30, 65519.0
    case.v[5, 0, 0] = torch.nan
    case.v[6] = 1e-7  # subnormal
    case.cos_sin[:, 0], case.cos_sin[:, 1] = 1, 0
    _, keys, values = case.run(ops, cache_dtype=torch.float16)
    slots = case.batch.slots
    for cache, x in ((keys, case.k), (values, case.v)):
        stored = cache[slots // 16, :, slots % 16]
        expected = x.clamp(-65504, 65504).half()
        assert torch.equal(stored.nan_to_num(7.0), expected.nan_to_num(7.0))
        assert int(cache[:, :, :, 1].isnan().sum()) == cache[:, :, :, 1].numel() - stored[:, :, 1].numel()


@pytest.mark.parametrize("with_norm", [False, True])
def test_a_row_is_a_row(native, with_norm):
    case = Case([50, 1, 30], [50, 20, 40], head_dim=80, with_norm=with_norm)
    together = case.run(native[1])
    for num_threads, ops in native.items():
        for a, b in zip(case.run(ops), together, strict=True):
            assert torch.equal(a.nan_to_num(7.0), b.nan_to_num(7.0)), num_threads
    for t in (0, 17, 50, 80):
        q, keys, values = case.row(t).run(native[2])
        assert torch.equal(q[0], together[0][t])
        page, offset = divmod(int(case.batch.slots[t]), 16)
        assert torch.equal(keys[page, :, offset], together[1][page, :, offset])
        assert torch.equal(values[page, :, offset], together[2][page, :, offset])


def test_nothing_to_do(ops):
    case = Case([0], [5])
    q, keys, values = case.run(ops)
    assert q.shape == (0, 6, 16)
    assert keys.isnan().all()
    assert values.isnan().all()


def test_what_does_not_fit(native):
    case = Case([2], [20])

    def refuses(message, cache_dtype=torch.float32, **changes):
        changed = object.__new__(Case)
        vars(changed).update(vars(case))
        batch = {name: changes.pop(name) for name in list(changes) if hasattr(case.batch, name)}
        changed.batch = dataclasses.replace(case.batch, **batch)
        vars(changed).update(changes)
        with pytest.raises(ValueError, match=message):
            changed.run(native[1], cache_dtype=cache_dtype)

    refuses("k is", k=case.k[:1])
    refuses("v is", v=case.v[:, :1])
    refuses("cos_sin is", cos_sin=case.cos_sin[:, :1])
    refuses("k_cache is", cache_dtype=torch.bfloat16)
    refuses("k_cache is", cache_shape=(4, 2, 16, 8))
    refuses("q_norm and k_norm", norms=[torch.ones(16), None])
    refuses("k_norm is", norms=[torch.ones(16), torch.ones(15)])
    refuses("batch.slots", slots=case.batch.slots.int())
    for position in (-1, NUM_POSITIONS):
        refuses("position", positions=torch.tensor([0, position]))
    for slot in (-1, 64):
        refuses("slot", slots=torch.tensor([0, slot]))
