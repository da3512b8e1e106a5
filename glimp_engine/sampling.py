"""How a request's tokens are sampled."""

import functools
import json
import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from glimp_engine.errors import ConfigError, check_integer, check_number, shown

__all__ = ["STRUCTURES", "UNSUPPORTED", "SamplingParams", "StructuredOutputs"]

MAX_STOPS, MAX_STOP_CHARS = 64, 1024
MAX_BAD_WORDS = MAX_CHOICES = 1024
MAX_GRAMMAR_CHARS = 1 << 20
LARGEST_BIAS = 1e6
LEAST = 1e-30  # of what must be above 0: in float32, too
LARGEST_ID = 2**31 - 1
# vLLM's other fields, and what to do instead; docs/sampling.md has them all
UNSUPPORTED = {
    "guided_decoding": "it's called structured_outputs now",
    "logits_processors": "logit_bias, bad_words and allowed_token_ids are what a request may do to logits",
    "detokenize": "text is always made, as steps end with it",
    "spaces_between_special_tokens": "no space is put between tokens",
    "output_kind": "Engine.stream gives events, Engine.generate finished outputs",
    "stream_interval": "each token has its event",
    "flat_logprobs": "log-probabilities are a dict for each token",
    "logprob_token_ids": "logprobs gives the likeliest tokens and the one that was written",
    "prompt_logprob_token_ids": "prompt_logprobs gives the likeliest tokens and the prompt's own",
    "prompt_logprob_start": "prompt_logprobs gives those of the whole prompt",
    "skip_reading_prefix_cache": "prompt_logprobs sees to it that what it needs is run",
    "thinking_token_budget": "RoutingParams(max_thinking_tokens=) is the budget of the thinking",
    "repetition_detection": "RoutingParams(stop_repeated_steps=) ends what repeats itself",
    "extra_args": "there are no plugins that could read them",
    "routed_experts_prompt_start": "models with experts don't run here",
    "trace_decode_token_ids": "an answer that is given can be scored as a prompt, with prompt_logprobs",
    "skip_clone": "parameters are never changed, and so never copied",
    "output_text_buffer_length": "it follows from the stop strings",
    "best_of": "n gives that many answers, and cumulative_logprob ranks them",
    "use_beam_search": "there is no beam search here",
    "length_penalty": "there is no beam search here",
    "early_stopping": "there is no beam search here",
}
UNSUPPORTED_OUTPUTS = {  # of its StructuredOutputsParams
    "disable_any_whitespace": "white space is as JSON has it; a grammar can have less",
    "disable_additional_properties": "a schema says so itself, by additionalProperties",
    "whitespace_pattern": "white space is as JSON has it; a grammar can have another",
    "structural_tag": "an answer follows its grammar from its first token on",
}
STRUCTURES = ("json", "json_object", "regex", "choice", "grammar")
T = TypeVar("T")


def refusing(unsupported: dict[str, str]) -> Callable[[type[T]], type[T]]:
    """For a class whose constructor names what vLLM's has and it can't do, and what to do instead."""

    def decorate(cls: type[T]) -> type[T]:
        init: Any = cls.__init__

        @functools.wraps(init)
        def checked(self: T, *args: Any, **kwargs: Any) -> None:
            for name in kwargs:
                if name in unsupported:
                    why = unsupported[name]
                    raise ConfigError(f"{name} is {shown(kwargs[name])}; allowed: not to give it, as {why}")
            init(self, *args, **kwargs)

        cls.__init__ = checked  # type: ignore[assignment]
        return cls

    return decorate


