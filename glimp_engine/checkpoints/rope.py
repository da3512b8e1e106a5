"""How a model's rotary frequencies are stretched for a longer context, as config.json and GGUF metadata say it."""

import math
from dataclasses import dataclass
from typing import Any

from glimp_engine.checkpoints.fields import Fields, shown
from glimp_engine.errors import CheckpointError

__all__ = ["MAX_STATED_POSITIONS", "THETA_RANGE", "RopeScaling", "rope_from_gguf", "rope_from_json"]

MAX_STATED_POSITIONS = 1 << 40  # a file may promise more than there will ever be memory for
THETA_RANGE = (1.001, 1e15)  # its logarithm is divided by
FACTOR_RANGE = (1e-6, 1e6)
DEFAULT_THETA = 10000.0
# What each rope_type of transformers reads; another key beside it is refused unless its value changes nothing.
KEYS = {
    "default": ("original_max_position_embeddings",),
    "linear": ("factor", "original_max_position_embeddings"),
    "dynamic": ("factor", "original_max_position_embeddings"),
    "llama3": ("factor", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor"),
    "yarn": (
        *("factor", "original_max_position_embeddings", "attention_factor", "attn_factor"),
        *("beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate"),
    ),
    "longrope": ("factor", "original_max_position_embeddings", "attention_factor", "short_factor", "long_factor"),
}
COMMON_KEYS = ("rope_type", "type", "rope_theta", "partial_rotary_factor", "finetuned")
NEUTRAL_FACTORS = ("factor", "attn_factor", "extrapolation_factor", "attention_factor")  # where they are 1
OLD_NAMES = {"su": "longrope"}


@dataclass(frozen=True)
class RopeScaling:
    """How the rotary frequencies are stretched for a longer context."""

    rope_type: str  # one of KEYS, but not default
    factor: float
    original_max_positions: int
    low_freq_factor: float = 1.0  # llama3
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0  # yarn
    beta_slow: float = 1.0
    attention_factor: float = 1.0  # what cos and sin are multiplied with
    truncate: bool = True
    short_factors: tuple[float, ...] = ()  # longrope: divisors of the frequencies, [D / 2]
    long_factors: tuple[float, ...] = ()

    def context(self, max_positions: int) -> int:
        """How many positions the model has, where its file says max_positions.

        YaRN is turned on by a model card's lines, which leave max_position_embeddings as it was: original x factor
        counts. Dynamic scaling begins behind max_position_embeddings. Others are trained for what the file says.
        """
        is_stretched = self.rope_type in ("yarn", "dynamic")
        return max(max_positions, int(self.original_max_positions * self.factor)) if is_stretched else max_positions


def rope_from_json(fields: Fields, max_positions: int, head_dim: int) -> tuple[float, RopeScaling | None]:
    """(theta, the scaling) of rope_parameters, as transformers 5 has them, rope_scaling and rope_theta.

    Raises: CheckpointError when two of them contradict each other, or when one isn't understood.
    """
    where = fields.where
    rope = merged(fields)
    scaling = Fields(rope, f"{where}: rope")
    rope_type = rope_type_of(scaling)
    theta = scaling.number("rope_theta", *THETA_RANGE, DEFAULT_THETA)
    if scaling.number("partial_rotary_factor", 0.0, 1.0, 1.0) != 1.0:
        raise CheckpointError(f"{where}: partial_rotary_factor is {rope['partial_rotary_factor']!r}; supported: 1.0")
    for key, value in rope.items():
        is_neutral = value in (None, False) or (key in NEUTRAL_FACTORS and value == 1)
        if key not in (*COMMON_KEYS, *KEYS[rope_type]) and not is_neutral:
            allowed = ", ".join(KEYS[rope_type])
            raise CheckpointError(
                f"{where}: rope: {key} is {shown(value)}; with rope_type {rope_type!r} supported: {allowed}"
            )
    if rope_type == "default":
        return theta, None
    return theta, scaling_from_json(scaling, rope_type, max_positions, head_dim)


def merged(fields: Fields) -> dict[str, Any]:
    """rope_parameters and rope_scaling as one, with what may stand outside of them."""
    parts = {key: dict(fields.mapping(key)) for key in ("rope_parameters", "rope_scaling")}
    for part in parts.values():
        names = [OLD_NAMES.get(str(part[key]), part[key]) for key in ("rope_type", "type") if part.get(key) is not None]
        if len(names) == 2 and names[0] != names[1]:
            raise CheckpointError(f"{fields.where}: rope_type is {shown(names[0])} and type is {shown(names[1])}")
        part.pop("type", None)
        part["rope_type"] = names[0] if names else None
    if parts["rope_parameters"]["rope_type"] == "default" and parts["rope_scaling"]["rope_type"] is not None:
        parts["rope_parameters"].pop("rope_type")  # a model card's lines beside what transformers 5 has saved
    outside = ("rope_theta", "partial_rotary_factor", "original_max_position_embeddings")
    parts["config.json"] = {key: fields.raw(key) for key in outside}
    rope: dict[str, Any] = {}
    home: dict[str, str] = {}
    for name, part in parts.items():
        for key, value in part.items():
            if value is None:
                continue
            if key in rope and rope[key] != value:
                raise CheckpointError(
                    f"{fields.where}: {key} is {shown(rope[key])} in {home[key]} and {shown(value)} in {name}; "
                    "expected one of them, or the same"
                )
            rope[key], home[key] = value, name
    return rope


def rope_type_of(rope: Fields) -> str:
    """One of KEYS; none is the default only where nothing says how much to stretch."""
    if "rope_type" not in rope:
        if "factor" in rope:
            raise CheckpointError(f"{rope.where}: rope_type: expected one of {', '.join(KEYS)}, found none")
        return "default"
    rope_type = rope.raw("rope_type")
    if not isinstance(rope_type, str) or rope_type not in KEYS:
        raise CheckpointError(f"{rope.where}: rope_type is {shown(rope_type)}; supported: {', '.join(KEYS)}")
    return rope_type


def scaling_from_json(fields: Fields, rope_type: str, max_positions: int, head_dim: int) -> RopeScaling:
    """The scaling, with transformers' defaults."""
    original = fields.integer("original_max_position_embeddings", 1, MAX_STATED_POSITIONS, max_positions)
    if rope_type == "dynamic" and original != max_positions:
        raise fields.error("original_max_position_embeddings", f"max_position_embeddings, {max_positions}")
    if rope_type in ("yarn", "longrope"):
        factor = fields.number("factor", *FACTOR_RANGE, max_positions / original)
    else:
        factor = fields.number("factor", *FACTOR_RANGE)
    num_divisors = head_dim // 2 if rope_type == "longrope" else 0
    scaling = RopeScaling(
        rope_type=rope_type,
        factor=factor,
        original_max_positions=original,
        low_freq_factor=fields.number("low_freq_factor", *FACTOR_RANGE, 1.0),
        high_freq_factor=fields.number("high_freq_factor", *FACTOR_RANGE, 4.0),
        beta_fast=fields.number("beta_fast", *FACTOR_RANGE, 32.0),
        beta_slow=fields.number("beta_slow", *FACTOR_RANGE, 1.0),
        attention_factor=attention_factor(fields, rope_type, factor, original),
        truncate=fields.flag("truncate", True),
        short_factors=tuple(fields.numbers("short_factor", num_divisors, *FACTOR_RANGE)),
        long_factors=tuple(fields.numbers("long_factor", num_divisors, *FACTOR_RANGE)),
    )
    if rope_type == "llama3" and scaling.low_freq_factor >= scaling.high_freq_factor:
        raise fields.error("high_freq_factor", f"a number above low_freq_factor, {scaling.low_freq_factor}")
    return scaling


def attention_factor(fields: Fields, rope_type: str, factor: float, original: int) -> float:
    """What cos and sin are multiplied with, as transformers resolves it, but for attn_factor."""
    if rope_type not in ("yarn", "longrope"):
        return 1.0
    if "attention_factor" in fields:
        if "attn_factor" in fields:
            raise fields.error("attn_factor", "none beside attention_factor")
        return fields.number("attention_factor", *FACTOR_RANGE)
    if rope_type == "longrope":  # LongRoPE (arXiv 2402.13753), as Phi-3 has it
        return 1.0 if factor <= 1 or original == 1 else math.sqrt(1 + math.log(factor) / math.log(original))
    extra = fields.number("attn_factor", *FACTOR_RANGE, 1.0)  # not transformers', but vLLM's and some checkpoints'
    mscale, mscale_all_dim = (fields.number(key, 0.0, FACTOR_RANGE[1], 0.0) for key in ("mscale", "mscale_all_dim"))
    if mscale and mscale_all_dim:
        return extra * yarn_magnitude(factor, mscale) / yarn_magnitude(factor, mscale_all_dim)
    return extra * yarn_magnitude(factor, 1.0)


def yarn_magnitude(factor: float, mscale: float) -> float:
    """YaRN (arXiv 2309.00071), section 3.4."""
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0


def rope_from_gguf(fields: Fields, context: int) -> RopeScaling | None:
    """The scaling that the keys `ARCH.rope.` describe, as llama.cpp reads them.

    Llama 3's comes as the tensor rope_freqs.weight instead. A factor without a type is linear.

    Raises: CheckpointError on what isn't understood, or contradicts itself.
    """
    rope_type = fields.text("scaling.type", "linear")
    if rope_type not in ("none", "linear", "yarn"):
        raise fields.error("scaling.type", "none, linear or yarn")
    factor = gguf_factor(fields)
    if rope_type == "none" and factor not in (None, 1.0):
        raise fields.error("scaling.type", f"linear or yarn beside a factor of {factor}")
    for key, neutral in (("scaling.yarn_ext_factor", 1.0), ("scaling.yarn_log_multiplier", 0.0)):
        if fields.number(key, -FACTOR_RANGE[1], FACTOR_RANGE[1], neutral) not in (neutral, -1.0):  # -1: unset
            raise fields.error(key, str(neutral))
    magnitude = math.prod(
        fields.number(key, *FACTOR_RANGE, 1.0) for key in ("scaling.attn_factor", "scaling.yarn_attn_factor")
    )
    original = fields.integer("scaling.original_context_length", 0, MAX_STATED_POSITIONS, 0) or context
    if rope_type == "yarn":
        factor = factor or context / original
        return RopeScaling(
            rope_type="yarn",
            factor=factor,
            original_max_positions=original,
            beta_fast=fields.number("scaling.yarn_beta_fast", *FACTOR_RANGE, 32.0),
            beta_slow=fields.number("scaling.yarn_beta_slow", *FACTOR_RANGE, 1.0),
            attention_factor=magnitude * yarn_magnitude(factor, 1.0),
        )
    if factor in (None, 1.0) and magnitude == 1.0:
        return None
    return RopeScaling("linear", factor or 1.0, original, attention_factor=magnitude)


def gguf_factor(fields: Fields) -> float | None:
    """The factor, under its name of today or the one before; 0 stands for none."""
    keys = [key for key in ("scaling.factor", "scale_linear") if fields.raw(key) not in (None, 0)]
    factors = [fields.number(key, *FACTOR_RANGE) for key in keys]
    if len(set(factors)) > 1:
        raise fields.error("scale_linear", f"the same as rope.scaling.factor, {factors[0]}")
    return factors[0] if factors else None
