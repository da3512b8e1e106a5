"""A draft: a step by the small model that is held back until its router has judged it, and may be taken back."""

import math
from dataclasses import dataclass, field

from glimp_engine.boundaries import Boundary
from glimp_engine.outputs import Event
from glimp_engine.routers import Model
from glimp_engine.streams import Streams
from glimp_engine.text import Text
from glimp_engine.transcript import SampledToken, TranscriptMark

__all__ = ["NUM_SCORE_LOGPROBS", "OpenDraft", "encode_question", "read_score"]

NUM_SCORE_LOGPROBS = 20  # among which a score is looked for


@dataclass
class OpenDraft:
    """What a sequence needs to go back to where the draft began, or to go on from where it ends."""

    transcript: TranscriptMark  # at the draft's beginning, as are the next three
    stream_lens: list[int]
    num_thinking_tokens: int
    last_writer: Model | None
    events: list[Event] = field(default_factory=list)  # that nobody has been told yet
    boundary: Boundary = Boundary.NONE  # that ended it


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
