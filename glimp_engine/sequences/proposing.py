"""How many tokens are proposed to the model that writes, and by whom: as many as pay.

Sequences that wait for a model's token can be given more than one row of its next forward, with proposals in between.
One more proposal pays while

    chance that all are confirmed * value of a token > time of one more row + time to make the proposal

where times are measured means of the ticks with as many tokens, each sequence's share of them, and the value of a
token is the time that it takes at the best depth. With many sequences, or a small model that is not much faster, no
proposal pays: then this is plain decoding.
"""

import math
import operator
from collections.abc import Iterator
from collections.abc import Sequence as Sized
from dataclasses import dataclass, field
from itertools import accumulate

from glimp_engine.outputs import Proposer
from glimp_engine.routing import Model
from glimp_engine.sequences.acceptance import Acceptance
from glimp_engine.sequences.awaited import Use
from glimp_engine.sequences.proposals import Wanted
from glimp_engine.sequences.sequence import Sequence
from glimp_engine.sequences.tick_times import TickTimes
from glimp_engine.sequences.token_stream import TokenStream
from glimp_engine.speculation import Speculation

__all__ = ["Proposing"]

PRICES_HOLD = 32  # ticks, then they are looked up again
UNASKED = 8  # tokens that are written before anybody looks whether they stand elsewhere too
NEVER = 1 << 30
MOST_TRIED = 4  # plain ticks of a number of sequences: others may keep them from a launch
MIN_AHEAD = 32  # tokens that a sequence is thought to go on for at least, when a catch-up has to pay for itself


@dataclass(frozen=True)
class Prices:
    """Seconds, each sequence's share of those that are proposed to together."""

    ticks: list[float]  # of the writer, by the number of proposals that a sequence has in it
    proposal: float  # of a tick of the small model
    _tokens: dict[int, float] = field(default_factory=dict)  # what `token` has said, by hundredths of chance

    def row(self, num_proposals: int) -> float:
        """What the last of so many proposals costs the writer."""
        return max(self.ticks[num_proposals] - self.ticks[num_proposals - 1], 0.0)

    def token(self, chance: float) -> float:
        """What a token takes at the best depth, if each proposal has this chance, taken to the hundredth."""
        known = self._tokens.get(round(100 * chance))
        if known is None:
            known = self._tokens[round(100 * chance)] = self._token(round(100 * chance) / 100)
        return known

    def _token(self, chance: float) -> float:
        best, expected, power = self.ticks[0], 1.0, 1.0
        for depth in range(1, len(self.ticks)):
            power *= chance
            expected += power
            best = min(best, (self.ticks[depth] + depth * self.proposal) / expected)
        return best


