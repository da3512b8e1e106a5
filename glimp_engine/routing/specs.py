"""Routers by name, as the command line writes them: `small`, `glimp:1.0`, `glimp:25%`, `specreason:7`, ..."""

from collections.abc import Callable

from glimp_engine.errors import ConfigError
from glimp_engine.routing.post_hoc import NumberEntropyRouter, SpecReason, StepEntropyRouter, StepPerplexityRouter
from glimp_engine.routing.routers import GlimpRouter, LargeOnly, LateRouter, RandomRouter, Router, SmallOnly

__all__ = ["ROUTER_SPECS", "parse_router"]

ROUTER_SPECS = (
    "small, large, random:RATE, late:TOKENS, glimp:THRESHOLD, glimp:THRESHOLD:SIGNAL, glimp:SHARE%%, "
    "specreason:SCORE, step_entropy:NATS, step_perplexity:VALUE or number_entropy:NATS"  # %% as argparse reads it
)


def parse_router(spec: str, seed: int = 0) -> Router:
    """The router that a spec names; `seed` is RandomRouter's.

    Raises: ConfigError on a spec that is none.
    """
    name, *values = spec.split(":")
    makers: dict[tuple[str, int], Callable[..., Router]] = {
        ("small", 0): SmallOnly,
        ("large", 0): LargeOnly,
        ("random", 1): lambda rate: RandomRouter(number(rate, spec), seed),
        ("late", 1): lambda num_tokens: LateRouter(integer(num_tokens, spec)),
        ("glimp", 1): lambda value: glimp_router(value, spec),
        ("glimp", 2): lambda threshold, signal: GlimpRouter(number(threshold, spec), signal),
        ("specreason", 1): lambda score: SpecReason(number(score, spec)),
        ("step_entropy", 1): lambda nats: StepEntropyRouter(number(nats, spec)),
        ("step_perplexity", 1): lambda value: StepPerplexityRouter(number(value, spec)),
        ("number_entropy", 1): lambda nats: NumberEntropyRouter(number(nats, spec)),
    }
    if (name, len(values)) not in makers:
        raise unknown(spec)
    return makers[name, len(values)](*values)


def glimp_router(value: str, spec: str) -> GlimpRouter:
    """By a threshold, or by the share of large steps."""
    if value.endswith("%"):
        return GlimpRouter(large_fraction=number(value[:-1], spec) / 100)
    return GlimpRouter(number(value, spec))


def number(text: str, spec: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise unknown(spec) from None


def integer(text: str, spec: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise unknown(spec) from None


def unknown(spec: str) -> ConfigError:
    return ConfigError(f"router is {spec!r}; allowed: {ROUTER_SPECS.replace('%%', '%')}")
