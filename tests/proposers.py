"""Proposals by whim, where the engine would make those that pay: tokens must not depend on them."""

import random

from glimp_engine import Model, Proposer
from glimp_engine.sequences.proposing import is_open


class Whims:
    """Proposes up to `depth` tokens at a time, or any number up to it: the small model's, or right, wrong, at random.

    `knows` are the tokens that will be written, by request, where they are known.
    """

    def __init__(self, seed=0, depth=4, is_random=True, share_small=0.5, vocab_size=300, knows=None):
        self.rng = random.Random(seed)
        self.depth, self.is_random, self.share_small = depth, is_random, share_small
        self.vocab_size, self.knows = vocab_size, knows or {}
        self.outcomes = []

    def prepare(self, running):
        for sequence in running:
            if is_open(sequence):
                yield sequence
                self.extend(sequence)

    def extend(self, sequence):
        model = sequence.writer
        stream = sequence.streams.of(model)
        is_paired = model is Model.LARGE and sequence.streams.is_shared
        room = min(self.depth, sequence.num_tokens_left - 1)
        while len(stream.proposals) < room and not (self.is_random and self.rng.random() < 0.2):
            drawn = stream.draws[Model.SMALL].get(len(stream)) if is_paired else None
            if drawn is not None and self.rng.random() < 0.9:
                token = sequence.streams.in_stream(Model.SMALL, drawn.token_id)
                sequence.propose(model, token, Proposer.SMALL, 0.5)
            elif is_paired and drawn is None and self.rng.random() < self.share_small:
                return sequence.await_proposal()
            elif self.share_small < 1:
                sequence.propose(model, self.any_token(sequence, stream), Proposer.NGRAM, 3.0)
            else:
                break
        if self.is_random and self.rng.random() < 0.1:
            stream.drop_proposals(self.rng.randrange(len(stream.proposals) + 1))
        if sequence.writer is not sequence.model:
            sequence.await_token()
        return None

    def any_token(self, sequence, stream):
        known = self.knows.get((sequence.request.request_id, sequence.index), [])
        place = len(stream) - stream.num_prompt_tokens
        if place < len(known) and self.rng.random() < 0.7:
            return known[place]
        return self.rng.randrange(self.vocab_size)

    def learn(self, sequence):
        self.outcomes += sequence.outcomes
        sequence.outcomes.clear()
