"""The engine on tiny random checkpoints: the invariants of two models that share one page table."""

import dataclasses
from itertools import pairwise

import pytest
import torch
from models import whole
from tiny_requests import GREEDY, PROMPTS, SAMPLED, check_pages, routing, token_ids
from transformers import AutoModelForCausalLM

from glimp_engine import (
    Engine,
    Finish,
    GlimpRouter,
    LargeOnly,
    Model,
    RandomRouter,
    SmallOnly,
    StepStart,
    Token,
)
from glimp_engine.checkpoints.checkpoint import load_checkpoint
from glimp_engine.kernels.reference import ReferenceOps
from glimp_engine.models.decoder import Decoder


@pytest.fixture
def engine(small_path, large_path):
    return Engine(small_path, large_path)


class Slots:
    """Watches the forwards of an engine: which slots of each model's K/V are written, and how often."""

    def __init__(self, engine):
        self.written = [[], []]
        for model, runner in enumerate(engine._loop.runners):
            self.watch(model, runner.model)

    def watch(self, model, decoder):
        forward = decoder.forward

        def watched(token_ids, batch, logit_rows, kv, num_logits=None):
            self.written[model] += batch.slots.tolist()
            return forward(token_ids, batch, logit_rows, kv, num_logits)

        decoder.forward = watched


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_the_ends_are_exact(engine, small_path, large_path, sampling):
    small_alone = token_ids(Engine(small_path).generate(PROMPTS, sampling, routing(SmallOnly()), use_tqdm=False))
    large_alone = token_ids(Engine(large_path).generate(PROMPTS, sampling, routing(SmallOnly()), use_tqdm=False))
    assert small_alone != large_alone
    for router, expected in (
        (GlimpRouter(float("inf")), small_alone),
        (SmallOnly(), small_alone),
        (GlimpRouter(0.0), large_alone),
        (LargeOnly(), large_alone),
    ):
        assert token_ids(engine.generate(PROMPTS, sampling, routing(router), use_tqdm=False)) == expected
    check_pages(engine)


def test_greedy_equals_transformers(engine, small_path):
    hf = AutoModelForCausalLM.from_pretrained(small_path, dtype=torch.float32)
    for prompt in PROMPTS:
        output = engine.generate(prompt, GREEDY, routing(SmallOnly()), use_tqdm=False)[0]
        prompt_ids = torch.tensor([output.prompt_token_ids])
        expected = hf.generate(prompt_ids, max_new_tokens=40, do_sample=False)[0, prompt_ids.shape[1] :]
        assert output.outputs[0].token_ids == expected.tolist()


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_no_token_is_computed_twice_and_a_hand_over_costs_one_forward(small_path, large_path, sampling):
    for prompt in PROMPTS:
        engine = Engine(small_path, large_path, speculation="off")
        slots = Slots(engine)
        output = engine.generate(prompt, sampling, routing(GlimpRouter(2.2)), use_tqdm=False)[0]
        completion, stats = output.outputs[0], engine.stats()
        steps = completion.steps
        large_steps = [step for step in steps if step.model is Model.LARGE]
        assert all(len(written) == len(set(written)) for written in slots.written)
        assert stats.recomputed_tokens == 0
        # the last row of a glimpse or of a catch-up samples the step's first token
        assert stats.large.num_forwards == sum(step.num_tokens for step in large_steps)
        small_tokens = sum(step.num_tokens for step in steps if step.model is Model.SMALL)
        assert stats.small.num_forwards == small_tokens + len(large_steps)
        after_large = [step for before, step in pairwise(steps) if before.model is Model.LARGE]
        assert stats.glimpse_forwards == 1 + len(after_large)
        changes = [pair for pair in pairwise(steps) if pair[0].model is not pair[1].model]
        assert stats.hand_overs == len(changes)
        check_pages(engine)


def test_both_models_write_and_the_routes_follow_the_entropies(engine):
    outputs = engine.generate(PROMPTS, GREEDY, routing(GlimpRouter(2.2)), use_tqdm=False)
    steps = [step for output in outputs for step in output.outputs[0].steps]
    assert {step.model for step in steps} == set(Model)
    assert all((step.entropy >= 2.2) == (step.model is Model.LARGE) for step in steps)


