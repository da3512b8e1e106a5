"""Routers that judge a step once the small model has written it: SpecReason, and three uncertainties of the step.

The small model drafts every step. A draft that isn't good enough is taken back, and the large model writes the step.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

from glimp_engine.errors import check_number
from glimp_engine.routing.routers import Draft, Glimpse, Model, RouteContext, Verdict

__all__ = ["NumberEntropyRouter", "SpecReason", "StepEntropyRouter", "StepPerplexityRouter"]


@dataclass(frozen=True)
class Drafted:
    """What all of them have in common: each step begins as a draft by the small model."""

    only: ClassVar[Model | None] = None
    num_top_logprobs: ClassVar[int] = 0
    question: ClassVar[str | None] = None

    def decide(self, glimpse: Glimpse, context: RouteContext) -> Model:
        return Model.SMALL


@dataclass(frozen=True)
class SpecReason(Drafted):
    """The large model scores each draft from 0 to 9, and writes the step itself below the threshold.

    The score is the digit that it finds most likely, behind the draft and a question about it; a draft that it gives
    no digit at all is rewritten. A draft that leaves no room for the question in the context is kept.

    Raises: ConfigError on a threshold that is outside 0 to 10, where 10 rewrites every step.
    Source: SpecReason (arXiv 2504.07891), section 4.1.
    """

    threshold: float = 7.0
    question: ClassVar[str | None] = (
        "Judge the last step of the reasoning so far: is it correct, and does it help to solve the problem? "
        "Answer with one digit from 0 (wrong or useless) to 9 (certainly right)."
    )

    def __post_init__(self) -> None:
        check_number("threshold", self.threshold, 0, 10)

    def review(self, draft: Draft) -> Verdict:
        score = -1.0 if draft.score is None else draft.score
        return Verdict.ACCEPT if score >= self.threshold else Verdict.REDO


@dataclass(frozen=True)
class StepEntropyRouter(Drafted):
    """A draft is rewritten if the mean entropy of the small model over its tokens is at or above the threshold.

    Units:  nats.
    Raises: ConfigError on a threshold that is negative or NaN.
    Source: a baseline of arXiv 2601.05110, section 5.
    """

    threshold: float

    def __post_init__(self) -> None:
        check_number("threshold", self.threshold, 0, math.inf)

    def review(self, draft: Draft) -> Verdict:
        return Verdict.REDO if max(draft.mean_entropy, 0.0) >= self.threshold else Verdict.ACCEPT


@dataclass(frozen=True)
class StepPerplexityRouter(Drafted):
    """A draft is rewritten if its perplexity under the small model is at or above the threshold.

    Units:  exp of nats a token: 1 is certain.
    Raises: ConfigError on a threshold that is less than 0 or NaN.
    Source: a baseline of arXiv 2601.05110, section 5.
    """

    threshold: float

    def __post_init__(self) -> None:
        check_number("threshold", self.threshold, 0, math.inf)

    def review(self, draft: Draft) -> Verdict:
        return Verdict.REDO if draft.perplexity >= self.threshold else Verdict.ACCEPT


@dataclass(frozen=True)
class NumberEntropyRouter(Drafted):
    """A draft is rewritten if the mean entropy over its tokens with a digit in them is at or above the threshold.

    A step that calculates begins as surely as any other, and goes wrong at a number. A draft without a digit is kept,
    whatever the threshold is. Which tokens have a digit is asked of the small model's vocabulary, as it writes drafts.

    Units:  nats.
    Cost:   one look-up and one addition a token.
    Raises: ConfigError on a threshold that is negative or NaN.
    """

    threshold: float

    def __post_init__(self) -> None:
        check_number("threshold", self.threshold, 0, math.inf)

    def review(self, draft: Draft) -> Verdict:
        if draft.number_entropy is None:
            return Verdict.ACCEPT
        return Verdict.REDO if max(draft.number_entropy, 0.0) >= self.threshold else Verdict.ACCEPT
