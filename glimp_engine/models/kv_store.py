"""The K/V tensors of one model: slot p holds its part of page p."""

import ctypes
import math
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from glimp_engine.checkpoints import ModelConfig
from glimp_engine.errors import CapacityError
from glimp_engine.kernels.abi import CKV, TYPES
from glimp_engine.models.arena import Arena, aligned
from glimp_engine.models.rotary import cos_sin_table

__all__ = ["KVLayout", "KVStore", "num_pages_within"]

TYPE_NAMES = {torch.float32: "F32", torch.float16: "F16"}


@dataclass(frozen=True)
class KVLayout:
    """How a model keeps its K/V."""

    dtype: torch.dtype
    are_keys_transposed: bool = False  # a page's keys are [Hk, D, S], positions side by side, instead of [Hk, S, D]
    freq_factors: Tensor | None = field(default=None, compare=False)  # [D / 2] divisors of the rotary frequencies


def num_pages_within(budget_bytes: int, bytes_per_page: int) -> int:
    """How many pages, of both models together, a budget holds.

    Raises: CapacityError when it holds none.
    """
    num_pages = budget_bytes // bytes_per_page
    if num_pages < 1:
        raise CapacityError(f"kv_cache_bytes is {budget_bytes}; one page of both models takes {bytes_per_page}")
    return num_pages


class KVStore:
    """Keys [P, Hk, S, D], or [P, Hk, D, S], and values [P, Hk, S, D] of all pages, a pair of tensors a layer.

    `cos_sin` [positions, 2, D / 2] holds the angles that its keys are rotated by, for sequences of max_model_len.
    """

    def __init__(
        self,
        config: ModelConfig,
        num_pages: int,
        page_size: int,
        layout: KVLayout,
        device: torch.device,
        max_model_len: int,
    ) -> None:
        self.num_pages = num_pages
        self.page_size = page_size
        self.dtype = layout.dtype
        self.cos_sin = cos_sin_table(config, max_model_len, device, layout.freq_factors)
        heads = (num_pages, config.num_kv_heads)
        values = (*heads, page_size, config.head_dim)
        keys = (*heads, config.head_dim, page_size) if layout.are_keys_transposed else values
        shapes = [(keys, values)] * config.num_layers
        if device.type == "cpu":
            arena = Arena(2 * config.num_layers * aligned(math.prod(values) * layout.dtype.itemsize))
            self.layers = [(arena.take(k, self.dtype), arena.take(v, self.dtype)) for k, v in shapes]
        else:
            self.layers = [
                (torch.empty(k, dtype=self.dtype, device=device), torch.empty(v, dtype=self.dtype, device=device))
                for k, v in shapes
            ]

    @cached_property
    def structs(self) -> "ctypes.Array[CKV]":
        """glimp_kv [L], for the native ops."""
        kind = TYPES[TYPE_NAMES[self.dtype]]
        return (CKV * len(self.layers))(
            *(CKV(k.data_ptr(), v.data_ptr(), self.num_pages, self.page_size, kind) for k, v in self.layers)
        )

    def copy_page(self, source: int, target: int) -> None:
        """Copy one page's keys and values in all layers."""
        for keys, values in self.layers:
            keys[target].copy_(keys[source])
            values[target].copy_(values[source])
