"""From a tick's plan to the tensors of its ragged forward."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from glimp_engine.kernels import Attention, Sampling
from glimp_engine.routing import Model
from glimp_engine.sequences import Plan, Row, Work, rows_of

__all__ = ["Batch", "SamplingColumns", "build_batch", "column"]

SPARE_PAGES = 8  # a page table is as wide as a multiple of these, so that it needn't be made anew for each page


@dataclass(frozen=True)
class Batch:
    """Everything that one tick of a model's runner needs."""

    token_ids: Tensor  # [T] int64
    attention: Attention
    rows: list[Row]
    logit_rows: Tensor  # [R] int64, of [T]
    sampling: Sampling
    num_top_logprobs: list[int]  # that each row asks for
    is_lasting: bool  # whether its sampling goes on as it is, but for positions

    @property
    def is_plain(self) -> bool:
        """Whether each row is sampled by numbers alone: a graph has no place for lists, nor for what else is asked."""
        has_lists = len(self.sampling.seen_ids) or len(self.sampling.bias_ids) or len(self.sampling.token_mask)
        return not has_lists and not any(self.num_top_logprobs)

    @property
    def can_run_ahead(self) -> bool:
        """Whether its rows can decode on with what it says of them, as far as their sampling is concerned."""
        return self.is_lasting and not any(self.num_top_logprobs)

    @property
    def num_logits(self) -> int | None:
        """How many of the vocabulary's first tokens have to be looked at; None: all."""
        most = 0
        for row in self.rows:
            num = row.sequence.num_logits
            if num is None:
                return None
            most = max(most, num)
        return most if most and self.is_plain else None

    def to(self, device: torch.device) -> "Batch":
        """The batch with its tensors there."""
        if device.type == "cpu":
            return self
        return replace(
            self,
            token_ids=self.token_ids.to(device),
            attention=Attention(**{name: tensor.to(device) for name, tensor in vars(self.attention).items()}),
            logit_rows=self.logit_rows.to(device),
            sampling=Sampling(**{name: tensor.to(device) for name, tensor in vars(self.sampling).items()}),
        )


class SamplingColumns:
    """The rows' sampling parameters; as long as the same rows come again, only their positions are made anew."""

    def __init__(self) -> None:
        self._rows: list[Row] = []
        self._model = Model.SMALL
        self.is_lasting = False  # whether nothing but positions changes as its rows' sequences go on
        self._sampling: Sampling | None = None

    def of(self, rows: list[Row], model: Model) -> Sampling:
        """One value a row in each column; they hold until the next call."""
        is_kept = self.is_lasting and rows == self._rows and model is self._model
        is_lasting = not any(row.follows_text for row in rows)
        if self._sampling is None or not (is_kept and is_lasting):
            self._rows, self._model, self.is_lasting = rows, model, is_lasting
            self._sampling = build_sampling(rows, model)
        else:
            self._sampling.position.copy_(column([row.place for row in rows], np.int64))
        return self._sampling


def build_batch(plan: Plan, page_size: int, sampling: SamplingColumns) -> Batch:
    """The tensors of a plan, on the CPU: T tokens of B sequences, and R rows to sample from."""
    rows, logit_rows, num_tokens = [], [], 0
    for work in plan.work:
        num_tokens += work.end - work.start
        own = rows_of(work.sequence, work.start, work.end, work.num_rows)
        rows += own
        logit_rows += [num_tokens - 1 - (work.end - row.place) for row in own]
    ids = [t for work in plan.work for t in work.sequence.streams.ids_for(plan.model, work.start, work.end)]
    return Batch(
        token_ids=column(ids, np.int64),
        attention=build_attention(plan.work, page_size),
        rows=rows,
        logit_rows=column(logit_rows, np.int64),
        sampling=sampling.of(rows, plan.model),
        num_top_logprobs=[row.num_top_logprobs for row in rows],
        is_lasting=sampling.is_lasting,
    )


def column(values: Sequence[float], dtype: type[np.generic]) -> Tensor:
    """The values as a tensor; by way of numpy, as that takes 1.2 us and `torch.tensor` 3.3, twenty times a tick."""
    return torch.from_numpy(np.array(values, dtype))


def build_attention(work: list[Work], page_size: int) -> Attention:
    """Positions and slots of the new tokens, and all pages that are held, as decoding may go on onto them."""
    tables = [w.sequence.stream.table.pages for w in work]
    widest = -(-max(len(pages) for pages in tables) // SPARE_PAGES) * SPARE_PAGES
    new_positions = [position for w in work for position in range(w.start, w.end)]
    slots = [
        pages[position // page_size] * page_size + position % page_size
        for w, pages in zip(work, tables, strict=True)
        for position in range(w.start, w.end)
    ]
    query_start = [0, *accumulate(w.end - w.start for w in work)]
    page_table = bytearray().join(pages.tobytes().ljust(widest * pages.itemsize, b"\0") for pages in tables)
    return Attention(
        positions=column(new_positions, np.int64),
        slots=column(slots, np.int64),
        query_start=column(query_start, np.int32),
        page_table=torch.from_numpy(np.frombuffer(page_table, np.int32).reshape(len(work), widest)),
        kv_len=column([w.end for w in work], np.int32),
    )


def build_sampling(rows: list[Row], model: Model) -> Sampling:
    """The rows' sampling parameters; seen tokens only where there are penalties, and something is to be written."""
    params = [row.sequence.request.sampling for row in rows]
    biases = [row.biases() for row in rows]
    seen_start, seen_ids, seen_counts = [0], list[int](), list[int]()
    for row in rows:
        counts = row.seen()
        seen_ids += row.sequence.streams.in_ids_of(model, list(counts))
        seen_counts += counts.values()
        seen_start.append(len(seen_ids))
    return Sampling(
        temperature=column([p.temperature for p in params], np.float32),
        top_k=column([max(p.top_k, 0) for p in params], np.int32),
        top_p=column([p.top_p for p in params], np.float32),
        min_p=column([p.min_p for p in params], np.float32),
        repetition_penalty=column([p.repetition_penalty for p in params], np.float32),
        presence_penalty=column([p.presence_penalty for p in params], np.float32),
        frequency_penalty=column([p.frequency_penalty for p in params], np.float32),
        seed=column([row.sequence.request.seed for row in rows], np.int64),
        sequence_index=column([row.sequence_index for row in rows], np.int32),
        position=column([row.place for row in rows], np.int64),
        seen_start=column(seen_start, np.int32),
        seen_ids=column(seen_ids, np.int64),
        seen_counts=column(seen_counts, np.int32),
        bias_start=column([0, *accumulate(len(each.by_id) for each in biases)], np.int32),
        bias_ids=column([token_id for each in biases for token_id in each.by_id], np.int64),
        bias_values=column([value for each in biases for value in each.by_id.values()], np.float32),
        listed_only=column([int(each.listed_only) for each in biases], np.int32),
        token_mask=build_mask([row.mask() for row in rows]),
    )


def build_mask(masks: Sequence[bytes | None]) -> Tensor:
    """The rows' masks side by side, a row without one allowing all; [0, 0] where none has one."""
    width = max((len(mask) for mask in masks if mask is not None), default=0)
    if not width:
        return torch.empty(0, 0, dtype=torch.int32)
    written = bytearray().join(b"\xff" * width if mask is None else mask for mask in masks)
    return torch.from_numpy(np.frombuffer(written, np.int32).reshape(len(masks), -1))
