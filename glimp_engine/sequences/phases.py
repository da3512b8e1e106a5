"""Thinking, then the answer: how much of each has been written, and what budget ends it."""

from copy import copy

from glimp_engine.outputs import FinishReason, Phase
from glimp_engine.routing import Model
from glimp_engine.sequences.request import Request
from glimp_engine.text import Boundary, MarkReader, Text

__all__ = ["Phases"]

END = Boundary.END  # a member of an enum takes 0.1 us to look up, which each token would pay (Python 3.11)


class Phases:
    """Which phase a sequence is in. Counts are in tokens."""

    def __init__(self, request: Request) -> None:
        self.is_thinking = request.is_thinking
        self.thinking_finish_reason: FinishReason | None = None
        self.num_thinking_tokens = 0
        self._answer_start = 0  # index of the answer's first token
        self._request = request
        self._marks = MarkReader(may_begin=not request.is_thinking)

    @property
    def phase(self) -> Phase:
        return Phase.THINKING if self.is_thinking else Phase.ANSWER

    @property
    def answer_model(self) -> Model | None:
        """The model that writes the rest as one step, of its own accord; None if steps are routed."""
        return self._request.answer_model if self.has_thought and not self.is_thinking else None

    @property
    def is_thinking_budget_spent(self) -> bool:
        return self.is_thinking and self.num_thinking_tokens >= self._request.routing.max_thinking_tokens

    def count_token(self) -> None:
        """A token has been written."""
        self.num_thinking_tokens += self.is_thinking

    def read_marks(self, token_id: int, text: Text, boundary: Boundary) -> Boundary:
        """What a token completes, with the marks of thinking that aren't one token."""
        if text.marks is None or boundary is END:
            return boundary
        if not self.is_thinking:
            if not self._marks.may_begin:
                return boundary
            has_begun = self._marks.begins(text.bytes_of(token_id), text.marks)
            return Boundary.BEGIN_OF_THINKING if has_begun else boundary
        if text.end_thinking_id is None and self._marks.ends(text.bytes_of(token_id), text.marks):
            return Boundary.END_OF_THINKING
        return boundary

    @property
    def has_thought(self) -> bool:
        """Whether a thinking has ended."""
        return self.thinking_finish_reason is not None

    def ahead(self) -> "Phases":
        """A copy that reads on by itself."""
        other = copy(self)
        other._marks = MarkReader()
        other._marks.take_back(self._marks.mark())
        return other

    def begin_thinking(self) -> None:
        """The model has opened a thinking by itself."""
        self.is_thinking = True

    def end_thinking(self, reason: FinishReason, num_tokens: int) -> None:
        """The answer begins behind num_tokens tokens."""
        self.thinking_finish_reason = reason
        self.is_thinking = False
        self._answer_start = num_tokens

    def num_tokens_left(self, num_tokens: int, stream_len: int) -> int:
        """How many tokens max_tokens, the answer's budget and the context leave."""
        left = [self._request.max_model_len - stream_len]
        if self._request.sampling.max_tokens is not None:
            left.append(self._request.sampling.max_tokens - num_tokens)
        if not self.is_thinking:
            left.append(self._request.max_answer_tokens - (num_tokens - self._answer_start))
        return max(min(left), 0)

    def num_free(self, num_tokens_left: int, num_open_tokens: int) -> int:
        """How many tokens may follow before the output, the open step or the thinking has had all that it may have."""
        routing = self._request.routing
        num_free = min(num_tokens_left, routing.max_step_tokens - num_open_tokens)
        return min(num_free, routing.max_thinking_tokens - self.num_thinking_tokens) if self.is_thinking else num_free

    def mark(self) -> tuple[int, tuple[bool, bytes]]:
        """Where a step begins, for `take_back`: no phase changes within one."""
        return self.num_thinking_tokens, self._marks.mark()

    def take_back(self, mark: tuple[int, tuple[bool, bytes]]) -> None:
        """Forget the tokens since the mark."""
        self.num_thinking_tokens, marks = mark
        self._marks.take_back(marks)
