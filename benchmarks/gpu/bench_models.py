"""Whole models through the engine: decode, catch-up, a routed answer; transformers as the peer. One JSON line.

Parts: decode-4b, decode-32b, pair (4B and 32B together), invariant, peer. Weights are random, shapes are the real ones.
"""

import json
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from models import SHAPES, Shape, make_loaded, make_text
from timing import DEVICE, IS_REHEARSAL, ceilings, describe_device, quantiles

from glimp_engine import (
    Engine,
    Finish,
    LargeOnly,
    LoadedModel,
    RandomRouter,
    RoutingParams,
    SamplingParams,
    SmallOnly,
)
from glimp_engine.kernels.gpu.ops import TritonOps

CONTEXT, NUM_TOKENS, STEP_TOKENS = (40, 8, 4) if IS_REHEARSAL else (1024, 256, 32)
CATCH_UPS = (1, 16) if IS_REHEARSAL else (1, 16, 64, 128)
SMALL = SHAPES["tiny"] if IS_REHEARSAL else SHAPES["Qwen3-4B"]
LARGE = SHAPES["tiny"] if IS_REHEARSAL else SHAPES["Qwen3-32B"]
NO_LIMIT = {"max_thinking_tokens": 1 << 20, "max_answer_tokens": 1 << 20, "stop_repeated_steps": False}


def make_engine(*models: LoadedModel, **options: Any) -> Engine:
    """An engine with room for a few sequences."""
    kv_bytes = sum(m.model.config.kv_bytes_per_token(m.model.kv_layout.dtype.itemsize) for m in models)
    return Engine(
        *models, device=str(DEVICE), ops="triton", kv_cache_bytes=kv_bytes * 4 * (CONTEXT + NUM_TOKENS + 64), **options
    )


