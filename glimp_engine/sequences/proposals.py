"""A sequence's proposals: who is asked for them, who has to confirm them, and what has become of them."""

import math
from dataclasses import dataclass

from glimp_engine.outputs import Proposer
from glimp_engine.routing import Model
from glimp_engine.sequences.acceptance import Record
from glimp_engine.sequences.awaited import Awaited, Use
from glimp_engine.sequences.first_tokens import FirstTokens
from glimp_engine.sequences.streams import Streams
from glimp_engine.sequences.token_stream import Outcome, Proposal, TokenStream
from glimp_engine.sequences.transcript import Voice

__all__ = ["ANYTHING", "Checked", "Proposals", "Wanted"]


@dataclass(frozen=True)
class Wanted:
    """What the small model is asked for, as long as it goes on by itself."""

    num_tokens: int
    min_logprob: float  # nats; behind a token that is less likely nothing is proposed


ANYTHING = Wanted(1 << 30, -math.inf)


@dataclass(frozen=True)
class Checked:
    """What a token that its writer has written says of others' proposals to it."""

    num_proposed: int = 0
    num_accepted: int = 0
    proposer: Proposer | None = None  # whose proposal it confirmed
    refused: tuple[int, ...] = ()  # proposals that won't be written, in the writer's ids


NOTHING = Checked()


class Proposals:
    """The proposals of one sequence. They stand in the stream of the model that writes, behind what is written."""

    def __init__(self, streams: Streams, awaited: Awaited, voices: tuple[Voice, Voice]) -> None:
        self.outcomes: list[Outcome] = []  # for whoever learns from them
        self.record = Record()  # how well they have done
        self.wanted = ANYTHING  # of the small model, while it proposes
        self._first_tokens = FirstTokens()
        self._streams = streams
        self._awaited = awaited
        self._voices = voices

    @property
    def writer(self) -> Model:
        """The model that writes what comes next."""
        return Model.LARGE if self._awaited.use is Use.PROPOSAL else self._awaited.model

    @property
    def stream(self) -> TokenStream:
        """The writer's, which the small model reads too while it proposes."""
        return self._awaited.stream

    @property
    def is_paired(self) -> bool:
        """Whether the small model may propose: to the large one, and only what that one reads too."""
        return self.writer is Model.LARGE and self._streams.is_shared

    @property
    def are_at_end(self) -> bool:
        """Whether nothing can follow the last one."""
        stream = self.stream
        return bool(stream.proposals) and stream.tokens[-1] in self._voices[stream.vocabulary].text.end_token_ids

    @property
    def small_draw(self) -> tuple[int, float] | None:
        """(token in the stream's ids, its log-probability) that the small model is known to draw behind all others."""
        drawn = self.stream.draws[Model.SMALL].get(len(self.stream)) if self.is_paired else None
        if drawn is None or drawn.logprob != drawn.logprob:
            return None
        return self._streams.in_stream(Model.SMALL, drawn.token_id), drawn.logprob

    @property
    def can_ask(self) -> bool:
        """Whether the small model has yet to say what it draws behind all others."""
        return self.is_paired and len(self.stream) not in self.stream.draws[Model.SMALL]

    @property
    def num_logits(self) -> int | None:
        """How many of the vocabulary's first tokens are worth being proposed; None: all."""
        stream = self.stream
        return self._first_tokens.num_logits(stream.tokens, stream.num_written)

    def __bool__(self) -> bool:
        """Whether there are any, or one is awaited."""
        if self._awaited.use is Use.PROPOSAL:
            return True
        return bool(self._streams.of(Model.SMALL).proposals or self._streams.of(Model.LARGE).proposals)

    def add(self, token_id: int, proposer: Proposer, evidence: float) -> None:
        """Put a token, in the ids of the writer's stream, behind all others."""
        stream = self.stream
        stream.propose(token_id, Proposal(proposer, evidence, len(stream.proposals)))

    def drop(self) -> None:
        """Go on from what is written."""
        for stream in self._streams.distinct():
            stream.drop_proposals()
        self.await_writer()

    def await_small(self, wanted: Wanted) -> None:
        """The small model runs next, and what it draws may be proposed to the large one, who writes."""
        self.wanted = wanted
        self._awaited.run(Model.SMALL)
        self._awaited.use = Use.PROPOSAL

    def await_writer(self) -> None:
        """The model that writes runs next, over the proposals too."""
        if self._awaited.use is Use.PROPOSAL:
            self.wanted = ANYTHING
            self._awaited.run(Model.LARGE)
            self._awaited.use = Use.TOKEN

    def check(self, token_id: int) -> Checked:
        """Let what the writer has written, in its own ids, stand, and say what it makes of others' proposals to it."""
        stream = self._awaited.stream
        if not stream.proposals:
            model = self._awaited.model
            stream.write(token_id if stream.vocabulary is model else self._streams.in_stream(model, token_id))
            return NOTHING
        writer = self._awaited.model
        proposed = stream.tokens[stream.num_written :]
        outcomes = self._streams.write(writer, token_id)
        if not outcomes:
            return NOTHING
        if writer is Model.SMALL and outcomes[0].proposal.proposer is Proposer.SMALL:
            return NOTHING
        self.outcomes += outcomes
        if outcomes[0].is_confirmed:
            return Checked(1, 1, outcomes[0].proposal.proposer)
        return Checked(len(outcomes), 0, refused=tuple(self._streams.in_ids_of(writer, proposed)))
