"""Peak memory and loading: a fresh process loads a model, with K/V of the same number of tokens, and decodes.

Peak memory is VmHWM: pages of a mapped file count as far as they have been touched. What a Python with its imports
takes alone stands beside it. Loading is compared with reading the file, as it lies in the page cache, into new memory.
"""

import time
from collections.abc import Callable
from pathlib import Path

import contestant
import numpy as np
from bench_decode import CONTEXT, TEXT
from contestant import Contestant
from costs import ModelCost, cost_of
from harness import Case, arguments, report, summary
from tqdm import tqdm

NUM_TOKENS = 4096  # of K/V; all of them are written
NUM_DECODED = 32
KV_BYTES = 2  # of an element in fp16, which llama.cpp stores


def run_once(make: Callable[[], Contestant], path: Path, num_threads: int, ids: list[int]) -> Case:
    """One process's life: its peak after the imports, after a prompt that fills the K/V, and how long it loaded."""
    with make() as each:
        opened = each.open([path], num_threads, NUM_TOKENS)
        decoded = each.call("decode", token_ids=ids[: NUM_TOKENS - 2 * NUM_DECODED], num_tokens=NUM_DECODED)
        return {
            "version": each.version,
            "load_seconds": opened["seconds"],
            "import_bytes": each.import_rss_bytes,
            "peak_bytes": decoded["peak_rss_bytes"],
            "loaded_bytes": opened["peak_rss_bytes"],
        }


def read_seconds(path: Path) -> float:
    """Seconds that reading the whole file takes, the page cache being warm and the memory new, as a loader's is."""
    began = time.perf_counter()
    np.fromfile(path, np.uint8)
    return time.perf_counter() - began


def describe(path: Path, name: str, runs: list[Case], reads: list[float], cost: ModelCost) -> Case:
    """Medians of one contestant with one model."""
    median = {key: summary([run[key] for run in runs])["median"] for key in runs[0] if key != "version"}
    kv_bytes = cost.kv_elements * KV_BYTES * NUM_TOKENS
    own_bytes = median["peak_bytes"] - median["import_bytes"]
    return {
        "model": path.name,
        "contestant": name,
        "peak_bytes": median["peak_bytes"],
        "import_bytes": median["import_bytes"],
        "own_bytes": own_bytes,
        "own_bytes_loaded": median["loaded_bytes"] - median["import_bytes"],
        "file_bytes": cost.file_bytes,
        "kv_bytes_in_fp16": kv_bytes,
        "allowed_bytes": 1.2 * cost.file_bytes + kv_bytes,
        "share_of_allowed": own_bytes / (1.2 * cost.file_bytes + kv_bytes),
        "load_seconds": median["load_seconds"],
        "read_seconds": summary(reads)["median"],
        "times_reading": median["load_seconds"] / summary(reads)["median"],
        "num_runs": len(runs),
    }


def row(case: Case) -> Case:
    """The case as a line of the table, in MB."""
    sizes = {key.replace("_bytes", "_MB"): value / 1e6 for key, value in case.items() if "bytes" in key}
    return {**{key: value for key, value in case.items() if "bytes" not in key}, **sizes}


def main() -> None:
    """All models, each contestant in turn, each time in a new process."""
    args = arguments(__doc__, repeats=3).parse_args()
    makers = {"glimp": contestant.glimp}
    if args.peer_python:
        makers["llama.cpp"] = lambda: contestant.llama_cpp(args.peer_python)
    cases, versions = [], {}
    with tqdm(total=len(args.models) * args.repeats * len(makers)) as progress:
        for path in args.models:
            runs: dict[str, list[Case]] = {name: [] for name in makers}
            reads = []
            ids = token_ids(path, args.threads)
            for _ in range(args.repeats):
                reads.append(read_seconds(path))
                for name, make in makers.items():
                    progress.set_description(f"{path.name}: {name}")
                    runs[name].append(run_once(make, path, args.threads, ids))
                    progress.update()
            versions = {name: own[0]["version"] for name, own in runs.items()}
            cases += [describe(path, name, own, reads, cost_of(path)) for name, own in runs.items()]
    facts = {"threads": args.threads, "num_tokens": NUM_TOKENS, "contestants": versions}
    report(args.name or "memory", cases, {}, [row(case) for case in cases], **facts)


def token_ids(path: Path, num_threads: int) -> list[int]:
    """NUM_TOKENS ids of text."""
    with contestant.glimp() as ours:
        ours.open([path], num_threads, CONTEXT)
        ids = ours.call("encode", text=TEXT.read_text())["token_ids"]
    return (ids * (NUM_TOKENS // len(ids) + 1))[:NUM_TOKENS]


if __name__ == "__main__":
    main()
