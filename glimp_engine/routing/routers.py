"""Which model writes the next step: GlimpRouter (arXiv 2601.05110), and what it is compared with.

At the start of every step the engine glimpses: it reduces the small model's distribution over the next token to a
`Glimpse`. A router turns it into a route. Routers are pure and keep no state, so one may serve any number of requests.
"""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar, Protocol

from glimp_engine.errors import ConfigError, check_integer, check_number

__all__ = [
    "SIGNALS",
    "Draft",
    "GlimpRouter",
    "Glimpse",
    "LargeOnly",
    "LateRouter",
    "Model",
    "RandomRouter",
    "RouteContext",
    "Router",
    "SmallOnly",
    "Verdict",
]


class Model(IntEnum):
    """One of the two models. A route is the one that writes the step."""

    SMALL = 0
    LARGE = 1

    def __str__(self) -> str:
        return self.name.lower()


@dataclass(frozen=True)
class Glimpse:
    """The small model's distribution over the first token of a step."""

    entropy: float  # nats, of the full distribution at temperature 1
    token: int  # the sampled token, the step's first one if the route is small
    logprob: float
    top_logprobs: tuple[float, ...] = ()  # the largest log-probabilities, descending; as many as the router asks for


@dataclass(frozen=True)
class RouteContext:
    """Where in its request the step stands."""

    seed: int
    sequence_index: int
    step_index: int
    glimpses: Sequence[Glimpse] = ()  # of the steps before it
    num_tokens: int = 0  # that the sequence has written before it


@dataclass(frozen=True)
class Draft:
    """A step that the small model has written, and that may yet be taken back."""

    num_tokens: int
    mean_entropy: float  # nats, of the distributions its tokens were drawn from
    mean_logprob: float  # nats, of its tokens
    score: float | None  # 0 to 9 by the large model; None where nothing was asked, or the answer was no digit
    number_entropy: float | None = None  # nats, the mean over its tokens with a digit in them; None if it has none

    @property
    def perplexity(self) -> float:
        return math.exp(min(-self.mean_logprob, 700.0))  # 1e304 at most


class Verdict(IntEnum):
    """What becomes of a draft."""

    ACCEPT = 0
    REDO = 1  # by the large model, from the same place


class Router(Protocol):
    """Decides which model writes a step. What else it may have, and what that means, says needs.py.

    With `review(draft: Draft) -> Verdict` it's asked about each routed step that the small model has written; with a
    `question`, after the large model has answered that with a digit. See post_hoc.py.
    """

    def decide(self, glimpse: Glimpse, context: RouteContext) -> Model:
        """The model that writes the step whose first token has been glimpsed."""


def entropy(glimpse: Glimpse) -> float:
    """H = -sum p ln p over the whole vocabulary, in nats."""
    return glimpse.entropy


def top20_entropy(glimpse: Glimpse) -> float:
    """Entropy of the 20 most likely tokens, renormalised, in nats: what the paper's public code computes."""
    total = math.fsum(math.exp(logprob) for logprob in glimpse.top_logprobs)
    return -math.fsum(
        math.exp(logprob) / total * (logprob - math.log(total))
        for logprob in glimpse.top_logprobs
        if logprob > -math.inf
    )


def max_probability(glimpse: Glimpse) -> float:
    """1 - the largest probability: 0 is sure."""
    return 1.0 - math.exp(glimpse.top_logprobs[0])


def margin(glimpse: Glimpse) -> float:
    """1 - the difference between the two largest probabilities: 0 is sure."""
    first, second = (*glimpse.top_logprobs, -math.inf)[:2]
    return 1.0 - (math.exp(first) - math.exp(second))


@dataclass(frozen=True)
class Signal:
    """A measure of how unsure the small model is, and how much of the distribution it looks at."""

    measure: Callable[[Glimpse], float]
    num_top_logprobs: int


SIGNALS = {
    "entropy": Signal(entropy, 0),
    "top20_entropy": Signal(top20_entropy, 20),
    "max_probability": Signal(max_probability, 1),
    "margin": Signal(margin, 2),
}


