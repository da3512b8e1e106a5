"""What a request asks of its tokens: each token against a plain reference, on tables of logits."""

import dataclasses
import math
from itertools import pairwise

import pytest
from tables import (
    END,
    KV,
    MODES,
    PROMPT,
    TABLES,
    TEXT,
    V,
    W,
    check,
    engine_in,
    engine_on,
    id_of,
    logits_in,
    model_of,
    routed,
    table_of,
)
from tiny import make_text
from tiny_requests import check_pages

from glimp_engine import (
    Engine,
    GlimpRouter,
    LargeOnly,
    Model,
    RandomRouter,
    RequestError,
    RoutingParams,
    SamplingParams,
    SmallOnly,
    SpecReason,
    StepEntropyRouter,
)
from glimp_engine.config import EngineConfig


@pytest.fixture(params=MODES)
def engine(request, monkeypatch):
    return engine_in(request.param, monkeypatch)


ALLOWED = [W[1], W[5], W[9], id_of(" w3.\n\n"), id_of(" w7.\n\n")]
ASKED = {
    "logit_bias": {"logit_bias": {W[3]: 6.0, W[4]: -100.0, W[5]: -math.inf, id_of("\n\n"): 4.5}},
    "allowed": {"allowed_token_ids": ALLOWED},
    "allowed and biased": {"allowed_token_ids": ALLOWED, "logit_bias": {W[1]: -3.0, W[20]: 50.0}},
    "bad words": {"bad_words": ["w3", "w1", "a", " w5.\n\n", "ab", "<|im_start|>"]},
    "min_tokens": {"min_tokens": 8, "logit_bias": {END: 9.0}},
    "stop ids": {"stop_token_ids": [W[7], W[8], W[9], W[30], id_of("\n\n")]},
    "late stop ids": {"stop_token_ids": W[5:25], "min_tokens": 7},
    "ignored end": {"ignore_eos": True, "logit_bias": {END: 7.0}},
    "ignored end, but a stop": {"ignore_eos": True, "logit_bias": {END: 7.0}, "stop_token_ids": [END], "min_tokens": 5},
    "all, with penalties": {
        "logit_bias": {W[3]: 6.0, END: 5.0},
        "bad_words": ["w2", "w3"],
        "min_tokens": 6,
        "stop_token_ids": W[:5],
        "presence_penalty": 0.7,
        "repetition_penalty": 1.3,
    },
}
ROUTERS = [SmallOnly(), LargeOnly(), GlimpRouter(3.6), RandomRouter(0.5), StepEntropyRouter(3.3), SpecReason(10)]


@pytest.mark.parametrize("asked", ASKED, ids=str)
def test_tokens_are_those_of_a_plain_reference(engine, asked):
    is_native = engine.config.ops == "native"  # the others take five times as long, and differ in the ticks alone
    check_tokens(engine, asked, ROUTERS if is_native else ROUTERS[3:5], max_tokens=24 if is_native else 16)


@pytest.mark.slow
@pytest.mark.parametrize("asked", ["allowed and biased", "all, with penalties"])
def test_tokens_on_triton_ops_are_too(asked):
    """What each field does to a row is in tests/gpu/test_sample.py; here, that the rows get there."""
    pytest.importorskip("triton")
    check_tokens(engine_on("triton"), asked, ROUTERS[3:5], max_tokens=9)


def check_tokens(engine, asked, routers, max_tokens):
    params, routing = [], []
    for router in routers:
        params += [SamplingParams(temperature=0, max_tokens=max_tokens, **ASKED[asked])]
        params += [SamplingParams(temperature=0.8, seed=5, n=3, max_tokens=max_tokens, **ASKED[asked])]
        routing += [routed(router)] * 2
    outputs = engine.generate([PROMPT] * len(params), params, routing, use_tqdm=False)
    for output, sampling in zip(outputs, params, strict=True):
        assert output.error is None
        check(output, sampling)
    assert {step.model for output in outputs for each in output.outputs for step in each.steps} == set(Model)
    check_pages(engine)


def test_a_word_of_several_tokens_is_banned_at_its_last(engine):
    """Words are learnt from what is written without a ban: then each of them could have come."""
    free = SamplingParams(temperature=0, max_tokens=30, ignore_eos=True)
    (output,) = engine.generate([PROMPT], free, routed(RandomRouter(0.5)), use_tqdm=False)
    ids = output.outputs[0].token_ids
    by_byte = [i for i, (a, b) in enumerate(pairwise(ids)) if max(a, b) < 256]  # what a tokenizer cuts so
    words = [bytes(TEXT.bytes_of(ids[i]) + TEXT.bytes_of(ids[i + 1])).decode(errors="ignore") for i in by_byte]
    words = [*[word for word in words if len(TEXT.encode_word(word)) > 1], "ab", "aba", "xyz", "q w"]
    banned = SamplingParams(temperature=0, max_tokens=30, ignore_eos=True, bad_words=words, logit_bias=LETTERS)
    for router in (SmallOnly(), RandomRouter(0.5), StepEntropyRouter(3.0)):
        (output,) = engine.generate([PROMPT], banned, routed(router), use_tqdm=False)
        check(output, banned)
        text = output.outputs[0].text
        assert not any(word in text for word in words)
        assert "a" in text
    unbanned = SamplingParams(temperature=0, max_tokens=30, ignore_eos=True, logit_bias=LETTERS)
    (output,) = engine.generate([PROMPT], unbanned, routed(SmallOnly()), use_tqdm=False)
    assert "ab" in output.outputs[0].text