class Proposing:
    """Decides for each sequence, before a tick is planned, what is put behind its written tokens."""

    def __init__(
        self, speculation: Speculation, times: TickTimes, acceptance: Acceptance, runs_ahead: Sized[bool] = ()
    ) -> None:
        """runs_ahead: whether each model has launches, so that decoding without proposals is cheaper than it seems."""
        self._speculation = speculation
        self._proposers = speculation.proposers
        self._times = times
        self._acceptance = acceptance
        self._prices: dict[tuple[Model, int, int], Prices] = {}
        self._asked: list[Prices | None] = [None for _ in Model]  # [writer]: what was reckoned with last
        self._num_ticks = 0
        self._runs_ahead = runs_ahead
        self._num_tried: dict[tuple[Model, int], int] = {}  # plain ticks, to see what a launch of them takes

    def prepare(self, running: list[Sequence]) -> Iterator[Sequence]:
        """Extend the proposals of all that wait for a token, one after the other, and say which model they wait for."""
        if not self._speculation.proposers:
            return
        self._num_ticks += 1
        if self._num_ticks % PRICES_HOLD == 0:
            self._prices.clear()
        writing: tuple[list[Sequence], ...] = ([], [])
        num_others = 0
        for sequence in running:
            if is_open(sequence):
                writing[sequence.proposals.writer].append(sequence)
            else:
                num_others += sequence.model is Model.SMALL
        for model in Model:
            if writing[model] and self._tries_plain(model, len(writing[model])):
                self._asked[model] = None
                for sequence in writing[model]:
                    yield sequence
                    sequence.proposals.await_writer()
            elif writing[model]:
                prices = self._asked[model] = self._prices_of(model, len(writing[model]), num_others)
                for sequence in writing[model]:
                    yield sequence  # so that a fault in what follows is known to be its own
                    self._extend(sequence, prices)
                self._drop_what_few_have(writing[model], model)

    def num_unasked(self, sequence: Sequence) -> int:
        """How many tokens the sequence may write before it's asked again what to propose behind them."""
        if not self._proposers or sequence.request.routing.speculation != "auto":
            return NEVER
        prices = self._asked[sequence.proposals.writer]
        if prices is not None and prices.row(1) >= prices.ticks[0]:
            return NEVER
        if prices is not None and Proposer.SMALL in self._proposers and sequence.proposals.is_paired:
            chance = self._chance(sequence, Proposer.SMALL, None)
            if chance * prices.token(chance) > prices.row(1) + prices.proposal:
                return 1
        return UNASKED

    def _tries_plain(self, model: Model, num_sequences: int) -> bool:
        """Whether so many sequences decode without proposals, as nobody knows yet what that takes in a launch.

        One that is asked for proposals is planned for each tick, and would never find out.
        """
        key = model, num_sequences
        if not any(self._runs_ahead[model : model + 1]) or self._times.in_launch(*key) is not None:
            return False
        self._num_tried[key] = self._num_tried.get(key, 0) + 1
        return self._num_tried[key] <= MOST_TRIED

    def learn(self, sequence: Sequence) -> None:
        """A sequence has written: what has become of its proposals."""
        outcomes, record = sequence.proposals.outcomes, sequence.proposals.record
        if not outcomes and not sequence.proposals:
            record.forget()
            self._acceptance.forget()
            return
        for outcome in outcomes:
            if outcome.is_confirmed is not None:
                record.add(outcome, self._acceptance.of(outcome.proposal.proposer, outcome.proposal.evidence))
                self._acceptance.learn(outcome)
        if not sequence.proposals:  # else nothing may have been written yet
            record.forget()
        outcomes.clear()

    def _extend(self, sequence: Sequence, prices: Prices) -> None:
        """Add the proposals that pay, up to one that the small model has to run for; else let the writer run."""
        proposals, stream = sequence.proposals, sequence.awaited.stream
        placed = stream.proposals
        if not placed and prices.row(1) >= prices.ticks[0]:
            return proposals.await_writer()  # not even a certain one pays
        may_ask = proposals.is_paired and Proposer.SMALL in self._proposers
        if not placed and not may_ask and not self._finds(stream):
            return proposals.await_writer()
        next_chance = self._chance(sequence, Proposer.SMALL, None) if may_ask else 0.0
        seconds = prices.token(next_chance) if may_ask else prices.ticks[0]
        chain = self._chains(sequence)[-1]
        room = min(self._speculation.max_tokens, sequence.num_tokens_left - 1)
        while len(placed) < room and not proposals.are_at_end:
            row = prices.row(len(placed) + 1)
            if chain * seconds <= row:
                break
            chance, known = self._best_known(sequence)
            gain = chain * chance * seconds - row
            gain_if_asked = chain * next_chance * seconds - row - prices.proposal
            if (
                may_ask
                and proposals.can_ask
                and gain_if_asked > max(gain, 0.0)
                and self._pays(sequence, prices, seconds)
            ):
                return proposals.await_small(self._wanted(chain * seconds, next_chance, len(placed), room, prices))
            if known is None or gain <= 0:
                break
            chain *= chance
            proposals.add(*known)
        return proposals.await_writer()

    def _wanted(self, at_stake: float, chance: float, num_placed: int, room: int, prices: Prices) -> Wanted:
        """How far the small model may go on by itself, `at_stake` being the worth of a token if it's confirmed."""
        num_tokens, worth = 1, at_stake * chance * chance
        while num_placed + num_tokens < room and worth > prices.row(num_placed + num_tokens + 1) + prices.proposal:
            num_tokens, worth = num_tokens + 1, worth * chance
        least = (prices.row(num_placed + 2) + prices.proposal) / (at_stake * chance) if at_stake * chance else 1.0
        return Wanted(num_tokens, math.log(least) if 0 < least < 1 else (0.0 if least >= 1 else -math.inf))

    def _drop_what_few_have(self, writing: list[Sequence], model: Model) -> None:
        """Take back all proposals if together they don't pay: a price is a share, and a row may cost more for a few."""
        if len(writing) == 1 or any(sequence.awaited.use is Use.PROPOSAL for sequence in writing):
            return
        chains = [chain for sequence in writing for chain in self._chains(sequence)[1:]]
        plain = self._times.of(model, len(writing))
        seconds = self._times.of(model, len(writing) + len(chains)) - plain
        if chains and sum(chains) * plain / len(writing) < seconds:
            for sequence in writing:
                sequence.proposals.drop()

    def _finds(self, stream: TokenStream) -> bool:
        """Whether what was written last stands elsewhere too."""
        return Proposer.NGRAM in self._proposers and stream.ngrams.find(stream.tokens, stream.num_written)[1] > 0

    def _best_known(self, sequence: Sequence) -> tuple[float, tuple[int, Proposer, float] | None]:
        """(chance, (token, proposer, evidence)) of the likeliest next token that nothing has to be run for."""
        best: tuple[float, tuple[int, Proposer, float] | None] = 0.0, None
        drawn, stream = sequence.proposals.small_draw, sequence.proposals.stream
        if drawn is not None and Proposer.SMALL in self._proposers:
            evidence = math.exp(drawn[1])
            best = self._chance(sequence, Proposer.SMALL, evidence), (drawn[0], Proposer.SMALL, evidence)
        if Proposer.NGRAM in self._proposers:
            token, length = stream.ngrams.find(stream.tokens, stream.num_written)
            chance = self._chance(sequence, Proposer.NGRAM, length) if length else 0.0
            if chance > best[0]:
                best = chance, (token, Proposer.NGRAM, float(length))
        return best

    def _chains(self, sequence: Sequence) -> list[float]:
        """The chance that none is refused of the first 0, 1, 2 ... proposals."""
        chances = (self._chance(sequence, each.proposer, each.evidence) for each in sequence.proposals.stream.proposals)
        return list(accumulate(chances, operator.mul, initial=1.0))

    def _chance(self, sequence: Sequence, proposer: Proposer, evidence: float | None) -> float:
        """That a proposal is confirmed, if those before it are; without evidence, of one that isn't made yet."""
        acceptance = self._acceptance
        general = acceptance.of_next(proposer) if evidence is None else acceptance.of(proposer, evidence)
        return min(general * sequence.proposals.record.factor(proposer), 1.0)

    def _pays(self, sequence: Sequence, prices: Prices, seconds: float) -> bool:
        """Whether what the small model has to read first is worth it; before a glimpse it has to read it anyway."""
        stream = sequence.stream
        unseen = stream.num_written - stream.table.next_run(Model.SMALL, len(stream))[0]
        if unseen <= 1 or sequence.is_glimpsed_next:
            return True
        num_written = len(sequence.transcript.token_ids)
        num_ahead = min(max(MIN_AHEAD, num_written), sequence.num_tokens_left)
        return num_written > 0 and num_ahead * (prices.ticks[0] - seconds) > self._times.of(Model.SMALL, unseen)

    def _prices_of(self, model: Model, num_sequences: int, num_others: int) -> Prices:
        key = model, num_sequences, num_others
        if key not in self._prices:
            depths = range(self._speculation.max_tokens + 2)
            ticks = [self._times.of(model, num_sequences * (depth + 1)) / num_sequences for depth in depths]
            plain = self._times.in_launch(model, num_sequences)
            ticks[0] = ticks[0] if plain is None else plain / num_sequences
            alone = self._times.of(Model.SMALL, num_others) if num_others else 0.0
            both = self._times.of(Model.SMALL, num_others + num_sequences)
            self._prices[key] = Prices(ticks, max(both - alone, 0.0) / num_sequences)
        return self._prices[key]


def is_open(sequence: Sequence) -> bool:
    """Whether tokens may be proposed to whoever writes the sequence now."""
    awaited = sequence.awaited
    return (
        awaited.use in (Use.TOKEN, Use.PROPOSAL)
        and awaited.num_unborn == 0
        and sequence.request.routing.speculation == "auto"
        and sequence.prompt_logprobs.next_position is None
        and sequence.proposals.stream.table.is_attached  # else the prefix cache would be asked for proposals
    )
