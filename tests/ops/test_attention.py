"""`paged_attention` of the native ops: against the reference in float64, and bit for bit against itself."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from paged import HEADS, LONG, Case, ragged
from ragged import allowed_error, fill_pages, is_close, make_attention


@settings(max_examples=20, deadline=None)
@given(
    ragged=ragged(),
    page_size=st.sampled_from([1, 3, 8, 16, 48, 128]),
    heads=st.sampled_from(HEADS),
    head_dim=st.sampled_from([5, 8, 10, 16, 64, 80, 128]),
    dtype=st.sampled_from([torch.float32, torch.float16]),
    seed=st.integers(0, 100),
)
def test_any_batch(ops, ragged, page_size, heads, head_dim, dtype, seed):
    case = Case(*ragged, *heads, head_dim, seed, dtype)
    assert case.agrees(case.run(ops, page_size, seed), page_size)


@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("page_size", [7, 16, 32])
def test_pages_that_end_with_one_token_and_full_ones(ops, page_size, head_dim):
    lens = [page_size, page_size + 1, 8 * page_size, 8 * page_size + 1, 1, 20 * page_size]
    case = Case([1, 2, 8 * page_size, 9, 1, 0], lens, head_dim=head_dim)
    assert case.agrees(case.run(ops, page_size), page_size)


def test_the_tolerance_sees_small_faults(ops):
    case = Case([3, 1, 200], [150, 290, 200])
    plain, exact = case.plain_and_exact()
    limits = (plain, exact, case.largest_score())
    out = case.run(ops)
    assert is_close(out, *limits)
    assert not is_close(out * 1.01, *limits)
    for row in (0, 3, 100, 203):
        zeroed = out.clone()
        zeroed[row] = 0
        assert not is_close(zeroed, *limits)
    for x in (case.keys, case.values):  # two pages of the longest sequence change places
        kept = x[1].clone()
        x[1][:16], x[1][16:32] = kept[16:32], kept[:16]
        assert not is_close(case.run(ops), *limits)
        x[1] = kept
    assert allowed_error(*limits) < 1e-5 * float(exact.norm())


def test_large_scores(ops):
    """Differences of hundreds between scores: weights of 0 and 1, nothing overflows."""
    case = Case([40, 1], [40, 200])
    case.scale = 20.0
    assert case.largest_score() > 300
    assert case.agrees(case.run(ops))


@settings(max_examples=8, deadline=None)
@given(
    ragged=ragged(),
    heads=st.sampled_from(HEADS),
    head_dim=st.sampled_from([6, 64]),
    dtype=st.sampled_from([torch.float32, torch.float16]),
)
def test_threads_and_pages_change_no_bit(native, ragged, heads, head_dim, dtype):
    case = Case(*ragged, *heads, head_dim, 3, dtype)
    expected = case.run(native[1])
    for num_threads, page_size in ((2, 16), (3, 16), (1, 1), (2, 5), (3, 32), (1, 128), (2, 256)):
        assert torch.equal(case.run(native[num_threads], page_size, seed=page_size), expected)


@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_row_is_a_row(native, heads, dtype):
    """Prefill at once, in chunks and token by token, alone and in company: the same bits."""
    case = Case([LONG, 1, 7], [LONG, 200, 150], *heads, 16, dtype=dtype)
    at_once = case.run(native[2])
    assert torch.equal(case.prefix(0, LONG, LONG).run(native[1]), at_once[:LONG])
    assert torch.equal(case.prefix(1, 200, 1).run(native[3]), at_once[LONG : LONG + 1])
    for begin, end in ((0, 1), (1, 14), (14, 100), (100, 290), (290, LONG)):
        assert torch.equal(case.prefix(0, end, end - begin).run(native[2]), at_once[begin:end])
    for position in (0, 1, 15, 16, 127, 128, 129, 255, 256, 299):
        alone = case.prefix(0, position + 1, 1).run(native[2])
        assert torch.equal(alone, at_once[position : position + 1])


def test_many_sequences_beside_a_long_one(native):
    """Some tiles are cut up for the threads, others aren't."""
    lens = [1500, *range(1, 20)]
    case = Case([1] * len(lens), lens, 4, 2, 16)
    outs = [case.run(native[n]) for n in (1, 2, 3)]
    assert case.agrees(outs[0])
    assert torch.equal(outs[0], outs[1])
    assert torch.equal(outs[0], outs[2])


def test_a_nan_reaches_no_other_row(ops):
    case = Case([40, 3], [40, 150], 6, 2, 16)
    expected = case.run(ops)
    case.queries[0][11] = torch.nan
    case.keys[0][25] = torch.nan
    case.values[0][25] = torch.nan
    case.values[1][149] = torch.inf
    out = case.run(ops)
    fine = [t for t in range(42) if t != 11 and not 25 <= t < 40]
    assert torch.equal(out[fine], expected[fine])
    assert out[11].isnan().all()
    assert not out[25:40].isfinite().any()
    assert not out[42].isfinite().any()


def test_nothing_to_do(ops):
    case = Case([0, 0], [5, 0], 2, 2, 8)
    assert case.run(ops).shape == (0, 2, 8)
    empty = make_attention([], [], 16)
    cache = torch.full((2, 2, 8, 16), torch.nan)
    assert ops.paged_attention(torch.empty(0, 4, 8), cache, cache.mT.contiguous(), empty, 1.0).shape == (0, 4, 8)


def test_queries_may_lie_among_other_heads(ops):
    case = Case([5], [20], 4, 2, 16)
    expected = case.run(ops)
    case.queries = [torch.cat([q, torch.full_like(q, torch.nan)], dim=1)[:, :4] for q in case.queries]
    batch = make_attention([5], [20], 16)
    k_cache, v_cache = fill_pages(batch, 16, case.keys, case.values)
    q = case.queries[0][15:]
    assert not q.is_contiguous()
    out = ops.paged_attention(q, k_cache.mT.contiguous(), v_cache, batch, case.scale)
    assert torch.equal(out, expected)


def test_what_does_not_fit(native):
    ops, batch = native[1], make_attention([2], [20], 16)
    q, k_cache, v_cache = torch.zeros(2, 4, 8), torch.zeros(4, 2, 8, 16), torch.zeros(4, 2, 16, 8)

    def refuses(message, q=q, k_cache=k_cache, v_cache=v_cache, **changes):
        fields = {name: changes.get(name, value) for name, value in vars(batch).items()}
        with pytest.raises(ValueError, match=message):
            ops.paged_attention(q, k_cache, v_cache, type(batch)(**fields), 1.0)

    refuses("q is", q=q.double())
    refuses("q has shape", q=q[0])
    refuses("k_cache is", k_cache=k_cache.bfloat16())
    refuses("k_cache is", k_cache=v_cache)
    refuses("v_cache is", v_cache=v_cache.half())
    refuses("v_cache has strides", v_cache=k_cache.mT)
    refuses("batch.kv_len", kv_len=batch.kv_len.long())
    refuses("size", q=torch.zeros(2, 3, 8))
    refuses("size", kv_len=torch.tensor([1], dtype=torch.int32))
    refuses("size", query_start=torch.tensor([0, 1], dtype=torch.int32))
    refuses("page", kv_len=torch.tensor([33], dtype=torch.int32))
    for page in (-1, 4):
        refuses("page", page_table=torch.tensor([[0, page]], dtype=torch.int32))
