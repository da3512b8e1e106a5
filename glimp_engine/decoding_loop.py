"""The decoding loop: a tick from its plan to the events that it brings about. It owns every unfinished sequence."""

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from glimp_engine.errors import GlimpError, RequestError
from glimp_engine.execution import Batches, ModelRunner, Ticks
from glimp_engine.meter import Meter
from glimp_engine.outputs import Event, Finish, FinishReason, RequestOutput
from glimp_engine.sequences import PagePool, Plan, Row, SampledToken, Scheduler, Sequence, SequenceError, TickTimes, Use

__all__ = ["DecodingLoop"]

log = logging.getLogger(__name__)
TOKEN = Use.TOKEN  # a member of an enum takes 0.1 us to look up, which each token would pay (Python 3.11)


class Started:
    """Ticks that have begun: the plan of the one whose samples come next, or came last, and who waits for them."""

    def __init__(self, plan: Plan, rows: list[Row], ticks: Ticks, began: float, num_changes: int) -> None:
        """num_changes: the scheduler's, as it planned them."""
        self.plan = plan
        self.rows = rows
        self.ticks = ticks
        self.began = began
        self.num_changes = num_changes
        self._columns = list(range(len(rows)))  # of the rows among those that were launched
        self.is_under_way = False  # whether samples have been taken
        # where ticks are done when the launch comes back, each has had its share of the time
        num_done = ticks.num_done
        self._seconds = (time.perf_counter() - began) / num_done if num_done else None

    def keep(self, indices: list[int]) -> None:
        """Only these rows go on, each with a token more."""
        if len(indices) < len(self.rows):
            self.plan = replace(self.plan, work=[self.plan.work[i] for i in indices])
            self.rows = [self.rows[i] for i in indices]
            self._columns = [self._columns[i] for i in indices]
            self.ticks.stop()
        for row in self.rows:
            row.place += 1

    def own(self, samples: list[SampledToken]) -> list[SampledToken]:
        """Those of its rows."""
        return samples if len(samples) == len(self._columns) else [samples[i] for i in self._columns]

    def end_tick(self) -> tuple[float, float]:
        """When the tick whose samples came began and ended."""
        began = self.began
        self.began = time.perf_counter() if self._seconds is None else began + self._seconds
        return began, self.began


