"""`glimp eval`: routers over problems, with a table and a report."""

import argparse
import json
import platform
import sys
from dataclasses import asdict
from hashlib import blake2b
from pathlib import Path
from typing import Any

from glimp_engine.cli.engine_options import add_chat_options, add_engine_options, make_engine
from glimp_engine.cli.paths import file_path, make_directory
from glimp_engine.cli.values import integer, integer_from, number
from glimp_engine.errors import ConfigError
from glimp_engine.evaluation.graders import GRADERS, Grader, make_grader
from glimp_engine.evaluation.presets import PRESETS, find_preset, rows_of_preset
from glimp_engine.evaluation.problems import BadLine, Problem, read_by_fields, read_problems, rows_of_file
from glimp_engine.evaluation.router_list import read_routers
from glimp_engine.routing import ROUTER_SPECS, Model, RoutingParams
from glimp_engine.sampling import SamplingParams

__all__ = ["add_parser"]

MAX_REPEATS = 10_000  # keys of all answers are in memory at once
MAX_BRANCHES = 1024  # what SamplingParams allows of `n`


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `glimp eval`."""
    parser = commands.add_parser(
        "eval", help="compare routers on problems", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.set_defaults(command=command)
    parser.add_argument(
        "problems", nargs="?", type=file_path, help=".jsonl with id, problem, answer; or a preset's own file"
    )
    add_engine_options(parser)
    parser.add_argument(
        "--out", type=file_path, required=True, help="directory of the results; a run there is gone on with"
    )
    parser.add_argument(
        "--routers", default="small,large,glimp:1.0,random@glimp:1.0", help=f"{ROUTER_SPECS}, random@ROUTER"
    )
    parser.add_argument("--preset", choices=tuple(PRESETS), help="prompt, format and grader of a known data set")
    parser.add_argument("--grader", choices=tuple(GRADERS), help="exact if neither it nor a preset is given")
    parser.add_argument(
        "--unsafe", action="store_true", help="run answers' programs even where this machine can't contain them"
    )
    parser.add_argument("--fields", help="names in the file, as id=uid,problem=question,answer=gold")
    parser.add_argument("--limit", type=integer_from(0), help="only the first so many problems")
    parser.add_argument(
        "--repeats",
        type=integer_from(1, MAX_REPEATS),
        default=1,
        help="answers to each problem, each with a seed of its own",
    )
    parser.add_argument(
        "--concurrency", type=integer_from(1), default=1, help="problems at once; latencies then include waiting"
    )
    parser.add_argument(
        "--branches",
        type=integer_from(0, MAX_BRANCHES),
        default=0,
        help="samples behind each step, to judge the signals by",
    )
    parser.add_argument("--branch-rest", choices=("large", "small"), default="large", help="who goes on after the step")
    parser.add_argument("--answer-model", choices=("small", "large", "routed"), default="large", help="after </think>")
    parser.add_argument("--temperature", type=number, default=0.6)
    parser.add_argument("--top-p", type=number, default=0.95)
    parser.add_argument("--seed", type=integer, default=0)
    parser.add_argument("--max-tokens", type=integer, help="of the whole output")
    add_chat_options(parser)
    parser.add_argument("--max-step-tokens", type=integer, default=512)
    parser.add_argument("--max-answer-tokens", type=integer, help="max_tokens or 2048 if it isn't given")


def command(options: argparse.Namespace) -> int:
    """Run what isn't done yet, print the table, write the report."""
    from glimp_engine.evaluation.report import write_report
    from glimp_engine.evaluation.runner import Branching, Evaluation, write_refused
    from glimp_engine.evaluation.summary import print_table

    routers = read_routers(options.routers, options.large is not None)
    if options.branches and options.large is None:
        raise ConfigError(f"branches is {options.branches}, and --large isn't given; allowed then: 0")
    grader_name, grader = grader_of(options)
    problems, bad = load(options, grader)
    for line in bad:
        print(f"refused: {line}", file=sys.stderr)
    if not problems:
        raise ConfigError(f"problems is {str(options.problems)!r}, which has none that can be used")
    sampling = SamplingParams(
        temperature=options.temperature, top_p=options.top_p, seed=options.seed, max_tokens=options.max_tokens
    )
    routing = RoutingParams(
        answer_model=options.answer_model,
        max_thinking_tokens=options.max_thinking_tokens,
        max_step_tokens=options.max_step_tokens,
        max_answer_tokens=options.max_answer_tokens,
        chat_template_kwargs=options.chat_template_kwargs,
    )
    make_directory("--out", options.out)
    branching = Branching(options.branches, Model[options.branch_rest.upper()]) if options.branches else None
    evaluation = Evaluation(
        make_engine(options),
        problems,
        grader,
        sampling,
        routing,
        settings_of(options, problems, sampling, routing, grader_name),
        options.out,
    )
    evaluation.run(routers, options.repeats, options.concurrency, branching)
    write_refused(options.out, bad)
    print_table(options.out)
    print(f"report: {write_report(options.out)}")
    return 0


def grader_of(options: argparse.Namespace) -> tuple[str, Grader]:
    """(its name, the grader), found before any model is loaded: it may be one that this machine can't run safely."""
    if options.preset is None and options.problems is None:
        raise ConfigError("neither problems nor --preset is given; allowed: a file, a preset, or both")
    name = options.grader or ("exact" if options.preset is None else find_preset(options.preset).grader)
    return name, make_grader(name, options.unsafe)


def load(options: argparse.Namespace, grader: Grader) -> tuple[list[Problem], list[BadLine]]:
    """(problems, rows that are none)."""
    if options.preset is None:
        return read_problems(rows_of_file(options.problems), read_by_fields(options.fields, ""), grader, options.limit)
    preset = find_preset(options.preset)
    read = read_by_fields(options.fields, preset.instruction) if options.fields else preset.reader()
    return read_problems(rows_of_preset(preset, options.problems), read, grader, options.limit)


def settings_of(
    options: argparse.Namespace,
    problems: list[Problem],
    sampling: SamplingParams,
    routing: RoutingParams,
    grader: str,
) -> dict[str, Any]:
    """What the results depend on, and the machine that measured them."""
    import torch

    from glimp_engine.checkpoints import fingerprint, locate

    sources = {name: getattr(options, name) for name in ("small", "large") if getattr(options, name) is not None}
    others = {f"{name}_tokenizer": getattr(options, f"{name}_tokenizer") for name in sources}
    digest = blake2b(json.dumps([asdict(problem) for problem in problems]).encode(), digest_size=8).hexdigest()
    left_out = ("router", "glimpse_logprobs", "speculation")
    budgets = {name: value for name, value in asdict(routing).items() if name not in left_out}
    return {
        **sources,
        "fingerprints": {name: fingerprint(locate(source)) for name, source in sources.items()},
        "engine": {
            **{name: getattr(options, name) for name in ("device", "dtype", "ops", "quantization")},
            **{name: directory for name, directory in others.items() if directory is not None},
            **({} if options.speculation == "off" else {"speculation": options.speculation}),  # times depend on it
        },
        "problems": str(options.problems or options.preset),
        "num_problems": len(problems),
        "problems_digest": digest,
        "grader": grader,
        "sampling": asdict(sampling),
        "routing": budgets,
        "repeats": options.repeats,
        "machine": {
            "processor": processor_name(),
            "num_threads": options.num_threads or torch.get_num_threads(),
            "system": f"{platform.system()} {platform.machine()}",
            "python": platform.python_version(),
            "torch": torch.__version__,
            "concurrency": options.concurrency,
        },
    }


def processor_name() -> str:
    """As the system calls it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor()
    )
