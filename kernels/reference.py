"""The ops in plain PyTorch: the specification. Any dtype; in float64 it is the oracle of every test."""

import torch
import torch.nn.functional as F
from torch import Tensor

from glimp_engine.kernels import Attention, Samples, Sampling, sampling

__all__ = ["ReferenceOps"]


class ReferenceOps:
    """Written for reading, one op after the other."""

    name = "reference"

    def embed(self, token_ids: Tensor, weight: Tensor) -> Tensor:
        return F.embedding(token_ids, weight)

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float, residual: Tensor | None = None) -> tuple[Tensor, Tensor]:
        summed = x if residual is None else x + residual
        return rms_normalize(summed, weight, eps), summed

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return F.linear(x, weight, bias)

    def rope_and_store(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        cos_sin: Tensor,
        batch: Attention,
        k_cache: Tensor,
        v_cache: Tensor,
        q_norm: Tensor | None = None,
        k_norm: Tensor | None = None,
        eps: float = 0.0,
    ) -> Tensor:
        if q_norm is not None and k_norm is not None:
            q, k = rms_normalize(q, q_norm, eps), rms_normalize(k, k_norm, eps)
        cos, sin = cos_sin[batch.positions].unsqueeze(1).unbind(2)  # each [T, 1, D / 2]
        page, offset = batch.slots // k_cache.shape[2], batch.slots % k_cache.shape[2]
        k_cache[page, :, offset] = rotate(k, cos, sin).to(k_cache.dtype)
        v_cache[page, :, offset] = v.to(v_cache.dtype)
        return rotate(q, cos, sin)

    def paged_attention(self, q: Tensor, k_cache: Tensor, v_cache: Tensor, batch: Attention, scale: float) -> Tensor:
        _, num_kv_heads, page_size, head_dim = k_cache.shape
        group = q.shape[1] // num_kv_heads
        out = torch.empty_like(q)
        query_start, kv_lens = batch.query_start.tolist(), batch.kv_len.tolist()
        for b, kv_len in enumerate(kv_lens):
            begin, end = query_start[b], query_start[b + 1]
            if begin == end:
                continue
            pages = batch.page_table[b, : -(-kv_len // page_size)].long()
            k, v = (gather_pages(cache, pages)[:, :kv_len] for cache in (k_cache, v_cache))
            query_position = torch.arange(kv_len - (end - begin), kv_len, device=q.device)
            allowed = torch.arange(kv_len, device=q.device) <= query_position[:, None]  # [queries, keys]
            grouped = q[begin:end].view(-1, num_kv_heads, group, head_dim).permute(1, 2, 0, 3)
            scores = (grouped @ k[:, None].transpose(-1, -2)) * scale  # [Hk, group, queries, keys]
            weights = scores.masked_fill(~allowed, -torch.inf).softmax(-1)
            out[begin:end] = (weights @ v[:, None]).permute(2, 0, 1, 3).reshape(end - begin, -1, head_dim)
        return out

    def silu_mul(self, x: Tensor) -> Tensor:
        gate, up = x.chunk(2, dim=-1)
        return F.silu(gate) * up

    def linear_silu_mul(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return self.silu_mul(self.linear(x, weight, bias))

    def sample(self, logits: Tensor, params: Sampling, token_class: Tensor) -> Samples:
        return sampling.sample(logits, params, token_class)

    def top_logprobs(self, logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
        return sampling.top_logprobs(logits, k)


def rms_normalize(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last dim; the mean in float32 or better (arXiv 1910.07467)."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)).to(x.dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding, half-split layout (arXiv 2104.09864): x [T, heads, D], cos and sin [T, 1, D / 2]."""
    low, high = x.to(torch.promote_types(x.dtype, cos.dtype)).chunk(2, dim=-1)
    return torch.cat([low * cos - high * sin, high * cos + low * sin], dim=-1).to(x.dtype)


def gather_pages(cache: Tensor, pages: Tensor) -> Tensor:
    """One sequence's keys or values in order: cache [P, Hk, S, D], pages [n] -> [Hk, n * S, D]."""
    return cache[pages].transpose(0, 1).flatten(1, 2)
