"""How a request's tokens are sampled."""

from dataclasses import dataclass

from glimp_engine.errors import ConfigError, check_integer, check_number

__all__ = ["SamplingParams"]

MAX_STOPS, MAX_STOP_CHARS = 64, 1024


@dataclass(frozen=True)
class SamplingParams:
    """How a request's tokens are sampled; names and meanings as in vLLM.

    Filters apply in the order penalties, temperature, min_p, top_k, top_p. Two runs with the same seed give the same
    tokens, whatever else is in the batch; without a seed one is drawn for each request.

    Raises: ConfigError that names the field, the value and what is allowed.
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

    def __post_init__(self) -> None:
        check_number("temperature", self.temperature, 0, 1e6)
        check_number("top_p", self.top_p, 0, 1, low_open=True)
        check_integer("top_k", self.top_k, -1, 2**31 - 1)
        check_number("min_p", self.min_p, 0, 1)
        check_number("repetition_penalty", self.repetition_penalty, 0, 1e6, low_open=True)
        check_number("presence_penalty", self.presence_penalty, -2, 2)
        check_number("frequency_penalty", self.frequency_penalty, -2, 2)
        if self.seed is not None:
            check_integer("seed", self.seed, -(2**63), 2**63 - 1)
        check_integer("n", self.n, 1, 1024)
        if self.n > 1 and self.temperature == 0:
            raise ConfigError(f"n is {self.n!r} with temperature 0; allowed: 1, as greedy sequences are all the same")
        if self.max_tokens is not None:
            check_integer("max_tokens", self.max_tokens, 1)
        if self.logprobs is not None:
            check_integer("logprobs", self.logprobs, 0, 20)
        stop = (self.stop,) if isinstance(self.stop, str) else () if self.stop is None else self.stop
        if not isinstance(stop, (tuple, list)) or not all(isinstance(s, str) and s for s in stop):
            raise ConfigError(f"stop is {self.stop!r}; allowed: a string or a list of strings, none of them empty")
        if len(stop) > MAX_STOPS or any(len(s) > MAX_STOP_CHARS for s in stop):
            longest = max(map(len, stop))
            raise ConfigError(
                f"stop has {len(stop)} strings of up to {longest} characters; "
                f"allowed: {MAX_STOPS} of up to {MAX_STOP_CHARS}, as each token is compared with all of them"
            )
        object.__setattr__(self, "stop", tuple(stop))

    @property
    def has_penalties(self) -> bool:
        return (self.repetition_penalty, self.presence_penalty, self.frequency_penalty) != (1.0, 0.0, 0.0)
