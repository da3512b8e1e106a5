"""A prompt's own log-probabilities, and how much of it is kept, on tables of logits."""

import dataclasses

import pytest
from tables import KV, MODES, PROMPT, TABLES, TEXT, check, engine_in, id_of, logits_in, model_of, routed
from tiny_requests import check_pages

from glimp_engine import (
    Engine,
    GlimpRouter,
    LargeOnly,
    SamplingParams,
    SmallOnly,
)


@pytest.fixture(params=MODES)
def engine(request, monkeypatch):
    return engine_in(request.param, monkeypatch)


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

    def counted(token_ids, batch, logit_rows, kv, num_logits=None):
        rows.append((len(token_ids), len(logit_rows)))
        return forward(token_ids, batch, logit_rows, kv, num_logits)

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
