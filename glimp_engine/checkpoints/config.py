"""The shape of a decoder, as a checkpoint's config.json or GGUF metadata has it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from glimp_engine.checkpoints.fields import Fields, shown
from glimp_engine.errors import CheckpointError

__all__ = [
    "FACTOR_RANGE",
    "MAX_HEADS",
    "MAX_HEAD_DIM",
    "MAX_HIDDEN_SIZE",
    "MAX_INTERMEDIATE_SIZE",
    "MAX_LAYERS",
    "MAX_POSITIONS",
    "THETA_RANGE",
    "ModelConfig",
    "RopeScaling",
    "yarn_attention_factor",
]

ARCHITECTURES = {"LlamaForCausalLM": "llama", "Qwen2ForCausalLM": "qwen2", "Qwen3ForCausalLM": "qwen3"}
ROPE_TYPES = ("linear", "llama3", "yarn")
DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float64": torch.float64,
}
# What no dense model comes near; they hold before any memory is taken.
MAX_LAYERS, MAX_HEADS, MAX_HEAD_DIM = 4096, 4096, 4096
MAX_HIDDEN_SIZE, MAX_INTERMEDIATE_SIZE, MAX_VOCAB_SIZE = 1 << 20, 1 << 22, 1 << 24
MAX_POSITIONS = 1 << 24
MAX_ROTARY_BYTES = 1 << 31  # 4 million positions of 128 dimensions
THETA_RANGE = (1.001, 1e15)  # its logarithm is divided by
FACTOR_RANGE = (1e-6, 1e6)


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
        fields = Fields(config, where)
        family = get_family(fields)
        refuse_unsupported(config, where)
        num_heads = fields.integer("num_attention_heads", 1, MAX_HEADS)
        hidden_size = fields.integer("hidden_size", 1, MAX_HIDDEN_SIZE)
        max_positions = fields.integer("max_position_embeddings", 1, MAX_POSITIONS)
        rope = fields.mapping("rope_parameters") or {
            "rope_theta": config.get("rope_theta"),
            **fields.mapping("rope_scaling"),
        }
        rope_fields = Fields(rope, f"{where}: rope")
        theta = fields.number("rope_theta", *THETA_RANGE, 10000.0)
        bias = fields.flag("attention_bias", False)
        model_config = cls(
            vocab_size=fields.integer("vocab_size", 1, MAX_VOCAB_SIZE),
            hidden_size=hidden_size,
            intermediate_size=fields.integer("intermediate_size", 1, MAX_INTERMEDIATE_SIZE),
            num_layers=fields.integer("num_hidden_layers", 1, MAX_LAYERS),
            num_heads=num_heads,
            num_kv_heads=fields.integer("num_key_value_heads", 1, MAX_HEADS, num_heads),
            head_dim=fields.integer(
                "head_dim", 1, MAX_HEAD_DIM, 128 if family == "qwen3" else hidden_size // num_heads
            ),
            rms_norm_eps=fields.number("rms_norm_eps", 0.0, 1.0, 1e-6),
            max_positions=max_positions,
            rope_theta=rope_fields.number("rope_theta", *THETA_RANGE, theta),
            rope_scaling=rope_scaling_from_json(rope, max_positions, where),
            tied_embeddings=fields.flag("tie_word_embeddings", False),
            qkv_bias=family == "qwen2" or bias,
            output_bias=family != "qwen2" and bias,
            mlp_bias=fields.flag("mlp_bias", False),
            qk_norm=family == "qwen3",
            dtype=dtype_of(fields),
        )
        model_config.check_heads(where)
        return model_config

    def check_heads(self, where: str) -> None:
        """Raise CheckpointError, which names `where`, unless the attention's sizes go together.

        Queries come in whole groups, heads in two halves, and the rotary table has a size that can be had.
        """
        if self.num_heads % self.num_kv_heads:
            raise CheckpointError(
                f"{where}: num_key_value_heads is {self.num_kv_heads}; expected a divisor of {self.num_heads} heads"
            )
        if self.head_dim % 2 or not 2 <= self.head_dim <= MAX_HEAD_DIM:
            raise CheckpointError(
                f"{where}: head_dim is {self.head_dim}; expected an even number from 2 to {MAX_HEAD_DIM}"
            )
        if self.max_positions * self.head_dim * 4 > MAX_ROTARY_BYTES:  # a float for each position and dimension
            raise CheckpointError(
                f"{where}: the context is {self.max_positions} positions; "
                f"expected at most {MAX_ROTARY_BYTES // (4 * self.head_dim)} of head_dim {self.head_dim}"
            )


def get_family(fields: Fields) -> str:
    """llama, qwen2 or qwen3."""
    architectures = fields.raw("architectures")
    first = architectures[0] if isinstance(architectures, list) and architectures else None
    if not isinstance(first, str) or first not in ARCHITECTURES:
        raise CheckpointError(
            f"{fields.where}: architectures is {shown(architectures)}; supported: {', '.join(ARCHITECTURES)}"
        )
    return ARCHITECTURES[first]


def dtype_of(fields: Fields) -> torch.dtype | None:
    """The checkpoint's own dtype; None where it names none."""
    for key in ("dtype", "torch_dtype"):  # of transformers 5, and of 4
        if key in fields:
            name = fields.text(key).removeprefix("torch.")
            if name not in DTYPES:
                raise CheckpointError(f"{fields.where}: {key} is {shown(name)}; supported: {', '.join(DTYPES)}")
            return DTYPES[name]
    return None


