"""Logit rows to sample from, and whether two samplers agree."""

import dataclasses

import numpy as np
import torch

from glimp_engine.kernels import Sampling
from glimp_engine.kernels.philox import exponential_noise

FILTERS = [
    {},
    {"top_k": 1},
    {"top_k": 5},
    {"top_p": 0.1},
    {"top_p": 0.95},
    {"min_p": 0.05},
    {"top_k": 40, "top_p": 0.9},
    {"top_k": 300, "top_p": 0.7, "min_p": 0.001},
]


def make_sampling(num_rows, seen=(), **values):
    """Parameters that do nothing, but for `values`; seen: (ids, counts) a row."""
    neutral = {"temperature": 1, "top_p": 1, "repetition_penalty": 1}
    seen = list(seen) or [([], [])] * num_rows
    columns = {
        "seen_start": torch.tensor(np.cumsum([0, *(len(ids) for ids, _ in seen)]), dtype=torch.int32),
        "seen_ids": torch.tensor([i for ids, _ in seen for i in ids], dtype=torch.int64),
        "seen_counts": torch.tensor([c for _, counts in seen for c in counts], dtype=torch.int32),
    }
    for field in dataclasses.fields(Sampling):
        if field.name not in columns:
            value = values.get(field.name, neutral.get(field.name, 0))
            dtype = {"seed": torch.int64, "position": torch.int64, "top_k": torch.int32, "sequence_index": torch.int32}
            column = torch.as_tensor(value).expand(num_rows) if torch.as_tensor(value).ndim == 0 else value
            columns[field.name] = torch.as_tensor(column).to(dtype.get(field.name, torch.float32)).contiguous()
    return Sampling(**columns)


def random_logits(num_rows, vocab_size, scale=3.0, seed=0):
    return torch.randn(num_rows, vocab_size, generator=torch.Generator().manual_seed(seed)) * scale


def classes_of(vocab_size):
    return (torch.arange(vocab_size) % 251).to(torch.uint8)


def agree_or_nearly_tie(samples, oracle, logits, params):
    """Tokens are equal, but where the two best scores are closer than float32 can tell."""
    num_ties = 0
    for row in range(len(logits)):
        ours, theirs = int(samples.token[row]), int(oracle.token[row])
        if ours != theirs:
            temperature = float(params.temperature[row])
            noise = exponential_noise(
                logits.shape[1],
                int(params.seed[row]),
                int(params.sequence_index[row]),
                int(params.position[row]),
                torch.float64,
            )
            scores = logits[row].double() / temperature - noise.log()
            assert abs(float(scores[ours] - scores[theirs])) < 1e-5 * max(1.0, float(scores[theirs].abs()))
            num_ties += 1
    return num_ties
