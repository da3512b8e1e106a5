"""GGUF checkpoints: configuration from the metadata, and where the tensors lie."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from glimp_engine.checkpoints.config import ModelConfig, RopeScaling, yarn_attention_factor
from glimp_engine.checkpoints.gguf_header import GGUFTensor, read_gguf_header
from glimp_engine.checkpoints.stored_tensor import FLOAT_TYPES, QUANTIZED_TYPES, StoredTensor, row_bytes
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
    header = read_gguf_header(path)
    tensors = {tensor.name: tensor for tensor in header.tensors}
    config = config_from_metadata(header.metadata, tensors, path)
    is_llama = header.metadata["general.architecture"] == "llama"
    permuted = {"attn_q": config.num_heads, "attn_k": config.num_kv_heads} if is_llama else {}
    stored = {}
    for tensor in header.tensors:
        num_heads = next((heads for part, heads in permuted.items() if f".{part}." in tensor.name), None)
        stored[rename(tensor.name)] = describe(tensor, path, num_heads)
    return config, stored


def rename(name: str) -> str:
    """The tensor's name in transformers; a name that isn't known stays as it is."""
    parts = name.split(".")
    if len(parts) == 2 and parts[0] in NAMES:
        return f"{NAMES[parts[0]]}.{parts[1]}"
    if len(parts) == 4 and parts[0] == "blk" and parts[2] in LAYER_NAMES:
        return f"model.layers.{parts[1]}.{LAYER_NAMES[parts[2]]}.{parts[3]}"
    return name


def describe(tensor: GGUFTensor, path: Path, num_heads: int | None) -> StoredTensor:
    """The tensor, with its rows put in order if it's a Llama's Q or K, which have num_heads.

    Raises: CheckpointError when the type isn't supported or the file ends before the tensor does.
    """
    from gguf import GGMLQuantizationType

    try:
        kind = GGMLQuantizationType(tensor.ggml_type).name
    except ValueError:
        kind = str(tensor.ggml_type)
    if kind not in TYPES:
        raise CheckpointError(f"{path}: tensor {tensor.name}: type is {kind}; supported: {', '.join(TYPES)}")
    num_rows, *rest = tensor.shape
    row_size = row_bytes(kind, int(np.prod(rest, dtype=np.int64)))
    if not row_size:
        raise CheckpointError(f"{path}: tensor {tensor.name}: expected rows of whole {kind} blocks, found {rest}")
    num_bytes = num_rows * row_size
    if tensor.offset + num_bytes > path.stat().st_size:
        raise CheckpointError(
            f"{path}: tensor {tensor.name}: expected {num_bytes} bytes at {tensor.offset}, "
            f"found a file of {path.stat().st_size}"
        )

    def load(start: int, end: int) -> Tensor:
        num_bytes, offset = (end - start) * row_size, tensor.offset + start * row_size
        stored = torch.from_numpy(np.fromfile(path, np.uint8, num_bytes, offset=offset))
        if kind in FLOAT_TYPES:
            return stored.view(FLOAT_TYPES[kind]).view(end - start, *rest)
        return stored.view(end - start, row_size)

    return StoredTensor(
        path, tensor.shape, kind, load, None if num_heads is None else rotary_order(num_rows, num_heads)
    )


def rotary_order(num_rows: int, num_heads: int) -> Tensor:
    """Where a Llama file has the rows of Q or K: it orders them for rotary pairs that lie side by side."""
    return torch.arange(num_rows).view(num_heads, -1, 2).transpose(1, 2).flatten()  # head, half, frequency


def config_from_metadata(metadata: Mapping[str, Any], tensors: Mapping[str, GGUFTensor], path: Path) -> ModelConfig:
    """The configuration that transformers would have in config.json."""
    family = metadata.get("general.architecture")
    if family not in ARCHITECTURES:
        raise CheckpointError(f"{path}: general.architecture is {family!r}; supported: {', '.join(ARCHITECTURES)}")

    def get(key: str, default: Any = None) -> Any:
        value = metadata.get(f"{family}.{key}", default)
        if value is None:
            raise CheckpointError(f"{path}: expected {family}.{key} in the metadata, found none")
        return value

    if get("expert_count", 0):
        raise CheckpointError(f"{path}: {family}.expert_count is {get('expert_count')}; supported: dense models")
    num_heads, hidden_size = get("attention.head_count"), get("embedding_length")
    head_dim = get("attention.key_length", hidden_size // num_heads)
    if get("rope.dimension_count", head_dim) != head_dim:
        raise CheckpointError(
            f"{path}: {family}.rope.dimension_count is {get('rope.dimension_count')}; supported: {head_dim}"
        )
    embedding = tensors.get("token_embd.weight")
    if embedding is None:
        raise CheckpointError(f"{path}: tensor token_embd.weight: expected, found none")
    config = ModelConfig(
        vocab_size=embedding.shape[0],
        hidden_size=hidden_size,
        intermediate_size=get("feed_forward_length"),
        num_layers=get("block_count"),
        num_heads=num_heads,
        num_kv_heads=get("attention.head_count_kv", num_heads),
        head_dim=head_dim,
        rms_norm_eps=get("attention.layer_norm_rms_epsilon"),
        max_positions=get("context_length"),
        rope_theta=get("rope.freq_base", 10000.0),
        rope_scaling=rope_scaling(metadata, family, get("context_length"), path),
        tied_embeddings="output.weight" not in tensors,
        qkv_bias="blk.0.attn_q.bias" in tensors,
        output_bias="blk.0.attn_output.bias" in tensors,
        mlp_bias="blk.0.ffn_gate.bias" in tensors,
        qk_norm=family == "qwen3",
    )
    config.check_heads(str(path))
    return config


def rope_scaling(metadata: Mapping[str, Any], family: str, context: int, path: Path) -> RopeScaling | None:
    """The scaling that the metadata describes; Llama 3's comes as the tensor rope_freqs.weight instead."""
    rope = {
        key.removeprefix(f"{family}.rope.scaling."): value
        for key, value in metadata.items()
        if key.startswith(f"{family}.rope.scaling.")
    }
    rope_type = rope.get("type", "none")
    if rope_type == "none":
        return None
    if rope_type not in ("linear", "yarn"):
        raise CheckpointError(f"{path}: {family}.rope.scaling.type is {rope_type!r}; supported: none, linear, yarn")
    original = rope.get("original_context_length") or context
    factor = float(rope.get("factor") or context / original)
    return RopeScaling(
        rope_type=rope_type,
        factor=factor,
        original_max_positions=original,
        beta_fast=rope.get("yarn_beta_fast", 32.0),
        beta_slow=rope.get("yarn_beta_slow", 1.0),
        attention_factor=rope.get("attn_factor", 1.0) * yarn_attention_factor({}, factor)
        if rope_type == "yarn"
        else 1.0,
    )
