"""Decode, prefill and catch-up of single models: our engine beside llama.cpp, in turn, and the machine's ceilings.

Each contestant has a process of its own; in every round each case is run by one after the other, after a sample of the
ceilings, so that a machine that speeds up or slows down does so for all. The first round is not counted.
"""

import contextlib
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import contestant
from ceilings import CeilingProbe, Ceilings, Sample, ceilings_of
from contestant import Contestant
from costs import ModelCost, cost_of
from harness import Case, arguments, report, summary
from tqdm import tqdm

CONTEXT, LONG_CONTEXT, PREFILL = 256, 4096, 512
NUM_DECODED, NUM_DECODED_MANY = 128, 64
EXTENSIONS = (1, 2, 4, 8, 16, 32, 64, 128)
SEQUENCES = (4, 16)
CAPACITY = 16384  # tokens of K/V that the engine keeps
TEXT = Path(__file__).parent.parent / "LICENSE"  # 2,200 tokens that stay the same


@dataclass(frozen=True)
class Measurement:
    """One case: how it's run, and the least that it could cost."""

    name: str
    do: str  # what a contestant is asked for
    arguments: Callable[[], dict[str, Any]]  # of one round, the same for all contestants
    num_tokens: int  # written or read in the time measured
    num_forwards: int
    ops: int
    unit: str  # "tokens/s" or "ms"

    def in_unit(self, seconds: float) -> float:
        return self.num_tokens / seconds if self.unit == "tokens/s" else seconds * 1e3


def measurements(ids: list[int], cost: ModelCost) -> list[Measurement]:
    """All cases of one model; `ids` is text to read. What must not have been run before begins with a new number."""
    fresh = itertools.count(1000)

    def new(num_tokens: int) -> list[int]:
        return [next(fresh), *ids[1:num_tokens]]

    def decode(name: str, do: str, context: int = CONTEXT, num_sequences: int = 1) -> Measurement:
        prompts = [ids[100 * i :][:context] for i in range(num_sequences)]
        num_ticks = NUM_DECODED if num_sequences == 1 else NUM_DECODED_MANY
        given = {"prompts": prompts} if num_sequences > 1 else {"token_ids": prompts[0]}
        num_ops = num_ticks * cost.forward_ops(num_sequences, num_sequences)
        given["num_tokens"] = num_ticks
        return Measurement(name, do, lambda: given, num_ticks * num_sequences, num_ticks, num_ops, "tokens/s")

    def catch_up(n: int) -> Measurement:
        given = {"token_ids": ids[:CONTEXT]}
        return Measurement(
            f"catch-up {n}", "extend", lambda: {**given, "new_ids": new(n)}, n, 1, cost.forward_ops(n), "ms"
        )

    ops = cost.forward_ops(PREFILL)
    return [
        decode(f"decode at {CONTEXT}", "decode"),
        decode(f"forward at {CONTEXT}", "decode_bare"),
        Measurement(f"prefill {PREFILL}", "prefill", lambda: {"token_ids": new(PREFILL)}, PREFILL, 1, ops, "tokens/s"),
        *(catch_up(n) for n in EXTENSIONS),
        *(decode(f"decode, {n} sequences", "decode_many", num_sequences=n) for n in SEQUENCES),
        decode(f"decode at {LONG_CONTEXT}", "decode", LONG_CONTEXT),
    ]


