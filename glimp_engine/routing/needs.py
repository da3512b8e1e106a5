"""What a router asks of the engine beside `decide`. It's read once, so that nothing it does later concerns others."""

import math
from dataclasses import dataclass
from typing import Any

from glimp_engine.errors import ConfigError, check_integer, check_number
from glimp_engine.routing.routers import Model

__all__ = ["RouterNeeds", "read_needs"]

MAX_TOP_LOGPROBS = 1024
MAX_QUESTION_CHARS = 8192


@dataclass(frozen=True)
class RouterNeeds:
    """The attributes that a router may have, and what holds where it has none."""

    only: Model | None = None  # the one model that ever writes, the answer too, and needs no glimpse
    num_top_logprobs: int = 0  # how many of the largest log-probabilities `decide` wants in its glimpse
    small_below: float = 0.0  # nats of entropy that settle the route before `decide` is asked
    question: str | None = None  # that the large model answers with a digit before `review` is asked
    reviews: bool = False  # whether it has `review(draft)`


def read_needs(router: object) -> RouterNeeds:
    """The router's needs.

    Raises: ConfigError that names the attribute when it has a wrong kind of value, or can't be read.
    """
    if not callable(read(router, "decide", None)):
        raise ConfigError(f"router is {router!r}; allowed: an object with decide(glimpse, context)")
    only = read(router, "only", None)
    if only is not None and not (isinstance(only, int) and only in tuple(Model)):
        raise ConfigError(f"router.only is {only!r}; allowed: None, Model.SMALL, Model.LARGE")
    num_top_logprobs = read(router, "num_top_logprobs", 0)
    check_integer("router.num_top_logprobs", num_top_logprobs, 0, MAX_TOP_LOGPROBS)
    small_below = read(router, "small_below", 0.0)
    check_number("router.small_below", small_below, 0, math.inf)
    question = read(router, "question", None)
    if question is not None and not (isinstance(question, str) and 0 < len(question) <= MAX_QUESTION_CHARS):
        raise ConfigError(f"router.question is {question!r}; allowed: None, or 1 to {MAX_QUESTION_CHARS} characters")
    review = read(router, "review", None)
    if review is not None and not callable(review):
        raise ConfigError(f"router.review is {review!r}; allowed: a method review(draft)")
    return RouterNeeds(
        only=None if only is None else Model(only),
        num_top_logprobs=num_top_logprobs,
        small_below=float(small_below),
        question=question,
        reviews=review is not None,
    )


def read(router: object, name: str, default: object) -> Any:
    """The attribute, which may be a property that raises whatever it likes."""
    try:
        return getattr(router, name, default)
    except Exception as error:
        raise ConfigError(f"router.{name} can't be read: {type(error).__name__}: {error}") from error
