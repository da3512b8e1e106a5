"""What a sequence waits for: which model has to run to the end of its stream, and what the logits there are for."""

from dataclasses import dataclass
from enum import Enum

from glimp_engine.routing import Model

__all__ = ["Awaited", "Use"]


class Use(Enum):
    """What the next logits are for."""

    TOKEN = "token"  # the model writes
    GLIMPSE = "glimpse"  # the router decides who writes the step that begins here
    SCORE = "score"  # the stream ends with a question about the draft, and the large model answers
    PROPOSAL = "proposal"  # the small model says what the large one, who writes, may say there


@dataclass
class Awaited:
    """Which model runs next, and what comes of it."""

    num_unborn: int  # sequences of the request that are forked off at the first token
    model: Model = Model.SMALL
    use: Use = Use.TOKEN
    num_question_tokens: int = 0  # at the stream's end, while a score is awaited
