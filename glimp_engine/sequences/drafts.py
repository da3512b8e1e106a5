"""A draft: a step by the small model that is held back until its router has judged it, and may be taken back."""

import math

from glimp_engine.outputs import Event
from glimp_engine.routing import Model
from glimp_engine.sequences.phases import Phases
from glimp_engine.sequences.samples import SampledToken
from glimp_engine.sequences.steps import StepLog
from glimp_engine.sequences.streams import Streams
from glimp_engine.sequences.token_stream import StreamMark
from glimp_engine.sequences.transcript import Transcript
from glimp_engine.text import Boundary, Text

__all__ = ["NUM_SCORE_LOGPROBS", "OpenDraft", "encode_question", "read_score"]

NUM_SCORE_LOGPROBS = 20  # among which a score is looked for


class OpenDraft:
    """A step that has been opened, with what is needed to go back to before it, or on from where it ends."""

    def __init__(self, streams: Streams, transcript: Transcript, phases: Phases, steps: StepLog) -> None:
        """All that is given is as it is before the step is opened; both models' streams end there."""
        self.events: list[Event] = []  # that nobody has been told yet
        self.boundary = Boundary.NONE  # that ended it
        self.question_mark: StreamMark | None = None  # where the large model's stream stood before it was asked
        self.stream_marks = streams.mark()  # at the draft's beginning, as are the next two
        self._transcript_mark = transcript.mark()
        self.num_answer_bytes = self._transcript_mark.num_answer_bytes  # written before it
        self._phases_mark = phases.mark()
        self._parts = streams, transcript, phases, steps

    def take_back(self) -> None:
        """Everything is as if the step had never been opened."""
        streams, transcript, phases, steps = self._parts
        transcript.take_back(self._transcript_mark)
        streams.restore(self.stream_marks, self._transcript_mark.num_tokens, self._transcript_mark.num_plain_chars)
        phases.take_back(self._phases_mark)
        steps.take_back()


def encode_question(question: str, text: Text, streams: Streams) -> list[int]:
    """What asks the large model about a draft: a turn of the user's, if its stream has words for one."""
    turn = text.encode_question(question, as_turn=True)
    return turn if streams.has_words_for(Model.LARGE, turn) else text.encode_question(question, as_turn=False)


def read_score(text: Text, sampled: SampledToken) -> float | None:
    """The most likely digit of those that the question was answered with; None if there is none among the answers."""
    for token_id, logprob in sampled.top_logprobs:
        if logprob == -math.inf:
            break
        answer = text.bytes_of(token_id).strip()
        if len(answer) == 1 and answer.isdigit():
            return float(answer)
    return None
