"""Speculation changes nothing but time: whoever proposes, however far, right or wrong, the tokens are the same."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from proposers import Whims
from tables import END, KV, PROMPT, TABLES, W, check, engine_on, model_of
from tiny_requests import GREEDY, PROMPTS, SAMPLED, check_pages, routing

from glimp_engine import (
    Engine,
    GlimpRouter,
    LargeOnly,
    Model,
    Proposer,
    RandomRouter,
    RoutingParams,
    SamplingParams,
    SmallOnly,
    SpecReason,
    Speculation,
    StepEnd,
    StepEntropyRouter,
    StructuredOutputs,
    Token,
)
from glimp_engine.config import EngineConfig
from glimp_engine.load import load_models
from glimp_engine.sequences import first_tokens
from glimp_engine.sequences.first_tokens import NUM_FIRST, WINDOW

ROUTERS = [GlimpRouter(0.0), GlimpRouter(2.2), GlimpRouter(math.inf), LargeOnly(), SmallOnly(), RandomRouter(0.5)]
REVIEWED = [SpecReason(5), StepEntropyRouter(2.4)]
SAMPLINGS = {
    "greedy": SamplingParams(temperature=0, seed=1, max_tokens=40),  # the seed is RandomRouter's
    "sampled": SAMPLED,
    "penalties": SamplingParams(temperature=0.8, seed=5, presence_penalty=0.7, repetition_penalty=1.3, max_tokens=40),
    "rules": SamplingParams(
        temperature=0.9,
        seed=6,
        min_tokens=8,
        bad_words=["w3", "a", "w1"],
        logit_bias={40: 3.0, 50: -math.inf},
        stop=["w7", ".\n\n w1"],
        max_tokens=33,
    ),
    "regex": SamplingParams(
        temperature=0.9,
        seed=9,
        max_tokens=40,
        structured_outputs=StructuredOutputs(regex=r"(( [wv][0-9]{1,2}|é|[a-z]{1,3})(\.\n\n)?)+!"),
    ),
    "json": SamplingParams(
        temperature=0, seed=1, max_tokens=40, structured_outputs=StructuredOutputs(json_object=True)
    ),
    "several": SamplingParams(temperature=1.1, seed=7, n=3, logprobs=3, prompt_logprobs=1, max_tokens=25),
}
WHIMS = {
    "one": {"depth": 1, "is_random": False, "share_small": 1.0},
    "four": {"depth": 4, "is_random": False, "share_small": 1.0},
    "sixteen": {"depth": 16, "is_random": False, "share_small": 1.0},
    "random": {"depth": 9, "share_small": 0.6},
    "wrong": {"depth": 5, "share_small": 0.0},
}


def told(outputs):
    """All that a user is told, but for times and proposals."""
    return [
        (
            output.error,
            output.prompt_logprobs,
            [
                (
                    each.token_ids,
                    each.text,
                    each.finish_reason,
                    each.stop_reason,
                    each.logprobs,
                    each.cumulative_logprob,
                )
                for each in output.outputs
            ],
            [
                [(s.model, s.phase, s.entropy, s.token_start, s.token_end, s.text_end, s.score) for s in each.steps]
                for each in output.outputs
            ],
        )
        for output in outputs
    ]


def ask(paths, sampling, router, policy=None, **options):
    """What an engine of its own says: what is cached of another request's would have to be run again for its logits."""
    engine = Engine(*paths, **{"kv_cache_bytes": 4 * KV, **options})
    if policy is not None:
        engine._loop.scheduler.proposing = policy
    outputs = engine.generate(PROMPTS, sampling, routing(router), use_tqdm=False)
    # the draft of a fork begins with logits that were its first sequence's
    assert engine.stats().recomputed_tokens == 0 or (sampling.n > 1 and router in REVIEWED)
    check_pages(engine)
    return told(outputs)


@pytest.fixture(
    scope="module",
    params=[
        "large_path",
        *(pytest.param(each, marks=pytest.mark.slow) for each in ("cousin_path", "foreign_path", None)),
    ],
)
def paths(request, small_path):
    return (small_path, request.getfixturevalue(request.param)) if request.param else (small_path,)


@pytest.mark.parametrize(
    "sampling", [each if each == "rules" else pytest.param(each, marks=pytest.mark.slow) for each in SAMPLINGS]
)
def test_no_token_changes(paths, sampling):
    models = load_once(paths)
    whims = list(WHIMS.values()) if sampling == "rules" else [WHIMS["four"], WHIMS["random"]]
    for router in [*ROUTERS, *REVIEWED] if len(paths) > 1 else [SmallOnly()]:
        expected = ask(models, SAMPLINGS[sampling], router, speculation="off")
        assert ask(models, SAMPLINGS[sampling], router) == expected
        for seed, options in enumerate(whims):
            assert ask(models, SAMPLINGS[sampling], router, Whims(seed, **options)) == expected


