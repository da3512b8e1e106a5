"""The `glimp` command: `run` writes one answer with two models, `doctor` says what this machine will use."""

import argparse
import importlib.metadata
import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text as Styled

from glimp_engine.errors import GlimpError
from glimp_engine.outputs import Event, Finish, RequestOutput, Stats, Step, StepStart, Token
from glimp_engine.routers import SIGNALS, GlimpRouter, LargeOnly, Model, RandomRouter, Router, SmallOnly
from glimp_engine.sampling import RoutingParams, SamplingParams

if TYPE_CHECKING:
    from glimp_engine.engine import Engine

__all__ = ["main"]

COLOURS = {Model.SMALL: "cyan", Model.LARGE: "magenta", None: "yellow"}
MARGIN = 14  # columns for the model and its entropy
PACKAGES = ("torch", "transformers", "safetensors", "gguf", "triton", "flash-attn")


def main(arguments: list[str] | None = None) -> int:
    """Run the command; 0 if all went well, 1 on an error, 130 on an interrupt."""
    options = parser().parse_args(arguments)
    try:
        return int(options.command(options))
    except GlimpError as error:
        print(f"glimp: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("glimp: interrupted", file=sys.stderr)
        return 130


def parser() -> argparse.ArgumentParser:
    """The command line's options."""
    top = argparse.ArgumentParser(prog="glimp", description="Two language models write one answer, step by step.")
    commands = top.add_subparsers(required=True)
    run = commands.add_parser("run", help="answer one prompt", formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    run.set_defaults(command=run_command)
    run.add_argument("prompt", nargs="?", help="read from stdin if it isn't given")
    run.add_argument("--small", required=True, help="directory, .gguf file or hub id of the small model")
    run.add_argument("--large", help="... of the large model; without one the small model writes everything")
    run.add_argument("--router", choices=("glimp", "small", "large", "random"), default="glimp")
    run.add_argument("--threshold", type=float, default=1.0, help="from there on a step is large (nats for entropies)")
    run.add_argument("--signal", choices=tuple(SIGNALS), default="entropy", help="what the threshold is held against")
    run.add_argument("--rate", type=float, default=0.25, help="share of large steps of --router random")
    run.add_argument("--answer-model", choices=("small", "large", "routed"), default="large", help="after </think>")
    run.add_argument("--temperature", type=float, default=0.0)
    run.add_argument("--top-p", type=float, default=1.0)
    run.add_argument("--seed", type=int, default=0)
    run.add_argument("--max-tokens", type=int, help="of the whole output; the paper's budgets if it isn't given")
    run.add_argument("--device", default="auto")
    run.add_argument("--dtype", default="auto")
    run.add_argument("--ops", default="auto")
    run.add_argument("--quantization", help="int8 or int4: quantise float weights when they are loaded")
    run.add_argument("--num-threads", type=int, help="of the native ops; PyTorch's number if it isn't given")
    run.add_argument("--raw", action="store_true", help="don't put the prompt into the model's chat template")
    run.add_argument("--json", action="store_true", help="print the finished output as JSON instead")
    doctor = commands.add_parser("doctor", help="what this machine will use, and what is missing")
    doctor.set_defaults(command=doctor_command)
    return top


def run_command(options: argparse.Namespace) -> int:
    """`glimp run`: stream one answer, then sum up."""
    from glimp_engine.engine import Engine  # torch and transformers take seconds to import

    text = sys.stdin.read().strip() if options.prompt is None else options.prompt
    prompt = text if options.raw else [{"role": "user", "content": text}]
    sampling = SamplingParams(
        temperature=options.temperature, top_p=options.top_p, seed=options.seed, max_tokens=options.max_tokens
    )
    routing = RoutingParams(router=make_router(options), answer_model=options.answer_model)
    engine = Engine(
        options.small,
        options.large,
        device=options.device,
        dtype=options.dtype,
        ops=options.ops,
        quantization=options.quantization,
        num_threads=options.num_threads,
    )
    began = time.perf_counter()
    events = engine.stream(prompt, sampling, routing)
    if options.json:
        output = last_output(events)
        print(json.dumps(as_json(output, engine, time.perf_counter() - began), indent=2))
    else:
        output = show(events, Console(highlight=False))
        show_summary(output, engine.stats(), time.perf_counter() - began, Console())
    return 1 if output.error else 0


def make_router(options: argparse.Namespace) -> Router:
    """The router that the options name."""
    if options.large is None or options.router == "small":
        return SmallOnly()
    if options.router == "large":
        return LargeOnly()
    if options.router == "random":
        return RandomRouter(options.rate, seed=options.seed)
    return GlimpRouter(options.threshold, options.signal)


def last_output(events: Iterator[Event]) -> RequestOutput:
    """The output that the last event brings."""
    *_, last = events
    assert isinstance(last, Finish)
    assert last.output is not None
    return last.output


def show(events: Iterator[Event], console: Console) -> RequestOutput:
    """Print the answer as it comes, each step in its model's colour with its entropy in the margin."""
    answer = AnswerPrinter(console)
    for event in events:
        if isinstance(event, StepStart):
            answer.start_step(event.step)
        elif isinstance(event, Token):
            answer.write(event.text, COLOURS[event.model])
        elif isinstance(event, Finish) and event.output is not None:
            answer.write(event.text, COLOURS[None])
            console.print()
            return event.output
    raise AssertionError("the events ended before the request did")


class AnswerPrinter:
    """Puts the steps below each other; newlines wait until it's known what follows them."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._lead = ""
        self._held = ""
        self._is_first = True

    def start_step(self, step: Step) -> None:
        """The next text begins on a line of its own, with the step's model and entropy before it."""
        entropy = "-" if step.entropy is None else f"{step.entropy:.2f}"
        self._lead = ("" if self._is_first else "\n\n") + f"{step.model!s:<5} {entropy:>5} | "
        self._held = ""
        self._is_first = False

    def write(self, text: str, colour: str) -> None:
        """Print a piece of the step."""
        text = self._held + text
        shown = text.rstrip("\n").lstrip("\n" if self._lead else "")
        self._held = text[len(text.rstrip("\n")) :]
        if shown:
            indented = shown.replace("\n", "\n" + " " * MARGIN)
            self._console.print(Styled(self._lead, "dim") + Styled(indented, colour), end="", soft_wrap=True)
            self._lead = ""


def show_summary(output: RequestOutput, stats: Stats, seconds: float, console: Console) -> None:
    """Steps, tokens and seconds by model; hand-overs, catch-up, speed."""
    completion = output.outputs[0]
    table = Table(title=f"finished: {completion.finish_reason}" + (f" ({output.error})" if output.error else ""))
    for column in ("", "small", "large", "both"):
        table.add_column(column, justify="right" if column else "left")
    small, large = stats.small, stats.large
    for name, field, form in (
        ("steps", "steps_written", "d"),
        ("tokens", "tokens_written", "d"),
        ("catch-up tokens", "catch_up_tokens", "d"),
        ("forwards", "num_forwards", "d"),
        ("seconds", "seconds", ".2f"),
    ):
        values = (getattr(small, field), getattr(large, field))
        table.add_row(name, *(format(value, form) for value in (*values, sum(values))))
    console.print(table)
    speed = len(completion.token_ids) / seconds
    console.print(f"{stats.hand_overs} hand-overs, {seconds:.2f} s, {speed:.1f} tokens/s")


def as_json(output: RequestOutput, engine: "Engine", seconds: float) -> dict[str, Any]:
    """The output and the counters as plain values; models by name."""
    plain = asdict(output)
    for completion in plain["outputs"]:
        for step in completion["steps"]:
            step["model"] = str(step["model"])
            step["text"] = completion["text"][step["text_start"] : step["text_end"]]
    return {**plain, "seconds": seconds, "stats": asdict(engine.stats())}


def doctor_command(options: argparse.Namespace) -> int:
    """`glimp doctor`: what `auto` stands for here, and what is missing."""
    import torch

    from glimp_engine.config import EngineConfig, available_devices
    from glimp_engine.kernels.native import load_library

    config, table, problems = EngineConfig(), Table(title="glimp doctor"), []
    table.add_column("what")
    table.add_column("found")
    table.add_row("python", f"{platform.python_version()} on {platform.platform()}")
    for name in PACKAGES:
        try:
            table.add_row(name, importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            table.add_row(name, "not installed" + (" (optional)" if name in ("triton", "flash-attn") else ""))
    table.add_row("processor", f"{os.cpu_count()} cores, torch uses {torch.get_num_threads()} threads")
    table.add_row("devices", ", ".join(available_devices()))
    try:
        load_library()
        table.add_row("native ops", "built")
    except GlimpError as error:
        table.add_row("native ops", "missing")
        problems.append(str(error))
    table.add_row("C++ compiler", next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), "not found"))
    table.add_row("nvcc", shutil.which("nvcc") or "not found (optional)")
    ops = "native" if config.is_native else "reference"
    table.add_row("auto", f"device {config.torch_device}, dtype the checkpoint's own, ops {ops}")
    Console().print(table)
    for problem in problems:
        print(f"missing: {problem}")
    return 1 if problems else 0
