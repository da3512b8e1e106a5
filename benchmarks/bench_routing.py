"""The GlimpRouter loop on word problems: our engine beside the same loop written over llama.cpp, in turn.

Each problem is answered greedily by the small model alone, by the large one alone, and routed at each threshold. Two
implementations round differently, so a route or a token may differ: what's compared is seconds a generated token, and
the shares of the large model stand beside it.

The routing tax is the part of the time that no model needed for the tokens it wrote: 1 - (the tokens each model wrote
at the pace it has alone + the least time that the catch-ups and the prompts could take) / measured.
"""

import contextlib
from pathlib import Path
from typing import Any

import contestant
from ceilings import CeilingProbe, Ceilings, Sample, ceilings_of
from contestant import Contestant
from costs import ModelCost, cost_of
from gsm8k import Problem, final_number, load_problems
from harness import MODELS, Case, arguments, report, summary
from tqdm import tqdm

CAPACITY = 2048  # tokens of K/V for a router
ALONE = ("small", "large")

Run = dict[str, Any]  # what `solve` returns, see peers/routing.py


def run_all(
    contestants: list[Contestant], routers: list[str], problems: list[Problem], max_tokens: int, probe: CeilingProbe
) -> tuple[dict[tuple[str, str], list[Run]], list[Sample]]:
    """(contestant, router) -> a run for each problem; the first problem warms up and is not counted."""
    runs: dict[tuple[str, str], list[Run]] = {}
    samples = []
    with tqdm(total=len(problems) * len(routers) * len(contestants)) as progress:
        for index, problem in enumerate(problems):
            ids = contestants[0].call("encode", text=problem.message, is_chat=True)["token_ids"]
            samples.append(probe.sample())
            for router in routers:
                for each in contestants if index % 2 else reversed(contestants):
                    progress.set_description(f"{router}: {each.name}")
                    run = each.call("solve", token_ids=ids, router=router, max_tokens=max_tokens)
                    run["is_correct"] = final_number(run["text"]) == problem.answer
                    runs.setdefault((each.name, router), []).append(run)
                    progress.update()
    return {key: values[1:] for key, values in runs.items()}, samples


def total(runs: list[Run], key: str) -> Any:
    return sum(run[key] for run in runs)


def seconds_per_token(runs: list[Run]) -> float:
    return total(runs, "seconds") / total(runs, "num_tokens")


def own_pace(runs: list[Run]) -> float:
    """Seconds a token of a model that writes alone, its prompts not counted."""
    decoding = total(runs, "seconds") - total(runs, "first_token_seconds")
    return decoding / (total(runs, "num_tokens") - len(runs))


def tokens_by(runs: list[Run], model: str) -> int:
    return sum(step["num_tokens"] for run in runs for step in run["steps"] if step["model"] == model)


def catch_up_floor(runs: list[Run], costs: dict[str, ModelCost], ceilings: Ceilings) -> float:
    """Seconds that the arithmetic of catch-ups and prompts takes at the best measured rate.

    Each ends with a token that a model writes, and it's that token's pace which pays for the weights to be read.
    """
    rate = max(filter(None, (ceilings[f"{name}_ops_per_s"] for name in ("int8", "bf16", "fp32"))))
    ops = 0
    for run in runs:
        for name, cost in costs.items():
            ops += cost.body_ops * (run["catch_up_tokens"][name] + run["prompt_tokens"][name])
    return ops / rate


def describe(
    name: str, router: str, runs: dict[tuple[str, str], list[Run]], costs: dict[str, ModelCost], ceilings: Ceilings
) -> Case:
    """One contestant's figures with one router."""
    own = runs[name, router]
    pace = {model: own_pace(runs[name, model]) for model in ALONE}
    tokens = {model: tokens_by(own, model) for model in ALONE}
    num_large_steps = sum(step["model"] == "large" for run in own for step in run["steps"])
    needed = sum(tokens[model] * pace[model] for model in ALONE) + catch_up_floor(own, costs, ceilings)
    return {
        "case": router,
        "contestant": name,
        "seconds_per_token": seconds_per_token(own),
        "of_a_problem": summary([run["seconds"] / run["num_tokens"] for run in own]),
        "times_large_only": seconds_per_token(own) / seconds_per_token(runs[name, "large"]),
        "num_tokens": total(own, "num_tokens"),
        "first_token_seconds": summary([run["first_token_seconds"] for run in own])["median"],
        "share_of_large_tokens": tokens["large"] / sum(tokens.values()),
        "share_of_large_steps": num_large_steps / sum(len(run["steps"]) for run in own),
        "hand_overs": total(own, "hand_overs"),
        "catch_up_tokens": {model: sum(run["catch_up_tokens"][model] for run in own) for model in ALONE},
        "own_pace": pace,
        "routing_tax": None if router in ALONE else 1 - needed / total(own, "seconds"),
        "num_correct": total(own, "is_correct"),
        "num_problems": len(own),
    }


def compare(cases: list[Case], ours: str) -> None:
    """Add to each peer's case how many times as fast ours is, by seconds a token."""
    for case in cases:
        own = next(each for each in cases if (each["contestant"], each["case"]) == (ours, case["case"]))
        ratio = case["seconds_per_token"] / own["seconds_per_token"]
        case["ours_times_as_fast"] = None if case is own else ratio


def row(case: Case) -> Case:
    """The case as a line of the table."""
    catch_up = "/".join(str(n) for n in case["catch_up_tokens"].values())
    hidden = {"of_a_problem", "own_pace", "catch_up_tokens", "num_problems", "num_correct"}
    shown = {key: value for key, value in case.items() if key not in hidden}
    return {**shown, "catch_up s/l": catch_up, "correct": f"{case['num_correct']}/{case['num_problems']}"}


def main() -> None:
    """All routers on all problems, one problem after the other."""
    parser = arguments(__doc__, repeats=None, models=MODELS[1:])
    parser.add_argument("--problems", type=Path, required=True, help="JSON lines with `problem` and `answer`")
    parser.add_argument("--num-problems", type=int, default=10)
    parser.add_argument("--thresholds", nargs="+", default=["1.0"], help="nats")
    parser.add_argument("--max-tokens", type=int, default=400)
    args = parser.parse_args()
    *problems, warm_up = load_problems(args.problems, args.num_problems + 1)
    routers = [*ALONE, *args.thresholds]
    with contextlib.ExitStack() as stack:
        probe = stack.enter_context(CeilingProbe(args.threads))
        contestants = [stack.enter_context(contestant.glimp())]
        if args.peer_python:
            contestants.append(stack.enter_context(contestant.llama_cpp(args.peer_python)))
        for each in contestants:
            each.open(args.models, args.threads, CAPACITY)
        runs, samples = run_all(contestants, routers, [warm_up, *problems], args.max_tokens, probe)
    costs = dict(zip(ALONE, map(cost_of, args.models), strict=True))
    ceilings = ceilings_of(samples)
    cases = [describe(each.name, router, runs, costs, ceilings) for router in routers for each in contestants]
    compare(cases, contestants[0].name)
    facts = {
        "threads": args.threads,
        "models": [path.name for path in args.models],
        "max_tokens": args.max_tokens,
        "contestants": {each.name: each.version for each in contestants},
    }
    report(args.name or "routing", cases, ceilings, [row(case) for case in cases], **facts)


if __name__ == "__main__":
    main()
