"""Each tick's batch: made anew, or, of sequences that decode on, the last one moved on by a token."""

from array import array

import numpy as np

from glimp_engine.execution.batch import Batch, SamplingColumns, build_batch
from glimp_engine.routing import Model
from glimp_engine.sequences import Plan, Use, Work

__all__ = ["Batches"]


class Batches:
    """Makes batches, one of a model's at a time: each holds until the model's next is made."""

    def __init__(self, page_size: int) -> None:
        self._page_size = page_size
        self._sampling = [SamplingColumns() for _ in Model]
        self._last: list[DecodingBatch | None] = [None for _ in Model]

    def of(self, plan: Plan) -> Batch:
        """The plan's tensors, on the CPU."""
        last = self._last[plan.model]
        if last is not None and last.move_on(plan):
            return last.batch
        batch = build_batch(plan, self._page_size, self._sampling[plan.model])
        is_decoding = len(batch.token_ids) == len(plan.work) == len(batch.rows) and batch.is_lasting
        self._last[plan.model] = DecodingBatch(plan, batch, self._page_size) if is_decoding else None
        return batch


class DecodingBatch:
    """A batch of one token a sequence, and one row behind it."""

    def __init__(self, plan: Plan, batch: Batch, page_size: int) -> None:
        self.batch = batch
        self._work = plan.work
        self._page_size = page_size
        self._states = [state_of(work) for work in plan.work]
        self._nums_pages = [len(work.sequence.awaited.stream.table.pages) for work in plan.work]
        attention = batch.attention
        self._token_ids, self._position = batch.token_ids.numpy(), batch.sampling.position.numpy()
        self._positions, self._slots = attention.positions.numpy(), attention.slots.numpy()
        self._page_table, self._kv_len = attention.page_table.numpy(), attention.kv_len.numpy()
        self._row_starts = np.arange(len(plan.work)) * self._page_table.shape[1]  # in the page table, laid flat

    def move_on(self, plan: Plan) -> bool:
        """Make it the plan's batch, if that is of the same sequences with tokens that came since; else it's of no use.

        Cost: a fifth of making one anew.
        """
        if not self._is_next(plan.work):
            return False
        self._work = plan.work
        ends = [work.end for work in plan.work]
        self._token_ids[:] = [work.sequence.streams.ids_for(plan.model, work.start, work.end)[0] for work in plan.work]
        self._position[:] = self._kv_len[:] = ends
        np.subtract(self._position, 1, out=self._positions)
        pages, offsets = np.divmod(self._positions, self._page_size)
        self._slots[:] = self._page_table.ravel()[self._row_starts + pages] * np.int64(self._page_size) + offsets
        for row, end in zip(self.batch.rows, ends, strict=True):
            row.place = end
        return True

    def _is_next(self, work: list[Work]) -> bool:
        if len(work) != len(self._work):
            return False
        for i, (new, old, state) in enumerate(zip(work, self._work, self._states, strict=True)):
            stream = new.sequence.awaited.stream
            if new.sequence is not old.sequence or new.start < old.end or new.end != new.start + 1:
                return False
            if new.end != len(stream.tokens) or state_of(new) != state:
                return False
            if len(stream.table.pages) != self._nums_pages[i] and not self._add_pages(i, stream.table.pages):
                return False
        return True

    def _add_pages(self, i: int, pages: "array[int]") -> bool:
        """Take over pages behind those that are known; False if the page table is too narrow for them."""
        if len(pages) > self._page_table.shape[1]:
            return False
        self._page_table[i, self._nums_pages[i] : len(pages)] = pages[self._nums_pages[i] :]
        self._nums_pages[i] = len(pages)
        return True


def state_of(work: Work) -> tuple[Use, int, int]:
    """What must not change of a sequence, but for its length."""
    awaited = work.sequence.awaited
    return awaited.use, work.num_rows, awaited.stream.table.num_changes
