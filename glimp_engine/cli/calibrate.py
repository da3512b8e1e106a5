"""`glimp calibrate`: a threshold for a target, from a finished run or from prompts alone."""

import argparse
import sys
import tempfile
from pathlib import Path

from glimp_engine.cli.engine_options import add_engine_options, make_engine
from glimp_engine.cli.paths import check_writable, file_path, writing
from glimp_engine.cli.values import integer_from
from glimp_engine.errors import ConfigError
from glimp_engine.evaluation.calibrate import KINDS, Proposal, parse_target, propose
from glimp_engine.evaluation.graders import ExactGrader
from glimp_engine.evaluation.problems import read_by_fields, read_problems, rows_of_file
from glimp_engine.evaluation.run_files import RunFiles
from glimp_engine.routing import RoutingFile, RoutingParams
from glimp_engine.sampling import SamplingParams

__all__ = ["add_parser"]


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `glimp calibrate`."""
    parser = commands.add_parser("calibrate", help="choose a threshold from evidence")
    parser.set_defaults(command=command)
    parser.add_argument("run", nargs="?", type=file_path, help="directory of a finished `glimp eval`")
    parser.add_argument(
        "--prompts", type=file_path, help="instead of a run: .jsonl with a prompt in each line's `problem`"
    )
    add_engine_options(parser, is_required=False)
    parser.add_argument("--target", required=True, help=KINDS)
    parser.add_argument("--max-tokens", type=integer_from(1), default=2048, help="of an answer to --prompts")
    parser.add_argument("--concurrency", type=integer_from(1), default=8, help="prompts at once")
    parser.add_argument("-o", "--out", type=file_path, required=True, help="the routing file, JSON")


def command(options: argparse.Namespace) -> int:
    """Propose a threshold, say how sure it is, and write the routing file."""
    target = parse_target(options.target)
    if (options.run is None) == (options.prompts is None):
        raise ConfigError("give either the directory of a run or --prompts")
    if options.prompts is not None and target.kind != "share":
        raise ConfigError(f"target is {options.target!r}, which takes a run; from prompts alone: share=0.25")
    check_writable("--out", options.out)
    run = RunFiles.read(options.run) if options.prompts is None else run_prompts(options)
    if "large" not in run.settings["fingerprints"]:
        raise ConfigError(f"{options.run}: expected a run of two models, found one without a large model")
    proposal = propose(run, target)
    show(proposal)
    routing = RoutingFile(
        small=run.settings["small"],
        large=run.settings["large"],
        fingerprints=run.settings["fingerprints"],
        router=f"glimp:{proposal.threshold!r}",
        target=options.target,
        threshold_interval=proposal.interval,
        predicted=proposal.predicted,
        measured_on=run.settings["problems"],
        num_problems=proposal.num_problems,
    )
    with writing("--out", options.out):
        routing.save(options.out)
    print(f"written: {options.out}")
    return 0


def run_prompts(options: argparse.Namespace) -> RunFiles:
    """Answers of the small model alone to the prompts, whose glimpses are what is wanted."""
    from glimp_engine.checkpoints import fingerprint, locate
    from glimp_engine.evaluation.runner import Evaluation

    if options.small is None or options.large is None:
        raise ConfigError("--prompts takes --small and --large")
    read = read_by_fields(None, "")
    found = rows_of_file(options.prompts)
    rows = ((where, row if isinstance(row, str) else {**row, "answer": "-"}) for where, row in found)
    problems, bad = read_problems(rows, read, ExactGrader())
    for line in bad:
        print(f"refused: {line}", file=sys.stderr)
    if not problems:
        raise ConfigError(f"prompts is {str(options.prompts)!r}, which has none that can be used")
    settings = {
        "small": options.small,
        "large": options.large,
        "fingerprints": {name: fingerprint(locate(getattr(options, name))) for name in ("small", "large")},
        "problems": str(options.prompts),
        "num_problems": len(problems),
        "repeats": 1,
    }
    sampling = SamplingParams(temperature=0.6, top_p=0.95, seed=0, max_tokens=options.max_tokens)
    with tempfile.TemporaryDirectory() as directory:
        evaluation = Evaluation(
            make_engine(options), problems, ExactGrader(), sampling, RoutingParams(), settings, Path(directory)
        )
        evaluation.run(["small"], 1, options.concurrency, None)
        return RunFiles.read(Path(directory))


def show(proposal: Proposal) -> None:
    """The proposal in words."""
    low, high = proposal.interval
    found = f"threshold {proposal.threshold:.4g} nats (95%: {low:.4g} to {high:.4g})"
    print(f"{found}, from {proposal.num_problems} problems")
    for name, (value, least, most) in proposal.predicted.items():
        print(f"  {name}: {value:.4g} (95%: {least:.4g} to {most:.4g})")
    for threshold, predicted, measured in proposal.checks:
        print(f"  check at {threshold:g}: share of large tokens predicted {predicted:.1%}, measured {measured:.1%}")
