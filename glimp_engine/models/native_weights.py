"""A checkpoint's weights as the native ops read them: in one arena, quantised matrices packed, vectors in float32.

One piece of one tensor is read at a time, so that little more than the weights themselves is ever held.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from glimp_engine.checkpoints import FLOAT_TYPES, QUANTIZED_TYPES, StoredTensor
from glimp_engine.errors import ConfigError
from glimp_engine.kernels.abi import TYPES, CWeight, check_error
from glimp_engine.kernels.native import NativeOps
from glimp_engine.models.arena import Arena, aligned
from glimp_engine.models.quantize import GROUP, quantize_rows

__all__ = ["NativeWeight", "NativeWeights", "read_weights"]

log = logging.getLogger(__name__)

WORD_MATRICES = (
    "model.embed_tokens.weight",
    "lm_head.weight",
)  # their rows are tokens: int8 even where others are int4
READ_VALUES = 1 << 22  # read at a time: 2 to 16 MB
QUANTIZE_VALUES = 1 << 20  # quantised at a time; int4 takes 1.4 times as long with four times as many
CHUNK_ROWS = 64  # ... in multiples of these: whole tiles of 16 rows, whose bytes are then a multiple of 64


@dataclass(frozen=True)
class NativeWeight:
    """A matrix [n, k], or a vector [n] with k = 1."""

    type: str
    n: int
    k: int
    data: Tensor  # quantised: packed, bytes; float types: [n, k] or [n]

    def struct(self, bias: "NativeWeight | None" = None) -> CWeight:
        """glimp_weight; it holds addresses only."""
        return CWeight(
            data=self.data.data_ptr(),
            bias=None if bias is None else bias.data.data_ptr(),
            n=self.n,
            k=self.k,
            type=TYPES[self.type],
        )


@dataclass(frozen=True)
class NativeWeights:
    """The weights by their names in transformers."""

    by_name: dict[str, NativeWeight]
    quantization_error: float | None  # ||w - q|| / ||w|| of the matrices quantised here; None if there are none


def read_weights(
    path: Path, tensors: Mapping[str, StoredTensor], ops: NativeOps, dtype: str | None, quantization: str | None
) -> NativeWeights:
    """The tensors in memory.

    `dtype`, F32, F16 or BF16, is that of all matrices; None leaves each as it's stored. `quantization`, int8 or int4,
    quantises the matrices whose rows are whole groups; word embeddings and the head are int8 either way.

    Cost:   memory is the weights' and that of one piece; int4 takes 8 ns a weight on two idle cores.
    Raises: ConfigError when quantised matrices are to be quantised.
    """
    if quantization is not None:
        refuse_quantized(path, tensors, quantization)
    types = {name: type_of(name, tensor, dtype, quantization) for name, tensor in tensors.items()}
    sizes = {name: num_bytes(tensor, types[name], ops) for name, tensor in tensors.items()}
    arena = Arena(sum(map(aligned, sizes.values())))
    by_name, errors = {}, Errors()
    for name, tensor in tqdm(tensors.items(), desc=path.stem, unit="tensor", leave=False):
        kind = types[name]
        is_quantized = kind in QUANTIZED_TYPES
        data = arena.take(*((sizes[name],), torch.uint8) if is_quantized else (tensor.shape, FLOAT_TYPES[kind]))
        by_name[name] = weight = NativeWeight(kind, tensor.shape[0], tensor.shape[-1] if tensor.shape[1:] else 1, data)
        is_rounded = is_quantized and tensor.type != kind
        for start, end in chunks(weight, QUANTIZE_VALUES if is_rounded else READ_VALUES):
            if is_quantized:
                pack(ops, weight, start, blocks_of(tensor, kind, start, end, errors))
            else:
                data[start:end].copy_(tensor.read(start, end))
    if quantization is not None:
        log.info("%s: %s, relative error of the weights %.4f", path, quantization, errors.relative)
    return NativeWeights(by_name, None if quantization is None else errors.relative)


class Errors:
    """What quantisation has changed so far."""

    def __init__(self) -> None:
        self.squared_error = 0.0
        self.squared_norm = 0.0

    @property
    def relative(self) -> float:
        """||w - q|| / ||w||."""
        return (self.squared_error / self.squared_norm) ** 0.5 if self.squared_norm else 0.0


def refuse_quantized(path: Path, tensors: Mapping[str, StoredTensor], quantization: str) -> None:
    """Raise ConfigError if the checkpoint's matrices are quantised already."""
    found = sorted({tensor.type for tensor in tensors.values()} & set(QUANTIZED_TYPES))
    if found:
        raise ConfigError(f"quantization is {quantization!r}, and {path} has {', '.join(found)} already; allowed: None")


def type_of(name: str, tensor: StoredTensor, dtype: str | None, quantization: str | None) -> str:
    """The type that a tensor will have."""
    if len(tensor.shape) == 1:
        return "F32"
    if quantization is not None and tensor.shape[-1] % GROUP == 0:
        return "Q4_1" if quantization == "int4" and name not in WORD_MATRICES else "Q8_0"
    return dtype or (tensor.type if tensor.type in TYPES else "F32")


def num_bytes(tensor: StoredTensor, kind: str, ops: NativeOps) -> int:
    """Bytes that a tensor of this type takes."""
    *_, n, k = (1, *tensor.shape)
    if kind in QUANTIZED_TYPES:
        return int(ops.library.glimp_packed_bytes(TYPES[kind], n, k))
    return n * k * FLOAT_TYPES[kind].itemsize


def chunks(weight: NativeWeight, num_values: int) -> list[tuple[int, int]]:
    """(start, end) of the rows that are read together, about num_values."""
    num_rows = max(num_values // weight.k // CHUNK_ROWS, 1) * CHUNK_ROWS
    return [(start, min(start + num_rows, weight.n)) for start in range(0, weight.n, num_rows)]


def blocks_of(tensor: StoredTensor, kind: str, start: int, end: int, errors: Errors) -> Tensor:
    """Rows start:end as blocks of this type: the file's own, or quantised here."""
    if tensor.type == kind:
        return tensor.read_stored(start, end)
    rows = tensor.read(start, end).float()
    blocks, squared_error = quantize_rows(rows, kind)
    errors.squared_error += squared_error
    errors.squared_norm += float(rows.square().sum(dtype=torch.float64))
    return blocks


def pack(ops: NativeOps, weight: NativeWeight, start: int, blocks: Tensor) -> None:
    """Put the rows from `start` on, a multiple of 16, into their place."""
    kind, num_rows = TYPES[weight.type], len(blocks)
    offset = ops.library.glimp_packed_bytes(kind, start, weight.k) if start else 0
    blocks, target = blocks.contiguous(), weight.data.data_ptr() + offset
    error = ops.library.glimp_pack(ops.cpu, kind, blocks.data_ptr(), num_rows, weight.k, target)
    check_error(ops.library, "pack", error)