@refusing(UNSUPPORTED_OUTPUTS)
@dataclass(frozen=True)
class StructuredOutputs:
    """What an answer has to be: one of these, by the names of vLLM's StructuredOutputsParams.

    It's the answer that follows it, not the thinking before it.

    Raises: ConfigError that names the field, the value and what is allowed.
    """

    json: str | dict[str, Any] | bool | None = None  # JSON of this schema, which is kept as text
    json_object: bool | None = None  # True: a JSON object of any kind
    regex: str | None = None  # what this matches as a whole, in the syntax of Rust's regex; \d is 0 to 9
    choice: tuple[str, ...] | list[str] | None = None  # one of these
    grammar: str | None = None  # what this derives: Lark's syntax, or EBNF as llama.cpp has it

    def __post_init__(self) -> None:
        kinds = [name for name in STRUCTURES if getattr(self, name) is not None]
        if len(kinds) != 1:
            given = ", ".join(kinds) or "nothing"
            raise ConfigError(f"structured_outputs has {given}; allowed: one of {', '.join(STRUCTURES)}")
        if self.json_object not in (None, True):
            raise ConfigError(f"json_object is {shown(self.json_object)}; allowed: None, True")
        if self.json is not None:
            object.__setattr__(self, "json", check_schema(self.json))
        if self.choice is not None:
            object.__setattr__(self, "choice", check_words("choice", self.choice, MAX_CHOICES))
            if not self.choice:
                raise ConfigError("choice is []; allowed: at least one string")
        value = getattr(self, self.kind)
        if self.kind in ("regex", "grammar") and not (isinstance(value, str) and value):
            raise ConfigError(f"{self.kind} is {shown(value)}; allowed: text")
        if isinstance(value, str) and len(value) > MAX_GRAMMAR_CHARS:
            raise ConfigError(f"{self.kind} has {len(value)} characters; allowed: {MAX_GRAMMAR_CHARS}")

    @property
    def kind(self) -> str:
        """The name of the one that is given."""
        return next(name for name in STRUCTURES if getattr(self, name) is not None)


@refusing(UNSUPPORTED)
@dataclass(frozen=True)
class SamplingParams:
    """How a request's tokens are sampled; names and meanings as in vLLM.

    Biases (allowed_token_ids, bad_words, min_tokens, logit_bias) and structured_outputs come first, then penalties,
    temperature, min_p, top_k, top_p. Reported log-probabilities, and the entropy of a glimpse, are those of the model,
    before all of these. Token ids are the small model's. Two runs with the same seed give the same tokens, whatever
    else is in the batch; without a seed one is drawn for each request.

    Raises: ConfigError that names the field, the value and what is allowed, or vLLM's field that is not supported.
    """

    temperature: float = 1.0  # 0 is greedy
    top_p: float = 1.0
    top_k: int = 0  # 0 or -1: all tokens
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    stop: tuple[str, ...] | list[str] | str | None = ()
    n: int = 1
    max_tokens: int | None = None  # None: as many as the budgets of RoutingParams allow
    logprobs: int | None = None  # how many of the most likely tokens to report beside each token
    stop_token_ids: tuple[int, ...] | list[int] | None = ()  # end the output as an end token does
    ignore_eos: bool = False  # an end token is a token as any other
    min_tokens: int = 0  # no end token, stop token or stop string before as many
    include_stop_str_in_output: bool = False  # what ended the output stays in its text
    logit_bias: dict[int, float] | None = None  # token id -> what is added to its logit; -inf bans it
    bad_words: tuple[str, ...] | list[str] | None = ()  # the last token of such a word is banned where it would be next
    allowed_token_ids: tuple[int, ...] | list[int] | None = None  # None: all
    skip_special_tokens: bool = True  # they aren't part of the text
    prompt_logprobs: int | None = None  # as logprobs, of the prompt's tokens
    truncate_prompt_tokens: int | None = None  # keep the prompt's last tokens; -1: as many as leave room for one more
    structured_outputs: StructuredOutputs | None = None  # what the answer has to be; None: any text

    def __post_init__(self) -> None:
        check_number("temperature", self.temperature, 0, 1e6)
        check_number("top_p", self.top_p, LEAST, 1)
        check_integer("top_k", self.top_k, -1, 2**31 - 1)
        check_number("min_p", self.min_p, 0, 1)
        check_number("repetition_penalty", self.repetition_penalty, LEAST, 1e6)
        check_number("presence_penalty", self.presence_penalty, -2, 2)
        check_number("frequency_penalty", self.frequency_penalty, -2, 2)
        if self.seed is not None:
            check_integer("seed", self.seed, -(2**63), 2**63 - 1)
        check_integer("n", self.n, 1, 1024)
        if self.n > 1 and self.temperature == 0:
            raise ConfigError(f"n is {self.n!r} with temperature 0; allowed: 1, as greedy sequences are all the same")
        self._check_lengths()
        for name in ("logprobs", "prompt_logprobs"):
            if getattr(self, name) is not None:
                check_integer(name, getattr(self, name), 0, 20)
        for name in ("ignore_eos", "include_stop_str_in_output", "skip_special_tokens"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"{name} is {shown(getattr(self, name))}; allowed: True, False")
        object.__setattr__(self, "stop", check_words("stop", self.stop, MAX_STOPS))
        object.__setattr__(self, "bad_words", check_words("bad_words", self.bad_words, MAX_BAD_WORDS))
        object.__setattr__(self, "stop_token_ids", check_ids("stop_token_ids", self.stop_token_ids or ()))
        if self.allowed_token_ids is not None:
            allowed = check_ids("allowed_token_ids", self.allowed_token_ids)
            if not allowed:
                raise ConfigError("allowed_token_ids is []; allowed: None, or at least one token id")
            object.__setattr__(self, "allowed_token_ids", allowed)
        if self.logit_bias is not None:
            object.__setattr__(self, "logit_bias", check_biases(self.logit_bias))
        if not isinstance(self.structured_outputs, StructuredOutputs | None):
            raise ConfigError(
                f"structured_outputs is {shown(self.structured_outputs)}; allowed: None, StructuredOutputs(...)"
            )

    def _check_lengths(self) -> None:
        if self.max_tokens is not None:
            check_integer("max_tokens", self.max_tokens, 1)
        check_integer("min_tokens", self.min_tokens, 0)
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise ConfigError(f"min_tokens is {self.min_tokens}; allowed: at most max_tokens, {self.max_tokens}")
        if self.truncate_prompt_tokens is not None and self.truncate_prompt_tokens != -1:
            check_integer("truncate_prompt_tokens", self.truncate_prompt_tokens, 1)

    @property
    def has_penalties(self) -> bool:
        return (self.repetition_penalty, self.presence_penalty, self.frequency_penalty) != (1.0, 0.0, 0.0)

    @property
    def follows_text(self) -> bool:
        """Whether what is done to a token's logits depends on the tokens before it."""
        return self.has_penalties or bool(self.bad_words) or self.min_tokens > 0 or self.structured_outputs is not None