def load_once(paths):
    config = EngineConfig()
    return load_models(*paths, *[None] * (2 - len(paths)), config, config.make_ops())[: len(paths)]


@pytest.mark.parametrize("options", [{"page_size": 1}, {"page_size": 3, "max_batch_tokens": 5, "max_batch_size": 3}])
def test_no_token_changes_on_small_pages_and_in_short_ticks(small_path, large_path, options):
    paths = small_path, large_path
    expected = ask(paths, SAMPLED, GlimpRouter(2.2), speculation="off")
    for seed in range(4):
        got = ask(paths, SAMPLED, GlimpRouter(2.2), Whims(seed, depth=8), max_model_len=128, **options)
        assert got == expected


def test_no_token_changes_where_pages_run_out(small_path, large_path):
    paths = small_path, large_path
    expected = ask(paths, SAMPLED, GlimpRouter(2.2), speculation="off")
    for seed in range(4):
        engine = Engine(*paths, kv_cache_bytes=100 * 1024, max_model_len=128, page_size=2)
        engine._loop.scheduler.proposing = Whims(seed, depth=8)
        assert told(engine.generate(PROMPTS, SAMPLED, routing(GlimpRouter(2.2)), use_tqdm=False)) == expected
        assert engine.stats().preemptions > 0
        check_pages(engine)


@pytest.mark.parametrize("num_first", [1, 40, 200])
def test_proposals_of_the_first_tokens_change_no_token(small_path, large_path, monkeypatch, num_first):
    paths = small_path, large_path
    monkeypatch.setattr(first_tokens, "MOST_LATER", WINDOW)
    for sampling in (GREEDY, SAMPLED, SAMPLINGS["rules"]):
        expected = ask(paths, sampling, LargeOnly(), speculation="off")
        monkeypatch.setattr(first_tokens, "NUM_FIRST", num_first)
        policy = Whims(0, depth=6, is_random=False, share_small=1.0)
        assert ask(paths, sampling, LargeOnly(), policy) == expected
        if sampling is not SAMPLINGS["rules"]:  # lists of tokens may name any: then all are looked at
            assert 0 <= max(policy.small_tokens) < num_first


def test_an_answer_is_proposed_from_the_first_tokens_and_a_routed_step_from_all(thinking_script):
    """In a routed step the proposal past its end is the next glimpse."""
    pieces = ["<think>", *[f" w{i}" for i in range(4)], ".\n\n", " w5", "</think>", *[f" w{i}" for i in range(9)]]
    small, large = (thinking_script.model(len("x"), pieces, {1: 3}) for _ in Model)
    engine = Engine(small, large, kv_cache_bytes=KV)
    engine._loop.scheduler.proposing = Whims(0, depth=4, is_random=False, share_small=1.0)
    asked = RoutingParams(router=GlimpRouter(0.5))
    (output,) = engine.generate(["x"], SamplingParams(temperature=0), asked, use_tqdm=False)
    assert [step.model for step in output.outputs[0].steps] == [Model.SMALL, Model.LARGE, Model.SMALL, Model.LARGE]
    num_whole = small.model.nums_logits.index(NUM_FIRST)
    assert num_whole > 3
    assert set(small.model.nums_logits[:num_whole]) == {None}
    assert set(small.model.nums_logits[num_whole:]) == {NUM_FIRST}
    assert set(large.model.nums_logits) == {None}


# Tokens against a plain reference, on tables of logits.


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    depth=st.integers(1, 16),
    share_small=st.sampled_from([0.0, 0.5, 1.0]),
    router=st.sampled_from([LargeOnly(), GlimpRouter(3.6), RandomRouter(0.5), SmallOnly(), SpecReason(10)]),
    sampling=st.sampled_from(
        [
            SamplingParams(temperature=0, max_tokens=24),
            SamplingParams(temperature=0.8, seed=5, n=3, max_tokens=24),
            SamplingParams(temperature=0.8, seed=3, max_tokens=24, stop_token_ids=W[5:9], min_tokens=5),
            SamplingParams(temperature=0.7, seed=1, max_tokens=24, bad_words=["w3", "w1"], presence_penalty=0.7),
        ]
    ),
)
def test_random_proposers_change_no_token(seed, depth, share_small, router, sampling):
    plain = routing(router)
    first = engine_on("native")
    first._loop.scheduler.proposing = Whims(seed, depth, share_small=0.0)
    (output,) = first.generate([PROMPT], sampling, plain, use_tqdm=False)
    check(output, sampling)
    engine = engine_on("native")
    engine.add_request("a", PROMPT, sampling, plain)
    knows = {("a", each.index): each.token_ids for each in output.outputs}  # so that most proposals are right
    engine._loop.scheduler.proposing = Whims(seed, depth, share_small=share_small, knows=knows)
    again = None
    while again is None:
        again = next((event.output for event in engine.advance() if getattr(event, "output", None)), None)
    check(again, sampling)
    check_pages(engine)


