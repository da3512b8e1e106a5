"""Which sequences run on which model next: the whole policy, in integers.

A tick is one ragged forward of one model. It mixes whatever its sequences need from that model: a prompt, a catch-up,
a decode; they differ only in how many positions the model has not seen yet.
"""

from bisect import insort
from dataclasses import dataclass

from glimp_engine.routing import Model
from glimp_engine.sequences.pages import PageCopy, PagePool
from glimp_engine.sequences.sequence import Sequence

__all__ = ["Plan", "Scheduler", "Work"]


@dataclass(frozen=True)
class Work:
    """Positions start:end of the sequence's stream, to be run by the model of the tick."""

    sequence: Sequence
    start: int
    end: int

    @property
    def is_last(self) -> bool:
        """Whether the forward reaches the stream's last token, so that the next one can be sampled."""
        return self.end == len(self.sequence.stream)


@dataclass(frozen=True)
class Plan:
    """One tick: `model` runs `work`, after `copies` have been made in both models' K/V."""

    model: Model
    work: list[Work]
    copies: list[PageCopy]


class Scheduler:
    """Continuous batching over two models.

    - Sequences are admitted first come, first served, when their tokens fit into the free pages.
    - Of the models that have something to do, the one that has been served less runs next; it's charged the bytes of
      its weights for each tick. So both get equal shares of the memory's time, and neither starves the other.
    - Within a tick single tokens go first, then longer runs in the order of arrival, cut at max_batch_tokens.
    - When pages run out, the newest sequence gives its pages back and waits at the head of the queue.
    """

    def __init__(
        self, pool: PagePool, max_batch_size: int, max_batch_tokens: int, forward_bytes: tuple[int, ...]
    ) -> None:
        self.pool = pool
        self.running: list[Sequence] = []  # both in the order of arrival
        self.waiting: list[Sequence] = []
        self.num_preemptions = 0
        self.num_cached_tokens = 0  # found in the prefix cache at first admissions
        self._max_batch_size = max_batch_size
        self._max_batch_tokens = max_batch_tokens
        self._forward_bytes = forward_bytes
        self._served = [0] * len(forward_bytes)  # [model]: bytes

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence; forks of a running one come before newer requests."""
        insort(self.waiting, sequence, key=arrival)

    def remove(self, sequence: Sequence) -> None:
        """Forget a finished sequence and take its pages back."""
        (self.running if sequence in self.running else self.waiting).remove(sequence)
        sequence.streams.release_pages()

    def plan(self) -> Plan | None:
        """The next tick, its positions marked as filled; None when there is nothing to do."""
        copies = self._admit()
        while self.running:
            model = self._next_model()
            self._hold_pages(model, copies)
            work = self._batch(model)
            if work:
                self._served[model] += self._forward_bytes[model]
                return Plan(model, work, self.pool.collect_copies() + copies)
            assert all(sequence.model != model for sequence in self.running), "a sequence waits for a model in vain"
        assert not copies, "a copy was planned and never made"
        return None

    def undo(self, plan: Plan) -> None:
        """Take back the marks of a plan whose forward failed; a sequence that was aborted has no pages any more."""
        for work in reversed([work for work in plan.work if work.sequence.finish_reason is None]):
            work.sequence.stream.table.unfill(plan.model, work.start, work.end)

    def _admit(self) -> list[PageCopy]:
        copies: list[PageCopy] = []
        while self.waiting and len(self.running) < self._max_batch_size:
            sequence = self.waiting[0]
            # one page of headroom each, so that what is admitted isn't preempted at once
            if not sequence.stream.table.can_attach(sequence.stream.tokens, headroom=len(self.running)):
                break
            insort(self.running, self.waiting.pop(0), key=arrival)
            self._attach(sequence, copies)
        return copies

    def _attach(self, sequence: Sequence, copies: list[PageCopy]) -> None:
        stream = sequence.stream
        copy = stream.table.attach(stream.tokens)
        if copy is not None:
            copies.append(copy)
        if not any(sequence.streams.num_seen):
            self.num_cached_tokens += stream.table.next_run(sequence.model, len(stream))[0]

    def _next_model(self) -> Model:
        busy = [any(sequence.model == model for sequence in self.running) for model in range(len(self._served))]
        least = min(served for model, served in enumerate(self._served) if busy[model])
        for model, served in enumerate(self._served):
            if not busy[model]:
                self._served[model] = max(served, least)  # who had nothing to do saves nothing up
        return Model(min((served, model) for model, served in enumerate(self._served) if busy[model])[1])

    def _hold_pages(self, model: Model, copies: list[PageCopy]) -> None:
        """See to it that each sequence that runs on this model has the pages it needs, the oldest first."""
        for sequence in list(self.running):
            stream = sequence.stream
            while sequence in self.running and sequence.model == model:
                if stream.table.is_attached and stream.table.num_missing(len(stream)) <= self.pool.num_available:
                    stream.table.hold(stream.tokens)
                    break
                if not stream.table.is_attached and stream.table.can_attach(stream.tokens, headroom=0):
                    self._attach(sequence, copies)
                    break
                self._preempt_newest()

    def _preempt_newest(self) -> None:
        sequence = self.running.pop()
        sequence.streams.release_pages()
        self.add(sequence)
        self.num_preemptions += 1

    def _batch(self, model: Model) -> list[Work]:
        sequences = [sequence for sequence in self.running if sequence.model == model]
        sequences.sort(key=lambda sequence: sequence.num_unseen > 1)  # stable: otherwise in the order of arrival
        work, budget = [], self._max_batch_tokens
        for sequence in sequences:
            table = sequence.stream.table
            start, end = table.next_run(model, len(sequence.stream))
            end = min(end, start + budget)
            if start < end:
                table.fill(model, start, end)
                work.append(Work(sequence, start, end))
                budget -= end - start
        return work


def arrival(sequence: Sequence) -> tuple[int, int]:
    """The order of service: older requests first, then the order within a request."""
    return sequence.request.arrival, sequence.index
