"""One answer as a page: `glimp run --json`'s output drawn with trace_page.html, which needs nothing from elsewhere."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

from glimp_engine.errors import (
    Check,
    ConfigError,
    check_choice,
    check_count,
    check_fields,
    check_finite,
    check_text,
)
from glimp_engine.outputs import Proposer

__all__ = ["trace_page"]

TEMPLATE = Path(__file__).with_suffix(".html")
PLACE = "/*RUN*/"
ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"}  # what a model wrote can't end the script it stands in


def check_later(name: str, value: Any) -> None:
    """A part with parts of its own, which are checked behind it."""


def check_model(name: str, value: Any) -> None:
    check_choice(name, value, ("small", "large"))


def check_entropy(name: str, value: Any) -> None:
    """Null where no glimpse was taken."""
    if value is not None:
        check_finite(name, value)


def check_proposer(name: str, value: Any) -> None:
    """Null where nobody had proposed it."""
    if value is not None:
        check_choice(name, value, tuple(Proposer))


# What the page reads, part by part.
RUN = {
    "prompt_text": check_text,
    "outputs": check_later,
    "seconds": check_finite,
    "stats": check_later,
    "ticks": check_later,
}
STATS = {"hand_overs": check_count}
COMPLETION = {"finish_reason": check_text, "steps": check_later}
STEP = {
    "model": check_model,
    "text": check_text,
    "entropy": check_entropy,
    "first_tokens": check_later,
    "token_start": check_count,
    "token_end": check_count,
    "seconds": check_finite,
    "num_redone_tokens": check_count,
}
FIRST_TOKEN = {"text": check_text, "logprob": check_finite}
TICK = {
    "model": check_model,
    "began": check_finite,
    "ended": check_finite,
    "tokens": check_later,
    "num_used_pages": check_count,
}
TICK_TOKENS = {"prompt": check_count, "catch_up": check_count, "question": check_count, "decode": check_count}
# ... and what runs of before there were proposals don't have.
NEWER = {
    "proposers": check_later,
    "num_proposed_tokens": check_count,
    "num_accepted_tokens": check_count,
    "pieces": check_later,
    "proposal": check_count,
}
COUNTS = {"proposed_tokens": check_count, "accepted_tokens": check_count}
PIECE = {"text": check_text, "proposer": check_proposer, "refused": check_text}


def trace_page(path: Path) -> str:
    """The page of the run in this file.

    Raises: ConfigError when the file has no run in it.
    """
    try:
        run = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse_constant)
        for name, part, checks in parts_of(run):
            check_fields(name, part, checks)
            check_fields(name, part, {key: check for key, check in NEWER.items() if key in part})
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: expected the output of `glimp run --json`, found {error}") from None
    return TEMPLATE.read_text(encoding="utf-8").replace(PLACE, embedded(run))


def parts_of(run: Any) -> Iterator[tuple[str, Any, Mapping[str, Check]]]:
    """Each part of a run, behind the one that holds it: its name, it itself, and what the page reads of it."""
    yield "", run, RUN
    yield "stats.", run["stats"], STATS
    for name, counts in entries_of("stats.proposers", run["stats"].get("proposers", {})):
        yield f"{name}.", counts, COUNTS
    for name, completion in items_of("outputs", run["outputs"]):
        yield f"{name}.", completion, COMPLETION
        for step_name, step in items_of(f"{name}.steps", completion["steps"]):
            yield f"{step_name}.", step, STEP
            for token_name, token in items_of(f"{step_name}.first_tokens", step["first_tokens"]):
                yield f"{token_name}.", token, FIRST_TOKEN
            for piece_name, piece in items_of(f"{step_name}.pieces", step.get("pieces", [])):
                yield f"{piece_name}.", piece, PIECE
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


def entries_of(name: str, values: Any) -> Iterator[tuple[str, Any]]:
    """The values of an object, each with its name. Raises: ValueError when it is none."""
    if not isinstance(values, dict):
        raise ValueError(f"{type(values).__name__} where {name} should be an object")
    for key, value in values.items():
        yield f"{name}.{key}", value


def refuse_constant(constant: str) -> NoReturn:
    """Raises ValueError: Python reads NaN and Infinity as JSON, and a browser doesn't."""
    raise ValueError(f"{constant}, which is no JSON")


def embedded(run: dict[str, Any]) -> str:
    """JSON that is safe within a script element."""
    text = json.dumps(run, separators=(",", ":"))
    for character, escape in ESCAPES.items():
        text = text.replace(character, escape)
    return text