LETTERS = {id_of("a"): 9.0, id_of("b"): 9.0, id_of("c"): 7.0}


def test_a_bias_changes_no_glimpse(engine):
    """The first step's entropy and route are the model's own, whatever is banned."""
    plain, biased = (
        SamplingParams(temperature=0, max_tokens=4, logprobs=3, **more)
        for more in ({}, {"allowed_token_ids": [W[2]], "logit_bias": {W[2]: 5.0}})
    )
    (one,), (other,) = (
        engine.generate([PROMPT], each, routed(GlimpRouter(1.0)), use_tqdm=False) for each in (plain, biased)
    )
    assert other.outputs[0].token_ids == [W[2]] * 4
    assert one.outputs[0].steps[0].entropy == other.outputs[0].steps[0].entropy
    assert one.outputs[0].steps[0].model == other.outputs[0].steps[0].model
    prompt = one.prompt_token_ids
    raw = logits_in(TABLES[Model.LARGE], len(prompt) - 1, prompt[-1]).double().log_softmax(-1)
    first = other.outputs[0].logprobs[0]
    assert first[W[2]].logprob == pytest.approx(float(raw[W[2]]), abs=1e-5)  # the model's own
    assert list(first)[:3] == raw.topk(3).indices.tolist()


def test_a_word_without_tokens_is_refused(engine):
    with pytest.raises(RequestError, match=r"bad_words has ' \\n', which has no tokens"):  # as vLLM does
        engine.add_request("a", PROMPT, SamplingParams(bad_words=[" \n"]))


def test_nothing_left_to_write_ends_that_request_alone(engine):
    params = [
        SamplingParams(temperature=0, max_tokens=5),
        SamplingParams(temperature=0, max_tokens=5, allowed_token_ids=[END], min_tokens=2),
        SamplingParams(temperature=1, max_tokens=5, seed=1, allowed_token_ids=[id_of("a")], bad_words=["a"], n=2),
        SamplingParams(temperature=0, max_tokens=5, allowed_token_ids=[END], min_tokens=0),
    ]
    outputs = engine.generate([PROMPT] * 4, params, routed(GlimpRouter(3.6)), use_tqdm=False)
    assert [output.outputs[0].finish_reason for output in outputs] == ["length", "error", "error", "stop"]
    for output in outputs[1:3]:
        assert "allowed_token_ids, bad_words, logit_bias, min_tokens leave the" in output.error
    assert outputs[0].error is None
    check_pages(engine)


# Two vocabularies.


def test_ids_beyond_the_vocabulary_are_refused():
    engine = Engine(*map(model_of, TABLES), kv_cache_bytes=KV)
    for name, value in (("stop_token_ids", [V]), ("logit_bias", {V: 1.0}), ("allowed_token_ids", [0, V + 9])):
        with pytest.raises(RequestError, match=f"{name} has token id {V}|{name} has token id {V + 9}"):
            engine.add_request("a", PROMPT, SamplingParams(**{name: value}))
    assert not engine.has_unfinished()


def foreign_pair():
    """Models whose words are different, but for bytes and one: a large model with words in another order."""
    words = (*(f" v{i}" for i in reversed(range(40))), " w7", "\n\n")
    text = make_text(words=words, special=("<|fin|>", "<|im_end|>", "<|im_start|>", "<think>", "</think>"))
    return Engine(model_of(TABLES[0]), model_of(table_of(3, text=text), text), kv_cache_bytes=KV), text


def test_a_token_that_both_have_is_translated_and_another_refused():
    engine, text = foreign_pair()
    assert not engine.has_one_vocabulary
    ids = {piece: [text.bytes_of(i) for i in range(text.num_tokens)].index(piece.encode()) for piece in (" w7", "\n\n")}
    sampling = SamplingParams(temperature=0, max_tokens=6, logit_bias={W[7]: 50.0, id_of("\n\n"): 40.0})
    for router, expected in ((SmallOnly(), W[7]), (LargeOnly(), ids[" w7"])):
        (output,) = engine.generate([PROMPT], sampling, routed(router), use_tqdm=False)
        assert output.outputs[0].token_ids == [expected] * 6
    stopped = SamplingParams(temperature=0, max_tokens=6, logit_bias={W[7]: 50.0}, stop_token_ids=[W[7]])
    (output,) = engine.generate([PROMPT], stopped, routed(LargeOnly()), use_tqdm=False)
    assert output.outputs[0].token_ids == [ids[" w7"]]
    assert output.outputs[0].stop_reason == W[7]  # as it was asked for
    for name in ("logit_bias", "stop_token_ids", "allowed_token_ids"):
        params = SamplingParams(temperature=0, max_tokens=3, **{name: {W[8]: 1.0} if name == "logit_bias" else [W[8]]})
        with pytest.raises(RequestError, match=rf"{name} has token id {W[8]}, b' w8', which the large model's"):
            engine.add_request("a", PROMPT, params, routed(GlimpRouter(1.0)))
        (output,) = engine.generate([PROMPT], params, routed(SmallOnly()), use_tqdm=False)
        assert output.error is None  # the small model alone writes, and has it


