"""The reference of `sample`: a row at a time, in the order in which a token is chosen."""

import torch
from torch import Tensor

from glimp_engine.kernels import Samples, Sampling
from glimp_engine.kernels.philox import exponential_noise

__all__ = ["sample", "top_logprobs"]

NOTHING_LEFT = -1


def sample(logits: Tensor, sampling: Sampling, token_class: Tensor) -> Samples:
    """One token a row with its entropy, log-probability and class; see `Ops.sample`."""
    tokens = torch.tensor(
        [choose(logits[row], sampling, row) for row in range(len(logits))], dtype=torch.int64, device=logits.device
    )
    logprobs = logits.log_softmax(dim=-1)
    logprob = logprobs.gather(1, tokens.clamp(min=0)[:, None])[:, 0]
    logprob[tokens == NOTHING_LEFT] = torch.nan
    tokens = tokens.clamp(min=0)
    terms = torch.where(logprobs == -torch.inf, 0.0, logprobs.exp() * logprobs)
    return Samples(
        token=tokens,
        entropy=(-terms.sum(dim=-1)).clamp(min=0),
        logprob=logprob,
        token_class=token_class[tokens],
    )


def choose(logits: Tensor, sampling: Sampling, row: int) -> int:
    """The row's token, from its logits [V]; 0 where they aren't numbers, NOTHING_LEFT where all are banned."""
    if not logits.max().isfinite():
        return 0
    logits = penalize(mask_tokens(add_biases(logits, sampling, row), sampling, row), sampling, row)
    if logits.max() == -torch.inf:
        return NOTHING_LEFT
    temperature = float(sampling.temperature[row])
    if temperature == 0:
        return first_max(logits)
    scaled = (logits - logits.max()) / temperature  # a small temperature must not make it infinite
    kept = filter_tokens(scaled, int(sampling.top_k[row]), float(sampling.top_p[row]), float(sampling.min_p[row]))
    noise = exponential_noise(
        len(logits),
        int(sampling.seed[row]),
        int(sampling.sequence_index[row]),
        int(sampling.position[row]),
        logits.dtype,
    ).to(logits.device)
    return first_max(torch.where(kept, scaled - noise.log(), -torch.inf))  # Gumbel-max: -log E is a Gumbel variate


def add_biases(logits: Tensor, sampling: Sampling, row: int) -> Tensor:
    """The logits with the row's biases; a ban is -inf, and whatever else stays a number."""
    begin, end = int(sampling.bias_start[row]), int(sampling.bias_start[row + 1])
    if begin == end:
        return logits
    ids, values = sampling.bias_ids[begin:end], sampling.bias_values[begin:end].to(logits.dtype)
    largest = torch.finfo(logits.dtype).max
    raw = logits[ids]
    biased = (raw + values).clamp(-largest, largest).where((raw > -torch.inf) & (values > -torch.inf), -torch.inf)
    rest = torch.full_like(logits, -torch.inf) if sampling.listed_only[row] else logits
    return rest.index_put((ids,), biased)


def mask_tokens(logits: Tensor, sampling: Sampling, row: int) -> Tensor:
    """The logits with -inf wherever the row's mask has a 0."""
    if not len(sampling.token_mask):
        return logits
    token = torch.arange(len(logits), device=logits.device)
    is_allowed = (sampling.token_mask[row, token // 32] >> token % 32) & 1
    return logits.where(is_allowed != 0, -torch.inf)


def penalize(logits: Tensor, sampling: Sampling, row: int) -> Tensor:
    """Repetition, presence and frequency penalties of the tokens seen, as vLLM defines them."""
    begin, end = int(sampling.seen_start[row]), int(sampling.seen_start[row + 1])
    ids, counts = sampling.seen_ids[begin:end], sampling.seen_counts[begin:end]
    logits = logits.clone()
    raw = seen = logits[ids]
    largest = torch.finfo(logits.dtype).max
    repetition = sampling.repetition_penalty[row]
    seen = torch.where(seen > 0, seen / repetition, seen * repetition)
    seen = seen - sampling.frequency_penalty[row] * counts - sampling.presence_penalty[row] * (counts > 0)
    seen = seen.to(logits.dtype).clamp(-largest, largest)  # what is penalised stays a number
    logits[ids] = torch.where(raw == -torch.inf, raw, seen)
    return logits


def filter_tokens(logits: Tensor, top_k: int, top_p: float, min_p: float) -> Tensor:
    """Which tokens may be drawn [V]: min_p, then top_k, then top_p of what is left; ties with the last one stay."""
    kept = logits > -torch.inf
    probs = logits.softmax(dim=-1)
    if min_p > 0:
        kept &= probs >= min_p * probs.max()
    if 0 < top_k < len(logits):
        kept &= logits >= logits.where(kept, -torch.inf).topk(top_k).values[-1]
    if top_p < 1:
        descending = probs.where(kept, 0).sort(descending=True).values
        cumulative = descending.cumsum(0)
        last = int((cumulative < top_p * cumulative[-1]).sum())  # the first whose mass reaches top_p
        kept &= probs >= descending[min(last, len(descending) - 1)]
    return kept


def first_max(x: Tensor) -> int:
    """Index of the largest value, the first one among equals."""
    return int((x == x.max()).nonzero()[0])


def top_logprobs(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest log-probabilities of each row and their ids; see `Ops.top_logprobs`."""
    ordered = logits.log_softmax(dim=-1).sort(dim=-1, descending=True, stable=True)
    return ordered.values[:, :k], ordered.indices[:, :k]