def refuse_unsupported(config: Mapping[str, Any], where: str) -> None:
    """Raise CheckpointError on what would otherwise give wrong tokens silently."""
    for key, supported in (
        ("hidden_act", ("silu", None)),
        ("use_sliding_window", (False, None)),
        ("partial_rotary_factor", (1.0, None)),
        ("quantization_config", (None,)),
    ):
        if config.get(key) not in supported:
            raise CheckpointError(f"{where}: {key} is {shown(config[key])}; supported: {supported[0]!r}")
    kinds = config.get("layer_types") or ["full_attention"]
    if not isinstance(kinds, list) or any(kind != "full_attention" for kind in kinds):
        found = sorted({str(kind) for kind in kinds}) if isinstance(kinds, list) else kinds
        raise CheckpointError(f"{where}: layer_types has {shown(found)}; supported: full_attention")


def rope_scaling_from_json(rope: Mapping[str, Any], max_positions: int, where: str) -> RopeScaling | None:
    """The scaling that transformers' rope parameters describe; None for the default."""
    rope_type = rope.get("rope_type", rope.get("type", "default"))
    if rope_type == "default":
        return None
    if rope_type not in ROPE_TYPES:
        raise CheckpointError(f"{where}: rope_type is {shown(rope_type)}; supported: default, {', '.join(ROPE_TYPES)}")
    fields = Fields(rope, f"{where}: rope")
    if fields.number("partial_rotary_factor", 0.0, 1.0, 1.0) != 1.0:
        raise CheckpointError(f"{where}: partial_rotary_factor is {rope['partial_rotary_factor']!r}; supported: 1.0")
    original = fields.integer("original_max_position_embeddings", 1, MAX_POSITIONS, max_positions)
    factor = fields.number("factor", *FACTOR_RANGE, max_positions / original)
    scaling = RopeScaling(
        rope_type=rope_type,
        factor=factor,
        original_max_positions=original,
        low_freq_factor=fields.number("low_freq_factor", *FACTOR_RANGE, 1.0),
        high_freq_factor=fields.number("high_freq_factor", *FACTOR_RANGE, 4.0),
        beta_fast=fields.number("beta_fast", *FACTOR_RANGE, 32.0),
        beta_slow=fields.number("beta_slow", *FACTOR_RANGE, 1.0),
        attention_factor=yarn_attention_factor(fields, factor) if rope_type == "yarn" else 1.0,
        truncate=fields.flag("truncate", True),
    )
    if rope_type == "llama3" and scaling.low_freq_factor >= scaling.high_freq_factor:
        raise fields.error("high_freq_factor", f"a number above low_freq_factor, {scaling.low_freq_factor}")
    return scaling


def yarn_attention_factor(fields: Fields, factor: float) -> float:
    """What cos and sin are multiplied with (YaRN, arXiv 2309.00071, section 3.4), as transformers resolves it."""

    def magnitude(mscale: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0

    if "attention_factor" in fields:
        return fields.number("attention_factor", *FACTOR_RANGE)
    mscale, mscale_all_dim = (fields.number(key, 0.0, FACTOR_RANGE[1], 0.0) for key in ("mscale", "mscale_all_dim"))
    if mscale and mscale_all_dim:
        return magnitude(mscale) / magnitude(mscale_all_dim)
    return magnitude(1.0)
