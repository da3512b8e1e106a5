"""The reference ops, each against its definition written as loops over heads and positions, in float64."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ragged import make_attention, randn

from glimp_engine.kernels.reference import ReferenceOps

OPS = ReferenceOps()


@st.composite
def ragged(draw):
    """New tokens and lengths of up to four sequences; one may have no new token."""
    kv_lens = draw(st.lists(st.integers(1, 40), min_size=1, max_size=4))
    return [draw(st.integers(0, kv_len)) for kv_len in kv_lens], kv_lens


@pytest.mark.parametrize("num_tokens", [0, 1, 7])
def test_embed(num_tokens):
    weight, ids = randn(11, 5), torch.arange(num_tokens) * 3 % 11
    expected = [weight[i].tolist() for i in ids]
    assert OPS.embed(ids, weight).tolist() == expected


@pytest.mark.parametrize("num_tokens", [0, 1, 5])
@pytest.mark.parametrize("with_residual", [False, True])
def test_rms_norm(num_tokens, with_residual):
    x, weight = randn(num_tokens, 7), randn(7, seed=1)
    residual = randn(num_tokens, 7, seed=2) if with_residual else None
    before = x.clone()
    normed, summed = OPS.rms_norm(x, weight, 1e-3, residual)
    assert torch.equal(x, before)
    total = x if residual is None else x + residual
    assert torch.equal(summed, total)
    for row, values in enumerate(total.tolist()):
        scale = math.sqrt(math.fsum(v * v for v in values) / 7 + 1e-3)
        expected = [v / scale * float(w) for v, w in zip(values, weight, strict=True)]
        assert normed[row].tolist() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("num_tokens", [0, 1, 5])
@pytest.mark.parametrize("with_bias", [False, True])
def test_linear(num_tokens, with_bias):
    x, weight = randn(num_tokens, 6), randn(9, 6, seed=1)
    bias = randn(9, seed=2) if with_bias else None
    out = OPS.linear(x, weight, bias)
    assert out.shape == (num_tokens, 9)
    for t in range(num_tokens):
        for n in range(9):
            expected = math.fsum((x[t] * weight[n]).tolist()) + (float(bias[n]) if with_bias else 0)
            assert float(out[t, n]) == pytest.approx(expected, rel=1e-10, abs=1e-12)


@pytest.mark.parametrize("num_tokens", [0, 1, 5])
def test_silu_mul(num_tokens):
    x = randn(num_tokens, 6) * 5
    out = OPS.silu_mul(x)
    for row, (*gate, a, b, c) in zip(out.tolist(), x.tolist(), strict=True):
        expected = [g / (1 + math.exp(-g)) * up for g, up in zip(gate, (a, b, c), strict=True)]
        assert row == pytest.approx(expected, rel=1e-12)


def rotated(head, position, theta):
    """One head as complex numbers (x[i], x[i + D / 2]), each turned by position * theta^(-2i / D)."""
    half = len(head) // 2
    turned = [
        complex(head[i], head[i + half]) * complex(math.cos(angle := position * theta ** (-i / half)), math.sin(angle))
        for i in range(half)
    ]
    return [z.real for z in turned] + [z.imag for z in turned]


def normalized(head, weight, eps):
    scale = math.sqrt(math.fsum(x * x for x in head) / len(head) + eps)
    return [x / scale * w for x, w in zip(head, weight, strict=True)]


@pytest.mark.parametrize("with_norm", [False, True])
@settings(max_examples=20, deadline=None)
@given(ragged=ragged(), page_size=st.sampled_from([1, 3, 16]), heads=st.sampled_from([(1, 1), (6, 2), (4, 4)]))
def test_rope_and_store(with_norm, ragged, page_size, heads):
    (num_heads, num_kv_heads), head_dim, theta = heads, 6, 100.0
    batch = make_attention(*ragged, page_size)
    num_tokens, num_pages = len(batch.positions), sum(-(-n // page_size) for n in ragged[1]) + 2
    q, k, v = (randn(num_tokens, h, head_dim, seed=h) for h in (num_heads, num_kv_heads, num_kv_heads + 100))
    v = v[:, :num_kv_heads]
    angles = torch.outer(torch.arange(40.0), theta ** (-torch.arange(3.0, dtype=torch.float64) / 3)).double()
    cos_sin = torch.stack([angles.cos(), angles.sin()], 1)
    k_cache, v_cache = (torch.full((num_pages, num_kv_heads, page_size, head_dim), torch.nan).double() for _ in "kv")
    norms = (randn(head_dim, seed=8), randn(head_dim, seed=9)) if with_norm else ()
    out = OPS.rope_and_store(q, k, v, cos_sin, batch, k_cache, v_cache, *norms, eps=1e-3 if norms else 0.0)
    q_heads, k_heads = (
        [[normalized(head, w.tolist(), 1e-3) for head in token] for token in x.tolist()] if norms else x.tolist()
        for x, w in zip((q, k), norms or (None, None), strict=True)
    )
    written = set()
    for t, (position, slot) in enumerate(zip(batch.positions.tolist(), batch.slots.tolist(), strict=True)):
        for h in range(num_heads):
            assert out[t, h].tolist() == pytest.approx(rotated(q_heads[t][h], position, theta), abs=1e-12)
        for h in range(num_kv_heads):
            page, offset = divmod(slot, page_size)
            written.add((page, offset))
            expected = rotated(k_heads[t][h], position, theta)
            assert k_cache[page, h, offset].tolist() == pytest.approx(expected, abs=1e-12)
            assert v_cache[page, h, offset].tolist() == v[t, h].tolist()
    untouched = [(p, o) for p in range(num_pages) for o in range(page_size) if (p, o) not in written]
    assert all(cache[p, :, o].isnan().all() for p, o in untouched for cache in (k_cache, v_cache))


@settings(max_examples=40, deadline=None)
@given(
    ragged=ragged(),
    page_size=st.sampled_from([1, 3, 16]),
    heads=st.sampled_from([(1, 1), (6, 2), (4, 4), (7, 1)]),
    seed=st.integers(0, 100),
)
def test_paged_attention(ragged, page_size, heads, seed):
    (num_heads, num_kv_heads), head_dim, scale = heads, 5, 0.3
    new_tokens, kv_lens = ragged
    batch = make_attention(new_tokens, kv_lens, page_size, seed)
    num_pages = sum(-(-n // page_size) for n in kv_lens) + 2
    # whatever is not a sequence's own K/V is NaN, so that reading it shows
    k_cache, v_cache = (torch.full((num_pages, num_kv_heads, page_size, head_dim), torch.nan).double() for _ in "kv")
    keys, values = ([randn(n, num_kv_heads, head_dim, seed=seed + n + i) for n in kv_lens] for i in (0, 50))
    for b, kv_len in enumerate(kv_lens):
        for p in range(kv_len):
            page, offset = int(batch.page_table[b, p // page_size]), p % page_size
            k_cache[page, :, offset], v_cache[page, :, offset] = keys[b][p], values[b][p]
    q = randn(sum(new_tokens), num_heads, head_dim, seed=seed)
    out = OPS.paged_attention(q, k_cache, v_cache, batch, scale)
    assert out.shape == q.shape
    t = 0
    for b, (new, kv_len) in enumerate(zip(new_tokens, kv_lens, strict=True)):
        for position in range(kv_len - new, kv_len):
            for h in range(num_heads):
                kv_head = h // (num_heads // num_kv_heads)
                seen_keys, seen_values = (x[b][: position + 1, kv_head] for x in (keys, values))
                weights = [math.exp(scale * float(q[t, h] @ key)) for key in seen_keys]
                expected = sum(w * value for w, value in zip(weights, seen_values, strict=True)) / math.fsum(weights)
                assert torch.allclose(out[t, h], expected, rtol=1e-10, atol=1e-12)
            t += 1


def test_an_empty_batch():
    batch = make_attention([], [], 16)
    cache = torch.full((2, 2, 16, 4), torch.nan)
    q, k, v = torch.empty(0, 4, 4), torch.empty(0, 2, 4), torch.empty(0, 2, 4)
    cos_sin = torch.ones(8, 2, 2)
    assert OPS.rope_and_store(q, k, v, cos_sin, batch, cache, cache.clone()).shape == (0, 4, 4)
    assert OPS.paged_attention(q, cache, cache, batch, 1.0).shape == (0, 4, 4)
    assert cache.isnan().all()


@settings(max_examples=30, deadline=None)
@given(num_rows=st.integers(0, 4), vocab_size=st.integers(1, 60), data=st.data())
def test_top_logprobs(num_rows, vocab_size, data):
    k = data.draw(st.integers(1, min(20, vocab_size)))
    logits = randn(num_rows, vocab_size, seed=vocab_size).round()  # so that there are ties
    values, ids = OPS.top_logprobs(logits, k)
    for row in range(num_rows):
        total = math.log(math.fsum(math.exp(x) for x in logits[row].tolist()))
        ordered = sorted(range(vocab_size), key=lambda i: (-float(logits[row, i]), i))[:k]
        assert ids[row].tolist() == ordered
        assert values[row].tolist() == pytest.approx([float(logits[row, i]) - total for i in ordered], abs=1e-12)
