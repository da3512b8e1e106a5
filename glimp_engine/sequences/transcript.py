"""What a sequence has written: ids, log-probabilities and text, and where a boundary, or what stops it, completes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from glimp_engine.outputs import Logprob, Step
from glimp_engine.routing import Model
from glimp_engine.sampling import SamplingParams
from glimp_engine.sequences.growing_text import GrowingText
from glimp_engine.sequences.samples import SampledToken
from glimp_engine.sequences.token_rules import TokenRules
from glimp_engine.text import Boundary, BoundaryTable, StopStrings, Text, TextWithout

__all__ = ["Transcript", "TranscriptMark", "Voice"]

NO_LOGPROBS: dict[int, Logprob] = {}  # where nobody has asked for any
END = Boundary.END  # a member of an enum takes 0.1 us to look up, which each token would pay (Python 3.11)


@dataclass(frozen=True)
class Voice:
    """How one model's tokens read: its text, which of its tokens complete a boundary, which have a digit in them."""

    text: Text
    boundaries: BoundaryTable
    has_digit: bytes  # [V] 0 or 1


@dataclass(frozen=True)
class TranscriptMark:
    """How much of a transcript there was at some time, and in which state."""

    num_tokens: int
    nums_chosen: tuple[int, ...]
    num_chars: int
    num_plain_chars: int
    num_chars_shown: int
    unseen_text: str
    num_answer_bytes: int
    hidden: str | None
    cumulative_logprob: float
    boundary_state: int
    writer: Model | None
    stop_strings: Any
    detokenizers: list[Any]


