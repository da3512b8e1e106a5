"""The decoding loop: a tick from its plan to the events that it brings about. It owns every unfinished sequence."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import groupby

from glimp_engine.errors import GlimpError, RequestError
from glimp_engine.execution import ModelRunner, Row, SamplingColumns, build_batch
from glimp_engine.meter import Meter
from glimp_engine.outputs import Event, Finish, FinishReason, RequestOutput
from glimp_engine.routing import Model
from glimp_engine.sequences import PagePool, Plan, SampledToken, Scheduler, Sequence, SequenceError, Use

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
        page_size: int,
        starts_ahead: bool,
        emit: Callable[[list[Event]], None],
    ) -> None:
        """With starts_ahead a tick ends with the start of the next, which the device then does by itself.

        `emit` takes the events, as they come about.
        """
        self.runners = runners
        self.pool = pool
        self.scheduler = scheduler
        self.meter = meter
        self.live: dict[str, list[Sequence]] = {}  # the sequences of each unfinished request, in their order
        self._page_size = page_size
        self._starts_ahead = starts_ahead
        self._deliver = emit
        self._sampling = SamplingColumns()
        self._started: Started | None = None  # a tick that the device is at

    def add(self, sequence: Sequence) -> None:
        """Queue the first sequence of a request."""
        self.live[sequence.request.request_id] = [sequence]
        self.scheduler.add(sequence)
        self._follow(sequence, sequence.begin, time.perf_counter())

    def abort(self, request_id: str) -> None:
        """End a request's sequences as they are."""
        now = time.perf_counter()
        for sequence in list(self.live.get(request_id, ())):
            if sequence.finish_reason is None:
                self._follow(sequence, partial(sequence.finish, FinishReason.ABORT, now), now)

    def tick(self) -> None:
        """Finish the tick that was started before, or else one started now; then start the next, if the device can."""
        started = self._started or self._start()
        self._started = None
        if started is None:
            return
        try:
            rows = started.finish()
        except BaseException as error:  # a forward may raise anything
            self._fail(started.plan, error)
            return
        now = time.perf_counter()
        self.meter.count_forward(started.plan, started.began, now, self.pool)
        for sequence, pairs in groupby(zip(started.rows, rows, strict=True), key=lambda pair: pair[0].sequence):
            if sequence.finish_reason is None:  # else it was aborted meanwhile
                newborn: list[tuple[Sequence, SampledToken]] = []
                self._follow(sequence, partial(self._take, sequence, list(pairs), newborn, now), now)
                for child, first in newborn:
                    self._follow(child, partial(child.write, first, now), now)
        if self._starts_ahead:
            self._started = self._start()

    def _start(self) -> Started | None:
        """Begin a tick: plan it, copy pages, give the model's runner the batch. None if there is none, or it fails."""
        try:
            plan = self.scheduler.plan()
        except SequenceError as fault:
            log.error("a tick could not be planned", exc_info=fault)
            self._retire(fault.sequence, end_with(fault.sequence, str(fault), time.perf_counter()))
            return None
        if plan is None:
            return None
        began = time.perf_counter()
        try:
            for copy in plan.copies:
                for each in self.runners:
                    each.kv.copy_page(copy.source, copy.target)
            batch = build_batch(plan, self._page_size, self._sampling)
            return Started(plan, batch.rows, self.runners[plan.model].start(batch), began)
        except BaseException as error:
            self._fail(plan, error)
            return None

    def _fail(self, plan: Plan, error: BaseException) -> None:
        """Undo a plan that could not be run, and end what was in it; an interrupt ends nothing, and goes on."""
        self.scheduler.undo(plan)
        if not isinstance(error, Exception):
            raise error
        log.error("a forward of the %s model failed", plan.model, exc_info=error)
        now = time.perf_counter()
        for work in plan.work:
            if work.sequence.finish_reason is None:
                self._retire(work.sequence, end_with(work.sequence, f"{type(error).__name__}: {error}", now))

    def _take(
        self,
        sequence: Sequence,
        pairs: list[tuple[Row, SampledToken]],
        newborn: list[tuple[Sequence, SampledToken]],
        now: float,
    ) -> list[Event]:
        """What follows from what was sampled for a sequence; `newborn` gets its forks, each with its first token."""
        use = sequence.awaited.use
        if any(each.entropy != each.entropy for _, each in pairs):
            return sequence.fail(f"the {sequence.model} model's logits are not numbers", now)
        if use is Use.SCORE:
            return sequence.take_score({row.num_after: each for row, each in pairs}, now)
        sequence.take_prompt({row.num_after: each for row, each in pairs if row.num_after})
        at_end = {row.sequence_index: each for row, each in pairs if not row.num_after}
        if not at_end:
            return []
        sampled = at_end.pop(sequence.index, None)
        events: list[Event] = []
        if use is Use.GLIMPSE:
            assert sampled is not None
            self.meter.count_glimpse(sequence)
            events = sequence.take_glimpse(sampled, now)
            is_small = sequence.model is Model.SMALL and sequence.awaited.use is Use.TOKEN
            if sequence.finish_reason is not None or not is_small:
                return events
        for index, first in at_end.items():
            newborn.append((self._fork(sequence, index, now), first))
        if sampled is not None and sequence.awaited.num_unborn == 0:  # else it waits for those yet to be born
            events += sequence.write(sampled, now)
        return events

    def _fork(self, sequence: Sequence, index: int, now: float) -> Sequence:
        """The request's next sequence, which begins where this one is."""
        child = sequence.fork(index, self.pool, now)
        self.scheduler.add(child)
        self.live[sequence.request.request_id].append(child)
        sequence.awaited.num_unborn -= 1
        return child

    def _follow(self, sequence: Sequence, take: Callable[[], list[Event]], now: float) -> None:
        """Let a sequence take what was sampled for it; retire it if that ends it, or fails in whatever way."""
        try:
            events = take()
        except BaseException as error:
            if not isinstance(error, RequestError):
                log.error("request %s failed", sequence.request.request_id, exc_info=error)
            message = str(error) if isinstance(error, GlimpError) else f"{type(error).__name__}: {error}"
            self._retire(sequence, end_with(sequence, message, now))
            if not isinstance(error, Exception):
                raise
            return
        if sequence.finish_reason is None:
            self._emit(events)
        else:
            self._retire(sequence, events)

    def _emit(self, events: list[Event]) -> None:
        self.meter.count_events(events)
        self._deliver(events)

    def _retire(self, sequence: Sequence, events: list[Event]) -> None:
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
                prompt_logprobs=family[0].prompt_logprobs.result,
            )
        assert sequence.finish_reason is not None
        finish = Finish(request.request_id, sequence.index, sequence.finish_reason, sequence.held_back_text, output)
        self._emit([*events, finish])


def end_with(sequence: Sequence, error: str, now: float) -> list[Event]:
    """The events of a sequence that an error ends, whatever state it's in."""
    try:
        return sequence.fail(error, now)
    except Exception:  # what was raised has left it half done
        log.exception("request %s could not be ended as others are", sequence.request.request_id)
        sequence.finish_reason, sequence.error = FinishReason.ERROR, error
        return []