# What is saved.


def test_a_proposed_boundary_is_a_glimpse_and_costs_no_forward(small_path):
    """Both models are the same one: each proposal is right."""
    engine = Engine(small_path, small_path, kv_cache_bytes=KV)
    engine._loop.scheduler.proposing = Whims(0, depth=6, is_random=False, share_small=1.0)
    outputs = engine.generate(PROMPTS, GREEDY, routing(GlimpRouter(2.2)), use_tqdm=False)
    plain = Engine(small_path, small_path, speculation="off", kv_cache_bytes=KV)
    assert told(outputs) == told(plain.generate(PROMPTS, GREEDY, routing(GlimpRouter(2.2)), use_tqdm=False))
    stats, without = engine.stats(), plain.stats()
    num_glimpses = sum(step.entropy is not None for output in outputs for step in output.outputs[0].steps)
    assert len(PROMPTS) <= stats.glimpse_forwards < without.glimpse_forwards <= num_glimpses
    assert stats.large.num_forwards < without.large.num_forwards / 2
    assert stats.recomputed_tokens == 0


def test_every_boundary_is_proposed_where_proposals_reach_beyond_it(small_path):
    engine = Engine(small_path, small_path, kv_cache_bytes=KV)
    engine._loop.scheduler.proposing = Whims(0, depth=14, is_random=False, share_small=1.0)
    (output,) = engine.generate(["How many?"], GREEDY, routing(GlimpRouter(0.0)), use_tqdm=False)
    assert len(output.outputs[0].steps) > 2
    stats = engine.stats()
    assert stats.glimpse_forwards == 1  # the prompt's; steps have 9 tokens at most, and 14 are proposed
    small = stats.small
    # what the large model said beyond the proposals, and the last of these
    assert small.catch_up_tokens <= 2 * stats.large.num_forwards
    check_pages(engine)


def test_the_small_models_step_begins_with_its_own_proposals(small_path):
    """Behind a large step that was proposed to its end, a small step's tokens are drawn already."""
    engine = Engine(small_path, small_path, kv_cache_bytes=KV)
    engine._loop.scheduler.proposing = Whims(0, depth=16, is_random=False, share_small=1.0)
    (output,) = engine.generate(["x"], SAMPLED, routing(RandomRouter(0.5)), use_tqdm=False)
    plain = Engine(small_path, small_path, speculation="off", kv_cache_bytes=KV)
    (expected,) = plain.generate(["x"], SAMPLED, routing(RandomRouter(0.5)), use_tqdm=False)
    assert told([output]) == told([expected])
    assert {step.model for step in output.outputs[0].steps} == set(Model)
    positions = engine.stats().small.proposal_tokens + engine.stats().small.decode_tokens
    assert positions + engine.stats().small.catch_up_tokens <= len(output.outputs[0].token_ids) + 16


# What ends an output ends it inside a verification too.


@pytest.mark.parametrize("max_tokens", [1, 2, 5, 11])
def test_budgets_hold_exactly(small_path, max_tokens):
    engine = Engine(small_path, small_path, kv_cache_bytes=KV)
    engine._loop.scheduler.proposing = Whims(0, depth=16, is_random=False, share_small=1.0)
    plain = Engine(small_path, small_path, speculation="off", kv_cache_bytes=KV)
    for options in ({"max_tokens": max_tokens}, {"stop": ["w"], "max_tokens": 40}, {"stop_token_ids": [*range(60)]}):
        sampling = SamplingParams(temperature=0.9, seed=3, **{"max_tokens": 40, **options})
        for limits in ({}, {"max_answer_tokens": max_tokens}):
            asked = RoutingParams(router=LargeOnly(), max_step_tokens=max_tokens, **limits)
            outputs = [each.generate(PROMPTS, sampling, asked, use_tqdm=False) for each in (engine, plain)]
            assert told(outputs[0]) == told(outputs[1])


def test_a_thinking_budget_holds_exactly(thinking_script):
    pieces = ["<think>", *[f" w{i}" for i in range(30)], "</think>", " w1", " w2"]
    models = [thinking_script.model(len("x"), pieces) for _ in Model]
    told_of = []
    for speculation in ("off", "auto"):
        engine = Engine(*models, kv_cache_bytes=KV, speculation=speculation)
        if speculation == "auto":
            engine._loop.scheduler.proposing = Whims(0, depth=16, is_random=False, share_small=1.0)
        asked = RoutingParams(router=LargeOnly(), max_thinking_tokens=7)
        told_of.append(told(engine.generate(["x"], SamplingParams(temperature=0), asked, use_tqdm=False)))
        assert (engine.stats().large.num_forwards < 20) == (speculation == "auto")
    assert told_of[0] == told_of[1]


