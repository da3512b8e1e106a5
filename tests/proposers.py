"""Proposals by whim, where the engine would make those that pay: tokens must not depend on them."""

import random

from glimp_engine import Proposer
from glimp_engine.sequences import Use
from glimp_engine.sequences.proposals import Wanted
from glimp_engine.sequences.proposing import is_open


class Whims:
    """Proposes up to `depth` tokens at a time, or any number up to it: the small model's, or right, wrong, at random.

    `knows` are the tokens that will be written, by (request id, index), where they are known; by None, of any request.
    `patience` is the chance that a sequence which waits for the writer is left alone: with none, and many sequences,
    some wait for the small model at any time, and the writer never runs.
    """

    def __init__(self, seed=0, depth=4, is_random=True, share_small=0.5, vocab_size=300, knows=None, patience=0.0):
        self.rng = random.Random(seed)
        self.depth, self.is_random, self.share_small, self.patience = depth, is_random, share_small, patience
        self.vocab_size, self.knows = vocab_size, knows or {}
        self.outcomes = []
        self.small_tokens = set()  # that were proposed

    def prepare(self, running):
        for sequence in running:
            if is_open(sequence):
                yield sequence
                self.extend(sequence)

    def extend(self, sequence):
        proposals = sequence.proposals
        stream = proposals.stream
        if stream.proposals and sequence.awaited.use is Use.TOKEN and self.rng.random() < self.patience:
            return
        room = min(self.depth, sequence.num_tokens_left - 1)
        while len(stream.proposals) < room and not proposals.are_at_end:
            if self.is_random and self.rng.random() < 0.2:
                break
            if proposals.small_draw is not None and (not self.is_random or self.rng.random() < 0.9):
                self.small_tokens.add(proposals.small_draw[0])
                proposals.add(proposals.small_draw[0], Proposer.SMALL, 0.5)
            elif proposals.can_ask and self.rng.random() < self.share_small:
                wanted = Wanted(room - len(stream.proposals), -99.0)
                proposals.await_small(Wanted(self.rng.randint(1, 5), -1.5) if self.is_random else wanted)
                return
            elif self.share_small < 1:
                proposals.add(self.any_token(sequence, stream), Proposer.NGRAM, 3.0)
            else:
                break
        if self.is_random and self.rng.random() < 0.1:
            stream.drop_proposals(self.rng.randrange(len(stream.proposals) + 1))
        proposals.await_writer()

    def num_unasked(self, sequence):
        return self.rng.randint(1, 9) if self.is_random else 1

    def any_token(self, sequence, stream):
        known = self.knows.get((sequence.request.request_id, sequence.index), self.knows.get(None, []))
        place = len(stream) - stream.num_prompt_tokens
        if place < len(known) and self.rng.random() < 0.7:
            return known[place]
        return self.rng.randrange(self.vocab_size)

    def learn(self, sequence):
        self.outcomes += sequence.proposals.outcomes
        sequence.proposals.outcomes.clear()
