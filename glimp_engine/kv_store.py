"""The K/V tensors of one model: slot p holds its part of page p."""

import torch
from torch import Tensor

from glimp_engine.errors import CapacityError
from glimp_engine.model_config import ModelConfig

__all__ = ["KVStore", "num_pages_within", "page_bytes"]


def page_bytes(configs: list[ModelConfig], dtypes: list[torch.dtype], page_size: int) -> int:
    """Bytes of one page: S * sum over the models of 2 * L * Hk * D * itemsize."""
    per_token = (config.kv_bytes_per_token(dtype.itemsize) for config, dtype in zip(configs, dtypes, strict=True))
    return page_size * sum(per_token)


def num_pages_within(budget_bytes: int, bytes_per_page: int) -> int:
    """How many pages, of both models together, a budget holds.

    Raises: CapacityError when it holds none.
    """
    num_pages = budget_bytes // bytes_per_page
    if num_pages < 1:
        raise CapacityError(f"kv_cache_bytes is {budget_bytes}; one page of both models takes {bytes_per_page}")
    return num_pages


class KVStore:
    """Keys and values of all pages, for each layer a pair of tensors [P, Hk, S, D]."""

    def __init__(
        self, config: ModelConfig, num_pages: int, page_size: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.page_size = page_size
        shape = (num_pages, config.num_kv_heads, page_size, config.head_dim)
        self.layers: list[tuple[Tensor, Tensor]] = [
            (torch.empty(shape, dtype=dtype, device=device), torch.empty(shape, dtype=dtype, device=device))
            for _ in range(config.num_layers)
        ]

    def copy_page(self, source: int, target: int) -> None:
        """Copy one page's keys and values in all layers."""
        for keys, values in self.layers:
            keys[target].copy_(keys[source])
            values[target].copy_(values[source])
