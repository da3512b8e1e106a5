"""From a tick's plan to the tensors of its ragged forward."""

from dataclasses import dataclass

import torch
from torch import Tensor

from glimp_engine.kernels import Attention, Sampling
from glimp_engine.routers import Model
from glimp_engine.scheduler import Plan, Work
from glimp_engine.sequence import Sequence

__all__ = ["Batch", "Row", "build_batch"]


@dataclass(frozen=True)
class Row:
    """One logit row: whom it's sampled for."""

    sequence: Sequence
    sequence_index: int  # more than the sequence's own where its forks are about to be born


@dataclass(frozen=True)
class Batch:
    """Everything that one tick of a model's runner needs."""

    token_ids: Tensor  # [T] int64
    attention: Attention
    rows: list[Row]
    logit_rows: Tensor  # [R] int64, of [T]
    sampling: Sampling
    num_top_logprobs: int  # the most that any row asks for


def build_batch(plan: Plan, page_size: int, device: torch.device) -> Batch:
    """The tensors of a plan: T tokens of B sequences, and R rows to sample from."""
    rows, logit_rows, num_tokens = [], [], 0
    for work in plan.work:
        num_tokens += work.end - work.start
        if work.is_last:
            indices = range(work.sequence.index, work.sequence.index + 1 + work.sequence.num_unborn)
            rows += [Row(work.sequence, index) for index in indices]
            logit_rows += [num_tokens - 1] * len(indices)
    ids = [t for work in plan.work for t in work.sequence.streams.ids_for(plan.model, work.start, work.end)]
    return Batch(
        token_ids=torch.tensor(ids, dtype=torch.int64, device=device),
        attention=build_attention(plan.work, page_size, device),
        rows=rows,
        logit_rows=torch.tensor(logit_rows, dtype=torch.int64, device=device),
        sampling=build_sampling(rows, plan.model, device),
        num_top_logprobs=max((num_top_logprobs(row.sequence) for row in rows), default=0),
    )


def num_top_logprobs(sequence: Sequence) -> int:
    """How many log-probabilities the sequence's next row is asked for, by its router or by its user."""
    if sequence.awaits_glimpse:
        return max(sequence.request.routing.router.num_top_logprobs, sequence.request.sampling.logprobs or 0)
    return sequence.request.sampling.logprobs or 0


def build_attention(work: list[Work], page_size: int, device: torch.device) -> Attention:
    """Positions, slots and page tables of the new tokens."""
    tables = [w.sequence.stream.table.pages[: -(-w.end // page_size)] for w in work]
    widest = max(len(pages) for pages in tables)
    positions = [position for w in work for position in range(w.start, w.end)]
    slots = [
        pages[position // page_size] * page_size + position % page_size
        for w, pages in zip(work, tables, strict=True)
        for position in range(w.start, w.end)
    ]
    query_start = [0]
    for w in work:
        query_start.append(query_start[-1] + w.end - w.start)
    padded = [pages + [0] * (widest - len(pages)) for pages in tables]
    return Attention(
        positions=torch.tensor(positions, dtype=torch.int64, device=device),
        slots=torch.tensor(slots, dtype=torch.int64, device=device),
        query_start=torch.tensor(query_start, dtype=torch.int32, device=device),
        page_table=torch.tensor(padded, dtype=torch.int32, device=device),
        kv_len=torch.tensor([w.end for w in work], dtype=torch.int32, device=device),
    )


def build_sampling(rows: list[Row], model: Model, device: torch.device) -> Sampling:
    """The rows' sampling parameters; seen tokens only where there are penalties."""
    params = [row.sequence.request.sampling for row in rows]
    seen_start, seen_ids, seen_counts = [0], list[int](), list[int]()
    for row in rows:
        if row.sequence.request.sampling.has_penalties:
            counts = row.sequence.stream.counts()
            seen_ids += row.sequence.streams.in_ids_of(model, list(counts))
            seen_counts += counts.values()
        seen_start.append(len(seen_ids))

    def column(values: list[float] | list[int], dtype: torch.dtype) -> Tensor:
        return torch.tensor(values, dtype=dtype, device=device)

    return Sampling(
        temperature=column([p.temperature for p in params], torch.float32),
        top_k=column([max(p.top_k, 0) for p in params], torch.int32),
        top_p=column([p.top_p for p in params], torch.float32),
        min_p=column([p.min_p for p in params], torch.float32),
        repetition_penalty=column([p.repetition_penalty for p in params], torch.float32),
        presence_penalty=column([p.presence_penalty for p in params], torch.float32),
        frequency_penalty=column([p.frequency_penalty for p in params], torch.float32),
        seed=column([row.sequence.request.seed for row in rows], torch.int64),
        sequence_index=column([row.sequence_index for row in rows], torch.int32),
        position=column([len(row.sequence.stream) for row in rows], torch.int64),
        seen_start=column(seen_start, torch.int32),
        seen_ids=column(seen_ids, torch.int64),
        seen_counts=column(seen_counts, torch.int32),
    )