def check_words(name: str, words: Any, max_words: int) -> tuple[str, ...]:
    """The words, each once: one alone, a list, or None. Raises: ConfigError when they aren't words, or too many."""
    each = () if words is None else (words,) if isinstance(words, str) else words
    if not isinstance(each, (tuple, list)) or not all(isinstance(word, str) and word for word in each):
        raise ConfigError(f"{name} is {shown(words)}; allowed: a string or a list of strings, none of them empty")
    if len(each) > max_words or any(len(word) > MAX_STOP_CHARS for word in each):
        raise ConfigError(
            f"{name} has {len(each)} strings of up to {max(map(len, each))} characters; "
            f"allowed: {max_words} of up to {MAX_STOP_CHARS}, as each token is compared with all of them"
        )
    return tuple(dict.fromkeys(each))


def check_schema(schema: Any) -> str:
    """A JSON schema as text. Raises: ConfigError when it is none."""
    try:
        read = json.loads(schema) if isinstance(schema, str) else schema
        if isinstance(read, dict | bool):
            return json.dumps(read, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"json is {shown(schema)}, {error}; allowed: a JSON schema, a dict or its text") from None
    raise ConfigError(f"json is {shown(schema)}; allowed: a JSON schema, a dict or its text")


def check_ids(name: str, ids: Any) -> tuple[int, ...]:
    """The token ids, each once. Raises: ConfigError when they aren't a list of such."""
    if not isinstance(ids, (tuple, list)):
        raise ConfigError(f"{name} is {shown(ids)}; allowed: a list of token ids")
    return tuple(dict.fromkeys(check_id(f"{name}[{i}]", token_id) for i, token_id in enumerate(ids)))


def check_id(name: str, token_id: Any) -> int:
    """The token id, if it may be one. Raises: ConfigError."""
    try:
        number = -1 if isinstance(token_id, bool) else operator.index(token_id)  # of numpy's integers too
    except TypeError:
        number = -1
    if not 0 <= number <= LARGEST_ID:
        raise ConfigError(f"{name} is {shown(token_id)}; allowed: a token id, from 0 on")
    return number


def check_biases(biases: Any) -> dict[int, float]:
    """The biases by token id. Raises: ConfigError when they are none."""
    if not isinstance(biases, dict):
        raise ConfigError(f"logit_bias is {shown(biases)}; allowed: a dict from token id to number")
    checked = {}
    for token_id, bias in biases.items():
        check_number(f"logit_bias[{shown(token_id)}]", bias, -math.inf, LARGEST_BIAS)
        checked[check_id(f"logit_bias's key {shown(token_id)}", token_id)] = float(bias)
    return checked
