"""Which sequences run on which model next: the whole policy, in integers.

A tick is one ragged forward of one model. It mixes whatever its sequences need from that model: a prompt, a catch-up,
a decode; they differ only in how many positions the model has not seen yet.
"""

from bisect import bisect_left, insort
from operator import attrgetter

from glimp_engine.routing import Model
from glimp_engine.sequences.awaited import Use
from glimp_engine.sequences.launches import Launches, goes_on
from glimp_engine.sequences.pages import PagePool
from glimp_engine.sequences.plans import Plan, Work
from glimp_engine.sequences.proposing import Proposing
from glimp_engine.sequences.rows import first_place, places
from glimp_engine.sequences.sequence import Sequence

__all__ = ["Scheduler", "SequenceError"]

arrival = attrgetter("request.arrival", "index")  # the order of service: older requests first, then within a request


class SequenceError(Exception):
    """What went wrong while a tick was planned, and for which sequence."""

    def __init__(self, sequence: Sequence, error: Exception) -> None:
        super().__init__(f"{type(error).__name__}: {error}")
        self.sequence = sequence


class Scheduler:
    """Continuous batching over two models.

    - Sequences are admitted first come, first served, when their tokens fit into the free pages.
    - Of the models that have something to do, the one that has been served less runs next; it's charged the bytes of
      its weights for each tick. So both get equal shares of the memory's time, and neither starves the other.
    - Within a tick single tokens go first, then longer runs in the order of arrival, cut at max_batch_tokens.
    - When pages run out, first all proposals go, then the newest sequence gives its pages back and waits at the head of
      the queue.
    """

    def __init__(
        self,
        pool: PagePool,
        max_batch_size: int,
        max_batch_tokens: int,
        forward_bytes: tuple[int, ...],
        proposing: Proposing,
        launches: Launches,
    ) -> None:
        self.pool = pool
        self.proposing = proposing
        self.launches = launches
        self.num_changes = 0  # requests that came or went
        self.running: list[Sequence] = []  # both in the order of arrival
        self.waiting: list[Sequence] = []
        self.num_preemptions = 0
        self.num_cached_tokens = 0  # found in the prefix cache at first admissions
        self._max_batch_size = max_batch_size
        self._max_batch_tokens = max_batch_tokens
        self._forward_bytes = forward_bytes
        self._served = [0] * len(forward_bytes)  # [model]: bytes
        self._at: Sequence  # whom the plan is being made for

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence; forks of a running one come before newer requests."""
        self.num_changes += 1
        insort(self.waiting, sequence, key=arrival)

    def remove(self, sequence: Sequence) -> None:
        """Forget a finished sequence and take its pages back."""
        for queue in (self.running, self.waiting):
            i = bisect_left(queue, arrival(sequence), key=arrival)
            if i < len(queue) and queue[i] is sequence:
                del queue[i]
        sequence.streams.release_pages()

    def plan(self) -> Plan | None:
        """The next tick, its positions marked as filled; None when there is nothing to do.

        Raises: SequenceError when that fails for a sequence; nothing is marked then.
        """
        work: list[Work] = []
        model = Model.SMALL
        try:
            self._admit()
            self._propose()
            while self.running:
                model = self._next_model()
                self._hold_pages(model)
                self._batch(model, work)
                if work:
                    self._charge(model, work)
                    max_ticks = self.launches.num_ticks(model, work, self.running)
                    return Plan(model, work, self.pool.collect_copies(), max_ticks)
        except BaseException as error:
            self.undo(Plan(model, work, []))
            if not isinstance(error, Exception):
                raise
            raise SequenceError(self._at, error) from error
        return None

    def go_on(self, plan: Plan) -> list[int]:
        """Which of the plan's work goes on in the next tick of its launch; that is planned now, its positions filled.

        Raises: SequenceError when that fails for a sequence.
        """
        model, kept = plan.model, list[int]()
        try:
            if plan.work[0].sequence.awaited.use is Use.PROPOSAL:
                self._propose()
            for i, work in enumerate(plan.work):
                self._at = work.sequence
                if goes_on(work, model):
                    table, start = work.sequence.awaited.stream.table, work.end
                    table.fill_next(model, start)
                    kept.append(i)
                    work.start, work.end = start, start + 1
                    if start % self.pool.page_size == 0:
                        work.pages = table.pages[start // self.pool.page_size :][:1]
        except Exception as error:
            self.undo(Plan(model, [plan.work[i] for i in kept], []))
            raise SequenceError(self._at, error) from error
        if kept:
            self._charge(model, plan.work)
        return kept

    def _charge(self, model: Model, work: list[Work]) -> None:
        """A tick that only proposes is the large model's."""
        only_proposes = all(each.sequence.awaited.use is Use.PROPOSAL for each in work)
        self._served[Model.LARGE if only_proposes else model] += self._forward_bytes[model]

    def undo(self, plan: Plan) -> None:
        """Take back the marks of a plan that has not been run, or not to its end."""
        for work in reversed(plan.work):
            if not work.is_rerun:
                first = work.start // self.pool.page_size
                for i, page in enumerate(work.pages, first):
                    self.pool.unfill(plan.model, page, max(work.start - i * self.pool.page_size, 0))
        self.pool.take_back(plan.copies)

    def _admit(self) -> None:
        while self.waiting and len(self.running) < self._max_batch_size:
            self._at = self.waiting[0]
            # one page of headroom each, so that what is admitted isn't preempted at once
            if not self._at.stream.table.can_attach(self._at.stream.tokens, headroom=len(self.running)):
                break
            insort(self.running, self.waiting.pop(0), key=arrival)
            self._attach(self._at)

    def _attach(self, sequence: Sequence) -> None:
        stream = sequence.stream
        stream.table.attach(stream.tokens)
        if not any(sequence.streams.num_seen):
            sequence.streams.num_cached_tokens = stream.table.next_run(sequence.model, len(stream))[0]
            self.num_cached_tokens += sequence.streams.num_cached_tokens

    def _propose(self) -> None:
        for sequence in self.proposing.prepare(self.running):
            self._at = sequence

    def _next_model(self) -> Model:
        busy = [any(sequence.model == model for sequence in self.running) for model in range(len(self._served))]
        least = min(served for model, served in enumerate(self._served) if busy[model])
        for model, served in enumerate(self._served):
            if not busy[model]:
                self._served[model] = max(served, least)  # who had nothing to do saves nothing up
        return Model(min((served, model) for model, served in enumerate(self._served) if busy[model])[1])

    def _hold_pages(self, model: Model) -> None:
        """See to it that each sequence that runs on this model has the pages it needs, the oldest first."""
        for sequence in list(self.running):
            self._at, stream = sequence, sequence.awaited.stream
            if stream.table.covers(len(stream.tokens), stream.num_written) and stream.table.is_attached:
                continue
            while sequence in self.running and sequence.model == model:
                if stream.table.is_attached and stream.table.num_missing(len(stream)) <= self.pool.num_available:
                    stream.table.hold(stream.tokens, stream.num_written)
                    break
                if not stream.table.is_attached and stream.table.can_attach(stream.tokens, headroom=0):
                    self._attach(sequence)
                    break
                if not self._drop_proposals():
                    self._preempt_newest()

    def _drop_proposals(self) -> bool:
        """Take back all proposals, and what waits for them; whether there were any."""
        with_some = [sequence for sequence in self.running if sequence.proposals]
        for sequence in with_some:
            sequence.proposals.drop()
        return bool(with_some)

    def _preempt_newest(self) -> None:
        sequence = self.running.pop()
        sequence.streams.release_pages()
        self.add(sequence)
        self.num_preemptions += 1

    def _batch(self, model: Model, work: list[Work]) -> None:
        """Each sequence's part of the tick; tokens, and rows beyond a sequence's first, are taken from one budget."""
        runs = [(sequence, *next_run(sequence, model)) for sequence in self.running if sequence.awaited.model is model]
        runs.sort(key=is_behind)  # stable: otherwise in the order of arrival
        budget, size = self._max_batch_tokens, self.pool.page_size
        for sequence, start, end, is_rerun in runs:
            if budget <= 0:  # the rows of a question are charged though they may not fit
                break
            self._at, stream, table = sequence, sequence.awaited.stream, sequence.awaited.stream.table
            if end - start != 1 or self.pool.filled[model][table.pages[start // size]] != start % size:
                start, end, is_rerun = next_run(sequence, model)  # others in this tick may run what it shares with them
                has_rows = bool(stream.proposals) or sequence.prompt_logprobs.next_position is not None
                # with a row for each token too, and one of all rows free, as for any sequence
                end = min(end, start + ((budget + 1) // 2 if has_rows else budget))
                budget -= max(len(places(sequence, start, end)) - 1, 0)
            budget -= end - start
            num_rows = min(1 + sequence.awaited.num_unborn, 1 + budget) if end == len(stream.tokens) else 0
            budget -= max(num_rows - 1, 0)
            pages = table.pages[start // size : -(-end // size)]
            work.append(Work(sequence, start, end, num_rows, is_rerun, pages))
            if not is_rerun:
                table.fill(model, start, end)


def next_run(sequence: Sequence, model: Model) -> tuple[int, int, bool]:
    """(start, end, whether they are run again) of the positions that the model has to run next for a sequence.

    Where the K/V is there already and the logits are wanted all the same, positions are run again: those before the
    first place that something is to be drawn at, up to what has not been run.
    """
    stream = sequence.awaited.stream
    start, end = stream.table.next_run(model, len(stream.tokens))
    place = first_place(sequence)
    return (place - 1, start, True) if place - 1 < start else (start, end, False)


def is_behind(run: tuple[Sequence, int, int, bool]) -> bool:
    """Whether the model has to read more than a sequence's last token, and proposals; `run` is its `next_run`."""
    sequence, start, end, is_rerun = run
    return (end if is_rerun else start) < sequence.awaited.stream.num_written - 1
