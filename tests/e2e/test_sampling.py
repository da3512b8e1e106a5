"""What a request asks of its tokens, on models that are tables of logits: each token against a plain reference."""

import dataclasses
import math
from itertools import pairwise

import pytest
import torch
from tiny import ScriptedModel, make_text
from tiny_requests import check_pages

from glimp_engine import (
    Engine,
    GlimpRouter,
    LargeOnly,
    LoadedModel,
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
from glimp_engine.kernels.philox import exponential_noise

PROMPT = "How many?"
TEXT = make_text()
V = TEXT.num_tokens
END = min(TEXT.end_token_ids)
NUM_TABLES = 23
KV = 1 << 20


def table_of(seed, end=0.0, text=TEXT):
    """Logits by (position, token): few words are likely, so that what is banned would come; `end` is for end tokens."""
    generator = torch.Generator().manual_seed(seed)
    table = torch.randn(NUM_TABLES, text.num_tokens, generator=generator) * 2
    words = [i for i in range(text.num_tokens) if b" w" in text.bytes_of(i) or b"\n\n" in text.bytes_of(i)]
    table[:, words] += 3.0
    table[:, list(text.end_token_ids)] += end
    return table


def logits_in(table, position, token_id):
    return table[(7 * position + token_id) % NUM_TABLES]


def model_of(table, text=TEXT):
    model = ScriptedModel(lambda position, token: logits_in(table, position, token).clone(), text.num_tokens)
    return LoadedModel(model, text)


TABLES = [table_of(1), table_of(2)]


def engine_on(ops):
    return Engine(*map(model_of, TABLES), device="cpu", page_size=4, ops=ops, kv_cache_bytes=KV)


SLOW_MODES = [pytest.param(mode, marks=pytest.mark.slow) for mode in ("reference", "graphs", "ahead")]


@pytest.fixture(params=["native", *SLOW_MODES])
def engine(request, monkeypatch):
    """A pair of tables on each op set, and in ticks that stay or run ahead; Triton's has tests of its own."""
    mode = request.param
    if mode in ("graphs", "ahead"):
        monkeypatch.setattr(EngineConfig, "has_graphs", True)
        monkeypatch.setattr(EngineConfig, "runs_ahead", mode == "ahead")
    return engine_on(mode if mode in ("native", "reference") else "reference")


def word_ids(word):
    """As vLLM's: the word at the beginning of a text, and within one if that's as long and begins otherwise."""
    first, spaced = TEXT.encode_word(word.lstrip()), TEXT.encode_word(" " + word.lstrip())
    return [first, spaced] if spaced[0] != first[0] and len(spaced) == len(first) else [first]


def plain_choice(raw, prompt, written, sampling, index=0):
    """The next token, written out in full: dense and in float64, in vLLM's order."""
    logits = raw.double().clone()
    if sampling.allowed_token_ids is not None:
        rest = [i for i in range(V) if i not in sampling.allowed_token_ids]
        logits[rest] = -math.inf
    for word in [ids for each in sampling.bad_words for ids in word_ids(each)]:
        before = word[:-1]
        if len(written) >= len(before) and written[len(written) - len(before) :] == before:
            logits[word[-1]] = -math.inf
    if len(written) < sampling.min_tokens:
        logits[[*TEXT.end_token_ids, *sampling.stop_token_ids]] = -math.inf
    for token, bias in (sampling.logit_bias or {}).items():
        logits[token] += bias
    for token in {*prompt, *written}:
        value = logits[token]
        logits[token] = value / sampling.repetition_penalty if value > 0 else value * sampling.repetition_penalty
        count = written.count(token)
        logits[token] -= sampling.frequency_penalty * count + sampling.presence_penalty * (count > 0)
    if sampling.temperature == 0:
        return int(logits.argmax())
    position = len(prompt) + len(written)
    noise = exponential_noise(V, sampling.seed, index, position, torch.float64)
    return int((logits / sampling.temperature - noise.log()).argmax())


def ends(written, sampling):
    """Whether the last token ends the output."""
    ending = set(sampling.stop_token_ids) | (set() if sampling.ignore_eos else TEXT.end_token_ids)
    return written[-1] in ending


def check(output, sampling):
    """Each token is its writer's choice, and the output ends where it must."""
    prompt = output.prompt_token_ids
    for completion in output.outputs:
        ids = completion.token_ids
        for step in completion.steps:
            for i in range(step.token_start, step.token_end):
                raw = logits_in(TABLES[step.model], len(prompt) + i - 1, (prompt + ids[:i])[-1])
                assert ids[i] == plain_choice(raw, prompt, ids[:i], sampling, completion.index), (i, step.model)
        assert sum(step.num_tokens for step in completion.steps) == len(ids)
        assert not any(ends(ids[:i], sampling) for i in range(1, len(ids)))
        is_ended = ends(ids, sampling)
        assert completion.finish_reason == ("stop" if is_ended else "length")
        stop_id = ids[-1] if is_ended and ids[-1] not in (TEXT.end_token_ids - sampling_end(sampling)) else None
        assert completion.stop_reason == stop_id
        assert is_ended or len(ids) == sampling.max_tokens


def sampling_end(sampling):
    """End tokens that are none, as the request ignores them."""
    return TEXT.end_token_ids if sampling.ignore_eos else frozenset()


def id_of(piece):
    return [TEXT.bytes_of(i) for i in range(V)].index(piece.encode())


W = [id_of(f" w{i}") for i in range(40)]
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


def routed(router, **options):
    return RoutingParams(router=router, stop_repeated_steps=False, max_step_tokens=5, **options)


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


# The prompt's own log-probabilities.

LONG = "How many apples are there in all, if there are three in each of the seven baskets?"


def check_prompt_logprobs(output, table, num_asked):
    prompt, scores = output.prompt_token_ids, output.prompt_logprobs
    assert len(scores) == len(prompt)
    assert scores[0] is None
    for place in range(1, len(prompt)):
        raw = logits_in(table, place - 1, prompt[place - 1]).double().log_softmax(-1)
        top = raw.topk(num_asked).indices.tolist() if num_asked else []
        assert set(scores[place]) == {*top, prompt[place]}
        for token, score in scores[place].items():
            assert score.logprob == pytest.approx(float(raw[token]), abs=1e-5)
            assert score.rank == (top.index(token) + 1 if token in top else None)


@pytest.mark.parametrize("num_asked", [0, 3])
@pytest.mark.parametrize(("router", "reader"), [(GlimpRouter(3.6), 0), (LargeOnly(), 1), (SmallOnly(), 0)], ids=str)
def test_prompt_logprobs(engine, num_asked, router, reader):
    sampling = SamplingParams(temperature=0, max_tokens=6, prompt_logprobs=num_asked)
    others = SamplingParams(temperature=0.7, seed=1, max_tokens=12, n=2)
    params = [others, sampling, others, sampling]
    outputs = engine.generate([LONG, LONG, PROMPT, PROMPT], params, routed(router), use_tqdm=False)
    for output, asked in zip(outputs, params, strict=True):
        check(output, asked)
    assert [output.prompt_logprobs for output in outputs[::2]] == [None, None]
    check_prompt_logprobs(outputs[1], TABLES[reader], num_asked)
    check_prompt_logprobs(outputs[3], TABLES[reader], num_asked)


@pytest.mark.parametrize("max_batch_tokens", [4, 7, 33, 512])
@pytest.mark.parametrize("order", ["first", "last", "twice", "after"])
def test_prompt_logprobs_of_what_is_cached_or_shared(max_batch_tokens, order):
    """Whoever has run the prompt, or runs it meanwhile: every position's logits are there, in bounded batches."""
    engine = Engine(
        *map(model_of, TABLES), kv_cache_bytes=KV, page_size=4, max_batch_size=4, max_batch_tokens=max_batch_tokens
    )
    rows = []
    forward = engine._loop.runners[0].model.forward

    def counted(token_ids, batch, logit_rows, kv):
        rows.append((len(token_ids), len(logit_rows)))
        return forward(token_ids, batch, logit_rows, kv)

    engine._loop.runners[0].model.forward = counted
    scored = SamplingParams(temperature=0, max_tokens=5, prompt_logprobs=2)
    plain = SamplingParams(temperature=0, max_tokens=5)
    params = {"first": [scored, plain], "last": [plain, scored], "twice": [scored, scored], "after": [scored, scored]}
    routing = routed(GlimpRouter(3.6))
    if order == "after":
        outputs = [engine.generate(LONG, each, routing, use_tqdm=False)[0] for each in (plain, scored, plain)]
        assert engine.stats().cached_prompt_tokens > 0
    else:
        outputs = engine.generate([LONG, LONG], params[order], routing, use_tqdm=False)
    assert any(output.prompt_logprobs for output in outputs)
    for output in outputs:
        check(output, plain)
        if output.prompt_logprobs is not None:
            check_prompt_logprobs(output, TABLES[0], 2)
    assert all(tokens + max(num_rows - 4, 0) <= max_batch_tokens for tokens, num_rows in rows)
    if order == "first" and max_batch_tokens == 512:
        assert engine.stats().recomputed_tokens <= 1  # the last position, for the second request's own row
    check_pages(engine)


def test_a_fresh_prompt_is_run_once_for_its_logprobs():
    engine = Engine(*map(model_of, TABLES), kv_cache_bytes=KV, page_size=4, max_batch_tokens=64)
    sampling = SamplingParams(temperature=0.9, seed=2, n=3, max_tokens=5, prompt_logprobs=0)
    (output,) = engine.generate(LONG, sampling, routed(GlimpRouter(3.6)), use_tqdm=False)
    check_prompt_logprobs(output, TABLES[0], 0)
    assert engine.stats().recomputed_tokens == 0
    assert engine.stats().small.prompt_tokens == len(output.prompt_token_ids)


def test_preempted_while_its_prompt_is_scored():
    """A token a tick, while an older request grows until the pages run out: each token is scored all the same."""
    sizes = {"page_size": 4, "max_model_len": 160, "max_batch_size": 2, "max_batch_tokens": 2}
    engine = Engine(*map(model_of, TABLES), kv_cache_bytes=40 * 4 * 2 * 16, **sizes)
    assert engine.stats().num_pages == 40
    sampling = SamplingParams(temperature=0, max_tokens=140, ignore_eos=True, prompt_logprobs=1)
    prompts = ["a", LONG]
    params = [sampling, dataclasses.replace(sampling, max_tokens=20)]
    early, push = [], engine._loop.scheduler._preempt_newest

    def preempt():
        early.append(engine._loop.scheduler.running[-1].prompt_logprobs.next_position)
        push()

    engine._loop.scheduler._preempt_newest = preempt
    outputs = engine.generate(prompts, params, routed(SmallOnly()), use_tqdm=False)
    assert any(early), early  # the prompt was scored in part
    for output, asked in zip(outputs, params, strict=True):
        check(output, asked)
        check_prompt_logprobs(output, TABLES[0], 1)
    check_pages(engine)


def test_an_unfinished_prompt_has_no_logprobs():
    engine = Engine(model_of(TABLES[0]), kv_cache_bytes=KV, max_batch_size=1, max_batch_tokens=8)
    engine.add_request("a", LONG, SamplingParams(prompt_logprobs=0))
    engine.advance()
    engine.abort("a")
    output = engine.advance()[-1].output
    assert (output.outputs[0].finish_reason, output.prompt_logprobs) == ("abort", None)


# The prompt's length.


@pytest.mark.parametrize(("num_kept", "expected"), [(1, 1), (5, 5), (10_000, None), (None, None)])
def test_the_prompts_last_tokens_are_kept(num_kept, expected):
    engine = Engine(*map(model_of, TABLES), kv_cache_bytes=KV)
    whole = TEXT.encode(LONG, allow_special=True)
    sampling = SamplingParams(temperature=0, max_tokens=4, truncate_prompt_tokens=num_kept, prompt_logprobs=0)
    for prompt in (LONG, whole):
        (output,) = engine.generate([prompt], sampling, routed(GlimpRouter(3.6)), use_tqdm=False)
        assert output.prompt_token_ids == whole[-(expected or len(whole)) :]
        check(output, sampling)
        check_prompt_logprobs(output, TABLES[0], 0)


@pytest.mark.parametrize("length", [63, 64, 500, 40_000])
def test_a_prompt_that_is_too_long_is_cut_to_the_models_context(length):
    engine = Engine(*map(model_of, TABLES), kv_cache_bytes=KV, max_model_len=64)
    sampling = SamplingParams(temperature=0, truncate_prompt_tokens=-1)
    (output,) = engine.generate(["x" * length], sampling, routed(SmallOnly()), use_tqdm=False)
    assert output.error is None
    assert output.prompt_token_ids == [id_of("x")] * 63
    (refused,) = engine.generate(["x" * (length + 1)], SamplingParams(truncate_prompt_tokens=64), use_tqdm=False)
    assert "prompt has 64 tokens" in refused.error


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
    """An engine that runs ahead, of models that like to write letters; at most ticks there is nothing to ban."""
    monkeypatch.setattr(EngineConfig, "has_graphs", True)
    monkeypatch.setattr(EngineConfig, "runs_ahead", True)
    lettered = [table.clone() for table in TABLES]
    for table in lettered:
        table[:, list(LETTERS)] += 8.0
    monkeypatch.setitem(globals(), "TABLES", lettered)
    return Engine(*map(model_of, lettered), device="cpu", ops="reference", kv_cache_bytes=KV)


@pytest.mark.parametrize("router", [SmallOnly(), GlimpRouter(math.inf), LargeOnly()], ids=str)
def test_a_word_comes_to_its_last_token_while_the_device_runs_ahead(ahead, router):
    free = SamplingParams(temperature=0, max_tokens=40, ignore_eos=True)
    (output,) = ahead.generate([PROMPT], free, routed(router), use_tqdm=False)
    text = output.outputs[0].text
    words = sorted({a + b for a, b in pairwise(text) if {a, b} <= set("abc")})[:3]  # each of them would come
    assert words
    banned = dataclasses.replace(free, bad_words=words)
    (output,) = ahead.generate([PROMPT], banned, routed(router), use_tqdm=False)
    check(output, banned)
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
