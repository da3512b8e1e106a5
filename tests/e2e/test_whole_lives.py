"""Whole lives of engines: whatever one request does, the others write what they write alone, and all pages come back.

GLIMP_LIVES_SECONDS=3600 lives on for an hour, from a seed of its own.
"""

import os
import random
import signal
import time

import pytest
from life import Life
from proposers import Whims
from random_requests import random_options

from glimp_engine import Engine
from glimp_engine.config import EngineConfig
from glimp_engine.load import load_models

NUM_ACTIONS = 260
SECONDS = float(os.environ.get("GLIMP_LIVES_SECONDS", 0))
TWINS = {"native ops": {}, "graphs": {"runs_ahead": False}, "running ahead": {"runs_ahead": True}}
NUM_LIVES = {"native ops": 16, "graphs": 2, "running ahead": 2}  # the twins' ops are ten times slower


@pytest.fixture(params=["small alone", "one vocabulary", "other special tokens", "two vocabularies"])
def paths(request, small_path, large_path, cousin_path, foreign_path):
    others = {"one vocabulary": large_path, "other special tokens": cousin_path, "two vocabularies": foreign_path}
    return (small_path, others.get(request.param, small_path))


@pytest.fixture
def interruptible():
    """Ctrl-C raises KeyboardInterrupt, which it doesn't in a process that was started in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.slow
@pytest.mark.parametrize("twin", TWINS)
def test_whole_lives(paths, twin, monkeypatch, interruptible):
    options = {"ops": "native" if twin == "native ops" else "reference", "dtype": "float32"}
    config = EngineConfig(**options, num_threads=1, device="cpu")
    models = load_models(*paths, config, config.make_ops())
    alone = Engine(*models, kv_cache_bytes=1 << 20, max_model_len=96, num_threads=1, device="cpu", **options)
    if TWINS[twin]:
        monkeypatch.setattr(EngineConfig, "has_graphs", True)
        monkeypatch.setattr(EngineConfig, "runs_ahead", TWINS[twin]["runs_ahead"])
    first = random.randrange(2**30) if SECONDS else 0
    ends = time.monotonic() + SECONDS / (4 * len(TWINS))
    seed = first
    while seed < first + NUM_LIVES[twin] or time.monotonic() < ends:
        live_once(seed, models, alone, options)
        seed += 1
    if SECONDS:
        print(f"{seed - first} lives from seed {first}")


def live_once(seed, models, alone, options):
    rng = random.Random(seed)
    num_streams = 1 if alone.has_one_vocabulary else 2
    bytes_per_token = sum(m.model.config.kv_bytes_per_token(m.model.kv_layout.dtype.itemsize) for m in models)
    engine = Engine(*models, **random_options(rng, num_streams, bytes_per_token), **options)
    if rng.random() < 0.5:  # else those that pay
        engine._loop.scheduler.proposing = Whims(seed, depth=rng.randint(1, 9), share_small=rng.random())
    life = Life(seed, engine, alone, is_exact=options["ops"] == "native")
    try:
        life.run(NUM_ACTIONS)
    except BaseException as error:
        error.add_note(f"seed {seed}")
        raise
    finally:
        life.restore()
