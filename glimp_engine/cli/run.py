"""`glimp run`: one answer by two models."""

import argparse
import json
import os
import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.console import Console

from glimp_engine.cli.engine_options import add_chat_options, add_engine_options, make_engine
from glimp_engine.cli.paths import file_path
from glimp_engine.cli.pieces import pieces_of
from glimp_engine.cli.show import show, show_summary
from glimp_engine.cli.values import integer, number
from glimp_engine.errors import ConfigError
from glimp_engine.load import load_router
from glimp_engine.outputs import Event, Finish, RequestOutput, Tick, Token
from glimp_engine.routing import ROUTER_SPECS, RoutingParams, SmallOnly, parse_router
from glimp_engine.sampling import SamplingParams

if TYPE_CHECKING:
    from glimp_engine.engine import Engine

__all__ = ["add_parser"]

NUM_FIRST_TOKENS = 5  # of a glimpse, for `glimp trace`


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `glimp run`."""
    run = commands.add_parser("run", help="answer one prompt", formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    run.set_defaults(command=command)
    run.add_argument("prompt", nargs="?", help="read from stdin if it isn't given")
    add_engine_options(run)
    run.add_argument("--router", default="glimp:1.0", help=ROUTER_SPECS)
    run.add_argument("--routing", type=file_path, help="a routing file of `glimp calibrate`, instead of --router")
    run.add_argument("--answer-model", choices=("small", "large", "routed"), default="large", help="after </think>")
    add_chat_options(run)
    run.add_argument("--temperature", type=number, default=0.0)
    run.add_argument("--top-p", type=number, default=1.0)
    run.add_argument("--seed", type=integer, default=0)
    run.add_argument("--max-tokens", type=integer, help="of the whole output; the paper's budgets if it isn't given")
    run.add_argument("--raw", action="store_true", help="don't put the prompt into the model's chat template")
    run.add_argument(
        "--json",
        action="store_true",
        help="print all of it as JSON instead, for `glimp trace` too",
    )


def command(options: argparse.Namespace) -> int:
    """Stream one answer, then sum up."""
    text = prompt_of(options)
    prompt = text if options.raw else [{"role": "user", "content": text}]
    sampling = SamplingParams(
        temperature=options.temperature, top_p=options.top_p, seed=options.seed, max_tokens=options.max_tokens
    )
    if options.routing is not None:
        router = load_router(options.routing, options.small, options.large)
    else:
        router = parse_router(options.router, options.seed)  # one that is none is told of, whether it's used or not
        router = SmallOnly() if options.large is None else router
    routing = RoutingParams(
        router=router,
        answer_model=options.answer_model,
        glimpse_logprobs=NUM_FIRST_TOKENS if options.json else 0,
        max_thinking_tokens=options.max_thinking_tokens,
        chat_template_kwargs=options.chat_template_kwargs,
    )
    engine = make_engine(options)
    ticks = engine.record_ticks() if options.json else []
    began = time.perf_counter()
    events = engine.stream(prompt, sampling, routing)
    if options.json:
        told = list(events)
        output = last_output(told)
        seconds = time.perf_counter() - began
        plain_ticks = [plain_tick(tick, began) for tick in ticks]
        print(
            json.dumps({**as_json(output, told, engine), "prompt_text": text, "seconds": seconds, "ticks": plain_ticks})
        )
    else:
        output = show(events, Console(highlight=False))
        show_summary(output, engine.stats(), time.perf_counter() - began, Console())
    return 1 if output.error else 0


def prompt_of(options: argparse.Namespace) -> str:
    """The prompt, from stdin if none is given. Raises: ConfigError when there is none, or it's no text."""
    text = read_stdin() if options.prompt is None else str(options.prompt)
    if not text.strip() and not (options.raw and text):
        raise ConfigError(f"prompt is {text!r}; allowed: text, as an argument or from stdin")
    try:
        text.encode()
        return text
    except UnicodeEncodeError as error:  # Python's stand-in for a byte that its locale can't decode
        try:
            return os.fsencode(text).decode()
        except UnicodeError:
            found = f"{text[error.start]!a} at {error.start}"
    raise ConfigError(f"prompt has {found}; allowed: text, in UTF-8")


def read_stdin() -> str:
    """All of it, without the space around it. Raises: ConfigError when it's closed, or no text."""
    if sys.stdin is None:
        raise ConfigError("prompt isn't given, and stdin is closed; allowed: text, as an argument or from stdin")
    try:
        return sys.stdin.read().strip()
    except UnicodeDecodeError as error:
        found, encoding = f"byte {error.object[error.start]:#x}", error.encoding.upper()
        raise ConfigError(f"prompt isn't given, and stdin has {found}; allowed: text, in {encoding}") from None
    except OSError as error:
        raise ConfigError(f"prompt isn't given, and stdin can't be read: {error.strerror}") from None


def last_output(events: list[Event]) -> RequestOutput:
    """The output that the last event brings."""
    last = events[-1]
    assert isinstance(last, Finish)
    assert last.output is not None
    return last.output


def as_json(output: RequestOutput, events: list[Event], engine: "Engine") -> dict[str, Any]:
    """The output and the counters as plain values; models by name, a step with its text, by whose proposals it came
    about, and its first tokens'."""
    plain = asdict(output)
    tokens = [event for event in events if isinstance(event, Token)]
    for source, completion in zip(output.outputs, plain["outputs"], strict=True):
        pieces = pieces_of(tokens, source, engine.token_text)
        for step, own_pieces in zip(completion["steps"], pieces, strict=True):
            step["model"] = str(step["model"])
            step["pieces"] = [asdict(piece) for piece in own_pieces]
            step["text"] = completion["text"][step["text_start"] : step["text_end"]]
            step["first_tokens"] = [
                {"text": engine.token_text(token_id), "token_id": token_id, "logprob": logprob}
                for token_id, logprob in step["first_tokens"]
            ]
    return {**plain, "stats": asdict(engine.stats())}


def plain_tick(tick: Tick, zero: float) -> dict[str, Any]:
    """A tick as plain values, its times in seconds since `zero`."""
    times = {"began": tick.began - zero, "ended": tick.ended - zero}
    return {**asdict(tick), "model": str(tick.model), **times}
