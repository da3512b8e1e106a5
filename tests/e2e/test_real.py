"""Real checkpoints: the same ids as transformers, and both ends of the threshold."""

import dataclasses
import json
from itertools import pairwise

import pytest
from record_transformers import PROMPTS, RECORDED, sha256

from glimp_engine import Engine, GlimpRouter, LargeOnly, Model, RoutingParams, SamplingParams, SmallOnly
from glimp_engine.config import EngineConfig
from glimp_engine.load import load_models

pytestmark = [pytest.mark.real, pytest.mark.slow]

GREEDY = SamplingParams(temperature=0, max_tokens=64)
SAMPLED = SamplingParams(temperature=0.8, top_p=0.95, seed=5)


def token_ids(outputs):
    return [output.outputs[0].token_ids for output in outputs]


def routing(router):
    return RoutingParams(router=router, stop_repeated_steps=False)


def recorded(name, path):
    """(prompts, what transformers writes behind them), as ids; greedy."""
    record = json.loads(RECORDED.read_text())["models"][name]
    assert sha256(path) == record["sha256"], "recorded of another file: see tests/record_transformers.py"
    return record["prompts"], record["written"]


@pytest.mark.parametrize("name", ["smollm2", "qwen-small"])
def test_64_greedy_tokens_equal_transformers(real_models, name):
    prompts, written = recorded(name, real_models[name])
    engine = Engine(real_models[name], dtype="float32", kv_cache_bytes=64 << 20)
    outputs = engine.generate(PROMPTS, GREEDY, routing(SmallOnly()), use_tqdm=False)
    assert [output.prompt_token_ids for output in outputs] == prompts
    assert token_ids(outputs) == written


def test_the_likeliest_tokens_of_the_largest_equal_transformers(real_models):
    """At each place of 64 tokens behind each prompt; as prompts, as decoding reads 6 GB for each of them."""
    path = real_models["qwen-large"]
    prompts, written = recorded("qwen-large", path)
    engine = Engine(path, dtype="float32", kv_cache_bytes=64 << 20)
    scored = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=1)
    texts = [prompt + answer[:-1] for prompt, answer in zip(prompts, written, strict=True)]
    outputs = engine.generate(texts, scored, routing(SmallOnly()), use_tqdm=False)
    for prompt, answer, output in zip(prompts, written, outputs, strict=True):
        ours = [next(i for i, logprob in place.items() if logprob.rank == 1) for place in output.prompt_logprobs[1:]]
        assert (ours + output.outputs[0].token_ids)[len(prompt) - 1 :] == answer


@pytest.fixture(scope="module")
def two_vocabularies(real_models):
    config = EngineConfig()
    return load_models(real_models["smollm2"], real_models["qwen-small"], config, config.make_ops())


@pytest.fixture(scope="module")
def pair(two_vocabularies):
    return Engine(*two_vocabularies, kv_cache_bytes=512 << 20)


@pytest.fixture(scope="module")
def qwens(real_models):
    """A pair with one vocabulary, its weights as they are stored."""
    return Engine(real_models["qwen-small"], real_models["qwen-large"], kv_cache_bytes=512 << 20)


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_the_ends_of_a_quantised_pair(qwens, sampling):
    sampling = dataclasses.replace(sampling, max_tokens=20)
    for router, end in ((GlimpRouter(float("inf")), SmallOnly()), (GlimpRouter(0.0), LargeOnly())):
        routed = qwens.generate(PROMPTS, sampling, routing(router), use_tqdm=False)
        assert token_ids(routed) == token_ids(qwens.generate(PROMPTS, sampling, routing(end), use_tqdm=False))


def test_the_models_of_a_quantised_pair_write_what_each_writes_alone(real_models, qwens):
    for name, end in (("qwen-small", SmallOnly()), ("qwen-large", LargeOnly())):
        alone = Engine(real_models[name], kv_cache_bytes=64 << 20, num_threads=1)
        for sampling in (GREEDY, SAMPLED):
            sampling = dataclasses.replace(sampling, max_tokens=16)
            expected = alone.generate(PROMPTS, sampling, routing(SmallOnly()), use_tqdm=False)
            assert token_ids(qwens.generate(PROMPTS, sampling, routing(end), use_tqdm=False)) == token_ids(expected)


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_the_ends_of_a_pair_with_two_vocabularies(pair, sampling):
    prompts, sampling = PROMPTS[:2], dataclasses.replace(sampling, max_tokens=16)
    for router, end in ((GlimpRouter(float("inf")), SmallOnly()), (GlimpRouter(0.0), LargeOnly())):
        routed = pair.generate(prompts, sampling, routing(router), use_tqdm=False)
        assert token_ids(routed) == token_ids(pair.generate(prompts, sampling, routing(end), use_tqdm=False))


def test_both_models_of_a_pair_solve_a_problem(pair):
    messages = [{"role": "user", "content": "A pen costs 3 dollars. How much do 7 pens cost? Think step by step."}]
    output = pair.generate(messages, SamplingParams(temperature=0, max_tokens=80), use_tqdm=False)[0]
    completion = output.outputs[0]
    assert {step.model for step in completion.steps} == set(Model)
    assert all(step.entropy is not None for step in completion.steps)
    assert pair.stats().recomputed_tokens == 0


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_twenty_problems_at_once_give_what_each_gives_alone(pair, two_vocabularies, sampling):
    problems = [f"A box holds {i} pens. How many pens are in {i + 3} boxes? Think step by step." for i in range(20)]
    chats = [[{"role": "user", "content": problem}] for problem in problems]
    sampling, before = dataclasses.replace(sampling, max_tokens=16), pair.stats()
    together = pair.generate(chats, sampling, use_tqdm=False)
    after = pair.stats()
    assert after.recomputed_tokens == 0
    assert after.num_free_pages + after.num_cached_pages == after.num_pages
    steps = [output.outputs[0].steps for output in together]
    after_large = sum(a.model is Model.LARGE for each in steps for a, _ in pairwise(each))
    assert after.glimpse_forwards - before.glimpse_forwards == len(chats) + after_large
    for chat, output in zip(chats, together, strict=True):
        assert token_ids(pair.generate(chat, sampling, use_tqdm=False)) == token_ids([output])

    tight = Engine(*two_vocabularies, kv_cache_bytes=64 << 20)
    assert token_ids(tight.generate(chats, sampling, use_tqdm=False)) == token_ids(together)
    stats = tight.stats()
    assert stats.preemptions > 0
    assert stats.recomputed_tokens > 0
    assert stats.num_free_pages + stats.num_cached_pages == stats.num_pages
