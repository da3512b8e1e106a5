"""The log-probabilities of a prompt's tokens, as the forwards over it bring them."""

import math
from dataclasses import replace

from glimp_engine.outputs import Logprob
from glimp_engine.sequences.request import Request
from glimp_engine.sequences.samples import SampledToken
from glimp_engine.sequences.streams import Streams

__all__ = ["PromptLogprobs", "make_prompt_logprobs"]


class PromptLogprobs:
    """What is still to be scored of a prompt, from its beginning on. A place is the index of a token of the prompt;
    the logits of the position before it say how likely the token is, so the first one has none.
    """

    def __init__(self, prompt: list[int], num_logprobs: int | None) -> None:
        """`prompt` is in the ids of the model that reads it; with num_logprobs None nothing is asked for."""
        self._prompt = prompt
        self._num_logprobs = num_logprobs
        self._scores: list[dict[int, Logprob] | None] = [None]
        # the first position whose logits are still asked for; None if there is none
        self.next_position: int | None = None if num_logprobs is None or len(prompt) < 2 else 0

    @property
    def result(self) -> list[dict[int, Logprob] | None] | None:
        """One entry a token of the prompt, as vLLM reports them; None if it wasn't asked for, or isn't complete."""
        return self._scores if self._num_logprobs is not None and self.next_position is None else None

    def places(self, start: int, end: int) -> range:
        """The tokens that a forward over positions start:end scores, of those that are next."""
        if self.next_position is None:
            return range(0)
        return range(max(start, self.next_position) + 1, min(end, len(self._prompt) - 1) + 1)

    def token_at(self, place: int) -> int:
        return self._prompt[place]

    def take(self, place: int, sampled: SampledToken) -> None:
        """A token's score: what was sampled where no other token could be drawn."""
        if place != len(self._scores):
            return  # scored already: a forward that was lost comes twice
        assert self._num_logprobs is not None
        logprob = -math.inf if math.isnan(sampled.logprob) else sampled.logprob  # NaN: not even this one could be
        own = replace(sampled, token_id=self._prompt[place], logprob=logprob)
        self._scores.append(own.logprobs(self._num_logprobs))
        self.next_position = None if len(self._scores) == len(self._prompt) else place


def make_prompt_logprobs(request: Request, index: int, streams: Streams) -> PromptLogprobs:
    """What is asked for of a request's prompt: its first sequence sees to it, by the model that reads it first."""
    num_logprobs = request.sampling.prompt_logprobs if index == 0 else None
    if num_logprobs is None:
        return PromptLogprobs([], None)
    stream = streams.of(request.reader)
    return PromptLogprobs(streams.ids_for(request.reader, 0, stream.num_prompt_tokens), num_logprobs)
