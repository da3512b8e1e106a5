"""The life of a sequence, from its prompt's glimpse to its finish reason. Pure: no torch, no clock of its own.

    PROMPT -> GLIMPSE -> SMALL_STEP | LARGE_STEP -> GLIMPSE ... -> ANSWER -> DONE

`model` is the model that has to run next, and `awaits_glimpse` says what for: to be glimpsed, or to write. The engine
runs it, then calls `take_glimpse` or `write` with what was sampled, and gets the events back.
"""

import math
from collections.abc import Callable

from glimp_engine.boundaries import Boundary
from glimp_engine.drafts import OpenDraft, encode_question, read_score
from glimp_engine.outputs import CompletionOutput, Event, FinishReason, Phase, Step, StepEnd, StepStart, Token
from glimp_engine.pages import PagePool
from glimp_engine.request import Request
from glimp_engine.routers import Draft, Glimpse, Model, RouteContext, Verdict
from glimp_engine.streams import Streams, TokenStream
from glimp_engine.transcript import SampledToken, Transcript, Voice

__all__ = ["Sequence"]


class Sequence:
    """One token stream of a request. It lives until `finish_reason` is set."""

    def __init__(self, request: Request, index: int, streams: Streams, voices: tuple[Voice, Voice], now: float) -> None:
        self.request = request
        self.index = index
        self.streams = streams
        self.model = Model.SMALL
        self.awaits_glimpse = False
        self.awaits_score = False  # the stream then ends with a question about the draft, to the large model
        self.num_question_tokens = 0
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
        self._glimpses: list[Glimpse] = []
        self._sums = [0.0, 0.0]  # over the tokens of the open step: nats of entropy, log-probabilities
        self._draft: OpenDraft | None = None
        self._large_choices: dict[int, SampledToken] = {}  # position -> what the large model would have written there

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

    def rows_to_sample(self, start: int, end: int) -> list[tuple[int, int]]:
        """(sequence index, tokens of the stream behind its place) of each row of a forward over positions start:end.

        A question's forward samples too what the large model would write in the draft's place, and after the draft:
        if a step is taken back, the one that replaces it begins with that, and no position has to be run again.
        """
        num_tokens = len(self.stream)
        rows = [(self.index + i, 0) for i in range(1 + self.num_unborn)] if end == num_tokens else []
        if self._draft is not None and self.awaits_score and not self.request.sampling.has_penalties:
            places = (self._draft.stream_lens[-1], num_tokens - self.num_question_tokens)
            rows += [(self.index, num_tokens - place) for place in places if start < place <= end]
        return rows

    def begin(self) -> list[Event]:
        """Start the first step: await its glimpse, or open it if the router needs none."""
        return self._begin_step(self._step_began)

    def take_glimpse(self, sampled: SampledToken, now: float) -> list[Event]:
        """Let the router decide who writes the step that the small model has just been glimpsed for.

        Raises: RequestError when the router does.
        """
        self.awaits_glimpse = False
        top = tuple(logprob for _, logprob in sampled.top_logprobs)
        glimpse = Glimpse(sampled.entropy, sampled.token_id, sampled.logprob, top)
        context = RouteContext(self.request.seed, self.index, len(self.steps), self._glimpses)
        model = self.request.decide(glimpse, context)
        self._glimpses.append(glimpse)
        first_tokens = sampled.top_logprobs[: self.request.routing.glimpse_logprobs]
        return self._open_step(model, now, glimpse.entropy, first_tokens)

    def take_score(self, samples: dict[int, SampledToken], now: float) -> list[Event]:
        """Take the question back, and let the router judge the draft by the answer, once it's there.

        `samples` has, by how many tokens stand behind its place, what was sampled of each of `rows_to_sample`.

        Raises: RequestError when the router does.
        """
        end = len(self.stream)
        self._large_choices.update({end - num_after: sampled for num_after, sampled in samples.items() if num_after})
        if 0 not in samples:
            return []
        self.awaits_score = False
        self._cut_streams(lambda: self.stream.truncate(end - self.num_question_tokens))
        self.num_question_tokens = 0
        self._run_next(Model.SMALL)
        return self._judge(read_score(self._voices[Model.LARGE].text, samples[0]), now)

    def write(self, sampled: SampledToken, now: float) -> list[Event]:
        """Append a token that `model` has written, and follow what it completes; of a draft nothing is told yet.

        Raises: RequestError when the router fails to judge the draft that is now complete.
        """
        self.num_unborn = 0
        self.last_writer = self.model
        self.streams.write(self.model, sampled.token_id)
        text, boundary = self.transcript.write(self.model, sampled)
        self._mark_written()
        self._sums = [self._sums[0] + sampled.entropy, self._sums[1] + sampled.logprob]
        events: list[Event] = [self._token(self.model, sampled.token_id, text, sampled.logprob)]
        if self.phase is Phase.THINKING:
            self._num_thinking_tokens += 1
        if self._draft is None:
            return events + self._follow(boundary, now)
        self._draft.events += events
        self._draft.boundary = boundary
        return self._end_draft(now) if self._ends_step(boundary) else []

    def finish(self, reason: FinishReason, now: float) -> list[Event]:
        """End the sequence; what has been written so far is its output."""
        events = self._keep_draft()
        self.finish_reason = reason
        self.held_back_text = self.transcript.finish()
        if self.phase is Phase.THINKING:
            self._thinking_finish_reason = reason
        return events + self._close_step(now)

    def fail(self, error: str, now: float) -> list[Event]:
        """End the sequence with an error of its own."""
        self.error = error
        return self.finish(FinishReason.ERROR, now)

    def fork(self, index: int, pool: PagePool, now: float) -> "Sequence":
        """Another sequence of the request at the same point: its first token is about to be written."""
        child = Sequence(self.request, index, self.streams.fork(pool), self._voices, now)
        child._glimpses = list(self._glimpses)
        child._open_step(self.steps[0].model, now, self.steps[0].entropy, self.steps[0].first_tokens)
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

    def _begin_step(self, now: float) -> list[Event]:
        if self.phase is Phase.ANSWER and self.request.answer_model is not None:
            return self._open_step(self.request.answer_model, now)
        if not self.is_glimpsed_next:
            return self._open_step(Model.LARGE, now)
        self.awaits_glimpse = True
        self._run_next(Model.SMALL)
        return []

    def _open_step(
        self,
        model: Model,
        now: float,
        entropy: float | None = None,
        first_tokens: list[tuple[int, float]] | None = None,
    ) -> list[Event]:
        is_hand_over = self.last_writer not in (None, model)
        self._run_next(model)
        token_start, text_start = len(self.transcript.token_ids), len(self.transcript.raw_text)
        step = Step(len(self.steps), self.phase, model, entropy, token_start, text_start)
        step.first_tokens = first_tokens or []
        events: list[Event] = [StepStart(self.request.request_id, self.index, step, is_hand_over)]
        if model is Model.SMALL and entropy is not None and self.request.is_reviewed:
            self._begin_draft(events)
            events = []
        self.steps.append(step)
        self.transcript.start_step()
        self._step_is_open = True
        self._sums = [0.0, 0.0]
        return events if model is Model.SMALL else events + self._write_choice(now)

    def _write_choice(self, now: float) -> list[Event]:
        """Begin a large step with what a question's forward has sampled for this place, if one has run over it."""
        choice = self._large_choices.get(len(self.stream))
        self._large_choices.clear()
        if choice is not None:
            return self.write(choice, now)
        if not self.num_unseen:  # its logits are gone, so the last token has to be run once more
            self.stream.table.unfill(Model.LARGE, len(self.stream) - 1, len(self.stream))
        return []

    def _close_step(self, now: float) -> list[Event]:
        if not self._step_is_open:
            return []
        self._step_is_open = False
        step = self.steps[-1]
        step.token_end, step.text_end = len(self.transcript.token_ids), len(self.transcript.raw_text)
        step.seconds, self._step_began = now - self._step_began, now
        step.mean_entropy, step.mean_logprob = (total / max(step.num_tokens, 1) for total in self._sums)
        return [StepEnd(self.request.request_id, self.index, step)]

    def _run_next(self, model: Model) -> None:
        if self.last_writer not in (None, model) and not self.streams.is_shared:
            self.transcript.flush()  # this model can't complete the other one's character
            self._mark_written()
        self.model = model
        self.streams.carry(model, self.transcript.token_ids, self.transcript.raw_text)

    # A draft: begun with a step that may be taken back, ended with it, then judged, and kept or taken back.

    def _begin_draft(self, events: list[Event]) -> None:
        for model in Model:  # so that both streams end where the draft begins
            self.streams.carry(model, self.transcript.token_ids, self.transcript.raw_text)
        self._draft = OpenDraft(
            transcript=self.transcript.mark(),
            stream_lens=self.streams.lengths(),
            num_thinking_tokens=self._num_thinking_tokens,
            last_writer=self.last_writer,
            events=events,
        )

    def _end_draft(self, now: float) -> list[Event]:
        assert self._draft is not None
        question, boundary = self.request.question, self._draft.boundary
        if question is None:
            return self._judge(None, now)
        self._run_next(Model.LARGE)
        question_ids = encode_question(question, self._voices[Model.LARGE].text, self.streams)
        if len(self.stream) + len(question_ids) > self.request.max_model_len:
            self._run_next(Model.SMALL)
            return self._keep_draft() + self._follow(boundary, now)
        for token_id in question_ids:
            self.streams.write(Model.LARGE, token_id)
        self.num_question_tokens = len(question_ids)
        self.awaits_score = True
        return []

    def _judge(self, score: float | None, now: float) -> list[Event]:
        assert self._draft is not None
        step, num_tokens = self.steps[-1], len(self.transcript.token_ids) - self.steps[-1].token_start
        entropy, logprob = (total / num_tokens for total in self._sums)
        draft = Draft(num_tokens, entropy, logprob, score)
        step.score = score
        if self.request.review(draft) is Verdict.ACCEPT:
            boundary = self._draft.boundary
            return self._keep_draft() + self._follow(boundary, now)
        self._take_draft_back()
        index = len(self.steps)
        events = self._open_step(Model.LARGE, now, step.entropy, step.first_tokens)
        self.steps[index].num_redone_tokens, self.steps[index].score = num_tokens, score
        return events

    def _keep_draft(self) -> list[Event]:
        events = [] if self._draft is None else self._draft.events
        self._draft = None
        return events

    def _take_draft_back(self) -> None:
        draft, self._draft = self._draft, None
        assert draft is not None
        written = draft.transcript
        self.transcript.take_back(written)
        self._cut_streams(lambda: self.streams.take_back(draft.stream_lens, written.num_tokens, written.num_chars))
        self._num_thinking_tokens = draft.num_thinking_tokens
        self.last_writer = draft.last_writer
        self.steps.pop()

    def _cut_streams(self, cut: Callable[[], None]) -> None:
        seen = self.positions_seen()
        cut()
        self.num_seen = [min(seen[model], len(self.streams.of(model))) for model in Model]

    # What follows a token.

    def _ends_step(self, boundary: Boundary) -> bool:
        """Whether a routed step ends with the token that has just been written."""
        num_tokens = len(self.transcript.token_ids) - self.steps[-1].token_start
        return (
            boundary is not Boundary.NONE
            or self.transcript.matched_stop is not None
            or num_tokens >= self.request.routing.max_step_tokens
            or self._is_thinking_budget_spent()
            or self._is_out_of_room()
        )

    def _is_thinking_budget_spent(self) -> bool:
        return self.phase is Phase.THINKING and self._num_thinking_tokens >= self.request.routing.max_thinking_tokens

    def _follow(self, boundary: Boundary, now: float) -> list[Event]:
        if boundary is Boundary.END or self.transcript.matched_stop is not None:
            return self.finish(FinishReason.STOP, now)
        if self._is_out_of_room():
            return self.finish(FinishReason.LENGTH, now)
        if self.phase is Phase.THINKING:
            if boundary is Boundary.END_OF_THINKING:
                return self._end_thinking(FinishReason.STOP, now)
            if self._is_thinking_budget_spent():
                return self._force_end_of_thinking(FinishReason.THINKING_BUDGET, now)
        elif self.request.answer_model is not None:
            return []  # an answer by one model is one step
        if not self._ends_step(boundary):
            return []
        if self.request.routing.stop_repeated_steps and self.transcript.repeats_itself(self.steps):
            if self.phase is Phase.THINKING:
                return self._force_end_of_thinking(FinishReason.REPEATED_STEP, now)
            return self.finish(FinishReason.REPEATED_STEP, now)
        return self._next_step(now)

    def _next_step(self, now: float) -> list[Event]:
        events = self._close_step(now)
        events += self._begin_step(now)
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

    def _mark_written(self) -> None:
        assert self.last_writer is not None
        self.streams.mark_carried(self.last_writer, len(self.transcript.token_ids), len(self.transcript.raw_text))

    def _token(self, model: Model | None, token_id: int, text: str, logprob: float | None) -> Token:
        return Token(self.request.request_id, self.index, len(self.steps) - 1, model, token_id, text, logprob)
