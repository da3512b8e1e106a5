"""The steps of a sequence: the glimpses before them, where they begin and end, and what their writers were like."""

from glimp_engine.outputs import Phase, Step
from glimp_engine.routing import Draft, Glimpse, Model
from glimp_engine.sequences.samples import SampledToken
from glimp_engine.sequences.transcript import Transcript

__all__ = ["StepLog"]


class StepLog:
    """All steps, the open one last. Seconds are the caller's."""

    def __init__(self, transcript: Transcript, now: float) -> None:
        self.steps: list[Step] = []
        self.glimpses: list[Glimpse] = []
        self._transcript = transcript
        self._is_open = False
        self._began = now
        self._sums = (0.0, 0.0)  # over the open step's tokens: nats of entropy, log-probabilities
        self._numbers = (0.0, 0)  # of its tokens with a digit: nats of entropy, how many

    def __len__(self) -> int:
        return len(self.steps)

    @property
    def last(self) -> Step:
        return self.steps[-1]

    @property
    def num_open_tokens(self) -> int:
        """Tokens of the open step so far."""
        return len(self._transcript.token_ids) - self.last.token_start

    def open(self, phase: Phase, model: Model, entropy: float | None, first_tokens: list[tuple[int, float]]) -> Step:
        """Begin a step where the transcript ends."""
        begin = len(self._transcript.token_ids), self._transcript.num_chars
        step = Step(len(self.steps), phase, model, entropy, *begin, first_tokens=first_tokens)
        self.steps.append(step)
        self._transcript.start_step()
        self._is_open, self._sums, self._numbers = True, (0.0, 0.0), (0.0, 0)
        return step

    @property
    def number_entropy(self) -> float | None:
        """Mean nats over the open step's tokens with a digit in them."""
        entropy, num_tokens = self._numbers
        return entropy / num_tokens if num_tokens else None

    def count(self, sampled: SampledToken, has_digit: bool) -> None:
        """A token of the open step, and whether there is a digit in it."""
        entropy, logprob = self._sums
        self._sums = entropy + sampled.entropy, logprob + sampled.logprob
        if has_digit:
            entropy, num_tokens = self._numbers
            self._numbers = entropy + sampled.entropy, num_tokens + 1

    def count_proposals(self, num_proposed: int, num_accepted: int) -> None:
        """What the open step's writer was shown, and what it confirmed of it."""
        if not num_proposed:
            return
        self.last.num_proposed_tokens += num_proposed
        self.last.num_accepted_tokens += num_accepted

    def draft(self, score: float | None) -> Draft:
        """The open step as its router judges it."""
        self.last.score = score
        entropy, logprob = (total / self.num_open_tokens for total in self._sums)
        return Draft(self.num_open_tokens, entropy, logprob, score, self.number_entropy)

    def close(self, now: float) -> Step | None:
        """End the open step where the transcript ends; None if none is open."""
        if not self._is_open:
            return None
        self._is_open = False
        step = self.last
        step.token_end, step.text_end = len(self._transcript.token_ids), self._transcript.num_chars
        step.seconds, self._began = now - self._began, now
        step.mean_entropy, step.mean_logprob = (total / max(step.num_tokens, 1) for total in self._sums)
        step.number_entropy = self.number_entropy
        return step

    def take_back(self) -> None:
        """Forget the open step."""
        self.steps.pop()
        self._is_open = False

    def cut_to(self, num_chars: int) -> list[Step]:
        """All steps, none of which reaches beyond what is shown of the text: a stop string isn't part of it."""
        for step in self.steps:
            step.text_start, step.text_end = min(step.text_start, num_chars), min(step.text_end, num_chars)
        return self.steps