def bench_model(
    path: Path, contestants: list[Contestant], probe: CeilingProbe, num_threads: int, repeats: int, progress: tqdm
) -> tuple[list[Case], Ceilings]:
    """All cases of a model, and the ceilings in the same minutes."""
    ours = contestants[0]
    opened = [each.open([path], num_threads, CAPACITY) for each in contestants]
    ids = ours.call("encode", text=TEXT.read_text())["token_ids"]
    ids = (ids * (LONG_CONTEXT // len(ids) + 1))[:LONG_CONTEXT]
    cost = cost_of(path)
    cases = measurements(ids, cost)
    facts = {"model": path.name, "packed_bytes": opened[0]["packed_bytes"], **check(contestants, ids)}
    seconds: dict[tuple[str, str], list[float]] = {}
    samples: dict[str, list[Sample]] = {}
    for index in range(repeats + 1):
        for case in cases:
            samples.setdefault(case.name, []).append(probe.sample())
            given, able = case.arguments(), [each for each in contestants if each.can(case.do)]
            for each in able if index % 2 else reversed(able):
                progress.set_description(f"{path.name}: {case.name}: {each.name}")
                seconds.setdefault((case.name, each.name), []).append(each.call(case.do, **given)["seconds"])
            progress.update()
    measured = {key: values[1:] for key, values in seconds.items()}
    described = [describe(case, measured, contestants, cost, ceilings_of(samples[case.name][1:])) for case in cases]
    return [{**facts, **case} for case in described], ceilings_of([each for own in samples.values() for each in own])


def check(contestants: list[Contestant], ids: list[int]) -> Case:
    """What we decode must be what a prefill of the same tokens finds most likely; and how long the peers agree."""
    given = {"token_ids": ids[:CONTEXT], "num_tokens": NUM_DECODED}
    written = {each.name: each.call("decode", **given)["token_ids"][0] for each in contestants}
    ours, own = contestants[0], written[contestants[0].name]
    is_greedy = ours.call("is_greedy", token_ids=ids[:CONTEXT], written=own)["is_greedy"]
    peers = contestants[1:]
    return {
        "decode_equals_prefill": is_greedy,
        "num_checked": len(own),
        "tokens_equal_to_peer": {peer.name: common_prefix_len(own, written[peer.name]) for peer in peers},
    }


def describe(
    case: Measurement,
    seconds: dict[tuple[str, str], list[float]],
    contestants: list[Contestant],
    cost: ModelCost,
    ceilings: Ceilings,
) -> Case:
    """What was measured of one case, against the peers and against the machine."""
    ours = seconds[case.name, contestants[0].name]
    median = summary(ours)["median"]
    num_bytes = case.num_forwards * cost.weight_bytes
    memory_seconds = num_bytes / ceilings["read_bytes_per_s"]
    rate = max(filter(None, (ceilings[f"{name}_ops_per_s"] for name in ("int8", "bf16", "fp32"))), default=None)
    floor = max(memory_seconds, case.ops / rate) if rate else memory_seconds
    peers = {}
    for peer in contestants[1:]:
        if (case.name, peer.name) in seconds:
            taken = seconds[case.name, peer.name]
            values = summary([case.in_unit(value) for value in taken])
            peers[peer.name] = {**values, "times_as_fast": summary(taken)["median"] / median}
    return {
        "case": case.name,
        "unit": case.unit,
        **summary([case.in_unit(value) for value in ours]),
        "peers": peers,
        "ceilings": ceilings,
        "bytes": num_bytes,
        "ops": case.ops,
        "floor_seconds": floor,
        "share_of_floor": floor / median,
        "share_of_bandwidth": memory_seconds / median,
        **{
            f"share_of_{name}": case.ops / limit / median if (limit := ceilings[f"{name}_ops_per_s"]) else None
            for name in ("int8", "bf16")
        },
    }


def row(case: Case) -> Case:
    """The case as a line of the table."""
    peers = {}
    for name, peer in case["peers"].items():
        peers |= {name: peer["median"], f"times {name}": peer["times_as_fast"]}
    shown = ("p10", "p90", "share_of_bandwidth", "share_of_int8", "share_of_bf16")
    named = {"model": case["model"][:22], "case": case["case"], "unit": case["unit"], "ours": case["median"]}
    return {**named, **{key: case[key] for key in shown}, **peers}


def common_prefix_len(a: list[int], b: list[int]) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def main() -> None:
    """All models, one after the other."""
    parser = arguments(__doc__, repeats=7)
    parser.add_argument("--transformers", nargs="*", default=[], help="dtypes of transformers as a peer: float32 ...")
    args = parser.parse_args()
    cases, ceilings, versions = [], {}, {}
    num_cases = len(measurements([0], ModelCost(0, 0, 0, 0, 0)))
    with tqdm(total=len(args.models) * (args.repeats + 1) * num_cases) as progress:
        for path in args.models:
            with contextlib.ExitStack() as stack:
                makers = [contestant.glimp]
                if args.peer_python:
                    makers.append(lambda: contestant.llama_cpp(args.peer_python))
                    makers += [lambda d=d: contestant.transformers(args.peer_python, d) for d in args.transformers]
                contestants = [stack.enter_context(make()) for make in makers]
                probe = stack.enter_context(CeilingProbe(args.threads))
                of_model, ceilings[path.name] = bench_model(
                    path, contestants, probe, args.threads, args.repeats, progress
                )
                cases += of_model
                versions = {each.name: each.version for each in contestants}
    report(
        args.name or "decode",
        cases,
        ceilings,
        [row(case) for case in cases],
        threads=args.threads,
        contestants=versions,
    )


if __name__ == "__main__":
    main()