def prompt(seed: int, length: int = CONTEXT) -> list[int]:
    """Ids of ordinary words."""
    return torch.randint(300, SMALL.vocab_size, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def weight_bytes(shape: Shape) -> int:
    """That one token's forward reads: every matrix once, of the embedding a row."""
    q = shape.num_heads * shape.head_dim
    kv = shape.num_kv_heads * shape.head_dim
    layer = shape.hidden_size * (2 * q + 2 * kv + 3 * shape.intermediate_size)
    return 2 * (shape.num_layers * layer + shape.hidden_size * shape.vocab_size)


def run_request(engine: Engine, router: object, seed: int, temperature: float = 1.0) -> dict:
    """Milliseconds of each tick while one answer of NUM_TOKENS is written, and which model wrote the token."""
    sampling = SamplingParams(temperature=temperature, seed=seed, max_tokens=NUM_TOKENS)
    engine.add_request(
        "r", prompt(seed), sampling, RoutingParams(router=router, max_step_tokens=STEP_TOKENS, **NO_LIMIT)
    )
    ticks, is_finished, began = [], False, time.perf_counter()
    while not is_finished:
        start = time.perf_counter()
        events = engine.advance()
        ticks.append((1e3 * (time.perf_counter() - start), [str(e.model) for e in events if hasattr(e, "token_id")]))
        is_finished = any(isinstance(event, Finish) for event in events)
    first = next(i for i, (_, models) in enumerate(ticks) if models)
    return {"ticks": ticks[first + 1 :], "seconds": time.perf_counter() - began}


def decode(shape: Shape, ops: TritonOps, chip: dict[str, float], **options: Any) -> dict:
    """Tokens a second of one model alone at CONTEXT, with the loop on the device and on the host, and its catch-ups."""
    model = make_loaded(shape, ops, make_text(shape.vocab_size))
    num_bytes = weight_bytes(shape) + shape.config().kv_bytes_per_token(2) * (CONTEXT + NUM_TOKENS // 2)
    floor_us = 1e6 * num_bytes / chip["read_bytes_per_s"]
    host = token_time(make_engine(model, loop="host", **options))
    engine = make_engine(model, **options)
    time_us = token_time(engine)
    return {
        "case": f"decode {shape.name} at {CONTEXT}{' batch-invariant' * ops.batch_invariant}",
        **time_us,
        "tokens_per_s": 1e6 / time_us["median_us"],
        "bytes": num_bytes,
        "floor_us": floor_us,
        "share_of_floor": floor_us / time_us["median_us"],
        "runs_ahead": engine.config.runs_ahead,
        "host_loop_us": host["median_us"],
        "times_host_loop": host["median_us"] / time_us["median_us"],
        "catch_up_us": {str(n): catch_up(engine, n) for n in CATCH_UPS},
        "peak_bytes": peak_bytes(),
    }


def token_time(engine: Engine) -> dict[str, float]:
    """Microseconds of a decoding tick."""
    run_request(engine, SmallOnly(), seed=0)  # records the graphs
    return quantiles([1e3 * ms for ms, models in run_request(engine, SmallOnly(), seed=1)["ticks"] if models])


def catch_up(engine: Engine, num_tokens: int) -> float:
    """Median microseconds of a tick that runs num_tokens after a prefix that is known."""
    spans = []
    for seed in range(5 if not IS_REHEARSAL else 1):
        base = prompt(100 + seed)
        for length in (CONTEXT - 160 if not IS_REHEARSAL else 16, None):
            ids = (
                base[:length] if length else base[: (CONTEXT - 160 if not IS_REHEARSAL else 16)] + prompt(7, num_tokens)
            )
            engine.add_request("c", ids, SamplingParams(temperature=0, max_tokens=1), RoutingParams(router=SmallOnly()))
            while not any(isinstance(event, Finish) for event in timed(engine, spans, is_counted=length is None)):
                pass
    return quantiles(spans)["median_us"]


def timed(engine: Engine, spans: list[float], is_counted: bool) -> list:
    """One tick's events; its microseconds go to spans."""
    began = time.perf_counter()
    events = engine.advance()
    if is_counted:
        spans.append(1e6 * (time.perf_counter() - began))
    return events


def pair(ops: TritonOps, chip: dict[str, float]) -> list[dict]:
    """Both models in one engine: each alone, and a quarter of the steps by the large one."""
    text = make_text(SMALL.vocab_size)
    engine = make_engine(make_loaded(SMALL, ops, text), make_loaded(LARGE, ops, text, seed=1))
    cases, alone_us = [], {}
    for name, router in (("small only", SmallOnly()), ("large only", LargeOnly()), ("routed", RandomRouter(0.25))):
        run_request(engine, router, seed=0)
        run_request(engine, router, seed=1)  # buckets that the first one didn't meet
        before = engine.stats()
        run = run_request(engine, router, seed=2)
        after = engine.stats()
        written = [model for _, models in run["ticks"] for model in models]
        writers = [(ms, models[0]) for ms, models in run["ticks"] if models]
        taken_over = [1e3 * ms for (_, last), (ms, writer) in pairwise(writers) if (last, writer) == ("small", "large")]
        total_us = 1e3 * sum(ms for ms, _ in run["ticks"])
        per_token_us = total_us / max(len(written), 1)
        alone_us[name] = per_token_us
        share = written.count("large") / max(len(written), 1)
        weighted_us = share * alone_us.get("large only", 0) + (1 - share) * alone_us.get("small only", 0)
        cases.append(
            {
                "case": f"pair {SMALL.name} + {LARGE.name}, {name}",
                "median_us": per_token_us,
                "tokens_per_s": 1e6 / per_token_us,
                "share_of_large_tokens": share,
                "weighted_sum_us": weighted_us if name == "routed" else None,
                "share_of_weighted_sum": weighted_us / per_token_us if name == "routed" else None,
                "hand_over_to_large_us": quantiles(taken_over)["median_us"] if taken_over else None,
                "hand_overs": after.hand_overs - before.hand_overs,
                "recomputed_tokens": after.recomputed_tokens,
            }
        )
    return [*cases, {"case": "memory", "peak_bytes": peak_bytes(), "ceilings": chip}]


def peer(shape: Shape) -> dict:
    """transformers with a static cache and a compiled forward, greedy, from the same length of prompt."""
    from transformers import AutoModelForCausalLM, Qwen3Config

    config = Qwen3Config(
        vocab_size=shape.vocab_size,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        num_key_value_heads=shape.num_kv_heads,
        head_dim=shape.head_dim,
        max_position_embeddings=40960,
        tie_word_embeddings=shape.tied_embeddings,
    )
    with torch.device(DEVICE):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32 if IS_REHEARSAL else torch.bfloat16).eval()
    ids = torch.tensor([prompt(0)], device=DEVICE)
    options = {"do_sample": False, "cache_implementation": "static", "eos_token_id": None, "pad_token_id": 0}

    def seconds(num_tokens: int) -> float:
        began = time.perf_counter()
        model.generate(ids, max_new_tokens=num_tokens, min_new_tokens=num_tokens, **options)
        return time.perf_counter() - began

    short, long = (4, 8) if IS_REHEARSAL else (32, 160)
    if not IS_REHEARSAL:
        model.forward = torch.compile(model.forward, mode="reduce-overhead", fullgraph=True)
    seconds(short), seconds(long)
    spans = [1e6 * (seconds(long) - seconds(short)) / (long - short) for _ in range(1 if IS_REHEARSAL else 5)]
    return {
        "case": f"transformers {shape.name} at {CONTEXT}",
        **quantiles(spans),
        "tokens_per_s": 1e6 / quantiles(spans)["median_us"],
    }


def peak_bytes() -> int | None:
    return None if IS_REHEARSAL else torch.cuda.max_memory_allocated()


def main() -> None:
    """The parts named in the arguments, or all."""
    ops, chip, cases = TritonOps(DEVICE), ceilings(), []
    parts: dict[str, Callable[[], list[dict]]] = {
        "decode-4b": lambda: [decode(SMALL, ops, chip)],
        "decode-32b": lambda: [decode(LARGE, ops, chip)],
        "pair": lambda: pair(ops, chip),
        "invariant": lambda: [decode(SMALL, TritonOps(DEVICE, batch_invariant=True), chip, batch_invariant=True)],
        "peer": lambda: [peer(SMALL)],
    }
    for name in sys.argv[1:] or parts:
        cases += parts[name]()
        print(cases[-1], file=sys.stderr)
    print(json.dumps({"device": describe_device(), "ceilings": chip, "cases": cases}))


if __name__ == "__main__":
    main()
