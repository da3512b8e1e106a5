"""Every field of the parameters and of the engine's settings: what it refuses, and what it says then."""

import copy
import dataclasses
import inspect
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from glimp_engine import ConfigError, RoutingParams, SamplingParams, Speculation, StructuredOutputs
from glimp_engine.config import EngineConfig
from glimp_engine.sampling import UNSUPPORTED, UNSUPPORTED_OUTPUTS
from glimp_engine.speculation import read_speculation

NAN, INF = math.nan, math.inf
BAD_SAMPLING = {
    "temperature": [-0.1, NAN, INF, "1", None, True],
    "top_p": [0, 0.0, 1e-40, -1, 1.1, NAN, None],
    "top_k": [-2, 1.5, "5", None, True, 2**31],
    "min_p": [-0.1, 1.1, NAN, None],
    "repetition_penalty": [0, 1e-40, -1, NAN, INF, None],
    "presence_penalty": [-2.1, 2.1, NAN, None],
    "frequency_penalty": [-2.1, 2.1, NAN, None],
    "seed": [1.0, "1", 2**63, -(2**63) - 1, True],
    "stop": ["", [""], ["a", ""], ["a", 1], 7, {"a"}, [None]],
    "n": [0, -1, 1.0, 1025, None, True],
    "max_tokens": [0, -1, 1.5, "9"],
    "logprobs": [-1, 21, 1.0, True],
    "stop_token_ids": [7, "7", {7}],
    "ignore_eos": [1, 0, None, "yes"],
    "min_tokens": [-1, 1.0, None, True],
    "include_stop_str_in_output": [1, None],
    "logit_bias": [7, [(7, 1.0)], "7"],
    "bad_words": ["", [""], ["a", 1], 7, {"a"}],
    "allowed_token_ids": [7, "7", {7}, []],
    "skip_special_tokens": [0, None],
    "prompt_logprobs": [-1, 21, 1.0, True],
    "truncate_prompt_tokens": [-2, 0, 1.0, True],
    "structured_outputs": ["json", {"json": {}}, True, {"type": "object"}],
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
    "stop_token_ids": [None, (), [0, 5], [np.int64(3)]],
    "ignore_eos": [True, False],
    "min_tokens": [0, 2**40],
    "include_stop_str_in_output": [True, False],
    "logit_bias": [None, {}, {5: 1}, {5: -math.inf, 6: -1e9}, {np.int32(5): 2.0}],
    "bad_words": [None, (), "a", ["a", " b"]],
    "allowed_token_ids": [None, [0], (5, 6)],
    "skip_special_tokens": [True, False],
    "prompt_logprobs": [None, 0, 20],
    "truncate_prompt_tokens": [None, -1, 1],
    "structured_outputs": [None, StructuredOutputs(json_object=True)],
}
BAD_ROUTING = {
    "speculation": ["on", None, True],
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
BAD_SPECULATION = {
    "proposers": ["small", None, ["large"], ("small", 1), {"small"}, [["small"]]],
    "max_tokens": [-1, 65, 1.0, None, True],
}
BAD_SPECS = ["", "on", "large", "auto:4", "off:1", "small+", "+small", "small+small", "small,ngram", " small", "SMALL"]
BAD_SPECS += [
    "small:",
    "small:0",
    "small:65",
    "small:-1",
    "small:4:4",
    "small:1.0",
    "small:\u0663",
    "small:" + "9" * 5000,
]
BAD_SPECS += [None, True, 4, ["small"]]


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


@pytest.mark.parametrize(("field", "value"), each(BAD_SPECULATION))
def test_speculation_refuses(field, value):
    refused(Speculation, field, value)


@pytest.mark.parametrize("spec", BAD_SPECS, ids=lambda spec: repr(spec)[:20])
def test_a_spec_of_speculation_that_is_none(spec):
    with pytest.raises(ConfigError) as caught:
        read_speculation(spec)
    message = str(caught.value)
    assert message.startswith(f"speculation is {spec!r}"[:200])
    assert message.endswith(
        "allowed: auto, off, or who proposes, of small, ngram, joined by +, with :MAX_TOKENS behind, 1 to 64, "
        "if it's to be at most so many at a time, as small+ngram:4; or a Speculation"
    )
    assert len(message) < 500


@pytest.mark.parametrize(
    ("spec", "speculation"),
    [
        ("auto", Speculation()),
        ("off", Speculation((), 0)),
        ("small", Speculation(("small",))),
        ("small:4", Speculation(("small",), 4)),
        ("ngram:64", Speculation(("ngram",), 64)),
        ("small+ngram", Speculation(("small", "ngram"))),
        ("ngram+small:1", Speculation(("ngram", "small"), 1)),
        (Speculation(("small",), 0), Speculation(("small",), 0)),
    ],
)
def test_a_spec_of_speculation(spec, speculation):
    assert read_speculation(spec) == speculation


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
        ({"loop": "device", "ops": "reference"}, "loop is 'device' on device cpu with ops 'reference'; allowed there"),
        ({"ops": "triton"}, "ops is .triton. on device cpu; allowed there: auto, native"),
    ],
)
def test_what_the_op_set_cannot_do(monkeypatch, settings, message):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ConfigError, match=message):
        EngineConfig(device="cpu", **settings)