def test_the_entropy_is_the_exact_one_of_all_that_was_written(engine, small_path):
    config, weights = load_checkpoint(small_path, torch.float64, torch.device("cpu"))
    decoder = Decoder(config, weights, ReferenceOps())
    output = engine.generate(PROMPTS[1], SAMPLED, routing(GlimpRouter(2.2)), use_tqdm=False)[0]
    ids = output.prompt_token_ids + output.outputs[0].token_ids
    logprobs = whole(decoder, ids).log_softmax(-1)
    for step in output.outputs[0].steps:
        row = logprobs[len(output.prompt_token_ids) + step.token_start - 1]
        assert step.entropy == pytest.approx(-(row.exp() * row).sum().item(), rel=1e-5)


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize(
    "options", [{}, {"page_size": 5}, {"max_batch_size": 2}, {"max_batch_size": 3, "max_batch_tokens": 7}], ids=str
)
def test_a_request_means_the_same_in_any_company(small_path, large_path, sampling, options):
    alone = []
    for prompt in PROMPTS:
        alone += token_ids(
            Engine(small_path, large_path).generate(prompt, sampling, routing(GlimpRouter(2.2)), use_tqdm=False)
        )
    engine = Engine(small_path, large_path, **options)
    assert token_ids(engine.generate(PROMPTS, sampling, routing(GlimpRouter(2.2)), use_tqdm=False)) == alone
    assert engine.stats().recomputed_tokens == 0
    check_pages(engine)


def test_preemption_changes_nothing_but_the_work(small_path, large_path):
    router = routing(GlimpRouter(2.2))
    roomy = Engine(small_path, large_path)
    expected = token_ids(roomy.generate(PROMPTS, SAMPLED, router, use_tqdm=False))
    longest = 110
    bytes_per_page = 16 * (2 * 2 * 2 * 8 * 4 + 2 * 3 * 2 * 8 * 4)
    tight = Engine(small_path, large_path, kv_cache_bytes=7 * bytes_per_page, max_model_len=longest)
    assert tight.stats().num_pages == 7
    assert token_ids(tight.generate(PROMPTS, SAMPLED, router, use_tqdm=False)) == expected
    stats = tight.stats()
    assert stats.preemptions > 0
    assert stats.recomputed_tokens > 0
    check_pages(tight)


def test_a_shared_prefix_is_run_once_for_both_models(engine):
    prompt = "The same long beginning of everything that follows: " * 3
    engine.generate(prompt + "A", GREEDY, routing(GlimpRouter(0.0)), use_tqdm=False)
    before = engine.stats()
    engine.generate(prompt + "B", GREEDY, routing(GlimpRouter(0.0)), use_tqdm=False)
    after = engine.stats()
    assert after.small.prompt_tokens - before.small.prompt_tokens == 1  # all but the last token is found
    assert after.large.prompt_tokens - before.large.prompt_tokens == 1
    assert after.cached_prompt_tokens - before.cached_prompt_tokens == len(prompt)


@pytest.mark.parametrize("threshold", [0.0, 2.2, float("inf")])
def test_n_sequences_share_the_prompt(engine, threshold):
    sampling = dataclasses.replace(SAMPLED, n=4)
    output = engine.generate(PROMPTS[3], sampling, routing(GlimpRouter(threshold)), use_tqdm=False)[0]
    assert [completion.index for completion in output.outputs] == [0, 1, 2, 3]
    assert len({tuple(completion.token_ids) for completion in output.outputs}) == 4
    first = engine.generate(PROMPTS[3], SAMPLED, routing(GlimpRouter(threshold)), use_tqdm=False)[0]
    assert first.outputs[0].token_ids == output.outputs[0].token_ids  # sequence 0 is what n = 1 gives
    stats = engine.stats()
    # the second request finds all but its last prompt token
    assert stats.small.prompt_tokens == len(output.prompt_token_ids) + 1
    assert stats.recomputed_tokens == 0
    check_pages(engine)


def test_events_tell_the_output(engine):
    events = list(engine.stream(PROMPTS[1], SAMPLED, routing(GlimpRouter(2.2))))
    finish = events[-1]
    assert isinstance(finish, Finish)
    completion = finish.output.outputs[0]
    tokens = [event for event in events if isinstance(event, Token)]
    assert [token.token_id for token in tokens] == completion.token_ids
    assert "".join(token.text for token in tokens) + finish.text == completion.text
    starts = [event.step for event in events if isinstance(event, StepStart)]
    assert starts == completion.steps
    for step in completion.steps:
        written = tokens[step.token_start : step.token_end]
        assert {token.model for token in written} == {step.model}
        assert {token.step_index for token in written} == {step.index}
    assert sum(step.num_tokens for step in completion.steps) == len(completion.token_ids)
    spans = [completion.text[step.text_start : step.text_end] for step in completion.steps]
    assert "".join(spans) == completion.text


def test_logprobs(engine):
    sampling = dataclasses.replace(GREEDY, logprobs=3)
    completion = engine.generate(PROMPTS[0], sampling, routing(GlimpRouter(2.2)), use_tqdm=False)[0].outputs[0]
    assert len(completion.logprobs) == len(completion.token_ids)
    for token_id, entry in zip(completion.token_ids, completion.logprobs, strict=True):
        assert len(entry) == 3
        assert entry[token_id].rank == 1
    total = sum(entry[i].logprob for i, entry in zip(completion.token_ids, completion.logprobs, strict=True))
    assert completion.cumulative_logprob == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize("signal", ["top20_entropy", "max_probability", "margin"])
