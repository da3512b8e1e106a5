"""What a model draws: a token, and how sure it was."""

from dataclasses import dataclass

from glimp_engine.outputs import Logprob

__all__ = ["SampledToken"]


@dataclass(slots=True)
class SampledToken:
    """What `sample` gave for one logit row, in the ids of the model that ran; log-probabilities and entropy in nats."""

    token_id: int
    entropy: float
    logprob: float
    token_class: int
    top_logprobs: list[tuple[int, float]]  # (token id, log-probability), descending

    def logprobs(self, num_logprobs: int) -> dict[int, Logprob]:
        """The token's log-probability and the num_logprobs largest ones, as vLLM reports them."""
        top = enumerate(self.top_logprobs[:num_logprobs], start=1)
        logprobs = {token_id: Logprob(logprob, rank) for rank, (token_id, logprob) in top}
        logprobs.setdefault(self.token_id, Logprob(self.logprob))
        return logprobs
