"""The life of a sequence, from its prompt's glimpse to its finish reason. Pure: no torch, no clock of its own.

    PROMPT -> GLIMPSE -> SMALL_STEP | LARGE_STEP -> GLIMPSE ... -> ANSWER -> DONE

`awaited` says which model has to run next, and what for: to be glimpsed, to write, to judge a draft, or to propose. The
engine runs it, calls `take` with what was sampled, then `follow` with each draw that is known; both give events. Each
part of a life has an owner: see the attributes.
"""

import math

from glimp_engine.errors import RequestError
from glimp_engine.outputs import CompletionOutput, Event, FinishReason, Proposer, StepEnd, StepStart, Token
from glimp_engine.routing import Glimpse, Model, RouteContext, Verdict
from glimp_engine.sequences.answer_masks import make_masks
from glimp_engine.sequences.awaited import Awaited, Use
from glimp_engine.sequences.drafts import OpenDraft, encode_question, read_score
from glimp_engine.sequences.pages import PagePool
from glimp_engine.sequences.phases import Phases
from glimp_engine.sequences.prompt_logprobs import make_prompt_logprobs
from glimp_engine.sequences.proposals import Proposals
from glimp_engine.sequences.request import Request
from glimp_engine.sequences.samples import SampledToken
from glimp_engine.sequences.steps import StepLog
from glimp_engine.sequences.streams import Streams
from glimp_engine.sequences.token_rules import no_token_left
from glimp_engine.sequences.token_stream import TokenStream
from glimp_engine.sequences.transcript import Transcript, Voice
from glimp_engine.text import Boundary, ThinkingMarks

__all__ = ["Sequence"]

GLIMPSE, NO_BOUNDARY = Use.GLIMPSE, Boundary.NONE  # members of enums take 0.1 us to look up (Python 3.11)


