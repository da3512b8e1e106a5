"""GGUF checkpoints: configuration from the metadata, and where the tensors lie."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from glimp_engine.checkpoints.config import (
    MAX_HEAD_DIM,
    MAX_HEADS,
    MAX_HIDDEN_SIZE,
    MAX_INTERMEDIATE_SIZE,
    MAX_LAYERS,
    ModelConfig,
)
from glimp_engine.checkpoints.fields import Fields, shown
from glimp_engine.checkpoints.files import reading
from glimp_engine.checkpoints.gguf_header import GGUFTensor
from glimp_engine.checkpoints.gguf_parts import read_parts
from glimp_engine.checkpoints.rope import MAX_STATED_POSITIONS, THETA_RANGE, rope_from_gguf
from glimp_engine.checkpoints.stored_tensor import FLOAT_TYPES, QUANTIZED_TYPES, StoredTensor, row_bytes
from glimp_engine.checkpoints.unread_keys import refuse_gguf_keys
from glimp_engine.checkpoints.window import window_from_gguf
from glimp_engine.errors import CheckpointError

__all__ = ["open_gguf"]

ARCHITECTURES = ("llama", "qwen2", "qwen3")
TYPES = (*FLOAT_TYPES, *QUANTIZED_TYPES)

# GGUF's names and transformers', outside the layers and inside
NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def open_gguf(path: Path) -> tuple[ModelConfig, dict[str, StoredTensor]]:
    """The model's configuration, and its tensors by their names in transformers.

    Raises: CheckpointError on a damaged file, an architecture or a tensor type that isn't supported.
    """
    with reading(path, "a GGUF file"):
        headers = read_parts(path)
        metadata = headers[path].metadata
        located = [(file, tensor) for file, header in headers.items() for tensor in header.tensors]
        config = config_from_metadata(metadata, {tensor.name: tensor for _, tensor in located}, path)
        is_llama = metadata["general.architecture"] == "llama"
        permuted = {"attn_q": config.num_heads, "attn_k": config.num_kv_heads} if is_llama else {}
        num_bytes = {file: file.stat().st_size for file in headers}
        stored: dict[str, StoredTensor] = {}
        for file, tensor in located:
            name = rename(tensor.name)
            if name in stored:
                also = "" if tensor.name == name else f" as {name}"
                raise CheckpointError(
                    f"{file}: tensor {tensor.name}: expected once, found{also} in {stored[name].file} too"
                )
            num_heads = next((heads for part, heads in permuted.items() if f".{part}." in tensor.name), None)
            stored[name] = describe(tensor, file, num_bytes[file], num_heads)
        return config, stored


def rename(name: str) -> str:
    """The tensor's name in transformers; a name that isn't known stays as it is."""
    parts = name.split(".")
    if len(parts) == 2 and parts[0] in NAMES:
        return f"{NAMES[parts[0]]}.{parts[1]}"
    if len(parts) == 4 and parts[0] == "blk" and parts[2] in LAYER_NAMES:
        return f"model.layers.{parts[1]}.{LAYER_NAMES[parts[2]]}.{parts[3]}"
    return name


def describe(tensor: GGUFTensor, path: Path, file_bytes: int, num_heads: int | None) -> StoredTensor:
    """The tensor, with its rows put in order if it's a Llama's Q or K, which have num_heads.

    Raises: CheckpointError when the type isn't supported or the file ends before the tensor does.
    """
    kind = type_name(tensor.ggml_type)
    if kind not in TYPES:
        note = ", an i-quant" if kind.startswith("IQ") else ""
        raise CheckpointError(f"{path}: tensor {tensor.name}: type is {kind}{note}; supported: {', '.join(TYPES)}")
    num_rows, *rest = tensor.shape
    row_size = row_bytes(kind, math.prod(rest))
    if not row_size:
        raise CheckpointError(f"{path}: tensor {tensor.name}: expected rows of whole {kind} blocks, found {rest}")
    num_bytes = num_rows * row_size
    if tensor.offset + num_bytes > file_bytes:
        raise CheckpointError(
            f"{path}: tensor {tensor.name}: the file is cut short: "
            f"expected {num_bytes} bytes at {tensor.offset}, found a file of {file_bytes}"
        )

    def load(start: int, end: int) -> Tensor:
        num_bytes, offset = (end - start) * row_size, tensor.offset + start * row_size
        with reading(path, f"rows {start} to {end} of {tensor.name}"):
            stored = torch.from_numpy(np.fromfile(path, np.uint8, num_bytes, offset=offset))
            if kind in FLOAT_TYPES:
                return stored.view(FLOAT_TYPES[kind]).view(end - start, *rest)
            return stored.view(end - start, row_size)

    is_ordered = num_heads is None or num_rows % (2 * num_heads) != 0  # of another shape it will be refused
    return StoredTensor(path, tensor.shape, kind, load, None if is_ordered else rotary_order(num_rows, num_heads or 1))


def type_name(ggml_type: int) -> str:
    """The type's name as in Q4_K, its number where it has none."""
    from gguf import GGMLQuantizationType

    try:
        return str(GGMLQuantizationType(ggml_type).name)
    except ValueError:
        return str(ggml_type)


