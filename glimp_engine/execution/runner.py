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

__all__ = ["Forward", "ModelRunner", "OneTick", "Ticks"]

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


class Ticks(Protocol):
    """What a runner has been told to run: a batch's tick, and maybe those that its rows go on to by themselves."""

    @property
    def is_over(self) -> bool:
        """Whether `next` has nothing more to give, as far as is known."""

    @property
    def num_done(self) -> int:
        """How many ticks are done."""

    def next(self) -> list[SampledToken] | None:
        """The next tick's samples, once they are there, one for each logit row; None if there is no further tick."""

    def stop(self) -> None:
        """Begin no further tick; those that are done can still be taken."""


class OneTick:
    """The batch's tick alone."""

    def __init__(self, finish: Callable[[], list[SampledToken]]) -> None:
        """finish: waits for the samples."""
        self._finish = finish
        self.is_over = False
        self.num_done = 0

    def next(self) -> list[SampledToken] | None:
        if self.is_over:
            return None
        samples, self.is_over = self._finish(), True
        return samples

    def stop(self) -> None:
        pass


class ModelRunner:
    """A model with its K/V store and its table of boundary classes."""

    max_ticks = 1  # that `start` may be asked for

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

    def start(self, batch: Batch, max_ticks: int) -> Ticks:
        """Begin what `run` does, as far as the device does it alone, and at most max_ticks ticks of it."""
        return OneTick(partial(self.run, batch))

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
