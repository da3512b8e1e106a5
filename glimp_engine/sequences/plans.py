"""A tick as the scheduler plans it: which model runs which positions of which sequences."""

from array import array
from dataclasses import dataclass

from glimp_engine.routing import Model
from glimp_engine.sequences.pages import PageCopy
from glimp_engine.sequences.sequence import Sequence

__all__ = ["Plan", "Work"]


@dataclass(slots=True)
class Work:
    """Positions start:end of the sequence's stream, to be run by the model of the tick.

    Who waits for logits always gets a row of its own: where the K/V is there already, as another sequence has run it,
    or the logits were lost, those positions are run again (`is_rerun`), and written alike.
    """

    sequence: Sequence
    start: int
    end: int
    num_rows: int  # of logits that are sampled for the sequence, and for those to be forked off it
    is_rerun: bool
    pages: "array[int]"  # that hold these positions


@dataclass(frozen=True)
class Plan:
    """One tick: `model` runs `work`, after `copies` have been made in both models' K/V.

    It may be followed by others, of the rows that go on with the tokens they draw, up to max_ticks in all.
    """

    model: Model
    work: list[Work]
    copies: list[PageCopy]
    max_ticks: int = 1