def rotary_order(num_rows: int, num_heads: int) -> Tensor:
    """Where a Llama file has the rows of Q or K: it orders them for rotary pairs that lie side by side."""
    return torch.arange(num_rows).view(num_heads, -1, 2).transpose(1, 2).flatten()  # head, half, frequency


def config_from_metadata(metadata: Mapping[str, Any], tensors: Mapping[str, GGUFTensor], path: Path) -> ModelConfig:
    """The configuration that transformers would have in config.json."""
    family = metadata.get("general.architecture")
    if family not in ARCHITECTURES:
        raise CheckpointError(f"{path}: general.architecture is {shown(family)}; supported: {', '.join(ARCHITECTURES)}")
    fields = Fields(metadata, str(path), f"{family}.")
    if num_experts := fields.integer("expert_count", 0, 1 << 16, 0):
        raise CheckpointError(f"{path}: {family}.expert_count is {num_experts}; supported: dense models")
    num_heads = fields.integer("attention.head_count", 1, MAX_HEADS)
    hidden_size = fields.integer("embedding_length", 1, MAX_HIDDEN_SIZE)
    head_dim = fields.integer("attention.key_length", 1, MAX_HEAD_DIM, hidden_size // num_heads)
    rotary_dim = fields.integer("rope.dimension_count", 0, MAX_HEAD_DIM, head_dim)
    if rotary_dim != head_dim:
        raise CheckpointError(f"{path}: {family}.rope.dimension_count is {rotary_dim}; supported: {head_dim}")
    value_dim = fields.integer("attention.value_length", 1, MAX_HEAD_DIM, head_dim)
    if value_dim != head_dim:
        raise CheckpointError(f"{path}: {family}.attention.value_length is {value_dim}; supported: {head_dim}")
    refuse_gguf_keys(metadata, family, head_dim, str(path))
    embedding = tensors.get("token_embd.weight")
    if embedding is None:
        raise CheckpointError(f"{path}: tensor token_embd.weight: expected, found none")
    max_positions = fields.integer("context_length", 1, MAX_STATED_POSITIONS)
    scaling = rope_from_gguf(Fields(metadata, str(path), f"{family}.rope."), max_positions)
    num_layers = fields.integer("block_count", 1, MAX_LAYERS)
    config = ModelConfig(
        vocab_size=embedding.shape[0],
        hidden_size=hidden_size,
        intermediate_size=fields.integer("feed_forward_length", 1, MAX_INTERMEDIATE_SIZE),
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=fields.integer("attention.head_count_kv", 1, MAX_HEADS, num_heads),
        head_dim=head_dim,
        rms_norm_eps=fields.number("attention.layer_norm_rms_epsilon", 0.0, 1.0),
        max_positions=max_positions if scaling is None else scaling.context(max_positions),
        rope_theta=fields.number("rope.freq_base", *THETA_RANGE, 10000.0),
        rope_scaling=scaling,
        tied_embeddings="output.weight" not in tensors,
        qkv_bias="blk.0.attn_q.bias" in tensors,
        output_bias="blk.0.attn_output.bias" in tensors,
        mlp_bias="blk.0.ffn_gate.bias" in tensors,
        qk_norm=family == "qwen3",
    )
    return config.within(window_from_gguf(fields)).checked(str(path))
