"""What the engine's Python takes a tick and a token, on models that cost nothing.

With `loop` host the forwards are rows of a table, and the native `sample` of a vocabulary of some hundred tokens is
what is left of the ops. With `loop` device the model decodes on by itself, 16 ticks a launch, as the native library
does, and its samples are the table's. Microseconds of the main thread's own time: of an `advance` in the mean, with
what one reads from memory still in the processor's caches, and after 64 MB of something else were read, as a forward
does: before each tick, or before each launch. Then once more with a clock around each part, where `plan` has
`proposing` in it. What grows with the context or with the queue is a fault.

Then what aborting 1,000 of 10,000 requests takes that wait.
"""

import gc
import math
import random
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import Case, arguments, report, summary
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from tiny import ScriptedModel

from glimp_engine import Engine, RoutingParams, SamplingParams, SmallOnly
from glimp_engine.demo_pair import SMALL
from glimp_engine.execution import NativeRunner
from glimp_engine.execution.batch import Batch
from glimp_engine.execution.run_ahead import DecodeLoop, loop_inputs, loop_state
from glimp_engine.load import LoadedModel
from glimp_engine.sequences import Launches, Sequence
from glimp_engine.text import Text

ROOM = 8192  # tokens that each may write: while the last prompts are read, the first sequences write on
NUM_ROWS = 4096  # of the table: positions that far apart say the same
SIZES = [  # sequences that run, that wait, tokens of each prompt
    *[(running, 0, 100) for running in (1, 8, 64, 256)],
    *[(64, waiting, 100) for waiting in (1000, 10_000)],
    *[(64, 0, context) for context in (8000, 16_000)],
]
CASES = [(loop, *sizes) for sizes in SIZES for loop in ("host", "device")]


class FreeModel(ScriptedModel):
    """A forward that looks its logits up by position: no weights, and K/V that nobody reads."""

    weight_bytes = 1 << 20

    def __init__(self, text: Text) -> None:
        vocab_size = text.num_tokens
        super().__init__(None, vocab_size, max_positions=1 << 15)
        words = [i for i in range(vocab_size) if text.bytes_of(i).isalnum()]  # none ends a step
        self._table = torch.zeros(NUM_ROWS, vocab_size)
        self._table[range(NUM_ROWS), random.Random(0).choices(words, k=NUM_ROWS)] = 20.0
        self.seconds = 0.0

    def forward(
        self, token_ids: Tensor, batch: Any, logit_rows: Tensor, kv: Any, num_logits: int | None = None
    ) -> Tensor:
        began = time.thread_time()
        logits = self._table[batch.positions[logit_rows] % NUM_ROWS]
        self.seconds += time.thread_time() - began
        return logits


class FreeRunner(NativeRunner):
    """Launches whose ticks are there at once; what the host does for one is done."""

    def _decode(self, batch: Batch, max_ticks: int, loop: DecodeLoop) -> None:
        inputs = {"position": batch.sampling.position, "token_ids": batch.token_ids, **vars(batch.attention)}
        loop_state(loop, {**inputs, **loop_inputs(batch.rows, max_ticks)}, self.kv.page_size)
        began = time.thread_time()
        places = batch.attention.positions + torch.arange(max_ticks)[:, None]
        loop.sample_values["token"][:max_ticks] = self.model._table[places % NUM_ROWS].argmax(-1)
        loop.flag_values[:2] = max_ticks, True
        self.model.seconds += time.thread_time() - began


