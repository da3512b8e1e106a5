"""One answer as a page: `glimp run --json`'s output drawn with trace_page.html, which needs nothing from elsewhere."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from glimp_engine.errors import ConfigError

__all__ = ["trace_page"]

TEMPLATE = Path(__file__).with_suffix(".html")
PLACE = "/*RUN*/"
ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"}  # what a model wrote can't end the script it stands in

# What the page reads, part by part.
RUN = ("prompt_text", "outputs", "seconds", "stats", "ticks")
STATS = ("hand_overs",)
COMPLETION = ("finish_reason", "steps")
STEP = ("model", "text", "entropy", "first_tokens", "token_start", "token_end", "seconds", "num_redone_tokens")
FIRST_TOKEN = ("text", "logprob")
TICK = ("model", "began", "ended", "tokens", "num_used_pages")
TICK_TOKENS = ("prompt", "catch_up", "question", "decode")


def trace_page(path: Path) -> str:
    """The page of the run in this file.

    Raises: ConfigError when the file has no run in it.
    """
    try:
        run = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse_constant)
        for name, part, needed in parts_of(run):
            missing = [name + each for each in needed if not isinstance(part, dict) or each not in part]
            if missing:
                raise ValueError(f"no {', '.join(missing)}")
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: expected the output of `glimp run --json`, found {error}") from None
    return TEMPLATE.read_text(encoding="utf-8").replace(PLACE, embedded(run))


def parts_of(run: Any) -> Iterator[tuple[str, Any, tuple[str, ...]]]:
    """Each part of a run, behind the one that holds it: its name, it itself, and what the page reads of it."""
    yield "", run, RUN
    yield "stats.", run["stats"], STATS
    for name, completion in items_of("outputs", run["outputs"]):
        yield f"{name}.", completion, COMPLETION
        for step_name, step in items_of(f"{name}.steps", completion["steps"]):
            yield f"{step_name}.", step, STEP
            for token_name, token in items_of(f"{step_name}.first_tokens", step["first_tokens"]):
                yield f"{token_name}.", token, FIRST_TOKEN
    for name, tick in items_of("ticks", run["ticks"]):
        yield f"{name}.", tick, TICK
        for tokens_name, tokens in items_of(f"{name}.tokens", tick["tokens"]):
            yield f"{tokens_name}.", tokens, TICK_TOKENS


def items_of(name: str, values: Any) -> Iterator[tuple[str, Any]]:
    """The items of a list, each with its name. Raises: ValueError when it is none."""
    if not isinstance(values, list):
        raise ValueError(f"{type(values).__name__} where {name} should be a list")
    for i, value in enumerate(values):
        yield f"{name}[{i}]", value


def refuse_constant(constant: str) -> NoReturn:
    """Raises ValueError: Python reads NaN and Infinity as JSON, and a browser doesn't."""
    raise ValueError(f"{constant}, which is no JSON")


def embedded(run: dict[str, Any]) -> str:
    """JSON that is safe within a script element."""
    text = json.dumps(run, separators=(",", ":"))
    for character, escape in ESCAPES.items():
        text = text.replace(character, escape)
    return text
