"""The life of a sequence, from its prompt's glimpse to its finish reason. Pure: no torch, no clock of its own.

    PROMPT -> GLIMPSE -> SMALL_STEP | LARGE_STEP -> GLIMPSE ... -> ANSWER -> DONE

`model` is the model that has to run next, and `awaits_glimpse` says what for: to be glimpsed, or to write. The engine
runs it, then calls `take_glimpse` or `write` with what was sampled, and gets the events back.
"""

import math
from dataclasses import dataclass

from glimp_engine.boundaries import Boundary
from glimp_engine.outputs import CompletionOutput, Event, FinishReason, Phase, Step, StepEnd, StepStart, Token
from glimp_engine.pages import PagePool
from glimp_engine.routers import Glimpse, Model, RouteContext
from glimp_engine.sampling import RoutingParams, SamplingParams
from glimp_engine.streams import Streams, TokenStream
from glimp_engine.transcript import SampledToken, Transcript, Voice

__all__ = ["Request", "Sequence"]

DEFAULT_ANSWER_TOKENS = 2048  # arXiv 2601.05110


@dataclass(frozen=True)
class Request:
    """One prompt and its sampling and routing parameters, checked."""

    request_id: str
    arrival: int  # how many requests came before it
    prompt: str | None
    prompt_token_ids: list[int]
    sampling: SamplingParams
    routing: RoutingParams
    seed: int
    is_thinking: bool  # the prompt ends inside <think>
    max_model_len: int

    @property
    def max_answer_tokens(self) -> int:
        return self.routing.max_answer_tokens or self.sampling.max_tokens or DEFAULT_ANSWER_TOKENS

    @property
    def answer_model(self) -> Model | None:
        """The model that writes what follows </think> as one step; None if that too is routed."""
        only = self.routing.router.only
        if only is not None or not self.is_thinking or self.routing.answer_model == "routed":
            return None
        return Model.LARGE if self.routing.answer_model == "large" else Model.SMALL


