"""Each tick's batch: made anew, or, of sequences that decode on, the last one moved on by a token."""

from glimp_engine.execution.batch import Batch, SamplingColumns, build_batch
from glimp_engine.sequences import Plan, Use, Work

__all__ = ["Batches"]


class Batches:
    """Makes batches, one at a time: each holds until the next is made."""

    def __init__(self, page_size: int) -> None:
        self._page_size = page_size
        self._sampling = SamplingColumns()
        self._last: DecodingBatch | None = None

    def of(self, plan: Plan) -> Batch:
        """The plan's tensors, on the CPU."""
        if self._last is not None and self._last.move_on(plan):
            return self._last.batch
        batch = build_batch(plan, self._page_size, self._sampling)
        is_decoding = len(batch.token_ids) == len(plan.work) == len(batch.rows) and self._sampling.is_lasting
        self._last = DecodingBatch(plan, batch, self._page_size) if is_decoding else None
        return batch


class DecodingBatch:
    """A batch of one token a sequence, and one row behind it."""

    def __init__(self, plan: Plan, batch: Batch, page_size: int) -> None:
        self.batch = batch
        self._model = plan.model
        self._work = plan.work
        self._page_size = page_size
        self._states = [state_of(work) for work in plan.work]
        attention = batch.attention
        self._token_ids, self._position = batch.token_ids.numpy(), batch.sampling.position.numpy()
        self._positions, self._slots = attention.positions.numpy(), attention.slots.numpy()
        self._page_table, self._kv_len = attention.page_table.numpy(), attention.kv_len.numpy()

    def move_on(self, plan: Plan) -> bool:
        """Make it the plan's batch, if that is of the same sequences with a token more; else nothing is right any more.

        Cost: a fifth of making one anew.
        """
        if plan.model is not self._model or not self._is_next(plan.work):
            return False
        self._work = plan.work
        self._token_ids[:] = [work.sequence.streams.ids_for(plan.model, work.start, work.end)[0] for work in plan.work]
        for column in (self._positions, self._slots, self._kv_len, self._position):
            column += 1
        for row in self.batch.rows:
            row.place += 1
        return self._turn_pages()

    def _is_next(self, work: list[Work]) -> bool:
        if len(work) != len(self._work):
            return False
        for new, old, state in zip(work, self._work, self._states, strict=True):
            if new.sequence is not old.sequence or new.start != old.end or new.end != old.end + 1:
                return False
            if new.end != len(new.sequence.awaited.stream.tokens) or state_of(new) != state:
                return False
        return True

    def _turn_pages(self) -> bool:
        """Go on at the beginning of a page where one is full; False if the page table is too narrow for it."""
        for i in (self._positions % self._page_size == 0).nonzero()[0].tolist():
            which = int(self._positions[i]) // self._page_size
            if which >= self._page_table.shape[1]:
                return False
            page = self._work[i].sequence.awaited.stream.table.pages[which]
            self._page_table[i, which], self._slots[i] = page, page * self._page_size
        return True


def state_of(work: Work) -> tuple[Use, int, int]:
    """What must not change of a sequence, but for its length."""
    awaited = work.sequence.awaited
    return awaited.use, work.num_rows, awaited.stream.table.num_changes
