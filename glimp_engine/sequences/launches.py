"""How many ticks of a plan may run one after the other, before anybody is asked what comes next.

Where a model can decode on without the host (`execution.run_ahead`), every tick that isn't planned anew is host's work
that is saved. A launch is as long as nothing else wants to run, and nobody waits too long to see a token.
"""

import math

from glimp_engine.routing import Model
from glimp_engine.sequences.awaited import Use
from glimp_engine.sequences.pages import PagePool
from glimp_engine.sequences.plans import Work
from glimp_engine.sequences.proposing import Proposing
from glimp_engine.sequences.sequence import Sequence
from glimp_engine.sequences.tick_times import TickTimes

__all__ = ["Launches", "goes_on"]

TOKEN = Use.TOKEN  # a member of an enum takes 0.1 us to look up, which each token would pay (Python 3.11)


class Launches:
    """Says how long launches are."""

    def __init__(
        self, max_ticks: list[int], max_seconds: float, times: TickTimes, proposing: Proposing, pool: PagePool
    ) -> None:
        """max_ticks: of each model, 1 if it can't run ahead. max_seconds: until a launch's first token can be seen."""
        self._max_ticks = max_ticks
        self._max_seconds = max_seconds
        self._times = times
        self._proposing = proposing
        self._pool = pool

    def num_ticks(self, model: Model, work: list[Work], running: list[Sequence]) -> int:
        """How many ticks these rows may run; the pages for them are held then."""
        num_ticks = self._max_ticks[model]
        if num_ticks == 1 or len(work) < len(running) or not all(map(is_decode, work)):
            return 1
        if self._max_seconds < math.inf:
            num_ticks = min(num_ticks, int(self._max_seconds / self._times.of(model, len(work))))
        for each in work:
            num_ticks = min(num_ticks, self._num_ticks_of(each.sequence))
        return self._hold(work, num_ticks) if num_ticks > 1 else 1

    def _num_ticks_of(self, sequence: Sequence) -> int:
        if sequence.awaited.use is Use.PROPOSAL:
            return sequence.proposals.wanted.num_tokens
        return min(sequence.num_tokens_left, self._proposing.num_unasked(sequence))

    def _hold(self, work: list[Work], num_ticks: int) -> int:
        """Take pages for so many ticks, if they aren't scarce; for how many there are some."""
        size = self._pool.page_size
        missing = [each.sequence.awaited.stream.table.num_missing(each.end + num_ticks - 1) for each in work]
        if sum(missing) + len(work) <= self._pool.num_available:
            for each, num_pages in zip(work, missing, strict=True):
                each.sequence.awaited.stream.table.take(num_pages)
            return num_ticks
        return min(num_ticks, *(len(each.sequence.awaited.stream.table.pages) * size - each.start for each in work))


def is_decode(work: Work) -> bool:
    """Whether it's the stream's last token, with one row behind it, and what follows is a token or a proposal."""
    sequence, stream = work.sequence, work.sequence.awaited.stream
    is_one = work.end - work.start == 1 and work.num_rows == 1 and not work.is_rerun and work.end == len(stream.tokens)
    is_alone = sequence.awaited.num_unborn == 0 and sequence.prompt_logprobs.next_position is None
    use = sequence.awaited.use
    return is_one and is_alone and (use is Use.PROPOSAL or (use is not Use.SCORE and not stream.proposals))


def goes_on(work: Work, model: Model) -> bool:
    """Whether a sequence wants what a launch has done behind the work: the model's run over one more token, its own."""
    sequence, awaited = work.sequence, work.sequence.awaited
    stream, use = awaited.stream, awaited.use
    if sequence.finish_reason is not None or awaited.model is not model or len(stream.tokens) != work.end + 1:
        return False
    if use is TOKEN:
        return not stream.proposals
    return use is Use.PROPOSAL or (use is Use.GLIMPSE and not sequence.request.looks_at_top)
