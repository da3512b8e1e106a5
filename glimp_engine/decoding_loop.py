"""The decoding loop: a tick from its plan to the events that it brings about. It owns every unfinished sequence."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import groupby

from glimp_engine.errors import RequestError
from glimp_engine.execution import ModelRunner, Row, SamplingColumns, build_batch
from glimp_engine.meter import Meter
from glimp_engine.outputs import Event, Finish, FinishReason, RequestOutput
from glimp_engine.routing import Model
from glimp_engine.sequences import PagePool, Plan, SampledToken, Scheduler, Sequence, Use

__all__ = ["DecodingLoop"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Started:
    """A tick that has begun: what it is, and what waits for its samples."""

    plan: Plan
    rows: list[Row]
    finish: Callable[[], list[SampledToken]]
    began: float


class DecodingLoop:
    """Plan, ragged forward, sample, bookkeeping; nothing here runs by itself."""

    def __init__(
        self,
        runners: list[ModelRunner],
        pool: PagePool,
        scheduler: Scheduler,
        meter: Meter,
        page_size: int,
        starts_ahead: bool,
    ) -> None:
        """With starts_ahead a tick ends with the start of the next, which the device then does by itself."""
        self.runners = runners
        self.pool = pool
        self.scheduler = scheduler
        self.meter = meter
        self.live: dict[str, list[Sequence]] = {}  # the sequences of each unfinished request, in their order
        self._page_size = page_size
        self._starts_ahead = starts_ahead
        self._sampling = SamplingColumns()
        self._started: Started | None = None  # a tick that the device is at

    def add(self, sequence: Sequence) -> list[Event]:
        """Queue the first sequence of a request."""
        self.live[sequence.request.request_id] = [sequence]
        self.scheduler.add(sequence)
        return sequence.begin()

    def abort(self, request_id: str) -> list[Event]:
        """End a request's sequences as they are."""
        now = time.perf_counter()
        events: list[Event] = []
        for sequence in list(self.live.get(request_id, ())):
            if sequence.finish_reason is None:
                events += self._retire(sequence, sequence.finish(FinishReason.ABORT, now))
        return events

    def tick(self) -> list[Event]:
        """Finish the tick that was started before, or else one started now; then start the next, if the device can."""
        plan = self._started.plan if self._started is not None else self.scheduler.plan()
        if plan is None:
            return []
        try:
            started, self._started = self._started or self._start(plan), None
            rows = started.finish()
        except Exception as error:  # whatever a forward may raise ends the requests that were in it, and no other
            self._started = None
            return self._fail(plan, error)
        now = time.perf_counter()
        self.meter.count_forward(plan, started.began, now, self.pool)
        events: list[Event] = []
        by_sequence = groupby(zip(started.rows, rows, strict=True), key=lambda pair: pair[0].sequence)
        for sequence, pairs in by_sequence:
            if sequence.finish_reason is None:  # else it was aborted meanwhile
                events += self._take(sequence, list(pairs), now)
        return events + self._start_ahead()

    def _start(self, plan: Plan) -> Started:
        """Begin a tick: pages are copied, and the model's runner is given the batch."""
        began = time.perf_counter()
        for copy in plan.copies:
            for each in self.runners:
                each.kv.copy_page(copy.source, copy.target)
        batch = build_batch(plan, self._page_size, self._sampling)
        return Started(plan, batch.rows, self.runners[plan.model].start(batch), began)

    def _start_ahead(self) -> list[Event]:
        """Let a device that works by itself have the next tick while this one's events are delivered."""
        plan = self.scheduler.plan() if self._starts_ahead else None
        if plan is None:
            return []
        try:
            self._started = self._start(plan)
        except Exception as error:
            return self._fail(plan, error)
        return []

    def _take(self, sequence: Sequence, pairs: list[tuple[Row, SampledToken]], now: float) -> list[Event]:
        """What follows from what was sampled for a sequence, and for its forks where they are about to be born."""
        sampled, use = pairs[0][1], sequence.awaited.use
        if any(each.entropy != each.entropy for _, each in pairs):
            return self._retire(sequence, sequence.fail(f"the {sequence.model} model's logits are not numbers", now))
        if use is Use.SCORE:
            samples = {row.num_after: sampled for row, sampled in pairs}
            return self._follow(sequence, lambda: sequence.take_score(samples, now), now)
        events: list[Event] = []
        if use is Use.GLIMPSE:
            self.meter.count_glimpse(sequence)
            events += self._follow(sequence, lambda: sequence.take_glimpse(sampled, now), now)
            is_small = sequence.model is Model.SMALL and sequence.awaited.use is Use.TOKEN
            if sequence.finish_reason is not None or not is_small:
                return events
        family = [sequence]
        for index in range(1, len(pairs)):
            child = sequence.fork(index, self.pool, now)
            self.scheduler.add(child)
            self.live[sequence.request.request_id].append(child)
            family.append(child)
        for member, (_, own) in zip(family, pairs, strict=True):
            events += self._follow(member, partial(member.write, own, now), now)
        return events

    def _follow(self, sequence: Sequence, take: Callable[[], list[Event]], now: float) -> list[Event]:
        """Let a sequence take what was sampled for it, and retire it if that, or its router's failure, ends it."""
        try:
            events = take()
        except RequestError as error:
            events = sequence.fail(str(error), now)
        return events if sequence.finish_reason is None else self._retire(sequence, events)

    def _retire(self, sequence: Sequence, events: list[Event]) -> list[Event]:
        """Take a finished sequence out of the engine; the last one of a request brings its output."""
        self.scheduler.remove(sequence)
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
            )
        assert sequence.finish_reason is not None
        finish = Finish(request.request_id, sequence.index, sequence.finish_reason, sequence.held_back_text, output)
        return [*events, finish]

    def _fail(self, plan: Plan, error: Exception) -> list[Event]:
        log.error("a forward of the %s model failed", plan.model, exc_info=error)
        self.scheduler.undo(plan)
        now = time.perf_counter()
        events: list[Event] = []
        for work in plan.work:
            if work.sequence.finish_reason is not None:
                continue
            events += self._retire(work.sequence, work.sequence.fail(f"{type(error).__name__}: {error}", now))
        return events