class Clocks:
    """Seconds of the thread, by part, and how often."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    def around(self, owner: Any, name: str, part: str) -> None:
        """Let calls of owner.name be timed from now on."""
        setattr(owner, name, partial(self._timed, getattr(owner, name), part))

    def _timed(self, run: Callable[..., Any], part: str, *args: Any, **options: Any) -> Any:
        began = time.thread_time()
        result = run(*args, **options)
        self.seconds[part] += time.thread_time() - began
        return result


def start(loop: str, running: int, waiting: int, context: int, text: Text) -> tuple[Engine, FreeModel]:
    """An engine whose running sequences decode, and go on for longer than anybody looks."""
    model = FreeModel(text)
    engine = Engine(
        LoadedModel(model, text),
        kv_cache_bytes=(running * (context + ROOM) + (1 << 16)) * 32,
        max_batch_size=running,
        max_model_len=context + ROOM,
        loop=loop,
    )
    if loop == "device":
        run_ahead(engine)
    rng = random.Random(1)
    sampling = SamplingParams(temperature=0, max_tokens=ROOM - 1)
    for index in range(running + waiting):
        # one wait is as long as another: it's the queue's length that may matter
        prompt = rng.choices(range(20, 200), k=context if index < running else 10)
        engine.add_request(str(index), prompt, sampling, RoutingParams(router=SmallOnly(), stop_repeated_steps=False))
    written = set()
    while len(written) < running:
        written |= {event.request_id for event in engine.advance() if hasattr(event, "token_id")}
    return engine, model


def run_ahead(engine: Engine) -> None:
    """Let its model decode on by itself."""
    (plain,) = engine._loop.runners
    boundaries, max_ticks = engine._voices[0].boundaries, engine.config.max_ticks
    engine._loop.runners[0] = FreeRunner(
        plain.model, plain._ops, plain.kv, plain._token_class, plain._forbidden_ids, boundaries, max_ticks
    )
    engine._loop.scheduler.launches = Launches(
        [max_ticks], math.inf, engine._loop.times, engine._loop.scheduler.proposing, engine._loop.pool
    )


def ticks(engine: Engine, model: FreeModel, num_ticks: int, before: Callable[[], object]) -> list[float]:
    """Thread's microseconds of each tick, without the forward's."""
    times = []
    for _ in range(num_ticks):
        if engine._loop._started is None:
            before()
        forward, began = model.seconds, time.thread_time()
        engine.advance()
        times.append(1e6 * (time.thread_time() - began - (model.seconds - forward)))
    return times


def parts(engine: Engine, num_ticks: int) -> dict[str, float]:
    """Microseconds a tick of what can be told apart."""
    clocks, loop = Clocks(), engine._loop
    clocks.around(loop.scheduler, "_propose", "proposing")
    clocks.around(loop.scheduler, "plan", "plan")
    clocks.around(loop.runners[0], "sample", "sample")
    clocks.around(loop.runners[0], "start", "launch")
    clocks.around(loop.scheduler, "go_on", "going on")
    clocks.around(loop.meter, "count_forward", "counters")
    clocks.around(loop.meter, "count_decodes", "counters")
    clocks.around(loop, "_deliver", "events")
    clocks.around(loop._batches, "of", "batch")
    unwrapped = Sequence.take, Sequence.follow
    for name in ("take", "follow"):
        original = getattr(Sequence, name)

        def timed(self: Sequence, *args: Any, run: Callable[..., Any] = original) -> Any:
            return clocks._timed(run, "sequence", self, *args)

        setattr(Sequence, name, timed)
    try:
        for _ in range(num_ticks):
            engine.advance()
    finally:
        Sequence.take, Sequence.follow = unwrapped
    return {part: 1e6 * seconds / num_ticks for part, seconds in clocks.seconds.items()}


def measure_case(loop: str, running: int, waiting: int, context: int, text: Text, num_ticks: int) -> Case:
    """Warm, cold, and by part."""
    engine, model = start(loop, running, waiting, context, text)
    something = np.zeros(16 << 20, np.float32)
    gc.collect()
    ticks(engine, model, 20, lambda: None)
    warm = ticks(engine, model, num_ticks, lambda: None)
    cold = ticks(engine, model, num_ticks, lambda: something.sum())
    case = {"loop": loop, "running": running, "waiting": waiting, "context": context}
    return {
        **case,
        "tick_us": summary(warm),
        "cold_tick_us": summary(cold),
        "token_us": typical(warm) / running,
        "cold_token_us": typical(cold) / running,
        "parts_us": parts(engine, num_ticks),
    }


def typical(times: list[float]) -> float:
    """The median of means over 48 ticks, as a launch's first tick takes longer than its others."""
    return statistics.median(statistics.fmean(times[i : i + 48]) for i in range(0, len(times) - 47, 48))


def measure_aborts(text: Text) -> Case:
    """Milliseconds for a thousand of ten thousand that wait."""
    engine, _ = start("device", 64, 10_000, 100, text)
    chosen = random.Random(2).sample(range(64, 10_064), 1000)
    began = time.perf_counter()
    for index in chosen:
        engine.abort(str(index))
    return {"loop": "device", "running": 64, "waiting": 10_000, "abort_1000_ms": 1e3 * (time.perf_counter() - began)}


def main() -> None:
    """All cases, one after the other."""
    parser = arguments(__doc__, repeats=240, models=())
    args = parser.parse_args()
    text = Text.load(SMALL, 641)
    cases = [measure_case(*case, text, args.repeats) for case in CASES] + [measure_aborts(text)]
    report(args.name or "host", cases, {"machine": {}}, [row(case) for case in cases])


def row(case: Case) -> Case:
    """The case as a line of the table."""
    shown = {key: value for key, value in case.items() if not isinstance(value, dict)}
    return {**shown, **case.get("parts_us", {})}


if __name__ == "__main__":
    main()