class DecodingLoop:
    """Plan, ragged forward, sample, bookkeeping; nothing here runs by itself.

    Whatever is raised between a plan and its bookkeeping ends the sequences that it concerns, and only them, or is
    raised again once the plan is undone. A sequence whose sample was lost is planned again, and draws the same token.
    """

    def __init__(
        self,
        runners: list[ModelRunner],
        pool: PagePool,
        scheduler: Scheduler,
        meter: Meter,
        times: TickTimes,
        page_size: int,
        starts_ahead: bool,
        emit: Callable[[list[Event]], None],
    ) -> None:
        """With starts_ahead a tick ends with the start of the next, which the device then does by itself.

        `emit` takes the events of each call.
        """
        self.runners = runners
        self.pool = pool
        self.scheduler = scheduler
        self.meter = meter
        self.times = times
        self.live: dict[str, list[Sequence]] = {}  # the sequences of each unfinished request, in their order
        self._starts_ahead = starts_ahead
        self._deliver = emit
        self._untold: list[Event] = []
        self._batches = Batches(page_size)
        self._started: Started | None = None  # a tick that the device is at

    def add(self, sequence: Sequence) -> None:
        """Queue the first sequence of a request."""
        self.live[sequence.request.request_id] = [sequence]
        self.scheduler.add(sequence)
        self._follow(sequence, time.perf_counter(), sequence.begin)
        self._tell()

    def abort(self, request_id: str) -> None:
        """End a request's sequences as they are."""
        now = time.perf_counter()
        for sequence in list(self.live.get(request_id, ())):
            if sequence.finish_reason is None:
                self._follow(sequence, now, sequence.finish, FinishReason.ABORT, now)
        self._tell()

    def tick(self) -> None:
        """Take a tick that was started before, or else start one now; then start the next, if the device can."""
        started = self._started
        if started is None or not self._take_tick(started):
            started = self._start()
            if started is not None:
                self._take_tick(started)
        self._tell()

    def _take_tick(self, started: Started) -> bool:
        """Take the next of the ticks that were started; False if there is none that anybody waits for."""
        self._started = None
        if self.scheduler.num_changes != started.num_changes:
            started.ticks.stop()  # whoever has come is to be planned for
        try:
            samples = started.ticks.next()
            if samples is None or (started.is_under_way and not self._still_waits(started)):
                return False
        except BaseException as error:
            self._fail(started.plan, error, is_marked=not started.is_under_way)
            return True
        began, ended = started.end_tick()
        if started.is_under_way:
            self.meter.count_decodes(started.plan, began, ended, self.pool)
        else:
            self.meter.count_forward(started.plan, began, ended, self.pool)
        for pairs in by_sequence(list(zip(started.rows, started.own(samples), strict=True))):
            if len(pairs) == 1:
                self._take_one(*pairs[0], ended)
            else:
                self._take(pairs[0][0].sequence, pairs, ended)
        started.is_under_way = True
        num_tokens = sum(work.end - work.start for work in started.plan.work)
        self.times.add(started.plan.model, num_tokens, ended - began, started.plan.max_ticks > 1)
        if not started.ticks.is_over:
            self._started = started
        elif self._starts_ahead:
            self._started = self._start()
        return True

    def _still_waits(self, started: Started) -> bool:
        """Leave out the sequences that want something else than what a launch has gone on to; whether any is left."""
        try:
            indices = self.scheduler.go_on(started.plan)
        except SequenceError as fault:
            self._give_up(fault)
            indices = []
        started.keep(indices)
        return bool(indices)

    def _give_up(self, fault: SequenceError) -> None:
        """End the sequence that could not be planned for."""
        log.error("a tick could not be planned", exc_info=fault)
        self._retire(fault.sequence, end_with(fault.sequence, str(fault), time.perf_counter()))

    def _start(self) -> Started | None:
        """Begin a tick: plan it, copy pages, give the model's runner the batch. None if there is none, or it fails."""
        began = time.perf_counter()
        try:
            plan = self.scheduler.plan()
        except SequenceError as fault:
            self._give_up(fault)
            return None
        if plan is None:
            return None
        try:
            for copy in plan.copies:
                for each in self.runners:
                    each.kv.copy_page(copy.source, copy.target)
            batch = self._batches.of(plan)
            ticks = self.runners[plan.model].start(batch, plan.max_ticks)
            return Started(plan, batch.rows, ticks, began, self.scheduler.num_changes)
        except BaseException as error:
            self._fail(plan, error)
            return None

    def _fail(self, plan: Plan, error: BaseException, is_marked: bool = True) -> None:
        """Undo a plan that could not be run, and end what was in it; an interrupt ends nothing, and goes on."""
        if is_marked:
            self.scheduler.undo(plan)
        if not isinstance(error, Exception):
            raise error
        log.error("a forward of the %s model failed", plan.model, exc_info=error)
        now = time.perf_counter()
        for work in plan.work:
            if work.sequence.finish_reason is None:
                self._retire(work.sequence, end_with(work.sequence, f"{type(error).__name__}: {error}", now))

    def _take_one(self, row: Row, sampled: SampledToken, now: float) -> None:
        """As `_take`, of one row; nearly each is the next token of who writes on, for which that does too much."""
        sequence, stream = row.sequence, row.sequence.awaited.stream
        is_next = sequence.awaited.use is TOKEN and row.place == stream.num_written and not stream.proposals
        if not is_next or sequence.awaited.num_unborn or sequence.finish_reason is not None:
            return self._take(sequence, [(row, sampled)], now)
        self._follow(sequence, now, sequence.follow, sampled, now)
        self._go_on(sequence, now)
        self.scheduler.proposing.learn(sequence)

    def _take(self, sequence: Sequence, pairs: list[tuple[Row, SampledToken]], now: float) -> None:
        """Let a sequence take what was sampled for it, and go on with it; then its forks begin."""
        if sequence.finish_reason is not None:
            return  # it was aborted meanwhile
        own = {row.place: each for row, each in pairs if row.sequence_index == sequence.index}
        first_tokens = {row.sequence_index: each for row, each in pairs if row.sequence_index != sequence.index}
        model = sequence.model
        if sequence.awaited.use is Use.GLIMPSE and sequence.stream.num_written in own:
            self.meter.count_glimpse(sequence)
        self._follow(sequence, now, sequence.take, own, now)
        self._go_on(sequence, now)
        if (
            first_tokens
            and sequence.finish_reason is None
            and (sequence.model, sequence.awaited.use) == (model, Use.TOKEN)
        ):
            newborn: list[Sequence] = []
            self._follow(sequence, now, self._fork, sequence, list(first_tokens), newborn, now)
            self._go_on(sequence, now)
            for child in newborn:
                self._follow(child, now, child.follow, first_tokens[child.index], now)
        if sequence.proposals.outcomes:
            self.meter.count_outcomes(sequence.proposals.outcomes)
        self.scheduler.proposing.learn(sequence)

    def _go_on(self, sequence: Sequence, now: float) -> None:
        """Follow what is known already of what the sequence's models draw: nothing has to be run for it."""
        if not any(sequence.awaited.stream.draws):
            return
        while sequence.finish_reason is None and (draw := sequence.draw) is not None:
            self._follow(sequence, now, sequence.follow, draw, now)

    def _fork(self, sequence: Sequence, indices: list[int], newborn: list[Sequence], now: float) -> list[Event]:
        """The request's next sequences, which begin where this one is."""
        events: list[Event] = []
        for index in indices:
            child, begun = sequence.fork(index, self.pool, now)
            events += begun
            self.scheduler.add(child)
            self.live[sequence.request.request_id].append(child)
            sequence.awaited.num_unborn -= 1
            newborn.append(child)
        return events

    def _follow(self, sequence: Sequence, now: float, take: Callable[..., list[Event]], *arguments: Any) -> None:
        """Let a sequence take what was sampled for it; retire it if that ends it, or fails in whatever way."""
        try:
            events = take(*arguments)
        except BaseException as error:
            if not isinstance(error, RequestError):
                log.error("request %s failed", sequence.request.request_id, exc_info=error)
            message = str(error) if isinstance(error, GlimpError) else f"{type(error).__name__}: {error}"
            self._retire(sequence, end_with(sequence, message, now))
            if not isinstance(error, Exception):
                raise
            return
        if sequence.finish_reason is not None:
            self._retire(sequence, events)
        else:
            self._untold += events

    def _tell(self) -> None:
        """Hand over what has come about."""
        events, self._untold = self._untold, []
        self.meter.count_events(events)
        self._deliver(events)

    def _retire(self, sequence: Sequence, events: list[Event]) -> None:
        """Take a finished sequence out of the engine; the last one of a request brings its output."""
        self.scheduler.remove(sequence)
        self.meter.count_tokens(sequence)
        request, family = sequence.request, self.live[sequence.request.request_id]
        output = None
        if all(member.finish_reason is not None for member in family):
            del self.live[request.request_id]
            errors = [member.error for member in family if member.error is not None]
            output = RequestOutput(
                request_id=request.request_id,
                prompt=request.prompt,
                prompt_token_ids=request.prompt_token_ids,
                outputs=[member.output() for member in family],
                error=errors[0] if errors else None,
                prompt_logprobs=family[0].prompt_logprobs.result,
                num_cached_tokens=family[0].streams.num_cached_tokens,
            )
        assert sequence.finish_reason is not None
        what = sequence.finish_reason, sequence.held_back_text, output, sequence.transcript.matched_stop
        finish = Finish(request.request_id, sequence.index, *what)
        self._untold += [*events, finish]


def by_sequence(pairs: list[tuple[Row, SampledToken]]) -> Iterator[list[tuple[Row, SampledToken]]]:
    """One sequence's rows after the other's."""
    start = 0
    for end in range(1, len(pairs) + 1):
        if end == len(pairs) or pairs[end][0].sequence is not pairs[start][0].sequence:
            yield pairs[start:end]
            start = end


def end_with(sequence: Sequence, error: str, now: float) -> list[Event]:
    """The events of a sequence that an error ends, whatever state it's in."""
    try:
        return sequence.fail(error, now)
    except Exception:  # what was raised has left it half done
        log.exception("request %s could not be ended as others are", sequence.request.request_id)
        sequence.finish_reason, sequence.error = FinishReason.ERROR, error
        return []
