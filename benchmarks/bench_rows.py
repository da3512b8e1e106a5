"""A forward by its number of rows, on each code path that this processor has: what a row more costs.

The rows are the next tokens of one sequence, as a draft's are when it's verified, and each row's logits are made; of
512 rows, a prompt's, only the last one's. `--before` names a library built from another commit, for example in another
directory: it takes turns with this one, so both see the same minutes of the machine.
"""

import time
import weakref
from pathlib import Path

import torch
from ceilings import measure_ceilings
from harness import MODELS, Case, arguments, report, summary
from ours import PAGE_SIZE, attention
from tqdm import tqdm

from glimp_engine.checkpoints.checkpoint import open_checkpoint
from glimp_engine.errors import ConfigError
from glimp_engine.kernels.abi import LIBRARY, PATHS, load_library
from glimp_engine.kernels.native import NativeOps, create_cpu
from glimp_engine.models.kv_store import KVStore
from glimp_engine.models.native_decoder import NativeDecoder
from glimp_engine.models.native_weights import read_weights

CONTEXT = 256  # tokens before the rows
ROWS = (1, 2, 4, 8, 16, 32, 512)
PROMPT_ROWS = 512
PROMPT_TURNS = 5  # a prompt is run in one turn of so many
SLOW = ("best", "portable")  # best is one of the others; portable takes seconds a row


class LibraryOps(NativeOps):
    """NativeOps of a library that isn't the package's own."""

    def __init__(self, library: Path, num_threads: int, path: str) -> None:
        self.library = load_library(library)
        self.cpu = create_cpu(self.library, num_threads, path)
        weakref.finalize(self, self.library.glimp_cpu_destroy, self.cpu)


def ops_by_path(library: Path, num_threads: int) -> dict[str, NativeOps]:
    """One op set for each code path that can run here."""
    found = {}
    for path in set(PATHS) - set(SLOW):
        try:
            found[path] = LibraryOps(library, num_threads, path)
        except ConfigError:
            continue
    return dict(sorted(found.items()))


class Contestant:
    """A model on one code path of one library, with K/V of its own."""

    def __init__(self, name: str, decoder: NativeDecoder) -> None:
        self.name = name
        self.decoder = decoder
        length = CONTEXT + max(ROWS)
        num_pages = -(-length // PAGE_SIZE)
        self.kv = KVStore(decoder.config, num_pages, PAGE_SIZE, decoder.kv_layout, decoder.device, length)
        self.ids = torch.arange(length) * 7919 % decoder.config.vocab_size
        decoder.forward(self.ids[:CONTEXT], attention(0, CONTEXT), torch.tensor([CONTEXT - 1]), self.kv)

    def forward(self, num_rows: int) -> torch.Tensor:
        asked = torch.tensor([num_rows - 1]) if num_rows == PROMPT_ROWS else torch.arange(num_rows)
        ids, batch = self.ids[CONTEXT : CONTEXT + num_rows], attention(CONTEXT, CONTEXT + num_rows)
        return self.decoder.forward(ids, batch, asked, self.kv)


def main() -> None:
    """Every number of rows with every contestant in turn, `--repeats` times; all must give the same logits."""
    parser = arguments(__doc__ or "", 15, MODELS[2:])
    parser.add_argument("--before", type=Path, help="a libglimp.so to be compared with")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    libraries = {"after": LIBRARY} if args.before is None else {"before": args.before.resolve(), "after": LIBRARY}
    ops = {name: ops_by_path(library, args.threads) for name, library in libraries.items()}
    ceilings, cases = measure_ceilings(args.threads), []
    for model in args.models:
        config, tensors = open_checkpoint(model)
        weights = read_weights(model, tensors, next(iter(ops["after"].values())), None, None)
        contestants = [
            Contestant(f"{path} {name}", NativeDecoder(config, weights, by_path[path]))
            for path in ops["after"]
            for name, by_path in ops.items()
        ]
        cases += [{"model": model.stem, **case} for case in bench(contestants, args.repeats)]
    shown = rows_of_table(cases)
    report(args.name or "rows", cases, ceilings, shown, threads=args.threads, context=CONTEXT, repeats=args.repeats)


def bench(contestants: list[Contestant], repeats: int) -> list[Case]:
    """Milliseconds by contestant and number of rows."""
    for num_rows in ROWS[:-1]:
        logits = [contestant.forward(num_rows).clone() for contestant in contestants]
        assert all(torch.equal(other, logits[0]) for other in logits), "the code paths differ"
    times: dict[tuple[str, int], list[float]] = {(c.name, n): [] for c in contestants for n in ROWS}
    for turn in tqdm(range(repeats)):
        for num_rows in ROWS if turn % PROMPT_TURNS == 0 else ROWS[:-1]:
            for contestant in contestants:
                times[contestant.name, num_rows].append(timed(contestant, num_rows))
    return [{"contestant": name, "rows": n, **summary(values)} for (name, n), values in times.items()]


def timed(contestant: Contestant, num_rows: int) -> float:
    """Milliseconds of a forward that follows one of one row, with which the threads are awake."""
    contestant.forward(1)
    began = time.perf_counter()
    contestant.forward(num_rows)
    return (time.perf_counter() - began) * 1e3


def rows_of_table(cases: list[Case]) -> list[Case]:
    """One line a contestant: ms of each number of rows, and as a multiple of one row."""
    lines: dict[tuple[str, str], Case] = {}
    for case in cases:
        key = (case["model"], case["contestant"])
        line = lines.setdefault(key, {"model": case["model"], "ms of": case["contestant"]})
        one = line.get("1", case["median"])
        line[str(case["rows"])] = case["median"]
        if 1 < case["rows"] < PROMPT_ROWS:
            line[f"x{case['rows']}"] = case["median"] / one
    return list(lines.values())


if __name__ == "__main__":
    main()
