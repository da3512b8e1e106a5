"""The random numbers of sampling: one for each (seed, sequence index, position, vocabulary id), and nothing else."""

import torch
from torch import Tensor

__all__ = ["exponential_noise", "philox"]

MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
MASK = 0xFFFFFFFF
ROUNDS = 10


def philox(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[int, int]) -> tuple[Tensor, ...]:
    """Philox4x32-10: four 32-bit words of counter and two of key give four random words.

    Shapes: int64 tensors of one shape that hold values below 2^32.
    Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011 (Random123).
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(ROUNDS):
        high0, low0 = multiply(MULTIPLIERS[0], c0)
        high1, low1 = multiply(MULTIPLIERS[1], c2)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + KEY_STEPS[0]) & MASK, (k1 + KEY_STEPS[1]) & MASK
    return c0, c1, c2, c3


def multiply(a: int, x: Tensor) -> tuple[Tensor, Tensor]:
    """High and low word of a * x, in halves so that no product passes 2^63."""
    low = a * (x & 0xFFFF)
    middle = a * (x >> 16) + (low >> 16)
    return middle >> 16, ((middle & 0xFFFF) << 16) | (low & 0xFFFF)


def exponential_noise(vocab_size: int, seed: int, sequence_index: int, position: int, dtype: torch.dtype) -> Tensor:
    """One exponential variate for each vocabulary id.

    Key (low, high) of the seed; counter (id // 4, position, sequence index, 0), word id % 4 = x. The uniform
    w = (x + 1/2) / 2^32, at most 1 - 2^-24, becomes -log(1 - w); below 2^-8 by its series, which is exact there.

    Shapes: result [V].
    """
    block = torch.arange(-(-vocab_size // 4))
    counter = (block, block * 0 + (position & MASK), block * 0 + sequence_index, block * 0)
    words = torch.stack(philox(counter, (seed & MASK, seed >> 32 & MASK)), dim=1).flatten()[:vocab_size]
    w = ((words.double() + 0.5) * 2.0**-32).clamp(max=1 - 2.0**-24).to(dtype)
    return torch.where(w < 2.0**-8, w * (1 + w * (1 / 2 + w * (1 / 3 + w / 4))), -torch.log1p(-w))
