"""Counts what the engine does."""

from copy import deepcopy

from glimp_engine.outputs import Event, Finish, ModelStats, Stats, StepEnd, StepStart, Tick, TickTokens, Token
from glimp_engine.routing import Model
from glimp_engine.sequences import Outcome, PagePool, Plan, Sequence, Use, Work

__all__ = ["Meter"]


class Meter:
    """The counters behind `Engine.stats`."""

    def __init__(self) -> None:
        self._stats = Stats()
        self._ticks: list[Tick] | None = None  # None: nobody asks for them

    def record_ticks(self) -> list[Tick]:
        """The list that each tick is appended to from now on."""
        self._ticks = []
        return self._ticks

    def snapshot(self) -> Stats:
        """A copy of the counters as they are now."""
        return deepcopy(self._stats)

    def of(self, model: Model) -> ModelStats:
        return self._stats.large if model is Model.LARGE else self._stats.small

    def count_forward(self, plan: Plan, began: float, ended: float, pool: PagePool) -> None:
        """One tick: its time, and what its tokens were run for."""
        stats = self.of(plan.model)
        stats.num_forwards += 1
        stats.seconds += ended - began
        tokens = [tokens_of(work, plan.model) for work in plan.work]
        for work, run in zip(plan.work, tokens, strict=True):
            stats.prompt_tokens += run.prompt
            stats.catch_up_tokens += run.catch_up
            stats.question_tokens += run.question
            stats.decode_tokens += run.decode
            stats.proposal_tokens += run.proposal
            if work.sequence.finish_reason is not None:
                continue  # aborted meanwhile: what it has seen counts this forward already
            num_seen = work.end if work.is_rerun else work.sequence.streams.num_seen[plan.model]
            stats.recomputed_tokens += max(0, min(work.end, num_seen) - work.start)
        if all(work.sequence.awaited.use is Use.PROPOSAL for work in plan.work):
            self._stats.proposing_seconds += ended - began
        elif any(run.proposal for run in tokens):
            self._stats.verifying_seconds += ended - began
        if self._ticks is not None:
            used = pool.num_pages - pool.num_free - pool.num_cached
            self._ticks.append(Tick(plan.model, began, ended, tokens, used, pool.num_cached, pool.num_free))

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

    def count_events(self, events: list[Event]) -> None:
        """What has been written, and each change of the writer."""
        for event in events:
            if isinstance(event, Token) and event.model is not None:
                self.of(event.model).tokens_written += 1
            elif isinstance(event, StepStart):
                self._stats.hand_overs += event.is_hand_over
            elif isinstance(event, StepEnd):
                self.of(event.step.model).steps_written += 1
                self._stats.small.redone_tokens += event.step.num_redone_tokens
            elif isinstance(event, Finish):
                self._stats.num_finished += event.output is not None


def tokens_of(work: Work, model: Model) -> TickTokens:
    """What a sequence's positions were run for."""
    sequence, stream = work.sequence, work.sequence.stream
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
