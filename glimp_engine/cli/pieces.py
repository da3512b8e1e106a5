"""The text of an answer's steps in pieces, by who had proposed what is written, and what was refused before it."""

from bisect import bisect_right
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from glimp_engine.outputs import CompletionOutput, Proposer, Token
from glimp_engine.routing import Model

__all__ = ["Piece", "pieces_of"]


@dataclass
class Piece:
    """Text that comes from one proposer's proposals, or from none."""

    text: str
    proposer: Proposer | None
    refused: str  # proposals that the piece has taken the place of, and those behind them


def pieces_of(
    tokens: Iterable[Token], completion: CompletionOutput, token_text: Callable[[int, Model], str]
) -> list[list[Piece]]:
    """The pieces of each step, which make up its text; `tokens` are the events of all that was written, in order.

    A character that takes several tokens is the last one's, as in their events.
    """
    pieces: list[list[Piece]] = [[] for _ in completion.steps]
    ends = [step.text_end for step in completion.steps]
    begin = 0
    for token in tokens:
        model = Model.SMALL if token.model is None else token.model  # a forced token has refused nothing
        refused = "".join(token_text(each, model) for each in token.refused)
        end = begin + len(token.text)
        if begin == end:
            append(pieces[token.step_index], Piece("", token.proposer, refused))
        while begin < end:  # what was held back may belong to more than one step
            index = min(bisect_right(ends, begin), len(ends) - 1)
            cut = min(end, ends[index]) if begin < ends[index] else end
            append(pieces[index], Piece(completion.text[begin:cut], token.proposer, refused))
            begin, refused = cut, ""
    if begin < len(completion.text):  # what was held back until the end
        append(pieces[-1], Piece(completion.text[begin:], None, ""))
    return pieces


def append(pieces: list[Piece], piece: Piece) -> None:
    """Put a piece behind others, as one with the last where nothing parts them."""
    if pieces and not piece.refused and (piece.proposer is pieces[-1].proposer or not piece.text):
        pieces[-1].text += piece.text
    elif piece.text or piece.refused:
        pieces.append(piece)
