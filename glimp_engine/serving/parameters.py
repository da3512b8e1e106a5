"""From a request's fields to the engine's parameters."""

import math
from collections.abc import Mapping
from typing import Any

from glimp_engine.errors import ConfigError
from glimp_engine.routing import GlimpRouter, Router, RoutingParams, parse_router
from glimp_engine.sampling import STRUCTURES, SamplingParams, StructuredOutputs
from glimp_engine.serving.names import ServedModels
from glimp_engine.serving.problems import ApiError
from glimp_engine.serving.protocol import ChatRequest, CompletionRequest, RoutingFields, SharedFields

__all__ = ["routing_of", "sampling_of"]

# fields that SamplingParams has by the same name
SAME = (
    *("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty", "seed"),
    *("n", "stop", "stop_token_ids", "min_tokens", "ignore_eos", "include_stop_str_in_output", "bad_words"),
    *("allowed_token_ids", "skip_special_tokens", "prompt_logprobs", "truncate_prompt_tokens"),
)
SAME_ROUTING = ("answer_model", "max_answer_tokens", "max_step_tokens", "stop_repeated_steps", "speculation")
WITHOUT_THINKING = "none"


def sampling_of(fields: ChatRequest | CompletionRequest) -> SamplingParams:
    """How the request's tokens are sampled. Raises: ConfigError, ApiError that name the field."""
    if fields.stream_options is not None and not fields.stream:
        raise ApiError(400, "stream_options is given without stream; allowed: both", "stream_options")
    given: dict[str, Any] = {name: value for name in SAME if (value := getattr(fields, name)) is not None}
    if isinstance(fields, ChatRequest):
        given |= chat_sampling(fields)
    else:
        given |= completion_sampling(fields)
    structured = structured_outputs(fields)
    if structured is not None:
        given["structured_outputs"] = structured
    if fields.logit_bias is not None:
        given["logit_bias"] = read_biases(fields.logit_bias)
    if given.get("n", 1) > 1 and given.get("temperature") == 0:
        raise ApiError(400, "n is above 1 with temperature 0; allowed: 1, as greedy answers are all the same", "n")
    return SamplingParams(**given)


def chat_sampling(fields: ChatRequest) -> dict[str, Any]:
    """What a chat has by names of its own."""
    given: dict[str, Any] = {}
    max_tokens = fields.max_completion_tokens if fields.max_tokens is None else fields.max_tokens
    if max_tokens is not None:
        given["max_tokens"] = max_tokens
    if fields.top_logprobs and not fields.logprobs:
        raise ApiError(400, f"top_logprobs is {fields.top_logprobs} without logprobs; allowed: both", "top_logprobs")
    if fields.logprobs:
        given["logprobs"] = fields.top_logprobs or 0
    return given


def completion_sampling(fields: CompletionRequest) -> dict[str, Any]:
    """What a completion has by names of its own. A token is drawn even where none is asked for: it's thrown away."""
    given: dict[str, Any] = {}
    if fields.max_tokens is not None:
        given["max_tokens"] = max(fields.max_tokens, 1)
    if fields.logprobs is not None:
        given["logprobs"] = fields.logprobs
        if fields.echo:
            given["prompt_logprobs"] = fields.logprobs
    return given


def structured_outputs(fields: SharedFields) -> StructuredOutputs | None:
    """What the answer has to be, by OpenAI's name of it or by vLLM's."""
    form, own = fields.response_format, fields.structured_outputs
    if own is not None:
        if form is not None and form.type != "text":
            raise ApiError(400, "response_format and structured_outputs are given; allowed: one", "structured_outputs")
        try:
            return StructuredOutputs(**own)
        except TypeError:
            raise ApiError(
                400,
                f"structured_outputs has {', '.join(own)}; allowed: one of {', '.join(STRUCTURES)}",
                "structured_outputs",
            ) from None
    if form is None or form.type == "text":
        return None
    if form.type == "json_object":
        return StructuredOutputs(json_object=True)
    if form.json_schema is None:
        raise ApiError(400, "response_format has no json_schema; allowed: one, with a schema", "response_format")
    return StructuredOutputs(json=form.json_schema.schema_)


def read_biases(biases: Mapping[str, float]) -> dict[int, float]:
    """OpenAI's biases, whose keys are numbers as text; from -100 on down they ban."""
    return {int(key): -math.inf if bias <= -100 else bias for key, bias in biases.items()}


def routing_of(fields: SharedFields, models: ServedModels) -> RoutingParams:
    """How the request's steps are routed, by the model's name or its own `routing`, and how long it may think.

    Raises: ConfigError, ApiError that name the field.
    """
    own = fields.routing or RoutingFields()
    default = models.default
    given = {name: getattr(default, name) for name in (*SAME_ROUTING, "max_thinking_tokens", "glimpse_logprobs")}
    given |= {name: value for name in SAME_ROUTING if (value := getattr(own, name)) is not None}
    budget = thinking_budget(fields, own)
    if budget is not None:
        given["max_thinking_tokens"] = budget
    router = own_router(own, fields.seed or 0)
    by_name = models.router_of(fields.model, fields.seed or 0)  # whatever is asked for, the name is checked
    kwargs = dict(default.chat_template_kwargs)
    if isinstance(fields, ChatRequest):
        if fields.reasoning_effort == WITHOUT_THINKING:
            given["max_thinking_tokens"] = 0
        elif fields.reasoning_effort is not None:
            kwargs["reasoning_effort"] = fields.reasoning_effort
        kwargs |= fields.chat_template_kwargs or {}
    return RoutingParams(router=router or by_name, chat_template_kwargs=kwargs, **given)


def own_router(own: RoutingFields, seed: int) -> Router | None:
    """The router that `routing` asks for, if it does."""
    given = [name for name in ("router", "threshold", "fraction") if getattr(own, name) is not None]
    if len(given) > 1:
        raise ApiError(400, f"routing has {' and '.join(given)}; allowed: one of them", f"routing.{given[1]}")
    if not given:
        return None
    if own.threshold is not None:
        return GlimpRouter(own.threshold)
    spec = str(own.router) if own.fraction is None else f"glimp:{100 * own.fraction}%"
    try:
        return parse_router(spec, seed)
    except ConfigError as error:
        raise ApiError(400, f"routing.{error}", f"routing.{given[0]}") from None


def thinking_budget(fields: SharedFields, own: RoutingFields) -> int | None:
    """The one budget of the thinking that is given, by whatever name."""
    custom = None if fields.custom_params is None else fields.custom_params.thinking_budget
    budgets = {
        "thinking_token_budget": fields.thinking_token_budget,
        "thinking_budget_tokens": fields.thinking_budget_tokens,
        "custom_params.thinking_budget": custom,
        "routing.max_thinking_tokens": own.max_thinking_tokens,
    }
    given = {name: budget for name, budget in budgets.items() if budget is not None}
    if len(set(given.values())) > 1:
        told = " and ".join(f"{name} is {budget}" for name, budget in given.items())
        raise ApiError(400, f"{told}; allowed: one budget of the thinking", next(iter(given)))
    return next(iter(given.values()), None)
