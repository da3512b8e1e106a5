"""`sample`: entropy, log-probability, filters and the draw, in one pass over the logits.

First a program for each row and SPLIT of its vocabulary: sums for log-sum-exp and entropy, and the split's best token
(Gumbel-max: the largest of logit / temperature - log E). Then a program for each row merges its splits. A row with
top-k, top-p or min-p is drawn there, from the tokens above a threshold that is found without a sort (`filters`).
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from glimp_engine.kernels import Samples, Sampling
from glimp_engine.kernels.gpu.filters import GROUP_SIZE, NUM_CANDIDATE_GROUPS, draw_filtered
from glimp_engine.kernels.gpu.launch import launch_options, wait_for_inputs
from glimp_engine.kernels.gpu.noise import gumbel

__all__ = ["sample"]

SPLIT = 2048  # ids of a program: the same for every batch, so that a row's sums don't depend on the others
NUM_LIST_PROGRAMS = 8  # of a row that share its tokens with biases or penalties
MASK_WORDS = 64  # of a program: 2,048 tokens
LARGEST = tl.constexpr(3.4028234663852886e38)


@triton.jit
def _bias_kernel(
    logits_ptr, choice_ptr, bias_start_ptr, bias_ids_ptr, bias_values_ptr, vocab_size,
    PDL: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """choice = the biased logits of the tokens that a row has biases of; a ban is -inf."""
    wait_for_inputs(PDL)
    row = tl.program_id(0)
    begin, end = tl.load(bias_start_ptr + row), tl.load(bias_start_ptr + row + 1)
    for start in range(begin + tl.program_id(1) * BLOCK, end, tl.num_programs(1) * BLOCK):
        at = start + tl.arange(0, BLOCK)
        inside = at < end
        token = row.to(tl.int64) * vocab_size + tl.load(bias_ids_ptr + at, mask=inside, other=0)
        bias = tl.load(bias_values_ptr + at, mask=inside, other=0.0)
        raw = tl.load(logits_ptr + token, mask=inside, other=0.0)
        is_banned = (raw == float("-inf")) | (bias == float("-inf"))
        x = tl.maximum(tl.minimum(raw + bias, LARGEST), -LARGEST)  # what is biased stays a number
        tl.store(choice_ptr + token, tl.where(is_banned, float("-inf"), x), mask=inside)


@triton.jit
def _mask_kernel(
    logits_ptr, choice_ptr, mask_ptr, vocab_size, num_words, PDL: tl.constexpr, BLOCK_WORDS: tl.constexpr
):  # fmt: skip
    """choice = the logits where a row's mask has a 1, else -inf; both may be one tensor."""
    wait_for_inputs(PDL)
    row = tl.program_id(0).to(tl.int64)
    word = tl.program_id(1) * BLOCK_WORDS + tl.arange(0, BLOCK_WORDS)
    bits = tl.load(mask_ptr + row * num_words + word, mask=word < num_words, other=0)
    bit = tl.arange(0, 32)[None, :]
    token = word[:, None] * 32 + bit
    inside = token < vocab_size
    is_allowed = ((bits[:, None] >> bit) & 1) != 0
    x = tl.load(logits_ptr + row * vocab_size + token, mask=inside & is_allowed, other=float("-inf"))
    tl.store(choice_ptr + row * vocab_size + token, x, mask=inside)


