"""Thinking, then the answer: how much of each has been written, and what budget ends it."""

from glimp_engine.outputs import FinishReason, Phase
from glimp_engine.routing import Model
from glimp_engine.sequences.request import Request

__all__ = ["Phases"]


class Phases:
    """Which phase a sequence is in. Counts are in tokens."""

    def __init__(self, request: Request) -> None:
        self.phase = Phase.THINKING if request.is_thinking else Phase.ANSWER
        self.thinking_finish_reason: FinishReason | None = None
        self.num_thinking_tokens = 0
        self._answer_start = 0  # index of the answer's first token
        self._request = request

    @property
    def is_thinking(self) -> bool:
        return self.phase is Phase.THINKING

    @property
    def answer_model(self) -> Model | None:
        """The model that writes the rest as one step, of its own accord; None if steps are routed."""
        return None if self.is_thinking else self._request.answer_model

    @property
    def is_thinking_budget_spent(self) -> bool:
        return self.is_thinking and self.num_thinking_tokens >= self._request.routing.max_thinking_tokens

    def count_token(self) -> None:
        """A token has been written."""
        self.num_thinking_tokens += self.is_thinking

    def end_thinking(self, reason: FinishReason, num_tokens: int) -> None:
        """The answer begins behind num_tokens tokens."""
        self.thinking_finish_reason = reason
        self.phase = Phase.ANSWER
        self._answer_start = num_tokens

    def is_out_of_room(self, num_tokens: int, stream_len: int) -> bool:
        """Whether max_tokens, the answer's budget or the context is used up."""
        limit = self._request.sampling.max_tokens
        num_answer_tokens = 0 if self.is_thinking else num_tokens - self._answer_start
        return (
            (limit is not None and num_tokens >= limit)
            or num_answer_tokens >= self._request.max_answer_tokens
            or stream_len >= self._request.max_model_len
        )
