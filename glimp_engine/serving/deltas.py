"""What a request has written since somebody last looked, however long ago that was."""

from dataclasses import dataclass, field

from glimp_engine.outputs import Event, Finish, Logprob, RequestOutput, Step, StepEnd, StepStart, Token

__all__ = ["Delta", "Mailbox", "Piece"]


@dataclass(slots=True)
class Piece:
    """A part of one step."""

    step: Step  # as it is by now: its ends and times are set when it's complete
    is_hand_over: bool  # whether the other model wrote the step before
    begins: bool = False  # whether it's the step's beginning
    ends: bool = False  # ... its end
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[dict[int, Logprob] | None] = field(default_factory=list)  # of each token; None: not asked for


@dataclass(slots=True)
class Delta:
    """What a sequence has written since its last delta; of all of them the pieces make up its output."""

    request_id: str
    sequence_index: int
    pieces: list[Piece] = field(default_factory=list)
    finish: Finish | None = None  # with the last delta of a sequence

    @property
    def text(self) -> str:
        return "".join(piece.text for piece in self.pieces)

    @property
    def token_ids(self) -> list[int]:
        return [token_id for piece in self.pieces for token_id in piece.token_ids]

    @property
    def output(self) -> RequestOutput | None:
        """The request's output, with the last delta of the last sequence."""
        return None if self.finish is None else self.finish.output


class Mailbox:
    """Events of one request, as deltas: one for each sequence at most, however many events have come."""

    def __init__(self) -> None:
        self._deltas: dict[int, Delta] = {}  # by sequence; whose news is the oldest comes first
        self._open: dict[int, Piece] = {}  # by sequence: the last piece of its open step

    def __len__(self) -> int:
        return len(self._deltas)

    def put(self, event: Event) -> None:
        """Add what an event tells."""
        index = event.sequence_index
        delta = self._deltas.get(index)
        if delta is None:
            delta = self._deltas[index] = Delta(event.request_id, index)
        if isinstance(event, Token):
            piece = self._piece(delta)
            piece.text += event.text
            piece.token_ids.append(event.token_id)
            piece.logprobs.append(event.logprobs)
        elif isinstance(event, StepStart):
            piece = self._open[index] = Piece(event.step, event.is_hand_over, begins=True)
            delta.pieces.append(piece)
        elif isinstance(event, StepEnd):
            self._piece(delta).ends = True
        else:
            delta.finish = event
            if event.text:
                self._piece(delta).text += event.text

    def take(self) -> Delta:
        """The delta whose first event came before those of the others; there must be one."""
        return self._deltas.pop(next(iter(self._deltas)))

    def _piece(self, delta: Delta) -> Piece:
        """The open step's piece in this delta, which a new one begins if the last delta had its beginning."""
        last = self._open[delta.sequence_index]
        if not delta.pieces or delta.pieces[-1] is not last:
            last = self._open[delta.sequence_index] = Piece(last.step, last.is_hand_over)
            delta.pieces.append(last)
        return last