class Sequence:
    """One token stream of a request. It lives until `finish_reason` is set."""

    def __init__(self, request: Request, index: int, streams: Streams, voices: tuple[Voice, Voice], now: float) -> None:
        self.request = request
        self.index = index
        self.streams = streams
        self.model = Model.SMALL
        self.awaits_glimpse = False
        self.num_unborn = request.sampling.n - 1 if index == 0 else 0  # sequences to be forked at the first token
        self.last_writer: Model | None = None  # of the last token
        self.num_seen = [0, 0]  # [model]: positions it had seen before the pages were given back
        self.phase = Phase.THINKING if request.is_thinking else Phase.ANSWER
        self.steps: list[Step] = []
        self.transcript = Transcript(voices, tuple(request.sampling.stop), request.sampling.logprobs)
        self.finish_reason: FinishReason | None = None
        self.held_back_text = ""  # until it was known that no stop string comes
        self.error: str | None = None
        self._voices = voices
        self._num_thinking_tokens = 0
        self._answer_start = 0  # index of the answer's first token
        self._thinking_finish_reason: FinishReason | None = None
        self._step_is_open = False
        self._step_began = now

    @property
    def stream(self) -> TokenStream:
        """The stream of the model that has to run next."""
        return self.streams.of(self.model)

    @property
    def num_unseen(self) -> int:
        """Positions that the model has to run next, where it has pages."""
        return len(self.stream) - self.stream.table.next_run(self.model, len(self.stream))[0]

    @property
    def is_glimpsed_next(self) -> bool:
        """Whether the router is asked who writes the step after this one."""
        is_answered_by_one = self.phase is Phase.ANSWER and self.request.answer_model is not None
        return not is_answered_by_one and self.request.routing.router.only is not Model.LARGE

    @property
    def small_below(self) -> float:
        """Nats below which a glimpse certainly leaves the next step to the small model."""
        return getattr(self.request.routing.router, "small_below", 0.0) if self.is_glimpsed_next else math.inf

    def begin(self) -> list[Event]:
        """Start the first step: await its glimpse, or open it if the router needs none."""
        return self._begin_step()

    def take_glimpse(self, glimpse: Glimpse) -> list[Event]:
        """Let the router decide who writes the step that the small model has just been glimpsed for."""
        self.awaits_glimpse = False
        context = RouteContext(self.request.seed, self.index, len(self.steps))
        return self._open_step(Model(self.request.routing.router.decide(glimpse, context)), glimpse.entropy)

    def write(self, sampled: SampledToken, now: float) -> list[Event]:
        """Append a token that `model` has written, and follow what it completes."""
        self.num_unborn = 0
        self.last_writer = self.model
        self.streams.write(self.model, sampled.token_id)
        text, boundary = self.transcript.write(self.model, sampled)
        self._mark_written()
        events: list[Event] = [self._token(self.model, sampled.token_id, text, sampled.logprob)]
        if self.phase is Phase.THINKING:
            self._num_thinking_tokens += 1
        if boundary is Boundary.END or self.transcript.matched_stop is not None:
            return events + self.finish(FinishReason.STOP, now)
        if self._is_out_of_room():
            return events + self.finish(FinishReason.LENGTH, now)
        return events + self._follow(boundary, now)

    def finish(self, reason: FinishReason, now: float) -> list[Event]:
        """End the sequence; what has been written so far is its output."""
        self.finish_reason = reason
        self.held_back_text = self.transcript.finish()
        if self.phase is Phase.THINKING:
            self._thinking_finish_reason = reason
        return self._close_step(now)

    def fail(self, error: str, now: float) -> list[Event]:
        """End the sequence with an error of its own."""
        self.error = error
        return self.finish(FinishReason.ERROR, now)

    def fork(self, index: int, pool: PagePool, now: float) -> "Sequence":
        """Another sequence of the request at the same point: its first token is about to be written."""
        child = Sequence(self.request, index, self.streams.fork(pool), self._voices, now)
        child._open_step(self.steps[0].model, self.steps[0].entropy)
        child.num_seen = self.positions_seen()
        return child

    def positions_seen(self) -> list[int]:
        """[model]: how many positions it has run, or found in the prefix cache, at any time."""
        seen = list(self.num_seen)
        for model in Model:
            stream = self.streams.of(model)
            if stream.table.is_attached:
                seen[model] = max(seen[model], stream.table.next_run(model, len(stream))[0])
        return seen

    def release_pages(self) -> None:
        """Give all pages back; the sequence can go on later where it is now."""
        self.num_seen = self.positions_seen()
        for stream in self.streams.distinct():
            stream.table.release(stream.tokens)

    def output(self) -> CompletionOutput:
        """All that the sequence has written."""
        transcript, text = self.transcript, self.transcript.text
        for step in self.steps:  # a stop string is not part of the text
            step.text_start, step.text_end = min(step.text_start, len(text)), min(step.text_end, len(text))
        return CompletionOutput(
            index=self.index,
            text=text,
            token_ids=transcript.token_ids,
            cumulative_logprob=transcript.cumulative_logprob,
            logprobs=transcript.logprobs,
            finish_reason=self.finish_reason,
            stop_reason=transcript.matched_stop,
            thinking_finish_reason=self._thinking_finish_reason,
            steps=self.steps,
        )

    # Steps: begun at a boundary, opened with a route, closed at the next boundary.

    def _begin_step(self) -> list[Event]:
        if self.phase is Phase.ANSWER and self.request.answer_model is not None:
            return self._open_step(self.request.answer_model, None)
        if not self.is_glimpsed_next:
            return self._open_step(Model.LARGE, None)
        self.awaits_glimpse = True
        self._run_next(Model.SMALL)
        return []

    def _open_step(self, model: Model, entropy: float | None) -> list[Event]:
        is_hand_over = self.last_writer not in (None, model)
        self._run_next(model)
        token_start, text_start = len(self.transcript.token_ids), len(self.transcript.raw_text)
        step = Step(len(self.steps), self.phase, model, entropy, token_start, text_start)
        self.steps.append(step)
        self.transcript.start_step()
        self._step_is_open = True
        return [StepStart(self.request.request_id, self.index, step, is_hand_over)]

    def _close_step(self, now: float) -> list[Event]:
        if not self._step_is_open:
            return []
        self._step_is_open = False
        step = self.steps[-1]
        step.token_end, step.text_end = len(self.transcript.token_ids), len(self.transcript.raw_text)
        step.seconds, self._step_began = now - self._step_began, now
        return [StepEnd(self.request.request_id, self.index, step)]

    def _run_next(self, model: Model) -> None:
        if self.last_writer not in (None, model) and not self.streams.is_shared:
            self.transcript.flush()  # this model can't complete the other one's character
            self._mark_written()
        self.model = model
        self.streams.carry(model, self.transcript.token_ids, self.transcript.raw_text)

    # What follows a token that doesn't end the sequence.

    def _follow(self, boundary: Boundary, now: float) -> list[Event]:
        routing = self.request.routing
        if self.phase is Phase.THINKING:
            if boundary is Boundary.END_OF_THINKING:
                return self._end_thinking(FinishReason.STOP, now)
            if self._num_thinking_tokens >= routing.max_thinking_tokens:
                return self._force_end_of_thinking(FinishReason.THINKING_BUDGET, now)
        elif self.request.answer_model is not None:
            return []  # an answer by one model is one step
        num_tokens = len(self.transcript.token_ids) - self.steps[-1].token_start
        if boundary is Boundary.NONE and num_tokens < routing.max_step_tokens:
            return []
        if routing.stop_repeated_steps and self._repeats_itself():
            if self.phase is Phase.THINKING:
                return self._force_end_of_thinking(FinishReason.REPEATED_STEP, now)
            return self.finish(FinishReason.REPEATED_STEP, now)
        return self._next_step(now)

    def _next_step(self, now: float) -> list[Event]:
        events = self._close_step(now)
        events += self._begin_step()
        if self._is_out_of_room():  # what was carried over may have filled the other model's context
            events += self.finish(FinishReason.LENGTH, now)
        return events

    def _end_thinking(self, reason: FinishReason, now: float) -> list[Event]:
        self._thinking_finish_reason = reason
        events = self._close_step(now)
        self.phase = Phase.ANSWER
        self._answer_start = len(self.transcript.token_ids)
        return events + self._next_step(now)

    def _force_end_of_thinking(self, reason: FinishReason, now: float) -> list[Event]:
        """Write </think> in the model's stead, on a line of its own."""
        events: list[Event] = []
        for token_id in self._voices[self.model].text.end_of_thinking(self.transcript.raw_text):
            self.streams.write(self.model, token_id)
            events.append(self._token(None, token_id, self.transcript.force(self.model, token_id), None))
            self._mark_written()
            if self._is_out_of_room():
                return events + self.finish(FinishReason.LENGTH, now)
        return events + self._end_thinking(reason, now)

    def _is_out_of_room(self) -> bool:
        num_tokens = len(self.transcript.token_ids)
        limit = self.request.sampling.max_tokens
        num_answer_tokens = num_tokens - self._answer_start if self.phase is Phase.ANSWER else 0
        return (
            (limit is not None and num_tokens >= limit)
            or num_answer_tokens >= self.request.max_answer_tokens
            or len(self.stream) >= self.request.max_model_len
        )

    def _repeats_itself(self) -> bool:
        """Whether the open step equals the one before, or the last four alternate."""
        text = self.transcript.raw_text
        steps = [step for step in self.steps[-4:] if step.phase is self.phase]
        *before, now = [text[step.text_start : step.text_end or None].strip() for step in steps]
        return before[-1:] == [now] or (len(before) == 3 and before[1] == now and before[0] == before[2])

    def _mark_written(self) -> None:
        assert self.last_writer is not None
        self.streams.mark_carried(self.last_writer, len(self.transcript.token_ids), len(self.transcript.raw_text))

    def _token(self, model: Model | None, token_id: int, text: str, logprob: float | None) -> Token:
        return Token(self.request.request_id, self.index, len(self.steps) - 1, model, token_id, text, logprob)
