"""The logit rows that a sequence wants of a forward: at which places, for whom, and what is done to their logits."""

from collections import Counter
from dataclasses import dataclass, field

from glimp_engine.routing import Model
from glimp_engine.sequences.awaited import Use
from glimp_engine.sequences.drafts import NUM_SCORE_LOGPROBS
from glimp_engine.sequences.sequence import Sequence
from glimp_engine.sequences.token_rules import Biases

__all__ = ["Row", "first_place", "places", "rows_of"]


@dataclass(slots=True)
class Row:
    """One logit row: whom it's sampled for, and where in its stream the sampled token would stand."""

    sequence: Sequence
    sequence_index: int  # more than the sequence's own where its forks are about to be born
    place: int = field(compare=False)  # as decoding goes on the same rows come again

    @property
    def is_of_prompt(self) -> bool:
        """Whether the row scores a token of the prompt, and draws none."""
        return self.place < self.sequence.stream.num_prompt_tokens

    @property
    def follows_text(self) -> bool:
        """Whether what is done to its logits depends on more than the request's parameters."""
        return self.is_of_prompt or self.sequence.request.sampling.follows_text

    @property
    def num_top_logprobs(self) -> int:
        """How many log-probabilities it's asked for, by its sequence's router or by its user."""
        sequence = self.sequence
        routing, num_asked = sequence.request.routing, sequence.request.sampling.logprobs or 0
        if self.is_of_prompt:
            return sequence.request.sampling.prompt_logprobs or 0
        if sequence.awaited.use is Use.SCORE:
            return NUM_SCORE_LOGPROBS
        if sequence.model is Model.SMALL and (sequence.awaited.use is not Use.TOKEN or sequence.stream.proposals):
            return max(routing.needs.num_top_logprobs, routing.glimpse_logprobs, num_asked)  # it may be a glimpse
        return num_asked

    def biases(self) -> Biases:
        """Those of its logits; one of the prompt has only one token that can be drawn, its own."""
        sequence, model, stream = self.sequence, self.sequence.awaited.model, self.sequence.stream
        if self.is_of_prompt:
            return Biases({sequence.prompt_logprobs.token_at(self.place): 0.0}, listed_only=True)
        rules = sequence.request.rules.get(model)
        if rules is None:
            return Biases({})  # a model that only proposes
        start = max(stream.num_prompt_tokens, self.place - rules.max_word_len)
        end_of_output = stream.num_written - sequence.awaited.num_question_tokens
        num_written = len(sequence.transcript.token_ids) + self.place - end_of_output
        return rules.biases(sequence.streams.ids_for(model, start, self.place), num_written)

    def mask(self) -> bytes | None:
        """Which tokens its sequence's grammar leaves it, by bit; None: all."""
        masks = self.sequence.masks
        return None if masks is None or self.is_of_prompt else masks.at(self.place, self.sequence.draft)

    def seen(self) -> Counter[int]:
        """How often each token stands before it, for penalties; empty where nothing is to be written."""
        stream = self.sequence.stream
        is_answer = self.sequence.awaited.use is Use.SCORE and self.place == len(stream)
        if not self.sequence.request.sampling.has_penalties or self.is_of_prompt or is_answer:
            return Counter()
        return self.sequence.stream.counts(self.place)


def rows_of(sequence: Sequence, start: int, end: int, num_rows: int) -> list[Row]:
    """The rows of a forward over positions start:end of its stream, one sequence's rows in the order of their places.

    At the stream's end there may be more than one row: those of the next sequences to be forked off, so that however
    few there are each brings the birth of one, then the sequence's own; a glimpse is the sequence's own and comes
    first. num_rows is how many of them fit into the tick.
    """
    own = [Row(sequence, sequence.index, place) for place in places(sequence, start, end)]
    if sequence.awaited.num_unborn == 0 or end < len(sequence.stream):
        return own
    num_all = sequence.request.sampling.n
    unborn = [Row(sequence, index, end) for index in range(num_all - sequence.awaited.num_unborn, num_all)]
    *before, last = own
    members = [last, *unborn] if sequence.awaited.use is Use.GLIMPSE else [*unborn, last]
    return before + members[:num_rows]


def places(sequence: Sequence, start: int, end: int) -> list[int]:
    """Where a forward over positions start:end draws for the sequence itself, in ascending order.

    Within the prompt: each token whose log-probability is asked for. Then the stream's end, and before it each place
    that has a proposal: whoever runs over it may have to write there. A question's forward samples too what the large
    model would write in the draft's place, and after the draft: if a step is taken back, the one that replaces it
    begins with that, and no position has to be run again.
    """
    awaited = sequence.awaited
    stream, is_scored = awaited.stream, sequence.prompt_logprobs.next_position is not None
    if end - start == 1 and not is_scored and awaited.use is not Use.SCORE:
        return [end] if end >= stream.num_written else []
    wanted = list(sequence.prompt_logprobs.places(start, end))
    if awaited.use is not Use.SCORE:
        return [*wanted, *range(max(stream.num_written, start + 1), end + 1)]
    if sequence.draft is not None:
        judged = (sequence.draft.stream_marks[-1].num_tokens, len(stream) - awaited.num_question_tokens)
        wanted += [place for place in judged if start < place <= end]
    return [*wanted, end] if end == len(stream) else wanted


def first_place(sequence: Sequence) -> int:
    """The first place that the sequence waits for a draw at."""
    unscored = sequence.prompt_logprobs.next_position
    if unscored is not None:
        return unscored + 1
    is_verified = sequence.awaited.use in (Use.TOKEN, Use.GLIMPSE)
    return sequence.stream.num_written if is_verified else len(sequence.stream)
