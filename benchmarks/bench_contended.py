"""Decode while other processes keep all cores busy: our engine beside llama.cpp, in turn.

A thread that spins at a barrier until its siblings arrive wastes what the scheduler gives it, as the sibling may not be
running at all. So this is measured: the same decode on a quiet machine and beside one endless loop a core.
"""

import contextlib
import subprocess
import sys
from collections.abc import Iterator

import contestant
from bench_decode import CONTEXT, TEXT
from contestant import Contestant
from harness import MODELS, Case, arguments, report, summary
from tqdm import tqdm

CAPACITY = 1024
Speeds = dict[tuple[str, str], list[float]]  # (quiet or busy, contestant) -> tokens/s


@contextlib.contextmanager
def busy_cores(num_cores: int) -> Iterator[None]:
    """As many processes that do nothing, as fast as they can."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(num_cores)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def measure_decode(
    contestants: list[Contestant], ids: list[int], num_tokens: int, num_cores: int, repeats: int
) -> Speeds:
    """Tokens/s of all, in turn; the first round is not counted."""
    speeds: Speeds = {}
    with tqdm(total=2 * (repeats + 1) * len(contestants)) as progress:
        for index in range(repeats + 1):
            for state, num_loops in (("quiet", 0), ("busy", num_cores)):
                for each in contestants if index % 2 else reversed(contestants):
                    progress.set_description(f"{state}: {each.name}")
                    with busy_cores(num_loops):
                        seconds = each.call("decode", token_ids=ids, num_tokens=num_tokens)["seconds"]
                    speeds.setdefault((state, each.name), []).append(num_tokens / seconds)
                    progress.update()
    return {key: values[1:] for key, values in speeds.items()}


def describe(state: str, speeds: Speeds, contestants: list[Contestant]) -> Case:
    """One state of the machine, ours against the peers'."""
    ours = summary(speeds[state, contestants[0].name])
    peers = {}
    for peer in contestants[1:]:
        own = summary(speeds[state, peer.name])
        peers[peer.name] = {**own, "times_as_fast": ours["median"] / own["median"]}
    return {"case": f"decode at {CONTEXT}, {state} cores", "unit": "tokens/s", **ours, "peers": peers}


def row(case: Case) -> Case:
    """The case as a line of the table."""
    shown = {key: value for key, value in case.items() if key != "peers"}
    for name, peer in case["peers"].items():
        shown |= {name: peer["median"], f"times {name}": peer["times_as_fast"]}
    return shown


def main() -> None:
    """Both states of the machine, in turn."""
    parser = arguments(__doc__, repeats=3, models=MODELS[1:2])
    parser.add_argument("--num-tokens", type=int, default=32)
    args = parser.parse_args()
    with contextlib.ExitStack() as stack:
        contestants = [stack.enter_context(contestant.glimp())]
        if args.peer_python:
            contestants.append(stack.enter_context(contestant.llama_cpp(args.peer_python)))
        for each in contestants:
            each.open(args.models, args.threads, CAPACITY)
        ids = contestants[0].call("encode", text=TEXT.read_text())["token_ids"][:CONTEXT]
        speeds = measure_decode(contestants, ids, args.num_tokens, args.threads, args.repeats)
    cases = [describe(state, speeds, contestants) for state in ("quiet", "busy")]
    report(
        args.name or "contended",
        cases,
        ceilings={},
        rows=[row(case) for case in cases],
        threads=args.threads,
        model=args.models[0].name,
        contestants={each.name: each.version for each in contestants},
    )


if __name__ == "__main__":
    main()
