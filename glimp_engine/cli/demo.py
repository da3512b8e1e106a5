"""`glimp demo`: what routing does, on two tiny models that come with the package."""

import argparse
import time
from dataclasses import dataclass, replace
from statistics import fmean
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from glimp_engine.cli.show import show
from glimp_engine.cli.values import integer_from
from glimp_engine.demo_pair import LARGE, ROUTING, SMALL, TEST
from glimp_engine.load import load_router
from glimp_engine.outputs import RequestOutput
from glimp_engine.routing import LargeOnly, Model, RandomRouter, Router, RoutingParams, SmallOnly
from glimp_engine.sampling import SamplingParams

if TYPE_CHECKING:
    from glimp_engine.engine import Engine
    from glimp_engine.evaluation.problems import Problem

__all__ = ["add_parser", "compare", "load_problems"]

NUM_SHOWN = 5
GREEDY = SamplingParams(temperature=0, seed=0)
INTRODUCTION = """\
Two tiny language models, trained on trips over roads whose lengths have to be remembered. The large one knows all
roads; the small one knows the main roads, and adds just as well. Each step is written by the model in whose colour
it's shown; the number before it is the small model's entropy over the step's first token, in nats.
Behind a step stands how many of the tokens that were proposed to its writer it has accepted.
"""


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `glimp demo`."""
    demo = commands.add_parser("demo", help="watch two tiny models, which come with the package, share their answers")
    demo.set_defaults(command=command)
    demo.add_argument(
        "--problems", type=integer_from(1), default=100, help="how many test problems the table is made of"
    )


def command(options: argparse.Namespace) -> int:
    """Five problems step by step, then four routers side by side."""
    from glimp_engine.engine import Engine

    console = Console(highlight=False)
    engine = Engine(SMALL, LARGE, device="cpu")
    glimp = load_router(ROUTING, SMALL, LARGE)
    problems = load_problems(options.problems)
    console.print(INTRODUCTION)
    for problem in problems[:NUM_SHOWN]:
        console.print(f"[bold]{problem.prompt}[/bold]")
        output = show(engine.stream(messages(problem), GREEDY, routing_by(glimp)), console)
        is_right = "right" if answer_of(output) == problem.answer else f"wrong: it's {problem.answer}"
        console.print(f"[dim]({is_right})[/dim]\n")
    console.print(table_of(compare(engine, problems, glimp), len(problems)))
    return 0


def load_problems(count: int) -> "list[Problem]":
    from glimp_engine.evaluation.graders import ExactGrader
    from glimp_engine.evaluation.problems import read_by_fields, read_problems, rows_of_file

    return read_problems(rows_of_file(TEST), read_by_fields(None, ""), ExactGrader(), count)[0]


@dataclass(frozen=True)
class Row:
    """What a router's answers come to."""

    router: str
    accuracy: float
    seconds: float
    large_token_share: float
    large_step_share: float | None  # of the steps that were routed; None where none was


def compare(engine: "Engine", problems: "list[Problem]", glimp: Router) -> list[Row]:
    """Small only, large only, GlimpRouter, and the control: as many steps by the large model, but not the same ones."""
    routers: list[tuple[str, Router]] = [
        ("small only", SmallOnly()),
        ("large only", LargeOnly()),
        ("GlimpRouter", glimp),
    ]
    with tqdm(total=(len(routers) + 1) * len(problems), unit="answer", leave=False) as progress:
        rows = [measure(engine, problems, name, router, progress) for name, router in routers]
        control = RandomRouter(rows[-1].large_step_share or 0.0)
        return [*rows, measure(engine, problems, "random", control, progress)]


def measure(engine: "Engine", problems: "list[Problem]", name: str, router: Router, progress: "tqdm[Any]") -> Row:
    """One problem after the other, by one router."""
    outputs, routing = list[RequestOutput](), routing_by(router)
    began = time.perf_counter()
    for seed, problem in enumerate(problems):
        sampling = replace(GREEDY, seed=seed)  # which RandomRouter depends on
        outputs += engine.generate([messages(problem)], sampling, routing, use_tqdm=False)
        progress.update()
    seconds = time.perf_counter() - began
    num_right = sum(answer_of(output) == problem.answer for output, problem in zip(outputs, problems, strict=True))
    steps = [step for output in outputs for step in output.outputs[0].steps]
    routed = [step.model is Model.LARGE for step in steps if step.entropy is not None]
    tokens = [sum(step.num_tokens for step in steps if step.model is model) for model in Model]
    share = tokens[Model.LARGE] / sum(tokens)
    return Row(name, num_right / len(problems), seconds, share, fmean(routed) if routed else None)


def routing_by(router: Router) -> RoutingParams:
    """The answer behind the thinking is a step as any other here, and nobody proposes tokens: times are of routing."""
    return RoutingParams(router=router, answer_model="routed", speculation="off")


def table_of(rows: list[Row], num_problems: int) -> Table:
    table = Table(title=f"{num_problems} test problems, one after the other")
    for column in ("router", "right", "seconds", "tokens by the large model", "steps by the large model"):
        table.add_column(column, justify="left" if column == "router" else "right")
    for row in rows:
        large_steps = "-" if row.large_step_share is None else f"{row.large_step_share:.0%}"
        shares = (f"{row.large_token_share:.0%}", large_steps)
        table.add_row(row.router, f"{row.accuracy:.0%}", f"{row.seconds:.1f}", *shares)
    return table


def messages(problem: "Problem") -> list[dict[str, str]]:
    return [{"role": "user", "content": problem.prompt}]


def answer_of(output: RequestOutput) -> str:
    """What stands behind the thinking."""
    return output.outputs[0].text.rpartition("</think>")[2].strip()
