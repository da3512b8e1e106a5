"""How likely a proposal is to be confirmed: learnt from what has become of those before it."""

from bisect import bisect_right

from glimp_engine.outputs import Proposer
from glimp_engine.sequences.token_stream import Outcome

__all__ = ["Acceptance", "Record"]

# Evidence from which on a proposal is of the next kind: the small model's probability of what it drew, and the number
# of tokens before it that stand elsewhere too.
KINDS = {Proposer.SMALL: (0.2, 0.4, 0.6, 0.8, 0.9, 0.97, 0.995), Proposer.NGRAM: (3, 4, 6, 9, 17)}
PRIOR = {Proposer.SMALL: (0.3, 0.4, 0.55, 0.65, 0.75, 0.85, 0.9, 0.95), Proposer.NGRAM: (0.2, 0.4, 0.5, 0.7, 0.8, 0.9)}
NEXT = {Proposer.SMALL: 0.85, Proposer.NGRAM: 0.6}  # of one that isn't made yet: high enough for it to be tried
PRIOR_WEIGHT = 4.0  # proposals' worth
MEMORY = 500.0  # proposals of one kind, or of one proposer, beyond which what is new counts for more
RECORD_WEIGHT = 8.0  # expected confirmations; a sequence is as all others until it has shown as many
RECORD_DECAY = 0.99  # a token
SHARE_DECAY = 0.998  # a token that nothing was proposed for, so that what didn't pay is tried again


class Share:
    """A running share of hits, with the last `MEMORY` trials in it."""

    def __init__(self, prior: float) -> None:
        self._prior = prior
        self._hits, self._trials = 0.0, 0.0

    @property
    def mean(self) -> float:
        return (self._hits + self._prior * PRIOR_WEIGHT) / (self._trials + PRIOR_WEIGHT)

    def add(self, is_hit: bool) -> None:
        self.keep(min(1.0, MEMORY / (self._trials + 1)))
        self._hits, self._trials = self._hits + is_hit, self._trials + 1

    def keep(self, share: float) -> None:
        """Let what has been seen count for so much less."""
        self._hits, self._trials = self._hits * share, self._trials * share


class Acceptance:
    """What an engine knows of its proposers: the share that is confirmed of those with evidence as strong."""

    def __init__(self) -> None:
        self._by_kind = {proposer: [Share(prior) for prior in PRIOR[proposer]] for proposer in Proposer}
        self._all = {proposer: Share(NEXT[proposer]) for proposer in Proposer}
        self._num_unproposed = 0  # tokens that were written without, since `_all` was told

    def of(self, proposer: Proposer, evidence: float) -> float:
        """The chance of a proposal, in any sequence."""
        return self._by_kind[proposer][bisect_right(KINDS[proposer], evidence)].mean

    def of_next(self, proposer: Proposer) -> float:
        """The chance of a proposal that hasn't been made yet."""
        self._forget()
        return self._all[proposer].mean

    def forget(self) -> None:
        """A token was written that nothing was proposed for."""
        self._num_unproposed += 1

    def learn(self, outcome: Outcome) -> None:
        """A proposal was confirmed, or refused."""
        self._forget()
        proposal, is_hit = outcome.proposal, bool(outcome.is_confirmed)
        kinds = KINDS[proposal.proposer]
        self._by_kind[proposal.proposer][bisect_right(kinds, proposal.evidence)].add(is_hit)
        self._all[proposal.proposer].add(is_hit)

    def _forget(self) -> None:
        if self._num_unproposed:
            for share in self._all.values():
                share.keep(SHARE_DECAY**self._num_unproposed)
            self._num_unproposed = 0


class Record:
    """How much better or worse than expected one sequence's proposals have done, lately."""

    def __init__(self) -> None:
        self._sums = dict.fromkeys(Proposer, (0.0, 0.0))  # confirmed, and expected to be
        self._num_written = 0  # tokens, since the sums were told

    def factor(self, proposer: Proposer) -> float:
        """By how much a chance is to be multiplied."""
        self._forget()
        confirmed, expected = self._sums[proposer]
        return (confirmed + RECORD_WEIGHT) / (expected + RECORD_WEIGHT)

    def add(self, outcome: Outcome, chance: float) -> None:
        """What has become of a proposal that had this chance in any sequence."""
        self._forget()
        confirmed, expected = self._sums[outcome.proposal.proposer]
        self._sums[outcome.proposal.proposer] = confirmed + bool(outcome.is_confirmed), expected + chance

    def forget(self) -> None:
        """A token has been written: what was long ago counts for less, so that what failed is tried again."""
        self._num_written += 1

    def _forget(self) -> None:
        if self._num_written:
            share, self._num_written = RECORD_DECAY**self._num_written, 0
            for proposer, (confirmed, expected) in self._sums.items():
                self._sums[proposer] = confirmed * share, expected * share
