"""flash-attn, where one of its versions is installed, for long prefills over the same pages.

It has pages as [P, S, Hk, D], which is ours with two dims exchanged: a view.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from glimp_engine.kernels import Attention

__all__ = ["FlashAttention", "find_flash_attention", "suits"]

MIN_QUERIES = 256  # of each sequence, on average: from there on arithmetic counts, not memory
PAGE_SIZE_OF_2 = 256  # version 2 takes pages of a multiple of this
MAX_HEAD_DIM, HEAD_DIM_ALIGNMENT = 256, 8

# (q [T, H, D], key pages, value pages, batch, scale, max_kv_len) -> [T, H, D]
FlashAttention = Callable[[Tensor, Tensor, Tensor, Attention, float, int], Tensor]


def find_flash_attention(page_size: int) -> FlashAttention | None:
    """The newest version that is installed and takes pages of this size."""
    for module, name, adapt in (
        ("flash_attn_interface", "flash_attn_with_kvcache", version_3),
        ("flash_attn.cute", "flash_attn_varlen_func", version_4),
        ("flash_attn", "flash_attn_varlen_func", version_2),
    ):
        if adapt is version_2 and page_size % PAGE_SIZE_OF_2:
            continue
        try:
            return adapt(getattr(import_module(module), name))
        except (ImportError, AttributeError):
            continue
    return None


def suits(q: Tensor, num_sequences: int) -> bool:
    """Whether it's a long prefill in a type and a width that flash-attn takes."""
    num_tokens, _, head_dim = q.shape
    is_half = q.dtype in (torch.float16, torch.bfloat16)
    is_width = head_dim % HEAD_DIM_ALIGNMENT == 0 and head_dim <= MAX_HEAD_DIM
    return is_half and is_width and num_tokens >= MIN_QUERIES * num_sequences


def version_3(flash_attn_with_kvcache: Any) -> FlashAttention:
    def attend(q: Tensor, keys: Tensor, values: Tensor, batch: Attention, scale: float, max_kv_len: int) -> Tensor:
        out: Tensor = flash_attn_with_kvcache(
            q,
            keys.transpose(1, 2),
            values.transpose(1, 2),
            cache_seqlens=batch.kv_len,
            page_table=batch.page_table,
            cu_seqlens_q=batch.query_start,
            max_seqlen_q=len(q),
            softmax_scale=scale,
            causal=True,
        )
        return out

    return attend


def version_4(flash_attn_varlen_func: Any) -> FlashAttention:
    def attend(q: Tensor, keys: Tensor, values: Tensor, batch: Attention, scale: float, max_kv_len: int) -> Tensor:
        out, *_ = flash_attn_varlen_func(
            q,
            keys.transpose(1, 2),
            values.transpose(1, 2),
            cu_seqlens_q=batch.query_start,
            seqused_k=batch.kv_len,
            max_seqlen_q=len(q),
            max_seqlen_k=max_kv_len,
            page_table=batch.page_table,
            softmax_scale=scale,
            causal=True,
        )
        return torch.as_tensor(out)

    return attend


def version_2(flash_attn_varlen_func: Any) -> FlashAttention:
    def attend(q: Tensor, keys: Tensor, values: Tensor, batch: Attention, scale: float, max_kv_len: int) -> Tensor:
        out: Tensor = flash_attn_varlen_func(
            q,
            keys.transpose(1, 2),
            values.transpose(1, 2),
            cu_seqlens_q=batch.query_start,
            cu_seqlens_k=torch.nn.functional.pad(batch.kv_len.cumsum(0, dtype=torch.int32), (1, 0)),
            max_seqlen_q=len(q),
            max_seqlen_k=max_kv_len,
            softmax_scale=scale,
            causal=True,
            block_table=batch.page_table,
        )
        return out

    return attend
