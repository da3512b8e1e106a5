"""Speculation on and off, in turn, on word problems: tokens a second, and whether the tokens are the same.

Both runs of a problem find its prompt in the prefix cache, so what is timed is decoding. The peer is the faster of two
ways that llama.cpp has with the same files: the large model alone (`llama-bench`, once behind each problem, as a memory
is faster in one minute than in the next), or with the small one as its draft model at the best of several depths
(`llama-speculative-simple`, behind all else).
"""

import argparse
import json
import os
import re
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from gsm8k import load_problems
from harness import MODELS, Case, arguments, report, summary
from tqdm import tqdm

from glimp_engine import Engine, GlimpRouter, LargeOnly, RoutingParams, SamplingParams, SmallOnly, Speculation

DEPTHS = (1, 2, 4, 8)
AT_ONCE = 16
ROUNDS = 2  # of the cases that have one group of prompts
TABLE = "\n".join(f"| {i} | item {i * 37 % 101} | {i * i * 7 % 1000} | {'yes' if i % 3 else 'no'} |" for i in range(40))
COPY = f"Repeat the following table exactly, without a word before or after it.\n\n{TABLE}"
SAMPLINGS = {"greedy": {"temperature": 0.0}, "T 0.6": {"temperature": 0.6, "top_p": 0.95, "seed": 1}}


@dataclass
class Run:
    """What one way took for each problem."""

    seconds: list[float] = field(default_factory=list)
    token_ids: list[list[list[int]]] = field(default_factory=list)

    @property
    def num_tokens(self) -> list[int]:
        return [sum(map(len, ids)) for ids in self.token_ids]

    @property
    def tokens_per_second(self) -> float:
        return sum(self.num_tokens) / sum(self.seconds)