# What the small model's own faults may cost: nothing, while it only proposes.


def test_logits_that_are_no_numbers_end_no_request_that_did_not_ask_for_them(small_path, large_path):
    engine = Engine(small_path, large_path, kv_cache_bytes=KV)
    engine._loop.scheduler.proposing = Whims(0, depth=4, share_small=0.8)
    forward = engine._loop.runners[Model.SMALL].model.forward

    def without_numbers(*args):
        return torch.full_like(forward(*args), torch.nan)

    engine._loop.runners[Model.SMALL].model.forward = without_numbers
    try:
        outputs = engine.generate(PROMPTS, GREEDY, routing(LargeOnly()), use_tqdm=False)
        (glimpsed,) = engine.generate(["x"], GREEDY, routing(GlimpRouter(1.0)), use_tqdm=False)
    finally:
        del engine._loop.runners[Model.SMALL].model.forward
    plain = Engine(small_path, large_path, speculation="off", kv_cache_bytes=KV)
    assert told(outputs) == told(plain.generate(PROMPTS, GREEDY, routing(LargeOnly()), use_tqdm=False))
    assert "the small model's logits are not numbers" in glimpsed.error


# Who may, and what is counted.


def test_speculation_is_off_where_it_is_asked_to_be(small_path):
    engine = Engine(small_path, small_path, kv_cache_bytes=KV)
    engine._loop.scheduler.proposing = Whims(0, depth=4, is_random=False, share_small=1.0)
    engine.generate(PROMPTS, GREEDY, routing(LargeOnly(), speculation="off"), use_tqdm=False)
    assert engine.stats().large.proposal_tokens == 0
    engine.generate(PROMPTS, GREEDY, routing(LargeOnly()), use_tqdm=False)
    assert engine.stats().large.proposal_tokens > 0


def test_a_proposer_that_is_not_named_proposes_nothing():
    for proposers in ((), ("small",), ("ngram",)):
        engine = Engine(*map(cheap, TABLES), kv_cache_bytes=KV, speculation=Speculation(proposers))
        prompt = [*range(20), *range(20), *range(20)]
        engine.generate([prompt], SamplingParams(temperature=0, max_tokens=30), routing(LargeOnly()), use_tqdm=False)
        active = {name for name, stats in engine.stats().proposers.items() if stats.proposed_tokens}
        assert active <= {Proposer(name) for name in proposers}
        assert bool(active) == bool(proposers) or proposers == ("ngram",)


def cheap(table):
    """A table whose ticks take the large model long enough for proposals to pay."""
    loaded = model_of(table)
    loaded.model.weight_bytes = 100 if table is TABLES[0] else 10_000
    return loaded


def test_what_is_proposed_and_accepted_is_counted(small_path):
    engine = Engine(small_path, small_path, kv_cache_bytes=KV)
    engine._loop.scheduler.proposing = policy = Whims(0, depth=4, is_random=False, share_small=1.0)
    events = []
    engine.add_request("a", "How many?", GREEDY, routing(LargeOnly()))
    while engine.has_unfinished():
        events += engine.advance()
    stats = engine.stats().proposers[Proposer.SMALL]
    assert stats.proposed_tokens == len(policy.outcomes) == sum(stats.proposed_at)
    assert stats.accepted_tokens == sum(each.is_confirmed is True for each in policy.outcomes) == sum(stats.accepted_at)
    assert stats.accepted_tokens >= stats.proposed_tokens - 4  # all but those behind the end
    assert len(stats.proposed_at) == 4
    steps = [event.step for event in events if isinstance(event, StepEnd)]
    assert sum(step.num_accepted_tokens for step in steps) == stats.accepted_tokens
    assert sum(step.num_proposed_tokens for step in steps) == stats.proposed_tokens
    tokens = [event for event in events if isinstance(event, Token)]
    assert len(tokens) == sum(step.num_tokens for step in steps)
    large = engine.stats().large
    assert large.decode_tokens + large.catch_up_tokens == large.num_forwards - 1
    assert engine.stats().proposing_seconds > 0
    assert engine.stats().verifying_seconds > 0


def test_an_end_token_is_the_last_proposal():
    engine = engine_on("native")
    engine._loop.scheduler.proposing = Whims(0, depth=16, is_random=False, share_small=1.0)
    sampling = SamplingParams(temperature=0, max_tokens=30, logit_bias={END: 50.0}, min_tokens=2)
    (output,) = engine.generate([PROMPT], sampling, routing(LargeOnly()), use_tqdm=False)
    assert len(output.outputs[0].token_ids) == 3
    assert engine.stats().large.proposal_tokens <= 3 + 2 + 1