def test_every_field_is_tried():
    for params, table in (
        (SamplingParams, BAD_SAMPLING),
        (RoutingParams, BAD_ROUTING),
        (Speculation, BAD_SPECULATION),
    ):
        assert set(table) == set(params.__dataclass_fields__)
    assert set(BAD_ENGINE) == set(EngineConfig.__dataclass_fields__) - {
        "skip_code_fences",
        "batch_invariant",
        "enforce_eager",
    }
    assert set(GOOD_SAMPLING) == set(BAD_SAMPLING)


def test_unknown_fields_are_refused():
    for params in (SamplingParams, RoutingParams, EngineConfig):
        with pytest.raises(TypeError, match="best_off"):
            params(best_off=3)


# vLLM's SamplingParams as of its commit 00388f6, and what it had before
VLLM = """n presence_penalty frequency_penalty repetition_penalty temperature top_p top_k min_p seed stop stop_token_ids
    ignore_eos max_tokens min_tokens logprobs prompt_logprobs prompt_logprob_token_ids prompt_logprob_start
    logprob_token_ids flat_logprobs detokenize skip_special_tokens spaces_between_special_tokens
    include_stop_str_in_output output_kind stream_interval skip_clone output_text_buffer_length structured_outputs
    logit_bias allowed_token_ids extra_args bad_words skip_reading_prefix_cache thinking_token_budget
    repetition_detection routed_experts_prompt_start trace_decode_token_ids""".split()
VLLM_ONCE = """truncate_prompt_tokens best_of use_beam_search length_penalty early_stopping logits_processors
    guided_decoding""".split()


@pytest.mark.parametrize("name", [*VLLM, *VLLM_ONCE])
def test_each_of_vllms_fields_is_supported_or_refused_by_name(name):
    docs = (Path(__file__).parents[2] / "docs" / "sampling.md").read_text(encoding="utf-8")
    rows = [line for line in docs.splitlines() if line.startswith(f"| `{name}` |")]
    assert len(rows) == 1, "docs/sampling.md"
    if name in SamplingParams.__dataclass_fields__:
        assert name not in UNSUPPORTED
        assert "| yes |" in rows[0]
        return
    assert UNSUPPORTED[name] in rows[0]
    for value in (None, 3, {"json": {}}):  # whatever it's set to: nothing is ignored
        with pytest.raises(ConfigError) as caught:
            SamplingParams(temperature=0.5, **{name: value})
        assert str(caught.value) == f"{name} is {value!r}; allowed: not to give it, as {UNSUPPORTED[name]}"


def test_no_other_field_is_called_unsupported():
    assert set(UNSUPPORTED) <= {*VLLM, *VLLM_ONCE}
    assert set(SamplingParams.__dataclass_fields__) <= {*VLLM, *VLLM_ONCE}


