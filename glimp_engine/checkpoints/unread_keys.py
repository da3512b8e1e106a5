"""Keys that nothing here reads: a file that has one which changes what the model computes is refused by its name."""

import math
import re
from collections.abc import Mapping
from typing import Any

from glimp_engine.checkpoints.fields import shown
from glimp_engine.errors import CheckpointError

__all__ = ["GGUF_KEYS", "refuse_gguf_keys", "refuse_json_keys"]

SILU = ("silu", "swish")
# config.json: keys known to change the output, and the values with which they don't. None, false and nothing never do.
NEUTRAL_VALUES: dict[str, tuple[Any, ...]] = {
    "hidden_act": SILU,
    "hidden_activation": SILU,
    "activation_function": SILU,
    "position_embedding_type": ("rope", "rotary", "absolute"),  # the last is an old default that no decoder has read
    "norm_type": ("rms_norm", "rmsnorm", "RMSNorm"),
    "quantization_config": (),
    "quantization": (),
    "compression_config": (),
    "partial_rotary_factor": (1,),
    "rotary_pct": (1,),
    "rope_pct": (1,),
    "rope_ratio": (1,),
    "use_rope": (True,),
    "scale_attn_weights": (True,),
    "is_causal": (True,),
    "use_causal_mask": (True,),
    "use_bidirectional_attention": (),
    "is_encoder_decoder": (),
    "add_cross_attention": (),
    "use_parallel_residual": (),
    "parallel_attn": (),
    "no_rope_layer_interval": (0,),
    "attn_temperature_tuning": (0,),
    "pruned_heads": (),
    "block_configs": (),
    "num_kv_shared_layers": (0,),
    "cla_share_factor": (1,),
    "use_cla": (),
    "kv_lora_rank": (0,),
    "q_lora_rank": (0,),
}
# ... and the words by which a key that isn't known is taken for one of them.
MULTIPLIERS = {*("scale", "scales", "scaled", "scaler", "scaling", "multiplier", "multipliers", "mup", "mult")}
LIMITS = {
    *("softcap", "softcapping", "cap", "clip", "clipping", "clamp", "window", "windows", "sliding", "swa", "chunk")
}
PARTS = {*("rope", "mrope", "nope", "rotary", "alibi", "qk", "qknorm", "sink", "sinks", "moe", "expert", "experts")}
SORTS = MULTIPLIERS | LIMITS | PARTS | {"sparse", "softmax"}
TRAINING = {*("loss", "grad", "init", "initializer", "initialization", "aux", "lr", "dropout", "training", "jitter")}
# read, by config.py and rope.py
READ_KEYS = {
    *("rope_parameters", "rope_scaling", "rope_theta", "sliding_window", "use_sliding_window", "max_window_layers"),
    *("dual_chunk_attention_config", "rms_norm_eps", "layer_types"),
}
# GGUF: what may stand behind `ARCH.`: all of it is about the model. Most are read; the others change nothing.
GGUF_KEYS = {
    *("context_length", "embedding_length", "block_count", "feed_forward_length", "vocab_size", "expert_count"),
    *("attention.head_count", "attention.head_count_kv", "attention.key_length", "attention.value_length"),
    *("attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon", "attention.sliding_window"),
    *("rope.dimension_count", "rope.freq_base", "rope.scale_linear", "tensor_data_layout", "expert_used_count"),
    *("rope.scaling.type", "rope.scaling.factor", "rope.scaling.original_context_length", "rope.scaling.finetuned"),
    *("rope.scaling.attn_factor", "rope.scaling.yarn_attn_factor", "rope.scaling.yarn_ext_factor"),
    *("rope.scaling.yarn_beta_fast", "rope.scaling.yarn_beta_slow", "rope.scaling.yarn_log_multiplier"),
}


def refuse_json_keys(config: Mapping[str, Any], family: str, hidden_size: int, head_dim: int, where: str) -> None:
    """Raise CheckpointError on a key of config.json that would otherwise give wrong tokens silently."""
    values = {**NEUTRAL_VALUES, **own_neutral_values(hidden_size, head_dim)}
    if family == "qwen3":
        values |= dict.fromkeys(("qk_layernorm", "use_qk_norm", "qk_norm"), (True,))
    for key, value in config.items():
        is_switched_off = value is False and any(
            each is True for each in values.get(key, ())
        )  # what a model like ours has on
        if key in READ_KEYS or (is_nothing(value) and not is_switched_off):
            continue
        if key in values:
            if not any(is_same(value, neutral) for neutral in values[key]):
                supported = values[key][0] if values[key] else None
                raise CheckpointError(f"{where}: {key} is {shown(value)}; supported: {supported!r}")
        elif key == "no_rope_layers":
            if not isinstance(value, list) or any(not is_same(each, 1) for each in value):
                raise CheckpointError(f"{where}: {key} is {shown(value)}; supported: a list of 1, or none")
        elif is_of_the_sort(key, value):
            raise CheckpointError(
                f"{where}: {key} is {shown(value)}, which may change the output and isn't known; supported: without it"
            )


def own_neutral_values(hidden_size: int, head_dim: int) -> dict[str, tuple[Any, ...]]:
    """Of keys that are neutral where they say what the model's own sizes say."""
    return {
        "attention_multiplier": (head_dim**-0.5,),
        "query_pre_attn_scalar": (head_dim,),
        "rotary_dim": (head_dim,),
        "dim_model_base": (hidden_size,),
    }


def refuse_gguf_keys(metadata: Mapping[str, Any], family: str, head_dim: int, where: str) -> None:
    """Raise CheckpointError on a key `FAMILY.` of a GGUF file that is neither read nor neutral."""
    for key, value in metadata.items():
        name = key.removeprefix(f"{family}.")
        if name == key or name in GGUF_KEYS:
            continue
        if name == "attention.causal":
            is_neutral = is_same(value, True)
        elif name == "attention.scale":
            is_neutral = is_same(value, 0) or is_same(value, head_dim**-0.5)
        else:
            is_neutral = is_nothing(value) or is_same(value, 0) or (is_same(value, 1) and is_multiplier(name))
        if not is_neutral:
            raise CheckpointError(
                f"{where}: {key} is {shown(value)}, which may change the output and isn't known; supported: without it"
            )


def is_of_the_sort(key: str, value: Any) -> bool:
    """Whether an unknown key sounds as those that change the output, with a value that would."""
    words = words_of(key)
    if not words & SORTS or words & TRAINING:
        return False
    return not is_same(value, 1 if is_multiplier(key) else 0)


def is_multiplier(key: str) -> bool:
    return bool(words_of(key) & MULTIPLIERS)


def words_of(key: str) -> set[str]:
    return set(re.split(r"[^a-z0-9]+", key.lower()))


def is_nothing(value: Any) -> bool:
    """None, false, or an empty string, list or object: what any key has that isn't used."""
    return value is None or value is False or (isinstance(value, (str, list, dict)) and not value)


def is_same(value: Any, neutral: Any) -> bool:
    """Equal, but true is not 1; floats within rounding."""
    if isinstance(value, bool) or isinstance(neutral, bool):
        return value is neutral
    if isinstance(value, (int, float)) and isinstance(neutral, float):
        return math.isclose(value, neutral, rel_tol=1e-6)
    return bool(value == neutral)
