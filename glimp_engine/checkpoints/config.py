"""The shape of a decoder, as a checkpoint's config.json or GGUF metadata has it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from glimp_engine.errors import CheckpointError

__all__ = ["ModelConfig", "RopeScaling", "yarn_attention_factor"]

ARCHITECTURES = {"LlamaForCausalLM": "llama", "Qwen2ForCausalLM": "qwen2", "Qwen3ForCausalLM": "qwen3"}
ROPE_TYPES = ("linear", "llama3", "yarn")


@dataclass(frozen=True)
class RopeScaling:
    """How the rotary frequencies are stretched for a longer context."""

    rope_type: str  # one of ROPE_TYPES
    factor: float
    original_max_positions: int
    low_freq_factor: float = 1.0  # llama3
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0  # yarn
    beta_slow: float = 1.0
    attention_factor: float = 1.0
    truncate: bool = True


@dataclass(frozen=True)
class ModelConfig:
    """A Llama, Qwen2 or Qwen3 decoder."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rms_norm_eps: float
    max_positions: int
    rope_theta: float
    rope_scaling: RopeScaling | None
    tied_embeddings: bool
    qkv_bias: bool
    output_bias: bool
    mlp_bias: bool
    qk_norm: bool
    dtype: torch.dtype | None = None  # the checkpoint's own; None where it names none

    def kv_bytes_per_token(self, itemsize: int) -> int:
        """Bytes of K/V of one position: 2 * L * Hk * D * itemsize."""
        return 2 * self.num_layers * self.num_kv_heads * self.head_dim * itemsize

    @classmethod
    def from_json(cls, config: Mapping[str, Any], where: str) -> "ModelConfig":
        """From the contents of config.json, of transformers 4 or 5.

        Raises: CheckpointError that names `where`, the key, what was found and what is supported.
        """
        get = Required(config, where)
        family = get_family(config, where)
        refuse_unsupported(config, where)
        num_heads, hidden_size = get.integer("num_attention_heads"), get.integer("hidden_size")
        max_positions = get.integer("max_position_embeddings")
        rope = config.get("rope_parameters") or {
            "rope_theta": config.get("rope_theta", 10000.0),
            **(config.get("rope_scaling") or {}),
        }
        bias = bool(config.get("attention_bias", False))
        model_config = cls(
            vocab_size=get.integer("vocab_size"),
            hidden_size=hidden_size,
            intermediate_size=get.integer("intermediate_size"),
            num_layers=get.integer("num_hidden_layers"),
            num_heads=num_heads,
            num_kv_heads=config.get("num_key_value_heads") or num_heads,
            head_dim=config.get("head_dim") or (128 if family == "qwen3" else hidden_size // num_heads),
            rms_norm_eps=float(config.get("rms_norm_eps", 1e-6)),
            max_positions=max_positions,
            rope_theta=float(rope.get("rope_theta", config.get("rope_theta", 10000.0))),
            rope_scaling=rope_scaling_from_json(rope, max_positions, where),
            tied_embeddings=bool(config.get("tie_word_embeddings", False)),
            qkv_bias=family == "qwen2" or bias,
            output_bias=family != "qwen2" and bias,
            mlp_bias=bool(config.get("mlp_bias", False)),
            qk_norm=family == "qwen3",
            dtype=getattr(torch, str(config.get("dtype") or config.get("torch_dtype")), None),
        )
        model_config.check_heads(where)
        return model_config

    def check_heads(self, where: str) -> None:
        """Raise CheckpointError, which names `where`, unless queries come in whole groups and heads in two halves."""
        if self.num_heads % self.num_kv_heads:
            raise CheckpointError(
                f"{where}: num_key_value_heads is {self.num_kv_heads}; expected a divisor of {self.num_heads} heads"
            )
        if self.head_dim % 2:
            raise CheckpointError(f"{where}: head_dim is {self.head_dim}; expected an even number")


class Required:
    """Reads keys that must be there."""

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self._values = values
        self._where = where

    def integer(self, key: str) -> int:
        value = self._values.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise CheckpointError(f"{self._where}: {key} is {value!r}; expected a positive integer")
        return value


def get_family(config: Mapping[str, Any], where: str) -> str:
    """llama, qwen2 or qwen3."""
    architectures = config.get("architectures") or [None]
    if architectures[0] not in ARCHITECTURES:
        raise CheckpointError(
            f"{where}: architectures is {config.get('architectures')!r}; supported: {', '.join(ARCHITECTURES)}"
        )
    return ARCHITECTURES[architectures[0]]


def refuse_unsupported(config: Mapping[str, Any], where: str) -> None:
    """Raise CheckpointError on what would otherwise give wrong tokens silently."""
    for key, supported in (
        ("hidden_act", ("silu", None)),
        ("use_sliding_window", (False, None)),
        ("partial_rotary_factor", (1.0, None)),
        ("quantization_config", (None,)),
    ):
        if config.get(key) not in supported:
            raise CheckpointError(f"{where}: {key} is {config[key]!r}; supported: {supported[0]!r}")
    kinds = set(config.get("layer_types") or ["full_attention"])
    if kinds != {"full_attention"}:
        raise CheckpointError(f"{where}: layer_types has {sorted(kinds)}; supported: full_attention")


def rope_scaling_from_json(rope: Mapping[str, Any], max_positions: int, where: str) -> RopeScaling | None:
    """The scaling that transformers' rope parameters describe; None for the default."""
    rope_type = rope.get("rope_type", rope.get("type", "default"))
    if rope_type == "default":
        return None
    if rope_type not in ROPE_TYPES:
        raise CheckpointError(f"{where}: rope_type is {rope_type!r}; supported: default, {', '.join(ROPE_TYPES)}")
    if rope.get("partial_rotary_factor", 1.0) != 1.0:
        raise CheckpointError(f"{where}: partial_rotary_factor is {rope['partial_rotary_factor']!r}; supported: 1.0")
    original = rope.get("original_max_position_embeddings") or max_positions
    factor = float(rope.get("factor") or max_positions / original)
    return RopeScaling(
        rope_type=rope_type,
        factor=factor,
        original_max_positions=original,
        low_freq_factor=float(rope.get("low_freq_factor", 1.0)),
        high_freq_factor=float(rope.get("high_freq_factor", 4.0)),
        beta_fast=float(rope.get("beta_fast") or 32.0),
        beta_slow=float(rope.get("beta_slow") or 1.0),
        attention_factor=yarn_attention_factor(rope, factor) if rope_type == "yarn" else 1.0,
        truncate=bool(rope.get("truncate", True)),
    )


def yarn_attention_factor(rope: Mapping[str, Any], factor: float) -> float:
    """What cos and sin are multiplied with (YaRN, arXiv 2309.00071, section 3.4), as transformers resolves it."""

    def magnitude(mscale: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0

    if rope.get("attention_factor") is not None:
        return float(rope["attention_factor"])
    if rope.get("mscale") and rope.get("mscale_all_dim"):
        return magnitude(rope["mscale"]) / magnitude(rope["mscale_all_dim"])
    return magnitude(1.0)