def test_the_constructor_is_as_any_dataclass_has_it():
    params = SamplingParams(0.5, logit_bias={3: 1.0}, stop="x")
    assert list(inspect.signature(SamplingParams).parameters) == list(SamplingParams.__dataclass_fields__)
    for same in (copy.deepcopy(params), pickle.loads(pickle.dumps(params)), dataclasses.replace(params, n=1)):
        assert same == params


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("stop_token_ids", [1, -1], r"stop_token_ids\[1\] is -1; allowed: a token id, from 0 on"),
        ("stop_token_ids", [True], r"stop_token_ids\[0\] is True"),
        ("allowed_token_ids", [2**31], r"allowed_token_ids\[0\] is 2147483648"),
        ("allowed_token_ids", [1.0], r"allowed_token_ids\[0\] is 1.0"),
        ("logit_bias", {"5": 1.0}, "logit_bias's key '5' is '5'; allowed: a token id"),
        ("logit_bias", {-1: 1.0}, "logit_bias's key -1 is -1"),
        ("logit_bias", {5: NAN}, r"logit_bias\[5\] is nan; allowed: a number from -inf to 1000000.0"),
        ("logit_bias", {5: INF}, r"logit_bias\[5\] is inf"),
        ("logit_bias", {5: None}, r"logit_bias\[5\] is None"),
        ("bad_words", ["a"] * 1025, "bad_words has 1025 strings of up to 1 characters; allowed: 1024 of up to 1024"),
        ("stop", ["a" * 1025], "stop has 1 strings of up to 1025 characters; allowed: 64 of up to 1024"),
    ],
)
def test_what_stands_in_a_list_is_named(field, value, message):
    with pytest.raises(ConfigError, match=message):
        SamplingParams(**{field: value})


def test_min_tokens_is_within_max_tokens():
    SamplingParams(min_tokens=5, max_tokens=5)
    with pytest.raises(ConfigError, match="min_tokens is 6; allowed: at most max_tokens, 5"):
        SamplingParams(min_tokens=6, max_tokens=5)


def test_greedy_sequences_would_all_be_the_same():
    with pytest.raises(ConfigError, match=r"n is 2 with temperature 0; allowed: 1"):
        SamplingParams(n=2, temperature=0)


def test_stop_is_kept_as_a_tuple():
    assert [SamplingParams(stop=stop).stop for stop in ("a", ["a", "b", "a"], (), None)] == [
        ("a",),
        ("a", "b"),
        (),
        (),
    ]


BAD_OUTPUTS = {
    "json": ["{", "[]", 3, [], "", {"a": {1, 2}}, {"a": NAN}, "x" * 100, {"a": "x" * (1 << 20)}],
    "json_object": [False, 1.5, "yes"],
    "regex": ["", 3, ["a"], "x" * (1 + (1 << 20))],
    "choice": [[], [""], ["a", ""], 3, ["a", 1], ["a"] * 1025],
    "grammar": ["", 3, b"root ::= 1"],
}
GOOD_OUTPUTS = {
    "json": [{}, True, False, "{}", ' {"type": "object"} ', {"type": "string", "default": "é"}],
    "json_object": [True],
    "regex": ["a", "\\d+"],
    "choice": ["a", ["a", "b", "a"], ("x",)],
    "grammar": ["root ::= 'a'"],
}
# vLLM's StructuredOutputsParams as of the same commit, but for what it sets itself
VLLM_OUTPUTS = """json regex choice grammar json_object disable_any_whitespace disable_additional_properties
    whitespace_pattern structural_tag""".split()


@pytest.mark.parametrize("kind", BAD_OUTPUTS)
def test_each_kind_of_structured_outputs_is_checked(kind):
    assert set(BAD_OUTPUTS) == set(StructuredOutputs.__dataclass_fields__)
    for value in BAD_OUTPUTS[kind]:
        with pytest.raises(ConfigError, match=rf"^{kind}.*; allowed: "):
            StructuredOutputs(**{kind: value})
    for value in GOOD_OUTPUTS[kind]:
        outputs = StructuredOutputs(**{kind: value})
        assert outputs.kind == kind
        for same in (copy.deepcopy(outputs), pickle.loads(pickle.dumps(outputs)), dataclasses.replace(outputs)):
            assert same == outputs
            assert hash(same) == hash(outputs)


def test_structured_outputs_are_of_one_kind():
    for kinds in (
        {},
        {"json": {}, "regex": "a"},
        {"json": None},
        {"choice": ["a"], "grammar": "a", "json_object": True},
    ):
        with pytest.raises(ConfigError, match=r"structured_outputs has .*; allowed: one of json, json_object, regex"):
            StructuredOutputs(**kinds)


@pytest.mark.parametrize("name", VLLM_OUTPUTS)
def test_each_field_of_vllms_structured_outputs_is_supported_or_refused_by_name(name):
    if name not in StructuredOutputs.__dataclass_fields__:
        with pytest.raises(
            ConfigError, match=f"{name} is True; allowed: not to give it, as {UNSUPPORTED_OUTPUTS[name]}"
        ):
            StructuredOutputs(json_object=True, **{name: True})
