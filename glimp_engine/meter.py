"""Counts what the engine does."""

from collections.abc import Iterable
from copy import deepcopy

from glimp_engine.outputs import Event, Finish, ModelStats, Stats, StepEnd, StepStart, Tick, TickTokens, Token
from glimp_engine.routing import Model
from glimp_engine.sequences import Outcome, PagePool, Plan, Sequence, Use, Work

__all__ = ["Meter"]

WRITES = (Use.TOKEN, Use.GLIMPSE)


class Meter:
    """The counters behind `Engine.stats`."""

    def __init__(self) -> None:
        self._stats = Stats()
        self._ticks: list[Tick] | None = None  # None: nobody asks for them

    def record_ticks(self) -> list[Tick]:
        """The list that each tick is appended to from now on."""
        self._ticks = []
        return self._ticks

    def snapshot(self, unfinished: Iterable[Sequence]) -> Stats:
        """A copy of the counters as they are now, with what unfinished sequences have written so far."""
        meter = Meter()
        meter._stats = deepcopy(self._stats)
        for sequence in unfinished:
            meter.count_tokens(sequence)
        return meter._stats

    def of(self, model: Model) -> ModelStats:
        return self._stats.large if model is Model.LARGE else self._stats.small

    def count_forward(self, plan: Plan, began: float, ended: float, pool: PagePool) -> None:
        """One tick: its time, and what its tokens were run for."""
        model, stats = plan.model, self.of(plan.model)
        stats.num_forwards += 1
        stats.seconds += ended - began
        num_proposals = stats.proposal_tokens
        for work in plan.work:
            if is_plain_decode(work, model):
                stats.decode_tokens += 1
            else:
                count_run(stats, tokens_of(work, model))
            if work.sequence.finish_reason is not None:
                continue  # aborted meanwhile: what it has seen counts this forward already
            num_seen = work.end if work.is_rerun else work.sequence.streams.num_seen[model]
            if num_seen > work.start:
                stats.recomputed_tokens += min(work.end, num_seen) - work.start
        if all(work.sequence.awaited.use is Use.PROPOSAL for work in plan.work):
            self._stats.proposing_seconds += ended - began
        elif stats.proposal_tokens > num_proposals:
            self._stats.verifying_seconds += ended - began
        if self._ticks is not None:
            tokens = [tokens_of(work, model) for work in plan.work]
            used = pool.num_pages - pool.num_free - pool.num_cached
            self._ticks.append(Tick(plan.model, began, ended, tokens, used, pool.num_cached, pool.num_free))

    def count_decodes(self, plan: Plan, began: float, ended: float, pool: PagePool) -> None:
        """As `count_forward`, of a tick that a launch has gone on to: a token of each, that nobody has seen before."""
        if self._ticks is not None or plan.work[0].sequence.awaited.use not in WRITES:
            return self.count_forward(plan, began, ended, pool)
        stats = self.of(plan.model)
        stats.num_forwards += 1
        stats.seconds += ended - began
        stats.decode_tokens += len(plan.work)

    def count_glimpse(self, sequence: Sequence) -> None:
        """A glimpse; after a small step it is the forward that any next token would have needed."""
        self._stats.glimpse_forwards += sequence.transcript.writer is not Model.SMALL

    def count_outcomes(self, outcomes: list[Outcome]) -> None:
        """What has become of proposals."""
        for outcome in outcomes:
            stats, depth = self._stats.proposers[outcome.proposal.proposer], outcome.proposal.depth
            while len(stats.proposed_at) <= depth:
                stats.proposed_at.append(0)
                stats.accepted_at.append(0)
            stats.proposed_tokens += 1
            stats.proposed_at[depth] += 1
            stats.accepted_tokens += bool(outcome.is_confirmed)
            stats.accepted_at[depth] += bool(outcome.is_confirmed)

    def count_tokens(self, sequence: Sequence) -> None:
        """What a sequence has written."""
        for model, num_tokens in zip(Model, sequence.transcript.nums_chosen, strict=True):
            self.of(model).tokens_written += num_tokens

    def count_events(self, events: list[Event]) -> None:
        """The steps that have been written, and each change of the writer."""
        for event in events:
            if isinstance(event, Token):  # nearly all
                continue
            if isinstance(event, StepStart):
                self._stats.hand_overs += event.is_hand_over
            elif isinstance(event, StepEnd):
                self.of(event.step.model).steps_written += 1
                self._stats.small.redone_tokens += event.step.num_redone_tokens
            elif isinstance(event, Finish):
                self._stats.num_finished += event.output is not None


def count_run(stats: ModelStats, run: TickTokens) -> None:
    """What a sequence's positions were run for, in the model's counters."""
    stats.prompt_tokens += run.prompt
    stats.catch_up_tokens += run.catch_up
    stats.question_tokens += run.question
    stats.decode_tokens += run.decode
    stats.proposal_tokens += run.proposal


def tokens_of(work: Work, model: Model) -> TickTokens:
    """What a sequence's positions were run for."""
    sequence, stream = work.sequence, work.sequence.awaited.stream
    num_prompt = max(0, min(work.end, stream.num_prompt_tokens) - work.start)
    num_question = max(0, work.end - max(work.start, len(stream) - sequence.awaited.num_question_tokens))
    num_proposals = max(0, work.end - max(work.start, stream.num_written))
    num_others = work.end - work.start - num_prompt - num_question - num_proposals
    reads_last = work.start < stream.num_written <= work.end and sequence.awaited.use is not Use.PROPOSAL
    wrote_last = reads_last and sequence.transcript.writer is model and num_others > 0
    return TickTokens(
        request_id=sequence.request.request_id,
        sequence_index=sequence.index,
        prompt=num_prompt,
        catch_up=num_others - wrote_last,
        question=num_question,
        decode=int(wrote_last),
        proposal=num_proposals,
    )


def is_plain_decode(work: Work, model: Model) -> bool:
    """Whether the model reads the one token that it has written last, as most work is."""
    sequence, stream = work.sequence, work.sequence.awaited.stream
    return (
        work.end - work.start == 1
        and work.end == stream.num_written == len(stream.tokens) > stream.num_prompt_tokens
        and sequence.awaited.use in WRITES
        and sequence.transcript.writer is model
    )
