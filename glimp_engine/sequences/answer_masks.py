"""Which tokens a sequence's grammar leaves at each place of its stream.

What counts is the answer before that place: what is written of it, and what is proposed behind that. So a mask depends
on these bytes alone, and a draw that was made ahead of its time is the one that would be made in it.
"""

from glimp_engine.errors import RequestError
from glimp_engine.outputs import FinishReason
from glimp_engine.routing import Model
from glimp_engine.sequences.awaited import Awaited, Use
from glimp_engine.sequences.drafts import OpenDraft
from glimp_engine.sequences.phases import Phases
from glimp_engine.sequences.request import Request
from glimp_engine.sequences.transcript import Transcript, Voice
from glimp_engine.text import Boundary, Grammar, GrammarReader

__all__ = ["AnswerMasks", "make_masks"]


class AnswerMasks:
    """A request's grammar, as one sequence follows it."""

    def __init__(
        self,
        grammars: dict[Model, Grammar],
        voices: tuple[Voice, Voice],
        transcript: Transcript,
        phases: Phases,
        awaited: Awaited,
    ) -> None:
        """grammars: of each model that may write, or propose by them; the rest is the sequence's."""
        self.error = ""  # why no token is left, where it's not the grammar that says so
        self._grammars = grammars
        self._readers = {model: GrammarReader(grammar) for model, grammar in grammars.items()}
        self._voices = voices
        self._parts = transcript, phases, awaited

    def at(self, place: int, draft: OpenDraft | None) -> bytes | None:
        """The awaited model's mask at a place of its stream, as `GrammarReader.mask_after` has it; None: all may come.

        Where the grammar can't be followed any further no token is left: that ends this sequence, and no other.
        """
        _, _, awaited = self._parts
        if awaited.model not in self._grammars:
            return None  # it only proposes
        answer = self._answer_before(place, draft)
        if answer is None:
            return None
        try:
            return self._readers[awaited.model].mask_after(*answer)
        except RequestError as error:
            self.error = str(error)
            return self._grammars[awaited.model].mask_of_none()

    def _answer_before(self, place: int, draft: OpenDraft | None) -> tuple[bytes, bool] | None:
        """(The answer before the place, whether there was a thinking before it).

        None where there is none: within the thinking, and where the question about a draft is answered.
        """
        transcript, phases, awaited = self._parts
        assert transcript.answer is not None
        end = awaited.stream.num_written - awaited.num_question_tokens
        if awaited.use is Use.SCORE and place > end:
            return None
        answer = bytes(transcript.answer)
        if place < end:  # where the draft began that a question is asked about
            assert draft is not None
            answer = answer[: draft.num_answer_bytes]
        else:
            ended = Boundary.NONE if draft is None else draft.boundary  # by the draft, which nobody has followed yet
            phases, answer = self._read_on(phases, answer, ended, awaited.stream.tokens[end:place])
        return None if phases.is_thinking else (answer, phases.has_thought)

    def _read_on(self, phases: Phases, answer: bytes, boundary: Boundary, proposed: list[int]) -> tuple[Phases, bytes]:
        """Phase and answer behind what is proposed, in the ids of the stream; `boundary` comes before it."""
        if boundary is Boundary.NONE and not proposed:
            return phases, answer
        _, _, awaited = self._parts
        text, phases = self._voices[awaited.stream.vocabulary].text, phases.ahead()
        answer = pass_boundary(phases, answer, boundary)
        for token_id in proposed:
            answer += text.answer_bytes(token_id)
            boundary = Boundary.END_OF_THINKING if token_id == text.end_thinking_id else Boundary.NONE
            answer = pass_boundary(phases, answer, phases.read_marks(token_id, text, boundary))
        return phases, answer


def pass_boundary(phases: Phases, answer: bytes, boundary: Boundary) -> bytes:
    """Let the phase change where it does; what there is of the answer then."""
    if boundary is Boundary.BEGIN_OF_THINKING:
        phases.begin_thinking()
    elif boundary is Boundary.END_OF_THINKING and phases.is_thinking:
        phases.end_thinking(FinishReason.STOP, 0)
        return b""
    return answer


def make_masks(
    request: Request, voices: tuple[Voice, Voice], transcript: Transcript, phases: Phases, awaited: Awaited
) -> AnswerMasks | None:
    """Those of a sequence of the request; None if it has no grammar."""
    grammars = {model: rules.grammar for model, rules in request.rules.items() if rules.grammar is not None}
    return AnswerMasks(grammars, voices, transcript, phases, awaited) if grammars else None
