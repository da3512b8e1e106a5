"""What a sequence waits for: which model has to run to the end of its stream, and what the logits there are for."""

from enum import Enum

from glimp_engine.routing import Model
from glimp_engine.sequences.streams import Streams
from glimp_engine.sequences.token_stream import TokenStream

__all__ = ["Awaited", "Use"]


class Use(Enum):
    """What the next logits are for."""

    TOKEN = "token"  # the model writes
    GLIMPSE = "glimpse"  # the router decides who writes the step that begins here
    SCORE = "score"  # the stream ends with a question about the draft, and the large model answers
    PROPOSAL = "proposal"  # the small model says what the large one, who writes, may say there


class Awaited:
    """Which model runs next, and what comes of it."""

    def __init__(self, streams: Streams, num_unborn: int) -> None:
        self.num_unborn = num_unborn  # sequences of the request that are forked off at the first token
        self.use = Use.TOKEN
        self.num_question_tokens = 0  # at the stream's end, while a score is awaited
        self._streams = streams
        self.run(Model.SMALL)

    def run(self, model: Model) -> None:
        """This model runs next."""
        self.model = model
        self.stream: TokenStream = self._streams.of(model)  # what it reads
