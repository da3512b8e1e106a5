"""Attention over paged keys and values: a ragged batch that any implementation can be run on."""

import torch
from hypothesis import strategies as st
from ragged import fill_pages, is_close, make_attention, randn

from glimp_engine.kernels.reference import ReferenceOps

REFERENCE = ReferenceOps()
LONG = 300  # more than two of the kernel's splits of the keys
HEADS = [(1, 1), (4, 4), (6, 2), (7, 1), (14, 2), (17, 1)]


@st.composite
def ragged(draw, longest=LONG):
    """New tokens and lengths of up to four sequences; one may have no new token."""
    kv_lens = draw(st.lists(st.one_of(st.integers(1, 40), st.integers(1, longest)), min_size=1, max_size=4))
    return [draw(st.one_of(st.just(1), st.integers(0, kv_len))) for kv_len in kv_lens], kv_lens


class Case:
    """Queries, keys and values of one ragged batch, on pages of any size."""

    def __init__(self, new_tokens, kv_lens, num_heads=14, num_kv_heads=2, head_dim=64, seed=0, dtype=torch.float32):
        self.new_tokens, self.kv_lens, self.scale = new_tokens, kv_lens, head_dim**-0.5
        self.keys, self.values = (
            [randn(n, num_kv_heads, head_dim, seed=seed + 2 * b + i).to(dtype) for b, n in enumerate(kv_lens)]
            for i in (1000, 1001)
        )
        self.queries = [
            randn(n, num_heads, head_dim, seed=seed + b, dtype=torch.float32) * 2 for b, n in enumerate(kv_lens)
        ]

    def run(self, ops, page_size=16, seed=0, dtype=None, new_tokens=None):
        """What the ops make of the last new tokens of each sequence: [T, H, D]."""
        new_tokens = new_tokens or self.new_tokens
        batch = make_attention(new_tokens, self.kv_lens, page_size, seed)
        k_cache, v_cache = fill_pages(batch, page_size, self.keys, self.values)
        if dtype is not None:  # the reference
            k_cache, v_cache = k_cache.to(dtype), v_cache.to(dtype)
        else:  # the native ops have a page's positions side by side
            k_cache = k_cache.transpose(2, 3).contiguous()
        q = torch.cat([q[len(q) - new :] for q, new in zip(self.queries, new_tokens, strict=True)])
        return ops.paged_attention(q.to(dtype or torch.float32), k_cache, v_cache, batch, self.scale)

    def plain_and_exact(self, page_size=16):
        return (self.run(REFERENCE, page_size, dtype=dtype) for dtype in (torch.float32, torch.float64))

    def largest_score(self):
        """The largest sum of a score's terms without their signs, relative to which it's rounded on the way.

        A score's absolute error is its weight's relative one.
        """
        largest = 1.0
        for q, keys in zip(self.queries, self.keys, strict=True):
            if len(keys):
                grouped = q.unflatten(1, (keys.shape[1], -1)).permute(1, 2, 0, 3)  # [Hk, group, queries, D]
                sums = grouped.abs() @ keys.float().abs().permute(1, 2, 0)[:, None]
                largest = max(largest, float(sums.max()) * self.scale)
        return largest

    def agrees(self, out, page_size=16):
        return is_close(out, *self.plain_and_exact(page_size), self.largest_score())

    def prefix(self, b, kv_len, new):
        """The last `new` of the first kv_len tokens of sequence b, alone."""
        case = object.__new__(Case)
        case.new_tokens, case.kv_lens, case.scale = [new], [kv_len], self.scale
        case.queries, case.keys, case.values = ([x[b][:kv_len]] for x in (self.queries, self.keys, self.values))
        return case