def chat(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def routing(router: Any, speculation: str) -> RoutingParams:
    return RoutingParams(router=router, speculation=speculation, stop_repeated_steps=False)


def answer(engine: Engine, prompts: list[Any], sampling: SamplingParams, router: Any, way: str, run: Run) -> None:
    """Let the prompts be answered at once, and note the time."""
    began = time.perf_counter()
    outputs = engine.generate(prompts, sampling, routing(router, way), use_tqdm=False)
    run.seconds.append(time.perf_counter() - began)
    run.token_ids.append([output.outputs[0].token_ids for output in outputs])


def compare(
    engine: Engine,
    groups: list[list[Any]],
    sampling: SamplingParams,
    router: Any,
    rounds: int,
    peer: Callable[[], object] = lambda: None,
) -> tuple[dict[str, Run], dict[str, Any]]:
    """Off, auto and the peer in turn on each group of prompts, and what became of the proposals.

    The first group warms up.
    """
    runs = {"off": Run(), "auto": Run()}
    for group in groups:  # every prompt is cached by both models, so that neither way has to read it
        for reader in (router, SmallOnly()):
            engine.generate(group, SamplingParams(max_tokens=1), routing(reader, "off"), use_tqdm=False)
    for way in runs:
        answer(engine, groups[0], sampling, router, way, Run())
    before = engine.stats().proposers
    for index in range(rounds):
        for group in groups:
            for way in list(runs) if index % 2 else reversed(runs):
                answer(engine, group, sampling, router, way, runs[way])
            peer()
    after = engine.stats().proposers
    counts = {
        name.value: {
            "proposed": after[name].proposed_tokens - before[name].proposed_tokens,
            "accepted": after[name].accepted_tokens - before[name].accepted_tokens,
        }
        for name in after
    }
    return runs, counts


def describe(case: str, runs: dict[str, Run], counts: dict[str, Any], rounds: int) -> Case:
    """One case's figures: seconds are the best of the rounds of each problem, ratios are off over auto."""
    num = len(runs["off"].seconds) // rounds
    best = {way: [min(run.seconds[i::num]) for i in range(num)] for way, run in runs.items()}
    tokens = runs["off"].num_tokens[:num]
    ratios = [off / auto for off, auto in zip(best["off"], best["auto"], strict=True)]
    return {
        "case": case,
        "same_tokens": runs["off"].token_ids == runs["auto"].token_ids,
        "tokens_per_second_off": sum(tokens) / sum(best["off"]),
        "tokens_per_second_auto": sum(tokens) / sum(best["auto"]),
        "times_as_fast": sum(best["off"]) / sum(best["auto"]),
        "of_a_problem": summary(ratios),
        "worst_problem": min(ratios),
        "proposers": counts,
        "num_problems": num,
    }


# The peer.


class LlamaCpp:
    """llama.cpp's tokens a second, greedy."""

    def __init__(self, binaries: Path, models: list[Path], threads: int) -> None:
        self._binaries, self._models, self._threads = binaries, models, threads
        self.alone: list[float] = []

    def write_alone(self) -> None:
        """The large model writes 64 tokens behind 128."""
        done = subprocess.run(
            [
                *(self._binaries / "llama-bench", "-m", self._models[1]),
                *("-p 0 -n 64 -d 128 -r 1 -o json -t".split()),
                str(self._threads),
            ],
            capture_output=True,
            text=True,
            check=True,
        )
        self.alone.append(json.loads(done.stdout)[0]["avg_ts"])

    def speeds(self, prompts: list[str], max_tokens: int) -> dict[str, float]:
        """By way."""
        speeds = {"alone": fmean(self.alone)}
        for depth in tqdm(DEPTHS, desc="llama-speculative-simple"):
            results = [
                speculate(self._binaries, self._models, prompt, self._threads, max_tokens, depth) for prompt in prompts
            ]
            speeds[f"depth {depth}"] = sum(tokens for tokens, _ in results) / sum(seconds for _, seconds in results)
        return speeds


def speculate(
    binaries: Path, models: list[Path], prompt: str, threads: int, max_tokens: int, depth: int
) -> tuple[int, float]:
    """(tokens, seconds) of one answer."""
    files = ["-m", models[1], "-md", models[0]]
    sized = ["-t", str(threads), "-td", str(threads), "-n", str(max_tokens), "-c", "2048", "--temp", "0"]
    drafting = ["--spec-type", "draft-simple", "--spec-draft-n-max", str(depth)]
    command = [binaries / "llama-speculative-simple", "-p", prompt, *files, *sized, *drafting]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    found = re.search(r"decoded +(\d+) tokens in +([\d.]+) seconds", run.stdout + run.stderr)
    if found is None:
        raise RuntimeError(f"llama-speculative-simple says no speed: {run.stderr[-300:]}")
    return int(found[1]), float(found[2])


def main() -> None:
    """All cases, off and auto in turn."""
    parser = arguments(__doc__, repeats=1, models=MODELS[1:])
    parser.add_argument("--problems", type=Path, required=True, help="JSON lines with `problem` and `answer`")
    parser.add_argument("--num-problems", type=int, default=20)
    parser.add_argument("--max-tokens", type=int, default=200)
    parser.add_argument("--llama-binaries", type=Path, help="a directory with llama-bench and llama-speculative-simple")
    parser.add_argument("--num-peer-problems", type=int, default=5, help="of them, for each depth of the peer")
    args = parser.parse_args()
    problems = load_problems(args.problems, max(args.num_problems, AT_ONCE))
    prompts = [chat(problem.message) for problem in problems]
    engine = Engine(*args.models, num_threads=args.threads, kv_cache_bytes=1 << 30)
    peer = LlamaCpp(args.llama_binaries, args.models, args.threads) if args.llama_binaries else None
    cases = []
    for case in run_cases(engine, prompts, args, peer):
        print(json.dumps(case), flush=True)
        cases.append(case)
    copies = Engine(args.models[0], num_threads=args.threads, speculation=Speculation(("ngram",)))
    copying = SamplingParams(temperature=0, max_tokens=900)
    cases.append(
        describe("ngram, a copied table", *compare(copies, [[chat(COPY)]], copying, SmallOnly(), ROUNDS), ROUNDS)
    )
    if peer is not None:
        texts = [engine_prompt(engine, prompt) for prompt in prompts[: args.num_peer_problems]]
        speeds = peer.speeds(texts, args.max_tokens)
        for case in cases:
            if case["case"].endswith("greedy"):
                case["times_llama_cpp"] = case["tokens_per_second_auto"] / max(
                    case["llama_cpp_alone"], *speeds.values()
                )
        cases.append({"case": "llama.cpp", "tokens_per_second": speeds})
    facts = {"threads": args.threads, "models": [path.name for path in args.models], "max_tokens": args.max_tokens}
    report(args.name or "speculation", cases, {"machine": {"cores": os.cpu_count()}}, [row(c) for c in cases], **facts)


def run_cases(engine: Engine, prompts: list[Any], args: argparse.Namespace, peer: LlamaCpp | None) -> Any:
    """Large only, routed, and many at once."""
    for temperature, options in SAMPLINGS.items():
        sampling = SamplingParams(max_tokens=args.max_tokens, **options)
        for name, router in (("large only", LargeOnly()), ("routed at 1.0", GlimpRouter(1.0))):
            groups = [[prompt] for prompt in prompts[: args.num_problems]]
            is_beside = peer is not None and temperature == "greedy"
            runs = compare(engine, groups, sampling, router, args.repeats, *([peer.write_alone] if is_beside else []))
            case = describe(f"{name}, {temperature}", *runs, args.repeats)
            yield {**case, "llama_cpp_alone": fmean(peer.alone[-len(groups) :])} if is_beside else case
    sampling = SamplingParams(max_tokens=args.max_tokens, temperature=0)
    for name, router in (("large only", LargeOnly()), ("routed at 1.0", GlimpRouter(1.0))):
        many = compare(engine, [prompts[:AT_ONCE]], sampling, router, ROUNDS)
        yield describe(f"{AT_ONCE} sequences, {name}", *many, ROUNDS)


def engine_prompt(engine: Engine, prompt: Any) -> str:
    """The prompt's text as the models read it."""
    sampling = SamplingParams(max_tokens=1)
    (output,) = engine.generate([prompt], sampling, routing(SmallOnly(), "off"), use_tqdm=False)
    return "".join(engine.token_text(token_id) for token_id in output.prompt_token_ids)


def row(case: Case) -> Case:
    """The case as a line of the table."""
    return {key: value for key, value in case.items() if key not in ("of_a_problem", "proposers", "tokens_per_second")}


if __name__ == "__main__":
    main()
