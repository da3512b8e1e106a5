"""Counts what the engine does."""

from dataclasses import replace

from glimp_engine.outputs import Event, Finish, ModelStats, Stats, StepEnd, StepStart, Token
from glimp_engine.routers import Model
from glimp_engine.scheduler import Plan, Work
from glimp_engine.sequence import Sequence

__all__ = ["Meter"]


class Meter:
    """The counters behind `Engine.stats`."""

    def __init__(self) -> None:
        self._stats = Stats()

    def snapshot(self) -> Stats:
        """A copy of the counters as they are now."""
        return replace(self._stats, small=replace(self._stats.small), large=replace(self._stats.large))

    def of(self, model: Model) -> ModelStats:
        return self._stats.large if model is Model.LARGE else self._stats.small

    def count_forward(self, plan: Plan, seconds: float) -> None:
        """One tick: its time, and what its tokens were run for."""
        stats = self.of(plan.model)
        stats.num_forwards += 1
        stats.seconds += seconds
        for work in plan.work:
            self._count_tokens(stats, plan.model, work)

    def count_glimpse(self, sequence: Sequence) -> None:
        """A glimpse; after a small step it is the forward that any next token would have needed."""
        self._stats.glimpse_forwards += sequence.last_writer is not Model.SMALL

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

    def _count_tokens(self, stats: ModelStats, model: Model, work: Work) -> None:
        sequence, stream = work.sequence, work.sequence.stream
        num_prompt = max(0, min(work.end, stream.num_prompt_tokens) - work.start)
        num_question = max(0, work.end - max(work.start, len(stream) - sequence.num_question_tokens))
        num_others = work.end - work.start - num_prompt - num_question
        wrote_last = work.is_last and sequence.last_writer is model and num_others > 0
        stats.prompt_tokens += num_prompt
        stats.question_tokens += num_question
        stats.decode_tokens += wrote_last
        stats.catch_up_tokens += num_others - wrote_last
        stats.recomputed_tokens += max(0, min(work.end, sequence.num_seen[model]) - work.start)