@dataclass(frozen=True)
class GlimpRouter:
    """The large model writes a step whose first token the small model is unsure of.

    With `large_fraction` the threshold follows the answer: a step is large if its signal is among that fraction of the
    largest ones so far, itself included. So a route depends on nothing but the answer's own earlier glimpses.

    Units:  threshold in nats for the entropies, else in [0, 1]; inf routes every step small, 0 every step large.
    Raises: ConfigError on an unknown signal, a threshold that is negative or NaN, a fraction outside 0 to 1.
    Source: arXiv 2601.05110, section 3; `signal` for the other measures that it compares.
    """

    threshold: float = 1.0
    signal: str = "entropy"
    large_fraction: float | None = None  # instead of the threshold
    only: ClassVar[Model | None] = None

    def __post_init__(self) -> None:
        check_number("threshold", self.threshold, 0, math.inf)
        if self.large_fraction is not None:
            check_number("large_fraction", self.large_fraction, 0, 1)
        if self.signal not in SIGNALS:
            raise ConfigError(f"signal is {self.signal!r}; allowed: {', '.join(SIGNALS)}")

    @property
    def num_top_logprobs(self) -> int:
        return SIGNALS[self.signal].num_top_logprobs

    @property
    def small_below(self) -> float:
        """Nats of entropy that settle the route before `decide` is asked: a loop on the GPU goes on below them."""
        return self.threshold if self.signal == "entropy" and self.large_fraction is None else 0.0

    def decide(self, glimpse: Glimpse, context: RouteContext) -> Model:
        uncertainty = self._uncertainty(glimpse)
        if self.large_fraction is None:
            return Model.LARGE if uncertainty >= self.threshold else Model.SMALL
        num_above = sum(self._uncertainty(earlier) >= uncertainty for earlier in context.glimpses)
        num_large = math.floor(self.large_fraction * (len(context.glimpses) + 1) + 0.5)
        return Model.LARGE if num_above < num_large else Model.SMALL

    def _uncertainty(self, glimpse: Glimpse) -> float:
        return max(SIGNALS[self.signal].measure(glimpse), 0.0)  # a rounding error is not below threshold 0


@dataclass(frozen=True)
class SmallOnly:
    """The small model writes everything."""

    only: ClassVar[Model | None] = Model.SMALL
    num_top_logprobs: ClassVar[int] = 0
    small_below: ClassVar[float] = math.inf

    def decide(self, glimpse: Glimpse, context: RouteContext) -> Model:
        return Model.SMALL


@dataclass(frozen=True)
class LargeOnly:
    """The large model writes everything; the small one never runs."""

    only: ClassVar[Model | None] = Model.LARGE
    num_top_logprobs: ClassVar[int] = 0

    def decide(self, glimpse: Glimpse, context: RouteContext) -> Model:
        return Model.LARGE


@dataclass(frozen=True)
class RandomRouter:
    """A step is large with probability `rate`, whatever the glimpse says: the control of every comparison.

    The choice depends on (router seed, request seed, sequence index, step index) alone.

    Raises: ConfigError when the rate is outside 0 to 1.
    """

    rate: float
    seed: int = 0
    only: ClassVar[Model | None] = None
    num_top_logprobs: ClassVar[int] = 0

    def __post_init__(self) -> None:
        check_number("rate", self.rate, 0, 1)

    def decide(self, glimpse: Glimpse, context: RouteContext) -> Model:
        key = f"{self.seed}/{context.seed}/{context.sequence_index}/{context.step_index}"
        return Model.LARGE if random.Random(key).random() < self.rate else Model.SMALL


@dataclass(frozen=True)
class LateRouter:
    """The small model begins and the large one goes on: a step behind num_tokens tokens is large. A second control.

    What goes wrong goes wrong late, so a signal must tell more than how far an answer has come.

    Raises: ConfigError when num_tokens is no integer from 0 on, where 0 makes every step large.
    """

    num_tokens: int
    only: ClassVar[Model | None] = None
    num_top_logprobs: ClassVar[int] = 0

    def __post_init__(self) -> None:
        check_integer("num_tokens", self.num_tokens, 0)

    def decide(self, glimpse: Glimpse, context: RouteContext) -> Model:
        return Model.LARGE if context.num_tokens >= self.num_tokens else Model.SMALL