@triton.jit
def _penalize_kernel(
    choice_ptr, repetition_ptr, presence_ptr, frequency_ptr, seen_start_ptr, seen_ids_ptr, seen_counts_ptr,
    vocab_size, PDL: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """choice, of the tokens a row has seen, with its penalties."""
    wait_for_inputs(PDL)
    row = tl.program_id(0)
    repetition, presence = tl.load(repetition_ptr + row), tl.load(presence_ptr + row)
    frequency = tl.load(frequency_ptr + row)
    begin, end = tl.load(seen_start_ptr + row), tl.load(seen_start_ptr + row + 1)
    for start in range(begin + tl.program_id(1) * BLOCK, end, tl.num_programs(1) * BLOCK):
        at = start + tl.arange(0, BLOCK)
        inside = at < end
        token = row.to(tl.int64) * vocab_size + tl.load(seen_ids_ptr + at, mask=inside, other=0)
        count = tl.load(seen_counts_ptr + at, mask=inside, other=0)
        raw = tl.load(choice_ptr + token, mask=inside, other=0.0)
        x = tl.where(raw > 0, tl.div_rn(raw, repetition), raw * repetition)
        x = x - frequency * count.to(tl.float32) - tl.where(count > 0, presence, 0.0)
        x = tl.maximum(tl.minimum(x, LARGEST), -LARGEST)  # what is penalised stays a number
        tl.store(choice_ptr + token, tl.where(raw == float("-inf"), raw, x), mask=inside)


@triton.jit
def is_filtered(temperature, top_k, top_p, min_p, vocab_size):
    """Whether some tokens of the row can't be drawn."""
    return (temperature > 0) & (((top_k > 0) & (top_k < vocab_size)) | (top_p < 1) | (min_p > 0))


@triton.jit
def _sample_splits_kernel(
    logits_ptr, choice_ptr, stats_ptr, best_ptr, best_id_ptr, group_max_ptr,
    temperature_ptr, top_k_ptr, top_p_ptr, min_p_ptr, seed_ptr, sequence_index_ptr, position_ptr, vocab_size,
    SPLIT: tl.constexpr, GROUP_SIZE: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """stats [R, splits, 4]: max m, sum e^(x - m), sum e^(x - m) (x - m), and a fourth.

    x are the logits, c those with biases and penalties. In a row with filters the fourth is
    sum e^((c - max c) / temperature), best [R, splits] is max c, and maxima of GROUP_SIZE tokens go to group_max. Else
    the fourth is max c, best the largest of (c - max c) / temperature - log E (of c, if the row is greedy), and best_id
    its token.
    """
    wait_for_inputs(PDL)
    row, split = tl.program_id(0), tl.program_id(1)
    at = split * SPLIT + tl.arange(0, SPLIT)
    row_at = row.to(tl.int64) * vocab_size
    inside = at < vocab_size
    x = tl.load(logits_ptr + row_at + at, mask=inside, other=float("-inf"))
    most = tl.max(x)
    shifted = x - tl.where(most == float("-inf"), 0.0, most)
    weight = tl.exp(shifted)
    to = row * tl.num_programs(1) + split
    tl.store(stats_ptr + 4 * to, most)
    tl.store(stats_ptr + 4 * to + 1, tl.sum(weight))
    tl.store(stats_ptr + 4 * to + 2, tl.sum(tl.where(shifted == float("-inf"), 0.0, weight * shifted)))

    c = tl.load(choice_ptr + row_at + at, mask=inside, other=float("-inf"))
    temperature = tl.load(temperature_ptr + row)
    top_k, top_p, min_p = tl.load(top_k_ptr + row), tl.load(top_p_ptr + row), tl.load(min_p_ptr + row)
    most_choice = tl.max(c)
    shift = tl.where(most_choice == float("-inf"), 0.0, most_choice)  # a small temperature must not make it infinite
    if is_filtered(temperature, top_k, top_p, min_p, vocab_size):
        groups: tl.constexpr = SPLIT // GROUP_SIZE
        maxima = tl.max(tl.reshape(c, [groups, GROUP_SIZE]), 1)
        tl.store(group_max_ptr + to * groups + tl.arange(0, groups), maxima)
        tl.store(best_ptr + to, most_choice)
        tl.store(stats_ptr + 4 * to + 3, tl.sum(tl.exp(tl.div_rn(c - shift, temperature))))
    else:
        if temperature > 0:
            block = split * (SPLIT // 4) + tl.arange(0, SPLIT // 4)
            position, index = tl.load(position_ptr + row), tl.load(sequence_index_ptr + row)
            noise = gumbel(block.to(tl.uint32), position, index, tl.load(seed_ptr + row))
            c = tl.div_rn(c - shift, temperature) + noise
        best, best_at = tl.max(c, 0, return_indices=True)
        tl.store(best_ptr + to, best)
        tl.store(best_id_ptr + to, split * SPLIT + best_at)
        tl.store(stats_ptr + 4 * to + 3, most_choice)


@triton.jit
def _sample_rows_kernel(
    logits_ptr, choice_ptr, stats_ptr, best_ptr, best_id_ptr, group_max_ptr,
    temperature_ptr, top_k_ptr, top_p_ptr, min_p_ptr, seed_ptr, sequence_index_ptr, position_ptr, token_class_ptr,
    token_ptr, entropy_ptr, logprob_ptr, class_ptr, vocab_size, num_splits,
    SPLIT: tl.constexpr, GROUP_SIZE: tl.constexpr, BLOCK_SPLITS: tl.constexpr, BLOCK_GROUPS: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    """Merges a row's splits: Z = sum e^(x - m) and U = sum e^(x - m) (x - m) give the entropy log Z - U / Z."""
    wait_for_inputs(PDL)
    row = tl.program_id(0)
    row_at = row.to(tl.int64) * vocab_size
    split = tl.arange(0, BLOCK_SPLITS)
    inside = split < num_splits
    at = row * num_splits + split
    split_most = tl.load(stats_ptr + 4 * at, mask=inside, other=float("-inf"))
    most = tl.max(split_most)
    shift = tl.where(split_most == float("-inf"), 0.0, split_most - most)
    scale = tl.where(split_most == float("-inf"), 0.0, tl.exp(shift))
    z = tl.load(stats_ptr + 4 * at + 1, mask=inside, other=0.0)
    u = tl.load(stats_ptr + 4 * at + 2, mask=inside, other=0.0)
    # a NaN among the logits makes its split's sum one, whatever the maximum has made of it
    total = tl.sum(z * scale) + tl.sum(z * 0.0)
    moment = tl.sum(tl.where(scale > 0, scale * (u + z * shift), 0.0))  # z * shift may be infinite where nothing counts
    is_sound = (total == total) & (most > float("-inf")) & (most < float("inf"))

    token, is_left = 0, is_sound
    if is_sound:
        temperature = tl.load(temperature_ptr + row)
        top_k, top_p, min_p = tl.load(top_k_ptr + row), tl.load(top_p_ptr + row), tl.load(min_p_ptr + row)
        best = tl.load(best_ptr + at, mask=inside, other=float("-inf"))
        fourth = tl.load(stats_ptr + 4 * at + 3, mask=inside, other=float("-inf"))
        is_left = tl.max(best) > float("-inf")
        if is_left & is_filtered(temperature, top_k, top_p, min_p, vocab_size):
            most_choice = tl.max(best)
            scale_of_split = tl.exp(tl.div_rn(best - most_choice, temperature))
            mass = tl.sum(tl.where(best == float("-inf"), 0.0, fourth * scale_of_split))
            position, index = tl.load(position_ptr + row), tl.load(sequence_index_ptr + row)
            num_groups = num_splits * (SPLIT // GROUP_SIZE)
            token = draw_filtered(
                choice_ptr + row_at, group_max_ptr + row * num_groups, most_choice, mass, num_groups, vocab_size,
                temperature, top_k, top_p, min_p, position, index, tl.load(seed_ptr + row), GROUP_SIZE, BLOCK_GROUPS,
            )  # fmt: skip
        elif is_left:
            if temperature > 0:
                best += tl.where(fourth == float("-inf"), fourth, tl.div_rn(fourth - tl.max(fourth), temperature))
            _, best_split = tl.max(best, 0, return_indices=True)
            token = tl.load(best_id_ptr + row * num_splits + best_split)
    nan = float("nan")
    log_total = tl.log(total)
    entropy = tl.maximum(log_total - moment / total, 0.0)
    logprob = tl.load(logits_ptr + row_at + token) - most - log_total
    tl.store(token_ptr + row, token)
    tl.store(class_ptr + row, tl.load(token_class_ptr + token))
    tl.store(entropy_ptr + row, tl.where(is_sound, entropy, nan))
    tl.store(logprob_ptr + row, tl.where(is_left, logprob, nan))


def sample(logits: Tensor, params: Sampling, token_class: Tensor, has_pdl: bool = False) -> Samples:
    """See `Ops.sample`.

    Shapes: logits [R, V] fp32 contiguous, token_class [V] uint8.
    Cost:   reads the logits once; once more, and writes them, if a row has biases, a mask or penalties. No host sync.
    """
    num_rows, vocab_size = logits.shape
    device = logits.device
    samples = Samples(
        token=torch.empty(num_rows, dtype=torch.int64, device=device),
        entropy=torch.empty(num_rows, dtype=torch.float32, device=device),
        logprob=torch.empty(num_rows, dtype=torch.float32, device=device),
        token_class=torch.empty(num_rows, dtype=torch.uint8, device=device),
    )
    if not num_rows:
        return samples
    choice = adjusted(logits, params, has_pdl)
    num_splits = triton.cdiv(vocab_size, SPLIT)
    num_groups = num_splits * (SPLIT // GROUP_SIZE)
    stats = torch.empty(num_rows, num_splits, 4, dtype=torch.float32, device=device)
    best = torch.empty(num_rows, num_splits, dtype=torch.float32, device=device)
    best_id = torch.empty(num_rows, num_splits, dtype=torch.int32, device=device)
    group_max = torch.empty(num_rows, num_groups, dtype=torch.float32, device=device)
    block_groups = max(triton.next_power_of_2(num_groups), NUM_CANDIDATE_GROUPS.value)
    inputs = (
        *(logits, choice, stats, best, best_id, group_max),
        *(params.temperature, params.top_k, params.top_p, params.min_p),
        *(params.seed, params.sequence_index, params.position),
    )
    _sample_splits_kernel[(num_rows, num_splits)](
        *inputs, vocab_size, SPLIT=SPLIT, GROUP_SIZE=GROUP_SIZE, num_warps=4, **launch_options(has_pdl)
    )
    _sample_rows_kernel[(num_rows,)](
        *inputs, token_class, samples.token, samples.entropy, samples.logprob, samples.token_class,
        vocab_size, num_splits, SPLIT=SPLIT, GROUP_SIZE=GROUP_SIZE,
        BLOCK_SPLITS=triton.next_power_of_2(num_splits), BLOCK_GROUPS=block_groups, num_warps=8,
        **launch_options(has_pdl),
    )  # fmt: skip
    return samples


def adjusted(logits: Tensor, params: Sampling, has_pdl: bool) -> Tensor:
    """The logits with each row's biases, mask, and penalties on the tokens it has seen; a copy if there are any."""
    if not len(params.bias_ids) and not len(params.seen_ids) and not len(params.token_mask):
        return logits
    num_rows, vocab_size = logits.shape
    grid = (num_rows, NUM_LIST_PROGRAMS)
    if len(params.bias_ids):
        bans_rest = (params.listed_only != 0) & (params.bias_start.diff() > 0)
        choice = logits.masked_fill(bans_rest[:, None], -torch.inf)
        _bias_kernel[grid](
            logits, choice, params.bias_start, params.bias_ids, params.bias_values, vocab_size,
            BLOCK=256, num_warps=4, **launch_options(has_pdl),
        )  # fmt: skip
    elif len(params.token_mask):
        choice = torch.empty_like(logits)
    else:
        choice = logits.clone()
    if len(params.token_mask):
        num_words = params.token_mask.shape[1]
        _mask_kernel[num_rows, triton.cdiv(num_words, MASK_WORDS)](
            choice if len(params.bias_ids) else logits, choice, params.token_mask, vocab_size, num_words,
            BLOCK_WORDS=MASK_WORDS, num_warps=4, **launch_options(has_pdl),
        )  # fmt: skip
    if len(params.seen_ids):
        _penalize_kernel[grid](
            choice, params.repetition_penalty, params.presence_penalty, params.frequency_penalty,
            params.seen_start, params.seen_ids, params.seen_counts, vocab_size, BLOCK=256, num_warps=4,
            **launch_options(has_pdl),
        )  # fmt: skip
    return choice