def test_an_end_token_stands_for_the_other_models():
    engine, text = foreign_pair()
    end = min(text.end_token_ids)
    sampling = SamplingParams(temperature=0, max_tokens=9, logit_bias={END: 50.0}, min_tokens=3)
    (output,) = engine.generate([PROMPT], sampling, routed(LargeOnly()), use_tqdm=False)
    assert output.outputs[0].token_ids[3:] == [end]
    assert output.outputs[0].finish_reason == "stop"


def test_bad_words_are_each_models_own():
    engine, _ = foreign_pair()
    sampling = SamplingParams(temperature=0, max_tokens=40, bad_words=["v3", "w3", "q"], ignore_eos=True)
    for router in (SmallOnly(), LargeOnly(), RandomRouter(0.5)):
        (output,) = engine.generate([PROMPT], sampling, routed(router), use_tqdm=False)
        assert output.error is None
        assert len(output.outputs[0].token_ids) == 40
        assert not any(word in output.outputs[0].text for word in ("q",))


def test_special_tokens_that_are_mapped(tmp_path):
    """The large model has no <|im_start|>: what is said of it to the small one needs no saying to the other."""
    cousin = make_text(special=("<|extra|>", "<think>", "</think>", "<|im_end|>"))
    engine = Engine(model_of(TABLES[0]), model_of(table_of(3, text=cousin), cousin), kv_cache_bytes=KV)
    assert engine._dictionary.pair.kind == "mapped"
    start, end = id_of("<|im_start|>"), min(cousin.end_token_ids)
    sampling = SamplingParams(temperature=0, max_tokens=5, logit_bias={start: 9.0, END: 50.0}, min_tokens=2)
    (output,) = engine.generate([PROMPT], sampling, routed(LargeOnly()), use_tqdm=False)
    assert output.outputs[0].token_ids[2:] == [end]
    with pytest.raises(RequestError, match="allowed_token_ids has no token that the large model has"):
        engine.add_request("a", PROMPT, SamplingParams(allowed_token_ids=[start]), routed(GlimpRouter(1.0)))


@pytest.fixture
def ahead(monkeypatch):
    """(an engine that runs ahead, its tables): they like to write letters; at most ticks there is nothing to ban."""
    monkeypatch.setattr(EngineConfig, "has_graphs", True)
    monkeypatch.setattr(EngineConfig, "runs_ahead", True)
    lettered = [table.clone() for table in TABLES]
    for table in lettered:
        table[:, list(LETTERS)] += 8.0
    return Engine(*map(model_of, lettered), device="cpu", ops="reference", kv_cache_bytes=KV), lettered


@pytest.mark.parametrize("router", [SmallOnly(), GlimpRouter(math.inf), LargeOnly()], ids=str)
def test_a_word_comes_to_its_last_token_while_the_device_runs_ahead(ahead, router):
    free = SamplingParams(temperature=0, max_tokens=40, ignore_eos=True)
    engine, tables = ahead
    (output,) = engine.generate([PROMPT], free, routed(router), use_tqdm=False)
    text = output.outputs[0].text
    words = sorted({a + b for a, b in pairwise(text) if {a, b} <= set("abc")})[:3]  # each of them would come
    assert words
    banned = dataclasses.replace(free, bad_words=words)
    (output,) = engine.generate([PROMPT], banned, routed(router), use_tqdm=False)
    check(output, banned, tables)
    assert not any(word in output.outputs[0].text for word in words)


def test_a_glimpse_has_its_tokens_while_the_device_runs_ahead(monkeypatch):
    monkeypatch.setattr(EngineConfig, "has_graphs", True)
    monkeypatch.setattr(EngineConfig, "runs_ahead", True)
    engine = Engine(*map(model_of, TABLES), device="cpu", ops="reference", kv_cache_bytes=KV)
    sampling = SamplingParams(temperature=0, max_tokens=40, ignore_eos=True)
    routing = RoutingParams(router=GlimpRouter(math.inf), stop_repeated_steps=False, glimpse_logprobs=3)
    (output,) = engine.generate([PROMPT], sampling, routing, use_tqdm=False)
    steps = output.outputs[0].steps
    assert len(steps) > 3
    assert [len(step.first_tokens) for step in steps] == [3] * len(steps)
