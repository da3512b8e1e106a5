"""A tensor of a checkpoint that has not been read yet."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

__all__ = ["FLOAT_TYPES", "QUANTIZED_TYPES", "StoredTensor", "dequantize_rows", "row_bytes"]

FLOAT_TYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
QUANTIZED_TYPES = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K")


@dataclass(frozen=True)
class StoredTensor:
    """Where it is, what it will be, and how to read it, the whole or some rows.

    `load` gives rows start:end as the file has them: float tensors, or bytes [rows, bytes of a row] of quantised ones.
    """

    file: Path
    shape: tuple[int, ...]
    type: str  # of GGUF's names, as F32 and Q4_K; another one is a float type that only `read` knows
    load: Callable[[int, int], Tensor]
    row_order: Tensor | None = None  # row i is stored as row row_order[i]

    def read_stored(self, start: int = 0, end: int | None = None) -> Tensor:
        """Rows start:end in their own type, of quantised ones the bytes."""
        end = self.shape[0] if end is None else end
        if self.row_order is None:
            return self.load(start, end)
        return self.load(0, self.shape[0]).index_select(0, self.row_order[start:end])

    def read(self, start: int = 0, end: int | None = None) -> Tensor:
        """Rows start:end, float types as they are, quantised ones in float32."""
        stored = self.read_stored(start, end)
        return dequantize_rows(stored, self.type) if self.type in QUANTIZED_TYPES else stored


def row_bytes(kind: str, k: int) -> int:
    """Bytes of a row of k values of one of GGUF's types; 0 if they aren't a whole number of its blocks."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType  # safetensors alone don't need it

    block_size, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType[kind]]
    return 0 if k % block_size else k // block_size * block_bytes


def dequantize_rows(blocks: Tensor, kind: str) -> Tensor:
    """Rows of quantised blocks, bytes [rows, bytes of a row], in float32."""
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    return torch.from_numpy(dequantize(blocks.numpy(), GGMLQuantizationType[kind]))
