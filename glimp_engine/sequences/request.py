"""One prompt and what is asked of it, checked: what all sequences of a request share."""

import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from glimp_engine.errors import RequestError
from glimp_engine.routing import Draft, Glimpse, Model, RouteContext, RouterNeeds, RoutingParams, Verdict
from glimp_engine.sampling import SamplingParams
from glimp_engine.sequences.streams import Dictionary, Streams
from glimp_engine.sequences.token_rules import TokenRules, make_rules

__all__ = ["PreparedRequest", "Request", "make_request"]

DEFAULT_ANSWER_TOKENS = 2048  # arXiv 2601.05110
T = TypeVar("T")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Request:
    """One prompt and its sampling and routing parameters, checked."""

    request_id: str
    arrival: int  # how many requests came before it
    prompt: str | None
    prompt_token_ids: list[int]
    sampling: SamplingParams
    routing: RoutingParams
    seed: int
    is_thinking: bool  # the prompt ends inside <think>
    max_model_len: int
    is_told: bool  # whether somebody wants to know of each of its tokens
    rules: dict[Model, TokenRules]  # of each model that may write, or propose by them

    @property
    def max_answer_tokens(self) -> int:
        return self.routing.max_answer_tokens or self.sampling.max_tokens or DEFAULT_ANSWER_TOKENS

    @property
    def reader(self) -> Model:
        """The model that reads the prompt first: the one that is glimpsed, or the only one that writes."""
        return Model.LARGE if self.needs.only is Model.LARGE else Model.SMALL

    @property
    def needs(self) -> RouterNeeds:
        """What the router asks for beside `decide`."""
        return self.routing.needs

    @property
    def looks_at_top(self) -> bool:
        """Whether a glimpse is more than an entropy and a token: its largest log-probabilities are asked for."""
        return self.needs.num_top_logprobs > 0 or self.routing.glimpse_logprobs > 0

    def decide(self, glimpse: Glimpse, context: RouteContext) -> Model:
        """The router's route. Raises: RequestError when it fails."""
        return self._ask(lambda router: Model(router.decide(glimpse, context)))

    def review(self, draft: Draft) -> Verdict:
        """The router's verdict. Raises: RequestError when it fails."""
        return self._ask(lambda router: Verdict(router.review(draft)))

    def _ask(self, question: Callable[[Any], T]) -> T:
        try:
            return question(self.routing.router)
        except Exception as error:  # a router may be the user's own
            log.exception("the router of request %s failed", self.request_id)
            raise RequestError(f"router: {type(error).__name__}: {error}") from error

    @property
    def answer_model(self) -> Model | None:
        """The model that writes what follows the thinking as one step; None if that too is routed."""
        if self.needs.only is not None or self.routing.answer_model == "routed":
            return None
        return Model.LARGE if self.routing.answer_model == "large" else Model.SMALL


@dataclass(frozen=True)
class PreparedRequest:
    """A request whose prompt has been read, checked, and not yet been queued."""

    request: Request
    streams: Streams


def make_request(
    request_id: str,
    arrival: int,
    prompt: str | None,
    streams: Streams,
    dictionary: Dictionary,
    sampling: SamplingParams,
    routing: RoutingParams,
    max_model_len: int,
    is_told: bool = True,
) -> Request:
    """The request whose prompt is in these streams; a seed is drawn where none is given.

    Raises: RequestError when a prompt leaves no room in the context, or what is asked of tokens can't be said in the
            ids of a model that may run.
    """
    for model in Model:
        if len(streams.of(model)) >= max_model_len:
            raise RequestError(
                f"prompt has {len(streams.of(model))} tokens for the {model} model; "
                f"allowed: fewer than max_model_len, {max_model_len}"
            )
    only = routing.needs.only
    first = streams.of(Model.LARGE if only is Model.LARGE else Model.SMALL)
    return Request(
        request_id=request_id,
        arrival=arrival,
        prompt=prompt,
        prompt_token_ids=list(first.tokens),
        sampling=sampling,
        routing=routing,
        seed=secrets.randbits(63) if sampling.seed is None else sampling.seed,
        is_thinking=dictionary.texts[first.vocabulary].is_thinking_open(first.tokens),
        max_model_len=max_model_len,
        is_told=is_told,
        rules=make_rules(sampling, dictionary, Model if only is None else [only]),
    )