class Transcript:
    """Grows token by token. `raw_text` is all that was written; `text` is what may be shown of it, and `plain_text`
    what the other model reads of it, in which special tokens have no name. They are read from the tokens when somebody
    asks, or at once if each token's text is told, or may be a stop string's.

    `boundary_state` is where the automaton of step boundaries stands.
    """

    def __init__(
        self, voices: tuple[Voice, Voice], sampling: SamplingParams, rules: Mapping[Model, TokenRules], is_told: bool
    ) -> None:
        """rules: of each model that may write; is_told: whether somebody wants to know of each token."""
        self.token_ids: list[int] = []
        self.nums_chosen = [0] * len(Model)  # [model]: tokens that it has written, as it wanted to
        self.logprobs: list[dict[int, Logprob]] | None = None if sampling.logprobs is None else []
        self.cumulative_logprob = 0.0
        self.writer: Model | None = None  # of the last token
        self.boundary_state = voices[Model.SMALL].boundaries.start_state
        self.answer = None if sampling.structured_outputs is None else bytearray()  # in bytes, for its grammar to read
        self._sampling = sampling
        self._rules = rules
        self._voices = voices
        self._stop_strings = StopStrings(sampling.stop or (), sampling.include_stop_str_in_output)
        self._stop_id: int | None = None
        self._is_read_at_once = is_told or bool(sampling.stop)
        self._unread: list[tuple[Model, int, bool]] = []  # (who wrote it, token, whether it's left out): no text yet
        self._reader = Model.SMALL  # the writer of the last token that was read
        self._raw_text, self._plain_text, self._text = GrowingText(), GrowingText(), GrowingText()
        self._unseen_text = ""  # by the stop strings
        self._hidden: TextWithout | None = None
        self._detokenizers = [voice.text.detokenizer() for voice in voices]
        if voices[Model.SMALL].text is voices[Model.LARGE].text:
            self._detokenizers[Model.LARGE] = self._detokenizers[Model.SMALL]

    @property
    def matched_stop(self) -> str | int | None:
        """The stop string, or the id of the stop token, that has been written, if any."""
        return self._stop_strings.matched if self._stop_id is None else self._stop_id

    @property
    def last_logprobs(self) -> dict[int, Logprob] | None:
        """Of the last token; None where nobody has asked for any."""
        return None if self.logprobs is None else self.logprobs[-1]

    @property
    def raw_text(self) -> str:
        self._read()
        return str(self._raw_text)

    @property
    def num_chars(self) -> int:
        """Of `raw_text`."""
        self._read()
        return len(self._raw_text)

    @property
    def plain_text(self) -> str:
        self._read()
        return str(self._plain_text)

    @property
    def num_plain_chars(self) -> int:
        """Of `plain_text`."""
        self._read()
        return len(self._plain_text)

    @property
    def text(self) -> str:
        self._read()
        return str(self._text)

    @property
    def is_inside_character(self) -> bool:
        """Whether the last token has left a character unfinished."""
        self._read()
        return self._detokenizers[self.writer or Model.SMALL].is_inside_character

    def start_answer(self, hidden: str | None = None) -> None:
        """What follows stands outside any code fence; with `hidden`, that piece of text is left out of it."""
        self._read()
        self.boundary_state = self._voices[self.writer or Model.SMALL].boundaries.start_state
        self._hidden = None if hidden is None else TextWithout(hidden)
        if self.answer is not None:
            self.answer.clear()

    def start_step(self) -> None:
        """A step starts here, with or without a boundary before it."""
        self.boundary_state = self._voices[self.writer or Model.SMALL].boundaries.start_step(self.boundary_state)

    def write(self, model: Model, sampled: SampledToken) -> tuple[str, Boundary]:
        """(text that may now be shown, the boundary that is now complete)."""
        boundaries, num_logprobs = self._voices[model].boundaries, self._sampling.logprobs
        state, boundary = boundaries.advance(self.boundary_state, sampled.token_class)
        if boundary is END and self._sampling.ignore_eos:
            state, boundary = boundaries.pass_over(self.boundary_state)
        self.boundary_state = state
        self.nums_chosen[model] += 1
        if self.answer is not None:
            self.answer += self._voices[model].text.answer_bytes(sampled.token_id)
        is_end = boundary is END
        self._stop_id = None if is_end else self._rules[model].stop_ids.get(sampled.token_id)
        self.cumulative_logprob += sampled.logprob
        logprobs = NO_LOGPROBS if num_logprobs is None else sampled.logprobs(num_logprobs)
        return self._append(model, sampled.token_id, logprobs, is_end or self._stop_id is not None), boundary

    def force(self, model: Model, token_id: int) -> str:
        """Append a token that no model chose; the text that may now be shown comes back."""
        return self._append(model, token_id, {}, is_end=False)

    def repeats_itself(self, steps: list[Step]) -> bool:
        """Whether the last step, complete or not, equals the one before in its phase, or the last four alternate."""
        texts = [self.raw_text[step.text_start : step.text_end or None].strip() for step in steps[-4:]]
        *before, now = [text for text, step in zip(texts, steps[-4:], strict=True) if step.phase is steps[-1].phase]
        return before[-1:] == [now] or (len(before) == 3 and before[1] == now and before[0] == before[2])

    def flush(self) -> None:
        """Complete the raw text: a character that was never finished becomes the replacement character."""
        self._read()
        self._complete()

    def _complete(self) -> None:
        written = self._detokenizers[self._reader].flush()
        self._add_text(written if self._hidden is None else self._hidden.push(written) + self._hidden.flush(), "")

    def finish(self) -> str:
        """The text that was held back until it was known that no stop string comes."""
        self.flush()
        shown = self._show("") + self._stop_strings.flush()
        self._text.add(shown)
        return shown

    def mark(self) -> TranscriptMark:
        """Where it stands, for `take_back`."""
        self._read()
        return TranscriptMark(
            num_tokens=len(self.token_ids),
            nums_chosen=tuple(self.nums_chosen),
            num_chars=len(self._raw_text),
            num_plain_chars=len(self._plain_text),
            num_chars_shown=len(self._text),
            unseen_text=self._unseen_text,
            num_answer_bytes=len(self.answer or ()),
            hidden=None if self._hidden is None else self._hidden.mark(),
            cumulative_logprob=self.cumulative_logprob,
            boundary_state=self.boundary_state,
            writer=self.writer,
            stop_strings=self._stop_strings.mark(),
            detokenizers=[each.mark() for each in self._detokenizers],
        )

    def take_back(self, mark: TranscriptMark) -> None:
        """Forget all that was written since the mark."""
        self._unread.clear()
        del self.token_ids[mark.num_tokens :]
        self.nums_chosen = list(mark.nums_chosen)
        if self.logprobs is not None:
            del self.logprobs[mark.num_tokens :]
        self._raw_text.cut(mark.num_chars)
        self._plain_text.cut(mark.num_plain_chars)
        self._text.cut(mark.num_chars_shown)
        self._unseen_text, self._stop_id = mark.unseen_text, None
        if self.answer is not None:
            del self.answer[mark.num_answer_bytes :]
        if self._hidden is not None and mark.hidden is not None:
            self._hidden.take_back(mark.hidden)
        self.cumulative_logprob = mark.cumulative_logprob
        self.boundary_state = mark.boundary_state
        self.writer = mark.writer
        self._reader = mark.writer or Model.SMALL
        self._stop_strings.take_back(mark.stop_strings)
        for detokenizer, state in zip(self._detokenizers, mark.detokenizers, strict=True):
            detokenizer.take_back(state)

    def _append(self, model: Model, token_id: int, logprobs: dict[int, Logprob], is_end: bool) -> str:
        self.writer = model
        self.token_ids.append(token_id)
        if self.logprobs is not None:
            self.logprobs.append(logprobs)
        is_left_out = is_end and not self._sampling.include_stop_str_in_output
        if self._is_read_at_once:
            return self._read_token(model, token_id, is_left_out)
        self._unread.append((model, token_id, is_left_out))
        return ""

    def _read(self) -> None:
        if self._unread:
            unread, self._unread = self._unread, []
            for token in unread:
                self._read_token(*token)

    def _read_token(self, model: Model, token_id: int, is_left_out: bool) -> str:
        """The text that may be shown with this token."""
        if self._detokenizers[model] is not self._detokenizers[self._reader]:
            self._complete()
        self._reader = model
        special = self._voices[model].text.special_text(token_id)
        is_plain = not (special or is_left_out or self._unseen_text or self._stop_strings.stops)
        if is_plain and self._hidden is None:  # as nearly every token
            written = self._detokenizers[model].push(token_id)
            for text in (self._raw_text, self._plain_text, self._text):
                text.add(written)
            return written
        is_named = bool(special) and not self._sampling.skip_special_tokens and not is_left_out
        if is_named:
            self._add_text("", special)
        elif not is_left_out:
            written = self._detokenizers[model].push(token_id)
            self._add_text(written if self._hidden is None else self._hidden.push(written), "")
        shown = self._show("" if is_named else special)
        self._text.add(shown)
        return shown

    def _add_text(self, written: str, special: str) -> None:
        self._raw_text.add(written + special)
        self._plain_text.add(written)
        self._unseen_text += written + special

    def _show(self, hidden: str) -> str:
        """What may be shown of the text since the last time, with a special token's hidden name behind it."""
        may_match = len(self.token_ids) > self._sampling.min_tokens or self._sampling.min_tokens == 0
        shown = self._stop_strings.push(self._unseen_text, hidden, may_match)
        self._unseen_text = ""
        return shown
