"""Ragged batches on shuffled pages, and the tolerance of the native ops."""

import torch

from glimp_engine.kernels import Attention


def randn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def make_attention(new_tokens, kv_lens, page_size, seed=0):
    """A ragged batch on pages in random order; two pages belong to nobody."""
    num_pages = [-(-kv_len // page_size) for kv_len in kv_lens]
    order = torch.randperm(sum(num_pages) + 2, generator=torch.Generator().manual_seed(seed)).tolist()
    tables = [[order.pop() for _ in range(n)] for n in num_pages]
    positions = [list(range(kv_len - new, kv_len)) for new, kv_len in zip(new_tokens, kv_lens, strict=True)]
    slots = [
        pages[p // page_size] * page_size + p % page_size
        for pages, places in zip(tables, positions, strict=True)
        for p in places
    ]
    widest = max(num_pages, default=1)
    return Attention(
        positions=torch.tensor([p for places in positions for p in places], dtype=torch.int64),
        slots=torch.tensor(slots, dtype=torch.int64),
        query_start=torch.tensor([sum(new_tokens[:b]) for b in range(len(new_tokens) + 1)], dtype=torch.int32),
        page_table=torch.tensor([t + [0] * (widest - len(t)) for t in tables], dtype=torch.int32).view(-1, widest),
        kv_len=torch.tensor(kv_lens, dtype=torch.int32),
    )


def fill_pages(batch, page_size, keys, values):
    """k_cache, v_cache [P, Hk, S, D] that hold each sequence's keys and values [kv_len, Hk, D], and NaN elsewhere."""
    num_pages = sum(-(-len(k) // page_size) for k in keys) + 2
    _, num_kv_heads, head_dim = keys[0].shape
    caches = [torch.full((num_pages, num_kv_heads, page_size, head_dim), torch.nan, dtype=keys[0].dtype) for _ in "kv"]
    for b, both in enumerate(zip(keys, values, strict=True)):
        places = torch.arange(len(both[0]))
        pages = batch.page_table[b].long()[places // page_size]
        for cache, x in zip(caches, both, strict=True):
            cache[pages, :, places % page_size] = x
    return caches


def allowed_error(plain, exact, magnitude=1.0):
    """Twice the error of plain float32 PyTorch, and a floor for small cases, where that may be exact by chance.

    The floor is one unit in the last place of the largest number on the way to the result, relative to which errors
    count: `magnitude`.
    """
    return 2 * float((plain.double() - exact).norm()) + 2.0**-23 * magnitude * float(exact.norm())


def is_close(out, plain, exact, magnitude=1.0):
    """Whether `out` is as near to the float64 result as `allowed_error` says; NaN never is."""
    return float((out.double() - exact).norm()) <= allowed_error(plain, exact, magnitude)
