"""How long a sequence may be, and what is made for it: tables as long as max_model_len, not as the file's promise."""

import json
import shutil

import pytest
import torch
from tiny import make_text
from unit.test_gguf import make_model, write_model

from glimp_engine import ConfigError, Engine, LoadedModel, SamplingParams
from glimp_engine.checkpoints.checkpoint import load_checkpoint
from glimp_engine.kernels.reference import ReferenceOps
from glimp_engine.models.decoder import Decoder

GREEDY = SamplingParams(temperature=0, max_tokens=8)


@pytest.fixture
def path(small_path, tmp_path):
    return shutil.copytree(small_path, tmp_path / "model")


def edit(path, **values):
    file = path / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def tables(engine):
    return [tuple(runner.kv.cos_sin.shape) for runner in engine._loop.runners]


def ids(engine, prompt="abc"):
    return engine.generate(prompt, GREEDY, use_tqdm=False)[0].outputs[0].token_ids


@pytest.mark.parametrize("ops", ["native", "reference"])
def test_tables_are_as_long_as_max_model_len(path, ops):
    """493 MB a model they were, of a context of a million; and of one of 2^31 all the memory."""
    expected = ids(Engine(path, ops=ops, kv_cache_bytes=1 << 20))
    for context in (1 << 20, 1 << 31, 1 << 39):
        edit(path, max_position_embeddings=context)
        engine = Engine(path, path, ops=ops, kv_cache_bytes=1 << 20, max_model_len=100)
        assert tables(engine) == [(100, 2, 4)] * 2
        assert ids(Engine(path, ops=ops, kv_cache_bytes=1 << 20)) == expected
    with pytest.raises(ConfigError, match="max_model_len is 33554432; the models' context allows 16777216"):
        Engine(path, ops=ops, max_model_len=1 << 25)


def test_a_gguf_file_that_says_any_context(tmp_path):
    file = write_model(tmp_path, make_model("qwen2"), "qwen2", {"qwen2.context_length": 2**31})
    engine = Engine(file, kv_cache_bytes=1 << 20)
    assert tables(engine) == [(engine.max_model_len, 2, 8)]
    assert engine.max_model_len * make_kv_bytes(engine) <= 1 << 20
    assert len(ids(engine)) == 8


def make_kv_bytes(engine):
    model = engine._loop.runners[0].model
    return model.config.kv_bytes_per_token(model.kv_layout.dtype.itemsize)


def test_the_last_position_is_written_and_no_more(path):
    edit(path, max_position_embeddings=1 << 20)
    engine = Engine(path, kv_cache_bytes=1 << 20, max_model_len=24)
    output = engine.generate([[70] * 20], SamplingParams(temperature=0, max_tokens=99), use_tqdm=False)[0].outputs[0]
    assert (len(output.token_ids), str(output.finish_reason)) == (4, "length")


def test_a_model_that_is_loaded_once_serves_engines_of_any_length(path):
    """Its table isn't its own: with dynamic scaling it differs from engine to engine."""
    edit(path, max_position_embeddings=32, rope_scaling={"rope_type": "dynamic", "factor": 8.0})
    config, weights = load_checkpoint(path, torch.float32, torch.device("cpu"))
    loaded = LoadedModel(Decoder(config, weights, ReferenceOps()), make_text())
    engines = [Engine(loaded, ops="reference", kv_cache_bytes=1 << 20, max_model_len=n) for n in (None, 32, 200)]
    assert [engine.max_model_len for engine in engines] == [32, 32, 200]  # what the model was trained for, by default
    first, second, third = (engine._loop.runners[0].kv.cos_sin[:32] for engine in engines)
    assert torch.equal(first, second)
    assert not torch.equal(first, third)


def test_a_window_is_the_reason_that_is_given(path):
    edit(path, sliding_window=100, use_sliding_window=True, max_window_layers=0, layer_types=None)
    engine = Engine(path, kv_cache_bytes=1 << 20)
    assert engine.max_model_len == 100
    with pytest.raises(ConfigError, match=r"context allows 100, as .*config\.json has sliding_window"):
        Engine(path, kv_cache_bytes=1 << 20, max_model_len=101)


def test_yarn_as_a_model_card_says(path):
    rope_scaling = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512}
    with pytest.raises(ConfigError, match="max_model_len is 2048; the models' context allows 512"):
        Engine(path, max_model_len=2048)
    edit(path, rope_scaling=rope_scaling)
    assert Engine(path, max_model_len=2048).max_model_len == 2048
