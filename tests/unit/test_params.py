"""Every field of the parameters and of the engine's settings: what it refuses, and what it says then."""

import math

import pytest
import torch

from glimp_engine import ConfigError, RoutingParams, SamplingParams
from glimp_engine.config import EngineConfig

NAN, INF = math.nan, math.inf
BAD_SAMPLING = {
    "temperature": [-0.1, NAN, INF, "1", None, True],
    "top_p": [0, 0.0, -1, 1.1, NAN, None],
    "top_k": [-2, 1.5, "5", None, True, 2**31],
    "min_p": [-0.1, 1.1, NAN, None],
    "repetition_penalty": [0, -1, NAN, INF, None],
    "presence_penalty": [-2.1, 2.1, NAN, None],
    "frequency_penalty": [-2.1, 2.1, NAN, None],
    "seed": [1.0, "1", 2**63, -(2**63) - 1, True],
    "stop": ["", [""], ["a", ""], ["a", 1], 7, {"a"}, [None]],
    "n": [0, -1, 1.0, 1025, None, True],
    "max_tokens": [0, -1, 1.5, "9"],
    "logprobs": [-1, 21, 1.0, True],
}
GOOD_SAMPLING = {
    "temperature": [0, 0.0, 1, 2.5],
    "top_p": [1e-9, 1, 1.0],
    "top_k": [-1, 0, 1, 2**31 - 1],
    "min_p": [0, 1],
    "repetition_penalty": [0.1, 1, 2],
    "presence_penalty": [-2, 2],
    "frequency_penalty": [-2, 2],
    "seed": [None, 0, -(2**63), 2**63 - 1],
    "stop": [(), "a", ["a", "b"], None],
    "n": [1, 1024],
    "max_tokens": [None, 1],
    "logprobs": [None, 0, 20],
}
BAD_ROUTING = {
    "router": [None, "glimp", 1.0, type],
    "answer_model": ["", "both", None, 1],
    "max_thinking_tokens": [-1, 1.0, None],
    "max_step_tokens": [0, -1, 1.0, None],
    "max_answer_tokens": [0, -1, 1.0],
    "glimpse_logprobs": [-1, 21, 1.0, None, True],
    "stop_repeated_steps": [1, None, "yes"],
    "chat_template_kwargs": [None, "enable_thinking", ["enable_thinking"], {1: True}],
}
BAD_ENGINE = {
    "device": ["gpu", "mps", "cuda:x", 3, None],
    "dtype": ["int8", "fp16", None, torch.float32],
    "ops": ["fast", None],
    "loop": ["gpu", None],
    "quantization": ["int2", "q4_1", 8, True],
    "num_threads": [0, -1, 1.5, "2", True],
    "kv_cache_bytes": [0, -1, 1.5, "1GB"],
    "page_size": [0, -16, 1.0, 1025, None],
    "max_model_len": [0, 1, 10.0],
    "max_batch_size": [0, 4097, None, True],
    "max_batch_tokens": [0, 63, 100.0],  # 63: fewer than one for each of the 64 sequences
}


def each(table):
    return [pytest.param(field, value, id=f"{field}={value!r}") for field in table for value in table[field]]


def refused(params, field, value):
    with pytest.raises(ConfigError) as caught:
        params(**{field: value})
    assert str(caught.value).startswith(f"{field} is {value!r}")
    assert "allowed: " in str(caught.value) or "available here: " in str(caught.value)


@pytest.mark.parametrize(("field", "value"), each(BAD_SAMPLING))
def test_sampling_refuses(field, value):
    refused(SamplingParams, field, value)


@pytest.mark.parametrize(("field", "value"), each(GOOD_SAMPLING))
def test_sampling_takes(field, value):
    SamplingParams(**{field: value})


@pytest.mark.parametrize(("field", "value"), each(BAD_ROUTING))
def test_routing_refuses(field, value):
    refused(RoutingParams, field, value)


@pytest.mark.parametrize(("field", "value"), each(BAD_ENGINE))
def test_the_engine_refuses(field, value):
    def config(**settings):
        return EngineConfig(**settings).torch_device

    refused(config, field, value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dtype": "float64"}, "dtype is 'float64' with native ops; allowed: auto, float32, bfloat16, float16"),
        ({"ops": "reference", "quantization": "int8"}, "quantization is 'int8' without native ops; allowed: None"),
        ({"ops": "reference", "batch_invariant": True}, "batch_invariant is True with reference ops; allowed: False"),
        ({"loop": "device"}, "loop is 'device' on device cpu with ops 'auto'; allowed there: auto, host"),
        ({"ops": "triton"}, "ops is .triton. on device cpu; allowed there: auto, native"),
    ],
)
def test_what_the_op_set_cannot_do(monkeypatch, settings, message):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ConfigError, match=message):
        EngineConfig(device="cpu", **settings)


def test_every_field_is_tried():
    for params, table in ((SamplingParams, BAD_SAMPLING), (RoutingParams, BAD_ROUTING)):
        assert set(table) == set(params.__dataclass_fields__)
    assert set(BAD_ENGINE) == set(EngineConfig.__dataclass_fields__) - {
        "skip_code_fences",
        "batch_invariant",
        "enforce_eager",
    }
    assert set(GOOD_SAMPLING) == set(BAD_SAMPLING)


def test_unknown_fields_are_refused():
    for params in (SamplingParams, RoutingParams, EngineConfig):
        with pytest.raises(TypeError, match="best_of"):
            params(best_of=3)


def test_greedy_sequences_would_all_be_the_same():
    with pytest.raises(ConfigError, match=r"n is 2 with temperature 0; allowed: 1"):
        SamplingParams(n=2, temperature=0)


def test_stop_is_kept_as_a_tuple():
    assert [SamplingParams(stop=stop).stop for stop in ("a", ["a", "b"], ())] == [("a",), ("a", "b"), ()]