def test_other_signals_route_both_ways(engine, signal):
    threshold = {"top20_entropy": 1.9, "max_probability": 0.7, "margin": 0.8}[signal]
    router = routing(GlimpRouter(threshold, signal))
    steps = [
        step for output in engine.generate(PROMPTS, SAMPLED, router, use_tqdm=False) for step in output.outputs[0].steps
    ]
    assert {step.model for step in steps} == set(Model)


def test_a_step_tells_its_glimpse_and_its_own_uncertainty(engine, small_path, large_path):
    decoders = [
        Decoder(*load_checkpoint(path, torch.float64, torch.device("cpu")), ReferenceOps())
        for path in (small_path, large_path)
    ]
    router = routing(GlimpRouter(2.2), glimpse_logprobs=5)
    output = engine.generate(PROMPTS[1], SAMPLED, router, use_tqdm=False)[0]
    ids = output.prompt_token_ids + output.outputs[0].token_ids
    logprobs = [whole(decoder, ids).log_softmax(-1) for decoder in decoders]
    for step in output.outputs[0].steps:
        places = torch.arange(step.token_start, step.token_end) + len(output.prompt_token_ids)
        values, token_ids = logprobs[Model.SMALL][places[0] - 1].topk(5)
        assert [token_id for token_id, _ in step.first_tokens] == token_ids.tolist()
        assert [logprob for _, logprob in step.first_tokens] == pytest.approx(values.tolist(), rel=1e-4)
        own = logprobs[step.model][places - 1]
        assert step.mean_entropy == pytest.approx(-(own.exp() * own).sum(-1).mean().item(), rel=1e-4)
        assert step.mean_logprob == pytest.approx(
            own[torch.arange(len(places)), torch.tensor(ids)[places]].mean().item(), rel=1e-4
        )


def test_a_fraction_of_the_steps_is_large(engine):
    outputs = engine.generate(PROMPTS, SAMPLED, routing(GlimpRouter(large_fraction=0.5)), use_tqdm=False)
    steps = [step for output in outputs for step in output.outputs[0].steps]
    assert 0.3 < sum(step.model is Model.LARGE for step in steps) / len(steps) < 0.7


def test_random_routing_is_reproducible(engine):
    runs = [engine.generate(PROMPTS, SAMPLED, routing(RandomRouter(0.5)), use_tqdm=False) for _ in range(2)]
    assert token_ids(runs[0]) == token_ids(runs[1])
    models = {step.model for output in runs[0] for step in output.outputs[0].steps}
    assert models == set(Model)


def test_two_engines_in_one_process(small_path, large_path):
    first, second = Engine(small_path, large_path), Engine(large_path, small_path, page_size=4)
    expected = [
        token_ids(engine.generate(PROMPTS[1], SAMPLED, routing(GlimpRouter(2.2)), use_tqdm=False))[0]
        for engine in (Engine(small_path, large_path), Engine(large_path, small_path, page_size=4))
    ]
    outputs = [None, None]
    for engine in (first, second):
        engine.add_request("one", PROMPTS[1], SAMPLED, routing(GlimpRouter(2.2)))
    while None in outputs:
        for i, engine in enumerate((first, second)):
            for event in engine.advance():
                if isinstance(event, Finish):
                    outputs[i] = event.output.outputs[0].token_ids
    assert outputs == expected


def test_one_path_given_twice_is_loaded_once(small_path):
    engine = Engine(small_path, small_path)
    assert engine._loop.runners[0].model is engine._loop.runners[1].model
    routed = engine.generate(PROMPTS, SAMPLED, routing(GlimpRouter(2.2)), use_tqdm=False)
    alone = Engine(small_path).generate(PROMPTS, SAMPLED, routing(SmallOnly()), use_tqdm=False)
    assert token_ids(routed) == token_ids(alone)  # whoever writes, it's the same model


@pytest.mark.parametrize("path", ["foreign_path", "cousin_path"])
def test_pairs_with_two_vocabularies(small_path, path, request):
    large = request.getfixturevalue(path)
    engine = Engine(small_path, large)
    for router, alone in ((GlimpRouter(float("inf")), small_path), (LargeOnly(), large), (GlimpRouter(0.0), large)):
        expected = token_ids(Engine(alone).generate(PROMPTS, SAMPLED, routing(SmallOnly()), use_tqdm=False))
        assert token_ids(engine.generate(PROMPTS, SAMPLED, routing(router), use_tqdm=False)) == expected
    outputs = engine.generate(PROMPTS, SAMPLED, routing(GlimpRouter(2.2)), use_tqdm=False)
    assert {step.model for output in outputs for step in output.outputs[0].steps} == set(Model)
    assert engine.stats().recomputed_tokens == 0
    check_pages(engine)
