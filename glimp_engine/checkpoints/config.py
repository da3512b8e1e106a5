"""The shape of a decoder, as a checkpoint's config.json or GGUF metadata has it."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from glimp_engine.checkpoints.fields import Fields, shown
from glimp_engine.checkpoints.rope import MAX_STATED_POSITIONS, RopeScaling, rope_from_json
from glimp_engine.checkpoints.unread_keys import refuse_json_keys
from glimp_engine.checkpoints.window import Window, window_from_json
from glimp_engine.errors import CheckpointError

__all__ = [
    "MAX_HEADS",
    "MAX_HEAD_DIM",
    "MAX_HIDDEN_SIZE",
    "MAX_INTERMEDIATE_SIZE",
    "MAX_LAYERS",
    "MAX_POSITIONS",
    "ModelConfig",
]

log = logging.getLogger(__name__)

ARCHITECTURES = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
}
DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float64": torch.float64,
}
# What no dense model comes near; they hold before any memory is taken.
MAX_LAYERS, MAX_HEADS, MAX_HEAD_DIM = 4096, 4096, 4096
MAX_HIDDEN_SIZE, MAX_INTERMEDIATE_SIZE, MAX_VOCAB_SIZE = 1 << 20, 1 << 22, 1 << 24
MAX_POSITIONS = 1 << 24  # up to there every position is a float32; a file may promise more


@dataclass(frozen=True)
class ModelConfig:
    """A Llama, Mistral, Qwen2 or Qwen3 decoder."""

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
    window: Window | None = None  # that limits max_positions
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
        num_heads = fields.integer("num_attention_heads", 1, MAX_HEADS)
        hidden_size = fields.integer("hidden_size", 1, MAX_HIDDEN_SIZE)
        num_layers = fields.integer("num_hidden_layers", 1, MAX_LAYERS)
        head_dim = fields.integer("head_dim", 1, MAX_HEAD_DIM, 128 if family == "qwen3" else hidden_size // num_heads)
        check_head_dim(head_dim, where)
        refuse_json_keys(config, family, hidden_size, head_dim, where)
        max_positions = fields.integer("max_position_embeddings", 1, MAX_STATED_POSITIONS)
        theta, scaling = rope_from_json(fields, max_positions, head_dim)
        bias = family != "mistral" and fields.flag("attention_bias", False)
        model_config = cls(
            vocab_size=fields.integer("vocab_size", 1, MAX_VOCAB_SIZE),
            hidden_size=hidden_size,
            intermediate_size=fields.integer("intermediate_size", 1, MAX_INTERMEDIATE_SIZE),
            num_layers=num_layers,
            num_heads=num_heads,
            num_kv_heads=fields.integer("num_key_value_heads", 1, MAX_HEADS, num_heads),
            head_dim=head_dim,
            rms_norm_eps=fields.number("rms_norm_eps", 0.0, 1.0, 1e-6),
            max_positions=max_positions if scaling is None else scaling.context(max_positions),
            rope_theta=theta,
            rope_scaling=scaling,
            tied_embeddings=fields.flag("tie_word_embeddings", False),
            qkv_bias=family == "qwen2" or bias,
            output_bias=family != "qwen2" and bias,
            mlp_bias=family == "llama" and fields.flag("mlp_bias", False),
            qk_norm=family == "qwen3",
            dtype=dtype_of(fields),
        )
        return model_config.within(window_from_json(fields, family, num_layers)).checked(where)

    @property
    def default_len(self) -> int:
        """The longest sequence, where nobody asks for longer ones: up to there dynamic scaling changes nothing."""
        if self.rope_scaling is None or self.rope_scaling.rope_type != "dynamic":
            return self.max_positions
        return min(self.max_positions, self.rope_scaling.original_max_positions)

    def within(self, window: Window | None) -> "ModelConfig":
        """The model, for sequences so short that the window leaves nothing out: windows themselves aren't built."""
        if window is None or window.num_positions >= self.max_positions:
            return self
        log.warning(
            "%s: %s is %d, which isn't supported: sequences have at most so many of the model's %d positions",
            *(window.where, window.key, window.num_positions, self.max_positions),
        )
        return replace(self, max_positions=window.num_positions, window=window)

    def checked(self, where: str) -> "ModelConfig":
        """The model, with as many positions as can be told apart.

        Raises: CheckpointError, which names `where`, unless the attention's sizes go together: queries come in whole
                groups, heads in two halves.
        """
        if self.num_heads % self.num_kv_heads:
            raise CheckpointError(
                f"{where}: num_key_value_heads is {self.num_kv_heads}; expected a divisor of {self.num_heads} heads"
            )
        check_head_dim(self.head_dim, where)
        return replace(self, max_positions=min(self.max_positions, MAX_POSITIONS))


def check_head_dim(head_dim: int, where: str) -> None:
    """Raise CheckpointError unless a head has two halves."""
    if head_dim % 2 or not 2 <= head_dim <= MAX_HEAD_DIM:
        raise CheckpointError(f"{where}: head_dim is {head_dim}; expected an even number from 2 to {MAX_HEAD_DIM}")


def get_family(fields: Fields) -> str:
    """llama, mistral, qwen2 or qwen3: what architectures says, and where there is none what model_type does.

    Raises: CheckpointError when it's another one, or when the two contradict each other.
    """
    architectures, model_type = fields.raw("architectures"), fields.raw("model_type")
    families = tuple(ARCHITECTURES.values())
    if architectures in (None, []) and model_type in families:
        return str(model_type)
    first = architectures[0] if isinstance(architectures, list) and architectures else None
    if not isinstance(first, str) or first not in ARCHITECTURES:
        raise CheckpointError(
            f"{fields.where}: architectures is {shown(architectures)}; supported: {', '.join(ARCHITECTURES)}"
        )
    if model_type in families and model_type != ARCHITECTURES[first]:
        raise CheckpointError(
            f"{fields.where}: model_type is {model_type!r} and architectures has {first}; "
            f"expected {ARCHITECTURES[first]!r}"
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
