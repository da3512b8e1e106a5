"""The angles of rotary embeddings, and how they are stretched for a longer context."""

import math

import torch
from torch import Tensor

from glimp_engine.checkpoints import ModelConfig, RopeScaling

__all__ = ["cos_sin_table"]

POSITIONS_AT_ONCE = 1 << 15


def cos_sin_table(
    config: ModelConfig, num_positions: int, device: torch.device, freq_factors: Tensor | None = None
) -> Tensor:
    """cos and sin of the rotation angles of positions 0 ... num_positions - 1.

    `dynamic` and `longrope` depend on how long a text is. Keys are stored rotated, so one table has to serve all texts,
    the one for the longest: num_positions. Up to the original context that is what transformers has for each text.

    Shapes: [num_positions, 2, D / 2] fp32; the angles are computed in float32, as the models were trained.
            freq_factors [D / 2]: divisors of the frequencies, as GGUF files carry them.
    Cost:   4 * num_positions * D bytes, and little more while it's made.
    """
    inv_freq = scale_frequencies(default_frequencies(config.rope_theta, config.head_dim), config, num_positions)
    if freq_factors is not None:
        inv_freq = inv_freq / freq_factors.cpu()
    table = torch.empty(num_positions, 2, config.head_dim // 2)
    for start in range(0, num_positions, POSITIONS_AT_ONCE):
        part = table[start : start + POSITIONS_AT_ONCE]
        angles = torch.outer(torch.arange(start, start + len(part)).float(), inv_freq)
        part[:, 0], part[:, 1] = angles.cos(), angles.sin()
    if config.rope_scaling is not None:
        table *= config.rope_scaling.attention_factor
    return table.to(device)


def default_frequencies(theta: float, head_dim: int) -> Tensor:
    """theta^(-2i / D) for i in 0 ... D / 2 - 1."""
    exponents = torch.arange(0, head_dim, 2, dtype=torch.int64).float() / head_dim
    return torch.pow(theta, exponents).reciprocal()


def scale_frequencies(inv_freq: Tensor, config: ModelConfig, num_positions: int) -> Tensor:
    """The rotary frequencies [D / 2] after the model's scaling."""
    scaling = config.rope_scaling
    if scaling is None:
        return inv_freq
    if scaling.rope_type == "linear":
        return inv_freq / scaling.factor
    if scaling.rope_type == "llama3":
        return llama3_frequencies(inv_freq, scaling)
    if scaling.rope_type == "dynamic":
        return dynamic_frequencies(inv_freq, scaling, config, num_positions)
    if scaling.rope_type == "longrope":  # arXiv 2402.13753
        is_long = num_positions > scaling.original_max_positions
        return inv_freq / torch.tensor(scaling.long_factors if is_long else scaling.short_factors)
    return yarn_frequencies(inv_freq, scaling, config)


def llama3_frequencies(inv_freq: Tensor, scaling: RopeScaling) -> Tensor:
    """Long wavelengths are stretched, short ones kept, those between interpolated (Llama 3.1, arXiv 2407.21783)."""
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    wavelength = 2 * math.pi / inv_freq
    smooth = ((scaling.original_max_positions / wavelength - low) / (high - low)).clamp(0, 1)
    return (1 - smooth) * inv_freq / scaling.factor + smooth * inv_freq


def dynamic_frequencies(inv_freq: Tensor, scaling: RopeScaling, config: ModelConfig, num_positions: int) -> Tensor:
    """Theta grows with the length beyond the original context, as transformers' `dynamic` (NTK) has it."""
    if num_positions <= scaling.original_max_positions or config.head_dim == 2:  # whose one frequency is 1
        return inv_freq
    growth = scaling.factor * num_positions / scaling.original_max_positions - (scaling.factor - 1)
    theta = config.rope_theta * growth ** (config.head_dim / (config.head_dim - 2))
    return default_frequencies(theta, config.head_dim)


def yarn_frequencies(inv_freq: Tensor, scaling: RopeScaling, config: ModelConfig) -> Tensor:
    """Dims that turn often keep their frequency, the others are stretched (arXiv 2309.00071, section 3.2)."""

    def dim_of(num_turns: float) -> float:
        turns = scaling.original_max_positions / (num_turns * 2 * math.pi)
        return config.head_dim * math.log(turns) / (2 * math.log(config.rope_theta))

    low, high = dim_of(scaling.beta_fast), dim_of(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, config.head_dim - 1)
    ramp = (torch.arange(config.head_dim // 2).float() - low) / (high - low or 0.001)
    stretched = ramp.clamp(0, 1)
    return inv_freq / scaling.factor * stretched + inv_freq * (1 - stretched)
