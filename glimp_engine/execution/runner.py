"""Runs one model: forward, then sample. It knows nothing of the other model, of sequences' lives, or of routes."""

from collections.abc import Callable
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from glimp_engine.checkpoints import ModelConfig
from glimp_engine.execution.batch import Batch
from glimp_engine.kernels import Attention, Ops, Samples, Sampling
from glimp_engine.models import KVLayout, KVStore
from glimp_engine.sequences import SampledToken

__all__ = ["Forward", "ModelRunner"]

ROWS_AT_ONCE = 32  # of a prompt's log-probabilities: an ordered row takes three times the memory of its logits


class Forward(Protocol):
    """What a runner needs of a model: `Decoder`, `NativeDecoder`, or a scripted one in tests."""

    config: ModelConfig
    device: torch.device
    kv_layout: KVLayout
    weight_bytes: int  # that a forward of one token reads

    def forward(
        self, token_ids: Tensor, batch: Attention, logit_rows: Tensor, kv: KVStore, num_logits: int | None = None
    ) -> Tensor:
        """Logits [R, V] of the rows logit_rows [R] of the tokens [T]; K/V of all tokens is stored.

        With num_logits they are of so many of the vocabulary's first tokens alone. They hold until the next
        forward, and may be written to.
        """


class ModelRunner:
    """A model with its K/V store and its table of boundary classes."""

    def __init__(self, model: Forward, ops: Ops, kv: KVStore, token_class: Tensor, forbidden_ids: Tensor) -> None:
        self.model = model
        self.kv = kv
        self._ops = ops
        self._token_class = token_class  # [V] uint8
        self._forbidden_ids = forbidden_ids  # int64, tokens that the other model has no word for

    @torch.inference_mode()
    def run(self, batch: Batch) -> list[SampledToken]:
        """One ragged forward, and one sampled token for each of its logit rows."""
        num_logits = batch.num_logits
        batch = batch.to(self.model.device)
        logits = self.model.forward(batch.token_ids, batch.attention, batch.logit_rows, self.kv, num_logits)
        if not batch.rows:
            return []
        samples = self.sample(logits, batch.sampling)
        top = self._top_logprobs(logits, batch.num_top_logprobs)
        # the one read-back of a tick: the host needs the tokens to know what follows them
        columns = (samples.token, samples.entropy, samples.logprob, samples.token_class)
        return [SampledToken(*row) for row in zip(*(column.tolist() for column in columns), top, strict=True)]

    def start(self, batch: Batch) -> Callable[[], list[SampledToken]]:
        """Begin what `run` does, as far as the device does it alone; the result waits for it and gives the samples."""
        return partial(self.run, batch)

    def _top_logprobs(self, logits: Tensor, nums_asked: list[int]) -> list[list[tuple[int, float]]]:
        """(token id, log-probability), descending, as many as each row asks for."""
        top: list[list[tuple[int, float]]] = [[] for _ in nums_asked]
        asking = [row for row, num_asked in enumerate(nums_asked) if num_asked]
        for start in range(0, len(asking), ROWS_AT_ONCE):
            rows = asking[start : start + ROWS_AT_ONCE]
            values, ids = self._ops.top_logprobs(logits[rows], max(nums_asked[row] for row in rows))
            for row, own_ids, own_values in zip(rows, ids.tolist(), values.tolist(), strict=True):
                top[row] = list(zip(own_ids, own_values, strict=True))[: nums_asked[row]]
        return top

    def sample(self, logits: Tensor, sampling: Sampling) -> Samples:
        """A token for each row of logits, of the vocabulary or its first tokens; they lose what must not be written."""
        num_logits = logits.shape[1]
        if len(self._forbidden_ids):
            is_whole = num_logits == len(self._token_class)
            forbidden = self._forbidden_ids if is_whole else self._forbidden_ids[self._forbidden_ids < num_logits]
            logits.index_fill_(1, forbidden, -torch.inf)
        return self._ops.sample(logits, sampling, self._token_class[:num_logits])