class Sequence:
    """One token stream of a request. It lives until `finish_reason` is set."""

    def __init__(self, request: Request, index: int, streams: Streams, voices: tuple[Voice, Voice], now: float) -> None:
        self.request = request
        self.index = index
        self.streams = streams  # what each model reads, on which pages
        self.transcript = Transcript(voices, request.sampling, request.rules, request.is_told)  # what is written
        self.phases = Phases(request)  # thinking and answer, and their budgets
        self.steps = StepLog(self.transcript, now)  # glimpses, steps, and when they began
        self.awaited = Awaited(streams, request.sampling.n - 1 if index == 0 else 0)  # who runs next, and what for
        self.proposals = Proposals(streams, self.awaited, voices)  # behind what is written, for the writer to confirm
        self.masks = make_masks(request, voices, self.transcript, self.phases, self.awaited)  # what a grammar leaves
        self.prompt_logprobs = make_prompt_logprobs(request, index, streams)
        self.draft: OpenDraft | None = None  # the open step, while it may be taken back
        self.finish_reason: FinishReason | None = None
        self.held_back_text = ""  # until it was known that no stop string comes
        self.error: str | None = None
        self._voices = voices
        self._born = now
        self._num_free = 0  # tokens of the open step that can follow before a budget ends anything

    @property
    def model(self) -> Model:
        """The model that has to run next."""
        return self.awaited.model

    @property
    def stream(self) -> TokenStream:
        """The stream of the model that has to run next."""
        return self.awaited.stream

    @property
    def num_tokens_left(self) -> int:
        """How many tokens its budgets and the context leave."""
        return self.phases.num_tokens_left(len(self.transcript.token_ids), self.stream.num_written)

    @property
    def is_glimpsed_next(self) -> bool:
        """Whether the router is asked who writes the step after this one."""
        return self.phases.answer_model is None and self.request.needs.only is not Model.LARGE

    @property
    def small_below(self) -> float:
        """Nats below which a glimpse certainly leaves the next step to the small model; what it proposes is none."""
        is_glimpsed = self.is_glimpsed_next and self.awaited.use is not Use.PROPOSAL
        return self.request.needs.small_below if is_glimpsed else math.inf

    @property
    def draw(self) -> SampledToken | None:
        """What the awaited model is known to draw next; None where it has to run first, or forks are to be born."""
        awaited, stream = self.awaited, self.stream
        if awaited.use is Use.GLIMPSE or (awaited.use is Use.TOKEN and not awaited.num_unborn):
            return stream.draws[awaited.model].get(stream.num_written)
        return None

    @property
    def num_logits(self) -> int | None:
        """How many of the vocabulary's first tokens the awaited model looks at; None: all, as its draw may be kept.

        A sequence that isn't glimpsed next never is again, and what only proposes to it writes none of it.
        """
        is_kept = self.awaited.use is not Use.PROPOSAL or self.is_glimpsed_next
        return None if is_kept else self.proposals.num_logits

    def begin(self) -> list[Event]:
        """Start the first step: await its glimpse, or open it if the router needs none."""
        return self._begin_step(self._born)

    # What was sampled.

    def take(self, samples: dict[int, SampledToken], now: float) -> list[Event]:
        """Take what a forward of the awaited model has drawn, by place.

        Raises: RequestError when a prompt or a question brings no numbers, or the router fails to judge a draft.
        """
        num_prompt_tokens = self.stream.num_prompt_tokens
        for place in [place for place in samples if place < num_prompt_tokens]:
            self.prompt_logprobs.take(place, self._checked(samples.pop(place)))
        end = len(self.stream)
        self.stream.draws[self.model].update(samples)
        if self.awaited.use is Use.SCORE and end in samples:
            return self._take_score(self._checked(samples[end]), now)
        return []

    def follow(self, draw: SampledToken, now: float) -> list[Event]:
        """Go on with what the awaited model draws next.

        Raises: RequestError when it's no number, or the router fails.
        """
        self._checked(draw)
        return self._take_glimpse(draw, now) if self.awaited.use is GLIMPSE else self.write(draw, now)

    def _checked(self, sampled: SampledToken) -> SampledToken:
        if math.isnan(sampled.entropy):
            raise RequestError(f"the {self.model} model's logits are not numbers")
        return sampled

    def _take_glimpse(self, sampled: SampledToken, now: float) -> list[Event]:
        """Let the router decide who writes the step that the small model has just been glimpsed for."""
        self.awaited.use = Use.TOKEN
        top = tuple(logprob for _, logprob in sampled.top_logprobs)
        glimpse = Glimpse(sampled.entropy, sampled.token_id, sampled.logprob, top)
        num_tokens = len(self.transcript.token_ids)
        context = RouteContext(self.request.seed, self.index, len(self.steps), self.steps.glimpses, num_tokens)
        model = self.request.decide(glimpse, context)
        self.steps.glimpses.append(glimpse)
        first_tokens = sampled.top_logprobs[: self.request.routing.glimpse_logprobs]
        return self._open_step(model, now, glimpse.entropy, first_tokens)

    def _take_score(self, sampled: SampledToken, now: float) -> list[Event]:
        """Take the question back, and let the router judge the draft by the answer."""
        awaited = self.awaited
        assert self.draft is not None
        assert self.draft.question_mark is not None
        self.streams.restore_one(Model.LARGE, self.draft.question_mark)
        awaited.use, awaited.num_question_tokens = Use.TOKEN, 0
        self._run_next(Model.SMALL)
        return self._judge(read_score(self._voices[Model.LARGE].text, sampled), now)

    def write(self, sampled: SampledToken, now: float) -> list[Event]:
        """Append a token that `model` has written, and follow what it completes; of a draft nothing is told yet.

        Raises: RequestError when the router fails to judge the draft that is now complete, or no token could be drawn.
        """
        if math.isnan(sampled.logprob):
            raise no_token_left(self.request.sampling, self.model, "" if self.masks is None else self.masks.error)
        model, voice = self.awaited.model, self._voices[self.awaited.model]
        checked = self.proposals.check(sampled.token_id)
        if checked.num_proposed:
            self.steps.count_proposals(checked.num_proposed, checked.num_accepted)
        text, boundary = self.transcript.write(model, sampled)
        if voice.text.marks is not None:
            boundary = self.phases.read_marks(sampled.token_id, voice.text, boundary)
        self._mark_written()
        self.steps.count(sampled, bool(voice.has_digit[sampled.token_id]))
        self.phases.count_token()
        self._num_free -= 1
        what = model, sampled.token_id, text, sampled.logprob, checked.proposer, checked.refused
        events: list[Event] = [self._token(*what)] if self.request.is_told else []
        if self.draft is None:
            if boundary is NO_BOUNDARY and self._num_free > 0 and self.transcript.matched_stop is None:
                return events
            return events + self._follow(boundary, now)
        self.draft.events += events
        self.draft.boundary = boundary
        return self._end_draft(now) if self._ends_step(boundary) else []

    # The end, and what comes of it.

    def finish(self, reason: FinishReason, now: float) -> list[Event]:
        """End the sequence; what has been written so far is its output."""
        events = self._keep_draft()
        self.finish_reason = reason
        self.held_back_text = self.transcript.finish()
        if self.phases.is_thinking:
            self.phases.thinking_finish_reason = FinishReason.UNCLOSED if reason is FinishReason.STOP else reason
        return events + self._close_step(now)

    def fail(self, error: str, now: float) -> list[Event]:
        """End the sequence with an error of its own."""
        self.error = error
        return self.finish(FinishReason.ERROR, now)

    def fork(self, index: int, pool: PagePool, now: float) -> tuple["Sequence", list[Event]]:
        """Another sequence of the request at the same point, where its first step begins; and that it does."""
        child, first = Sequence(self.request, index, self.streams.fork(pool), self._voices, now), self.steps.last
        child.steps.glimpses += self.steps.glimpses
        return child, child._open_step(first.model, now, first.entropy, first.first_tokens)

    def output(self) -> CompletionOutput:
        """All that the sequence has written."""
        transcript = self.transcript
        return CompletionOutput(
            index=self.index,
            text=transcript.text,
            token_ids=transcript.token_ids,
            cumulative_logprob=transcript.cumulative_logprob,
            logprobs=transcript.logprobs,
            finish_reason=self.finish_reason,
            stop_reason=transcript.matched_stop,
            thinking_finish_reason=self.phases.thinking_finish_reason,
            steps=self.steps.cut_to(len(transcript.text)),
        )

    # Steps: begun at a boundary, opened with a route, closed at the next boundary.

    def _begin_step(self, now: float) -> list[Event]:
        if self.phases.answer_model is not None:
            return self._open_step(self.phases.answer_model, now)
        if not self.is_glimpsed_next:
            return self._open_step(Model.LARGE, now)
        self.awaited.use = Use.GLIMPSE
        self._run_next(Model.SMALL)
        return self._finish_without_room(now)

    def _open_step(
        self,
        model: Model,
        now: float,
        entropy: float | None = None,
        first_tokens: list[tuple[int, float]] | None = None,
    ) -> list[Event]:
        is_hand_over = self.transcript.writer not in (None, model)
        self._num_free = 0
        self._run_next(model)
        is_draft = model is Model.SMALL and entropy is not None and self.request.needs.reviews
        if is_draft:  # both streams must end where it begins
            for each in Model:
                self.streams.carry(each, self.transcript.token_ids, self.transcript.plain_text)
            draft = OpenDraft(self.streams, self.transcript, self.phases, self.steps)
        step = self.steps.open(self.phases.phase, model, entropy, first_tokens or [])
        events: list[Event] = [StepStart(self.request.request_id, self.index, step, is_hand_over)]
        if is_draft:
            draft.events, self.draft = events, draft
            return []
        return events + self._finish_without_room(now)

    def _close_step(self, now: float) -> list[Event]:
        step = self.steps.close(now)
        return [] if step is None else [StepEnd(self.request.request_id, self.index, step)]

    def _run_next(self, model: Model) -> None:
        if self.transcript.writer not in (None, model) and not self.streams.is_shared:
            self.transcript.flush()  # this model can't complete the other one's character
            self._mark_written()
        self.awaited.run(model)
        if not self.streams.is_shared:
            self.streams.carry(model, self.transcript.token_ids, self.transcript.plain_text)

    # A draft: opened with a step that may be taken back, ended with it, then judged, and kept or taken back.

    def _end_draft(self, now: float) -> list[Event]:
        assert self.draft is not None
        question, boundary = self.request.needs.question, self.draft.boundary
        if question is None:
            return self._judge(None, now)
        self._run_next(Model.LARGE)
        question_ids = encode_question(question, self._voices[Model.LARGE].text, self.streams)
        self.stream.drop_proposals()
        if len(self.stream) + len(question_ids) > self.request.max_model_len:
            self._run_next(Model.SMALL)
            return self._keep_draft() + self._follow(boundary, now)
        self.draft.question_mark = self.stream.mark()
        for token_id in question_ids:
            self.streams.write(Model.LARGE, token_id)
        self.awaited.use, self.awaited.num_question_tokens = Use.SCORE, len(question_ids)
        return []

    def _judge(self, score: float | None, now: float) -> list[Event]:
        assert self.draft is not None
        drafted, boundary = self.steps.last, self.draft.boundary
        judged = self.steps.draft(score)
        if self.request.review(judged) is Verdict.ACCEPT:
            return self._keep_draft() + self._follow(boundary, now)
        self.draft.take_back()
        self.draft = None
        index = len(self.steps)
        events = self._open_step(Model.LARGE, now, drafted.entropy, drafted.first_tokens)
        self.steps.steps[index].num_redone_tokens, self.steps.steps[index].score = judged.num_tokens, score
        return events

    def _keep_draft(self) -> list[Event]:
        events = [] if self.draft is None else self.draft.events
        self.draft = None
        return events

    # What follows a token.

    def _ends_step(self, boundary: Boundary) -> bool:
        """Whether a routed step ends with the token that has just been written."""
        return (
            boundary is not Boundary.NONE
            or self.transcript.matched_stop is not None
            or (self._is_step_full() and not self.transcript.is_inside_character)
            or self._is_out_of_room()
        )

    def _is_step_full(self) -> bool:
        return (
            self.steps.num_open_tokens >= self.request.routing.max_step_tokens or self.phases.is_thinking_budget_spent
        )

    def _follow(self, boundary: Boundary, now: float) -> list[Event]:
        if boundary is Boundary.END or self.transcript.matched_stop is not None:
            return self.finish(FinishReason.STOP, now)
        if self._is_out_of_room():
            return self.finish(FinishReason.LENGTH, now)
        if boundary is Boundary.BEGIN_OF_THINKING:
            self.phases.begin_thinking()
            self.steps.last.phase = self.phases.phase
        if self.phases.is_thinking:
            if boundary is Boundary.END_OF_THINKING:
                return self._end_thinking(FinishReason.STOP, now)
            if self.phases.is_thinking_budget_spent and not self.transcript.is_inside_character:
                return self._force_end_of_thinking(FinishReason.THINKING_BUDGET, now)
        elif self.phases.answer_model is not None:
            self._num_free = self.num_tokens_left
            return []  # an answer by one model is one step
        if not self._ends_step(boundary):
            self._num_free = self.phases.num_free(self.num_tokens_left, self.steps.num_open_tokens)
            return []
        if self.request.routing.stop_repeated_steps and self.transcript.repeats_itself(self.steps.steps):
            if self.phases.is_thinking:
                return self._force_end_of_thinking(FinishReason.REPEATED_STEP, now)
            return self.finish(FinishReason.REPEATED_STEP, now)
        return self._next_step(now)

    def _next_step(self, now: float) -> list[Event]:
        events = self._close_step(now)
        return events + self._begin_step(now)

    def _end_thinking(self, reason: FinishReason, now: float) -> list[Event]:
        events = self._close_step(now)
        self.phases.end_thinking(reason, len(self.transcript.token_ids))
        is_forced = reason is not FinishReason.STOP
        self.transcript.start_answer(hidden=self._marks.end if is_forced else None)  # the model may write it again
        return events + self._next_step(now)

    def _force_end_of_thinking(self, reason: FinishReason, now: float) -> list[Event]:
        """Write </think> in the model's stead, on a line of its own."""
        events: list[Event] = []
        text = self._voices[self.model].text
        self.stream.drop_proposals()
        for token_id in text.end_of_thinking(self.transcript.plain_text, self._marks):
            self.streams.write(self.model, token_id)
            shown = self.transcript.force(self.model, token_id)
            events += [self._token(None, token_id, shown, None)] if self.request.is_told else []
            self._mark_written()
            if self._is_out_of_room():
                return events + self.finish(FinishReason.LENGTH, now)
        return events + self._end_thinking(reason, now)

    @property
    def _marks(self) -> ThinkingMarks:
        """The marks of this thinking: the model's that has written last, or the other's."""
        marks = next(marks for which in (self.model, 1 - self.model) if (marks := self._voices[which].text.marks))
        return marks

    def _finish_without_room(self, now: float) -> list[Event]:
        """End the sequence if what was carried over has filled the context of the model that runs next."""
        if self.finish_reason is None and self._is_out_of_room():
            return self.finish(FinishReason.LENGTH, now)
        return []

    def _is_out_of_room(self) -> bool:
        return self.num_tokens_left == 0

    def _mark_written(self) -> None:
        if not self.streams.is_shared:
            transcript = self.transcript
            assert transcript.writer is not None
            self.streams.mark_carried(transcript.writer, len(transcript.token_ids), transcript.num_plain_chars)

    def _token(
        self,
        model: Model | None,
        token_id: int,
        text: str,
        logprob: float | None,
        proposer: Proposer | None = None,
        refused: tuple[int, ...] = (),
    ) -> Token:
        which = self.request.request_id, self.index, len(self.steps) - 1
        return Token(*which, model, token_id, text, logprob, proposer, refused, self.transcript.last_logprobs)
