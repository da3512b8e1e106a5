"""How a request's steps are routed, and its budgets."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from glimp_engine.errors import ConfigError, check_choice, check_integer
from glimp_engine.routing.needs import RouterNeeds, read_needs
from glimp_engine.routing.routers import GlimpRouter, Router

__all__ = ["RoutingParams"]


@dataclass(frozen=True)
class RoutingParams:
    """How a request's steps are routed, and its budgets, in tokens. The defaults are the paper's.

    A model without thinking answers from its first token on; then every step is routed, within the answer's budget.

    Raises: ConfigError that names the field, the value and what is allowed.
    """

    router: Router = field(default_factory=GlimpRouter)
    answer_model: str = "large"  # writes the answer after the thinking: small, large, or routed step by step
    max_thinking_tokens: int = 8192  # then </think>, or the model's own mark, is forced; 0: no thinking
    max_step_tokens: int = 512
    max_answer_tokens: int | None = None  # None: max_tokens of SamplingParams, or 2048
    glimpse_logprobs: int = 0  # how many of a glimpse's most likely tokens to report with its step
    speculation: str = "auto"  # as the engine's, or off: no token changes with it
    stop_repeated_steps: bool = True  # a step equal to the one before, or two alternating, ends the thinking
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)  # variables of both models' templates

    def __post_init__(self) -> None:
        object.__setattr__(self, "_needs", read_needs(self.router))
        check_choice("answer_model", self.answer_model, ("small", "large", "routed"))
        check_integer("max_thinking_tokens", self.max_thinking_tokens, 0)
        check_integer("max_step_tokens", self.max_step_tokens, 1)
        if self.max_answer_tokens is not None:
            check_integer("max_answer_tokens", self.max_answer_tokens, 1)
        check_choice("speculation", self.speculation, ("auto", "off"))
        check_integer("glimpse_logprobs", self.glimpse_logprobs, 0, 20)
        if not isinstance(self.stop_repeated_steps, bool):
            raise ConfigError(f"stop_repeated_steps is {self.stop_repeated_steps!r}; allowed: True, False")
        kwargs = self.chat_template_kwargs
        if not isinstance(kwargs, Mapping) or not all(isinstance(name, str) for name in kwargs):
            raise ConfigError(f"chat_template_kwargs is {kwargs!r}; allowed: a dict with names of variables")

    @property
    def needs(self) -> RouterNeeds:
        """What the router asks for beside `decide`, as it was when these parameters were made."""
        needs: RouterNeeds = self.__dict__["_needs"]
        return needs
