"""Rounds the rows of a float matrix to int8 or int4, each 32 neighbours with a scale of their own."""

import torch
from torch import Tensor

__all__ = ["GROUP", "quantize_rows"]

GROUP = 32
LEVELS = 15  # of 4 bits, above 0
# int4 tries these shares of a group's range: a narrower one rounds the many better, and cuts the few. Of normal weights
# the error is 7.8% with the plain range, 7.4% with 1.0 and 0.9, 7.30% with these, 7.30% with seven from 1.0 to 0.7.
SHRINKS = (1.0, 0.95, 0.9)


def quantize_rows(weight: Tensor, kind: str) -> tuple[Tensor, float]:
    """(the rows' blocks of GGUF's type Q8_0 or Q4_1, the sum of the squared errors).

    Shapes: weight [rows, k] fp32, k a multiple of 32; blocks [rows, k / 32 * 34 or 20] uint8.
    """
    groups = weight.reshape(-1, GROUP)
    blocks, rounded = (to_q8_0 if kind == "Q8_0" else to_q4_1)(groups)
    return blocks.view(len(weight), -1), float((groups - rounded).square().sum(dtype=torch.float64))


def to_q8_0(groups: Tensor) -> tuple[Tensor, Tensor]:
    """Blocks {d: half, q: int8 [32]} of groups [G, 32], and d * q."""
    d = (groups.abs().amax(dim=1, keepdim=True) / 127).half()
    q = round_to(groups, d.float(), 0.0, -127, 127)
    return torch.cat([d.view(torch.uint8), q.to(torch.int8).view(torch.uint8)], dim=1), q * d.float()


def to_q4_1(groups: Tensor) -> tuple[Tensor, Tensor]:
    """Blocks {d, m: half, q: uint4 [32]} of groups [G, 32], and d * q + m.

    A byte of q holds elements i and i + 16.
    """
    d, m = fit_q4_1(groups)
    q = round_to(groups, d.float(), m.float(), 0, LEVELS)
    nibbles = q.to(torch.uint8)
    packed = nibbles[:, : GROUP // 2] | nibbles[:, GROUP // 2 :] << 4
    return torch.cat([d.view(torch.uint8), m.view(torch.uint8), packed], dim=1), q * d.float() + m.float()


def fit_q4_1(groups: Tensor) -> tuple[Tensor, Tensor]:
    """The halves d and m [G, 1] with the smallest error of each group.

    For each share of the range: round, then take the line through the rounded values that fits the group best.
    """
    low, high = groups.aminmax(dim=1, keepdim=True)
    middle, mean = (low + high) / 2, groups.mean(dim=1, keepdim=True)
    best_d, best_m = ((high - low) / LEVELS).half(), low.half()
    best_error = error_of(groups, best_d, best_m)
    for shrink in SHRINKS:
        d = (high - low) * (shrink / LEVELS)
        q = round_to(groups, d, middle - d * (LEVELS / 2), 0, LEVELS)
        mean_q = q.mean(dim=1, keepdim=True)
        centred = q - mean_q
        slope = (centred * groups).sum(dim=1, keepdim=True) / centred.square().sum(dim=1, keepdim=True).clamp(min=1e-9)
        d, m = slope.half(), (mean - slope * mean_q).half()
        error = error_of(groups, d, m)
        is_better = error < best_error
        best_d, best_m = torch.where(is_better, d, best_d), torch.where(is_better, m, best_m)
        best_error = torch.minimum(error, best_error)
    return best_d, best_m


def error_of(groups: Tensor, d: Tensor, m: Tensor) -> Tensor:
    """Squared error of each group, rounded with these d and m: [G, 1]."""
    d, m = d.float(), m.float()
    rounded = round_to(groups, d, m, 0, LEVELS).mul_(d).add_(m)
    return rounded.sub_(groups).square_().sum(dim=1, keepdim=True)


def round_to(groups: Tensor, d: Tensor, m: Tensor | float, low: int, high: int) -> Tensor:
    """The nearest whole (groups - m) / d from low to high; 0 / 0 of a group of zeros is 0."""
    return (groups - m).mul_(torch.where(d == 0, 0.0, 1 / d)).round_().clamp_(low, high)
