"""The draw from a row with min-p, top-k and top-p, without a sort.

What the filters keep are the tokens from some value on. That threshold is looked for among the candidates: the tokens
of the NUM_CANDIDATE_GROUPS groups with the largest maxima, among which are all tokens above the least of these maxima.
Nearly always it lies there; where it doesn't (a flat distribution, or ties), it's found in passes over the whole row.
A threshold is found bit by bit: 32 counts or sums, whose result is exact.
"""

import triton
import triton.language as tl

from glimp_engine.kernels.gpu.noise import gumbel, ordered_key

__all__ = ["GROUP_SIZE", "draw_filtered"]

GROUP_SIZE = 128
NUM_CANDIDATE_GROUPS = tl.constexpr(64)
WALK_BLOCK = tl.constexpr(4096)  # tokens at a time on a walk over the whole row
LEAST_KEY = tl.constexpr(-(2**31))
LEAST_MASS = tl.constexpr(1e-30)  # so that a top_p of 0 keeps the largest


@triton.jit
def draw_filtered(
    choice_ptr, group_max_ptr, most, mass, num_groups, vocab_size,
    temperature, top_k, top_p, min_p, position, sequence_index, seed,
    GROUP_SIZE: tl.constexpr, BLOCK_GROUPS: tl.constexpr,
):  # fmt: skip
    """The token drawn from the row at choice_ptr [V], whose largest value is `most`.

    What counts of a value is z = (value - most) / temperature, at most 0. mass = sum e^z over the row; group_max
    [num_groups] are the largest values of GROUP_SIZE tokens.
    """
    floor = LEAST_KEY
    if min_p > 0:
        floor = ordered_key(tl.log(min_p))
    k = tl.where((top_k > 0) & (top_k < vocab_size), top_k, 0)

    group = tl.arange(0, BLOCK_GROUPS)
    maxima = tl.load(group_max_ptr + group, mask=group < num_groups, other=float("-inf"))
    maxima = tl.div_rn(maxima - most, temperature)
    ranked = (ordered_key(maxima).to(tl.int64) << 32) + (BLOCK_GROUPS - 1 - group)
    first = tl.topk(ranked, NUM_CANDIDATE_GROUPS)
    outside = (tl.min(first) >> 32).to(tl.int32)  # all tokens above it are candidates
    if num_groups <= NUM_CANDIDATE_GROUPS:
        outside = LEAST_KEY
    candidate_group = BLOCK_GROUPS - 1 - (first & 0xFFFFFFFF).to(tl.int32)
    token = candidate_group[:, None] * GROUP_SIZE + tl.arange(0, GROUP_SIZE)[None, :]
    token = tl.reshape(token, [NUM_CANDIDATE_GROUPS * GROUP_SIZE])
    value = tl.load(choice_ptr + token, mask=token < vocab_size, other=float("-inf"))
    value = tl.div_rn(value - most, temperature)
    key = ordered_key(value)
    weight = tl.exp(value)

    threshold = floor
    if k > 0:
        threshold = tl.maximum(_largest_with(key, (key >= floor).to(tl.float32), k.to(tl.float32)), floor)
    is_exact = threshold > outside
    if top_p < 1:
        is_known = is_exact | ((k == 0) & (min_p <= 0))
        kept = tl.sum(tl.where(key >= threshold, weight, 0.0))
        target = tl.maximum(top_p * tl.where(is_exact, kept, mass), LEAST_MASS)
        mass_threshold = _largest_with(key, tl.where(key >= threshold, weight, 0.0), target)
        threshold = tl.maximum(threshold, mass_threshold)
        is_exact = is_known & (threshold > outside)
    if is_exact:
        block = candidate_group[:, None] * (GROUP_SIZE // 4) + tl.arange(0, GROUP_SIZE // 4)[None, :]
        block = tl.reshape(block, [NUM_CANDIDATE_GROUPS * (GROUP_SIZE // 4)]).to(tl.uint32)
        drawn = tl.where(key >= threshold, value + gumbel(block, position, sequence_index, seed), float("-inf"))
        # groups aren't in the order of their ids: of equals the lowest id
        token_drawn = tl.min(tl.where(drawn == tl.max(drawn), token, vocab_size))
    else:
        threshold = _threshold_of_row(choice_ptr, most, vocab_size, temperature, k, top_p, floor)
        token_drawn = _draw_from_row(
            choice_ptr, most, vocab_size, temperature, threshold, position, sequence_index, seed
        )
    return token_drawn


@triton.jit
def _largest_with(key, weight, target):
    """The largest t whose weights of keys >= t come to the target; LEAST_KEY if all of them don't."""
    t = LEAST_KEY
    if tl.sum(tl.where(key >= 0, weight, 0.0)) >= target:
        t = 0
    for i in range(31):
        trial = t + (1 << (30 - i))
        if tl.sum(tl.where(key >= trial, weight, 0.0)) >= target:
            t = trial
    return t


@triton.jit
def _weights_from(choice_ptr, most, vocab_size, temperature, least, COUNT: tl.constexpr):
    """How many keys of the row are >= least, or the sum of their e^z."""
    total = 0.0
    for start in range(0, vocab_size, WALK_BLOCK):
        at = start + tl.arange(0, WALK_BLOCK)
        value = tl.load(choice_ptr + at, mask=at < vocab_size, other=float("-inf"))
        value = tl.div_rn(value - most, temperature)
        weight = tl.full([WALK_BLOCK], 1.0, tl.float32) if COUNT else tl.exp(value)
        total += tl.sum(tl.where((ordered_key(value) >= least) & (at < vocab_size), weight, 0.0))
    return total


@triton.jit
def _largest_of_row(choice_ptr, most, vocab_size, temperature, floor, target, COUNT: tl.constexpr):
    """As _largest_with, of all the row's keys from `floor` on; at least floor."""
    t = LEAST_KEY
    if _weights_from(choice_ptr, most, vocab_size, temperature, tl.maximum(floor, 0), COUNT) >= target:
        t = 0
    for i in range(31):
        trial = t + (1 << (30 - i))
        if _weights_from(choice_ptr, most, vocab_size, temperature, tl.maximum(floor, trial), COUNT) >= target:
            t = trial
    return tl.maximum(t, floor)


@triton.jit
def _threshold_of_row(choice_ptr, most, vocab_size, temperature, k, top_p, floor):
    """The least key that the filters keep, in passes over the whole row."""
    threshold = floor
    if k > 0:
        threshold = _largest_of_row(choice_ptr, most, vocab_size, temperature, floor, k.to(tl.float32), True)
    if top_p < 1:
        total = _weights_from(choice_ptr, most, vocab_size, temperature, threshold, False)
        target = tl.maximum(top_p * total, LEAST_MASS)
        threshold = _largest_of_row(choice_ptr, most, vocab_size, temperature, threshold, target, False)
    return threshold


@triton.jit
def _draw_from_row(choice_ptr, most, vocab_size, temperature, threshold, position, sequence_index, seed):
    """The token with the largest value - log E among the keys >= threshold."""
    best, token = float("-inf"), 0
    for start in range(0, vocab_size, WALK_BLOCK):
        at = start + tl.arange(0, WALK_BLOCK)
        value = tl.load(choice_ptr + at, mask=at < vocab_size, other=float("-inf"))
        value = tl.div_rn(value - most, temperature)
        block = (start // 4 + tl.arange(0, WALK_BLOCK // 4)).to(tl.uint32)
        drawn = value + gumbel(block, position, sequence_index, seed)
        drawn = tl.where((ordered_key(value) >= threshold) & (at < vocab_size), drawn, float("-inf"))
        block_best, block_at = tl.max(drawn, 0, return_indices=True)
        if block_best > best:
            best, token = block_best, start + block_at
    return token
