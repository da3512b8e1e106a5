"""What a sequence has written: ids, log-probabilities and text, and where a boundary or a stop string completes."""

from dataclasses import dataclass
from typing import Any

from glimp_engine.outputs import Logprob, Step
from glimp_engine.routing import Model
from glimp_engine.text import Boundary, BoundaryTable, StopStrings, Text

__all__ = ["SampledToken", "Transcript", "TranscriptMark", "Voice"]


@dataclass(frozen=True)
class Voice:
    """How one model's tokens read: its text, which of its tokens complete a boundary, which have a digit in them."""

    text: Text
    boundaries: BoundaryTable
    has_digit: bytes  # [V] 0 or 1


@dataclass(frozen=True)
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


@dataclass(frozen=True)
class TranscriptMark:
    """How much of a transcript there was at some time, and in which state."""

    num_tokens: int
    num_chars: int
    num_chars_shown: int
    cumulative_logprob: float
    boundary_state: int
    writer: Model | None
    stop_strings: tuple[str | None, str]
    detokenizers: list[Any]


class Transcript:
    """Grows token by token. `raw_text` is all that was written; `text` is what may be shown of it.

    `boundary_state` is where the automaton of step boundaries stands.
    """

    def __init__(self, voices: tuple[Voice, Voice], stop: tuple[str, ...], num_logprobs: int | None) -> None:
        self.token_ids: list[int] = []
        self.logprobs: list[dict[int, Logprob]] | None = None if num_logprobs is None else []
        self.cumulative_logprob = 0.0
        self.raw_text = ""
        self.writer: Model | None = None  # of the last token
        self.boundary_state = voices[Model.SMALL].boundaries.start_state
        self._num_logprobs = num_logprobs
        self._voices = voices
        self._stop_strings = StopStrings(stop)
        self._num_chars_shown = 0
        self._detokenizers = [voice.text.detokenizer() for voice in voices]
        if voices[Model.SMALL].text is voices[Model.LARGE].text:
            self._detokenizers[Model.LARGE] = self._detokenizers[Model.SMALL]

    @property
    def text(self) -> str:
        return self.raw_text[: self._num_chars_shown]

    @property
    def matched_stop(self) -> str | None:
        """The stop string that has been written, if any."""
        return self._stop_strings.matched

    def start_step(self) -> None:
        """A step starts here, with or without a boundary before it."""
        self.boundary_state = self._voices[self.writer or Model.SMALL].boundaries.start_step(self.boundary_state)

    def write(self, model: Model, sampled: SampledToken) -> tuple[str, Boundary]:
        """(text that may now be shown, the boundary that is now complete)."""
        boundaries = self._voices[model].boundaries
        self.boundary_state, boundary = boundaries.advance(self.boundary_state, sampled.token_class)
        self.cumulative_logprob += sampled.logprob
        logprobs = {} if self._num_logprobs is None else sampled.logprobs(self._num_logprobs)
        return self._append(model, sampled.token_id, logprobs), boundary

    def force(self, model: Model, token_id: int) -> str:
        """Append a token that no model chose; the text that may now be shown comes back."""
        return self._append(model, token_id, {})

    def repeats_itself(self, steps: list[Step]) -> bool:
        """Whether the last step, complete or not, equals the one before in its phase, or the last four alternate."""
        texts = [self.raw_text[step.text_start : step.text_end or None].strip() for step in steps[-4:]]
        *before, now = [text for text, step in zip(texts, steps[-4:], strict=True) if step.phase is steps[-1].phase]
        return before[-1:] == [now] or (len(before) == 3 and before[1] == now and before[0] == before[2])

    def flush(self) -> None:
        """Complete the raw text: a character that was never finished becomes the replacement character."""
        self.raw_text += self._detokenizers[self.writer or Model.SMALL].flush()

    def finish(self) -> str:
        """The text that was held back until it was known that no stop string comes."""
        begin = len(self.raw_text)
        self.flush()
        shown = self._stop_strings.push(self.raw_text[begin:]) + self._stop_strings.flush()
        self._num_chars_shown += len(shown)
        return shown

    def mark(self) -> TranscriptMark:
        """Where it stands, for `take_back`."""
        return TranscriptMark(
            num_tokens=len(self.token_ids),
            num_chars=len(self.raw_text),
            num_chars_shown=self._num_chars_shown,
            cumulative_logprob=self.cumulative_logprob,
            boundary_state=self.boundary_state,
            writer=self.writer,
            stop_strings=self._stop_strings.mark(),
            detokenizers=[each.mark() for each in self._detokenizers],
        )

    def take_back(self, mark: TranscriptMark) -> None:
        """Forget all that was written since the mark."""
        del self.token_ids[mark.num_tokens :]
        if self.logprobs is not None:
            del self.logprobs[mark.num_tokens :]
        self.raw_text = self.raw_text[: mark.num_chars]
        self._num_chars_shown = mark.num_chars_shown
        self.cumulative_logprob = mark.cumulative_logprob
        self.boundary_state = mark.boundary_state
        self.writer = mark.writer
        self._stop_strings.take_back(mark.stop_strings)
        for detokenizer, state in zip(self._detokenizers, mark.detokenizers, strict=True):
            detokenizer.take_back(state)

    def _append(self, model: Model, token_id: int, logprobs: dict[int, Logprob]) -> str:
        begin = len(self.raw_text)
        if self._detokenizers[model] is not self._detokenizers[self.writer or Model.SMALL]:
            self.flush()
        self.writer = model
        self.token_ids.append(token_id)
        if self.logprobs is not None:
            self.logprobs.append(logprobs)
        self.raw_text += self._detokenizers[model].push(token_id)
        shown = self._stop_strings.push(self.raw_text[begin:])
        self._num_chars_shown += len(shown)
        return shown
