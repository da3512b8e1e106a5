"""Drafts: steps that a router judges once the small model has written them, and that may be taken back."""

import dataclasses
import random

import pytest
import torch
from models import whole
from tiny_requests import GREEDY, PROMPTS, SAMPLED, check_pages, routing, token_ids

from glimp_engine import (
    Engine,
    Finish,
    Model,
    RoutingParams,
    SamplingParams,
    SmallOnly,
    SpecReason,
    StepEntropyRouter,
    StepPerplexityRouter,
    StepStart,
    Token,
    Verdict,
)
from glimp_engine.checkpoints.checkpoint import load_checkpoint
from glimp_engine.kernels.reference import ReferenceOps
from glimp_engine.models.decoder import Decoder
from glimp_engine.text.messages import Chat


@dataclasses.dataclass(frozen=True)
class Whim(StepEntropyRouter):
    """Takes back about half of the drafts, which ones depends on nothing but what they are."""

    threshold: float = 0.0
    question: str | None = None

    def review(self, draft):
        is_redone = random.Random(f"{draft.num_tokens} {draft.mean_logprob:.4f}").random() < 0.5
        return Verdict.REDO if is_redone else Verdict.ACCEPT


class Keep(Whim):
    def review(self, draft):
        return Verdict.ACCEPT


ASKING = Whim(question="Is it right?")


@pytest.fixture
def engine(small_path, large_path):
    return Engine(small_path, large_path)


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_the_ends_are_exact(engine, small_path, large_path, sampling):
    alone = [
        token_ids(Engine(path).generate(PROMPTS, sampling, routing(SmallOnly()), use_tqdm=False))
        for path in (small_path, large_path)
    ]
    for router, model in (
        (StepEntropyRouter(float("inf")), Model.SMALL),
        (StepPerplexityRouter(float("inf")), Model.SMALL),
        (Keep(question="Is it right?"), Model.SMALL),
        (StepEntropyRouter(0.0), Model.LARGE),
        (StepPerplexityRouter(1.0), Model.LARGE),
        (SpecReason(10), Model.LARGE),
    ):
        assert token_ids(engine.generate(PROMPTS, sampling, routing(router), use_tqdm=False)) == alone[model], router
        assert engine.stats().recomputed_tokens == 0
        check_pages(engine)


@pytest.mark.parametrize("router", [Whim(), ASKING], ids=["unasked", "asked"])
def test_each_token_is_its_writers_choice_behind_all_that_stays(engine, small_path, large_path, router):
    decoders = [
        Decoder(*load_checkpoint(path, torch.float64, torch.device("cpu")), ReferenceOps())
        for path in (small_path, large_path)
    ]
    models = set()
    for output in engine.generate(PROMPTS, GREEDY, routing(router), use_tqdm=False):
        completion = output.outputs[0]
        ids = output.prompt_token_ids + completion.token_ids
        logits = [whole(decoder, ids) for decoder in decoders]
        entropies = torch.distributions.Categorical(logits=logits[Model.SMALL]).entropy()
        for step in completion.steps:
            models.add(step.model)
            for i in range(step.token_start, step.token_end):
                place = len(output.prompt_token_ids) + i
                assert logits[step.model][place - 1].argmax() == ids[place]
            place = len(output.prompt_token_ids) + step.token_start
            assert step.entropy == pytest.approx(float(entropies[place - 1]), rel=1e-5)
            assert (step.num_redone_tokens > 0) == (step.model is Model.LARGE)
    assert models == set(Model)


@pytest.mark.parametrize("router", [Whim(), ASKING], ids=["unasked", "asked"])
@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.slow
def test_no_token_is_computed_twice(small_path, large_path, router, sampling):
    for prompt in PROMPTS:
        engine = Engine(small_path, large_path)
        seen = [[], []]  # [model]: everything up to and with each token that was run
        for model, runner in enumerate(engine._loop.runners):
            watch(engine, runner.model, seen[model])
        output = engine.generate(prompt, sampling, routing(router), use_tqdm=False)[0]
        assert all(len(prefixes) == len(set(prefixes)) for prefixes in seen)
        stats, steps = engine.stats(), output.outputs[0].steps
        assert stats.recomputed_tokens == 0
        assert stats.small.redone_tokens == sum(step.num_redone_tokens for step in steps)
        assert (stats.large.question_tokens > 0) == (router is ASKING)
        if router is ASKING:  # a question costs one forward, and the step that replaces a draft begins with none
            num_large = sum(step.num_tokens for step in steps if step.model is Model.LARGE)
            num_large_steps = sum(step.model is Model.LARGE for step in steps)
            assert stats.large.num_forwards == len(steps) + num_large - num_large_steps
        check_pages(engine)


def watch(engine, decoder, prefixes):
    forward = decoder.forward

    def watched(token_ids, batch, logit_rows, kv, num_logits=None):
        (sequence,) = engine._loop.scheduler.running
        prefixes.extend(tuple(sequence.stream.tokens[: p + 1]) for p in batch.positions.tolist())
        return forward(token_ids, batch, logit_rows, kv, num_logits)

    decoder.forward = watched


@pytest.mark.parametrize("router", [Whim(), ASKING], ids=["unasked", "asked"])
@pytest.mark.parametrize(
    "options", [{}, {"page_size": 5}, {"max_batch_size": 2}, {"max_batch_size": 3, "max_batch_tokens": 7}], ids=str
)
@pytest.mark.slow
def test_a_request_means_the_same_in_any_company(small_path, large_path, options, router):
    alone = []
    for prompt in PROMPTS:
        engine = Engine(small_path, large_path)
        alone += token_ids(engine.generate(prompt, SAMPLED, routing(router), use_tqdm=False))
    engine = Engine(small_path, large_path, **options)
    assert token_ids(engine.generate(PROMPTS, SAMPLED, routing(router), use_tqdm=False)) == alone
    check_pages(engine)


@pytest.mark.parametrize("router", [Whim(), ASKING], ids=["unasked", "asked"])
def test_preemption_changes_nothing_but_the_work(small_path, large_path, router):
    expected = token_ids(Engine(small_path, large_path).generate(PROMPTS, SAMPLED, routing(router), use_tqdm=False))
    bytes_per_page = 16 * (2 * 2 * 2 * 8 * 4 + 2 * 3 * 2 * 8 * 4)
    tight = Engine(small_path, large_path, kv_cache_bytes=10 * bytes_per_page, max_model_len=160)
    assert token_ids(tight.generate(PROMPTS, SAMPLED, routing(router), use_tqdm=False)) == expected
    assert tight.stats().preemptions > 0
    check_pages(tight)


def test_forks_have_drafts_of_their_own(engine):
    sampling = dataclasses.replace(SAMPLED, n=4)
    output = engine.generate(PROMPTS[3], sampling, routing(ASKING), use_tqdm=False)[0]
    alone = engine.generate(PROMPTS[3], SAMPLED, routing(ASKING), use_tqdm=False)[0]
    assert alone.outputs[0].token_ids == output.outputs[0].token_ids
    assert len({tuple(completion.token_ids) for completion in output.outputs}) == 4
    check_pages(engine)


@pytest.mark.parametrize("path", ["foreign_path", "cousin_path"])
@pytest.mark.parametrize("router", [Whim(), ASKING], ids=["unasked", "asked"])
def test_pairs_with_two_vocabularies(small_path, path, router, request):
    large = request.getfixturevalue(path)
    engine = Engine(small_path, large)
    for end, alone in ((StepEntropyRouter(float("inf")), small_path), (SpecReason(10), large)):
        expected = token_ids(Engine(alone).generate(PROMPTS, SAMPLED, routing(SmallOnly()), use_tqdm=False))
        assert token_ids(engine.generate(PROMPTS, SAMPLED, routing(end), use_tqdm=False)) == expected
    engine = Engine(small_path, large)  # without what the requests before have left in the prefix cache
    outputs = engine.generate(PROMPTS, SAMPLED, routing(router), use_tqdm=False)
    assert {step.model for output in outputs for step in output.outputs[0].steps} == set(Model)
    assert engine.stats().recomputed_tokens == 0
    check_pages(engine)


def test_nobody_is_told_of_what_is_taken_back(engine):
    sampling = dataclasses.replace(SAMPLED, logprobs=2)
    events = list(engine.stream(PROMPTS[1], sampling, routing(ASKING)))
    completion = events[-1].output.outputs[0]
    tokens = [event for event in events if isinstance(event, Token)]
    assert [token.token_id for token in tokens] == completion.token_ids
    assert "".join(token.text for token in tokens) + events[-1].text == completion.text
    assert [event.step for event in events if isinstance(event, StepStart)] == completion.steps
    assert len(completion.logprobs) == len(completion.token_ids)
    total = sum(entry[i].logprob for i, entry in zip(completion.token_ids, completion.logprobs, strict=True))
    assert completion.cumulative_logprob == pytest.approx(total, rel=1e-5)
    assert any(step.num_redone_tokens for step in completion.steps)


def test_penalties_do_not_count_what_was_taken_back(engine, large_path):
    sampling = dataclasses.replace(SAMPLED, repetition_penalty=1.4, frequency_penalty=0.5)
    alone = token_ids(Engine(large_path).generate(PROMPTS, sampling, routing(SmallOnly()), use_tqdm=False))
    assert token_ids(engine.generate(PROMPTS, sampling, routing(SpecReason(10)), use_tqdm=False)) == alone
    check_pages(engine)


def test_an_abort_keeps_the_draft_that_was_being_written(engine):
    engine.add_request("a", PROMPTS[0], GREEDY, routing(ASKING))
    events = [event for _ in range(4) for event in engine.advance()]
    engine.abort("a")
    events += engine.advance()
    assert isinstance(events[-1], Finish)
    written = [event.token_id for event in events if isinstance(event, Token)]
    assert written == events[-1].output.outputs[0].token_ids
    assert written
    check_pages(engine)


# On scripts.

STEPS = [" w1", " w2.\n\n", " w3.\n\n", " w4"]


class Scored(Whim):
    """Keeps what it has seen."""

    def review(self, draft):
        self.drafts.append(draft)
        return Verdict.ACCEPT


def scored(question):
    router = Scored(question=question)
    object.__setattr__(router, "drafts", [])
    return router


def test_the_score_is_the_digit_that_the_large_model_finds_most_likely(script):
    prompt, question = "Go", "Is it right?"
    num_prompt, num_question = len(prompt), len(script.text.encode_question(question, as_turn=True))
    large = script.model(num_prompt, STEPS)
    ends = {num_prompt + n + num_question - 1: digit for n, digit in ((2, "8"), (3, "3"), (5, " w9"))}
    ordinary = large.model.logits_at

    def logits_at(position, token_id):
        if position in ends and token_id == script.text.encode("\n", allow_special=False)[0]:
            return script.logits(script.id_of(ends[position]))
        return ordinary(position, token_id)

    large.model.logits_at = logits_at
    router = scored(question)
    engine = Engine(script.model(num_prompt, STEPS), large, kv_cache_bytes=1 << 20)
    completion = engine.generate(prompt, GREEDY, RoutingParams(router=router), use_tqdm=False)[0].outputs[0]
    assert completion.text == " w1 w2.\n\n w3.\n\n w4"
    assert [draft.score for draft in router.drafts] == [8.0, 3.0, None]
    assert [step.score for step in completion.steps] == [8.0, 3.0, None]
    assert [draft.num_tokens for draft in router.drafts] == [2, 1, 2]


@pytest.mark.parametrize("question", [None, "Is it right?"])
def test_the_answer_behind_a_draft_that_ends_the_thinking(thinking_script, question):
    """The large model has seen </think> when it was asked about it, and what it wrote behind it is kept from then."""
    messages = [{"role": "user", "content": "Go"}]
    num_prompt = len(thinking_script.text.encode_chat(Chat(messages)))
    pieces = [" w1.\n\n", " w2.\n\n", "</think>", "\n\n", " w3", "\n\n", " w4"]
    models = [thinking_script.model(num_prompt, pieces) for _ in Model]
    engine = Engine(*models, kv_cache_bytes=1 << 20)
    routing = RoutingParams(router=Keep(question=question))
    completion = engine.generate(messages, GREEDY, routing, use_tqdm=False)[0].outputs[0]
    assert completion.text == " w1.\n\n w2.\n\n</think>\n\n w3\n\n w4"
    assert [str(step.model) for step in completion.steps] == ["small"] * 3 + ["large"]
    assert engine.stats().recomputed_tokens == 0
    check_pages(engine)


class Both(Whim):
    """Decides by the glimpse, and judges what it has left to the small model."""

    num_top_logprobs = 1

    def decide(self, glimpse, context):
        return Model.LARGE if context.step_index % 3 == 1 else Model.SMALL


@pytest.mark.parametrize("question", [None, "Is it right?"])
@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_a_router_may_decide_and_judge(small_path, large_path, question, sampling):
    alone = []
    for prompt in PROMPTS:
        engine = Engine(small_path, large_path)
        output = engine.generate(prompt, sampling, routing(Both(question=question)), use_tqdm=False)[0]
        alone.append(output.outputs[0].token_ids)
        assert all(step.model is Model.LARGE for step in output.outputs[0].steps[1::3])
        assert engine.stats().recomputed_tokens == 0
        check_pages(engine)
    engine = Engine(small_path, large_path)
    together = engine.generate(PROMPTS, sampling, routing(Both(question=question)), use_tqdm=False)
    assert token_ids(together) == alone


def test_a_question_that_does_not_fit_is_not_asked(script):
    router = scored("Is it right? " * 40)
    models = [script.model(2, STEPS) for _ in Model]
    engine = Engine(*models, kv_cache_bytes=1 << 20, max_model_len=60)
    completion = engine.generate("Go", GREEDY, RoutingParams(router=router), use_tqdm=False)[0].outputs[0]
    assert completion.text == " w1 w2.\n\n w3.\n\n w4"
    assert not router.drafts
    assert not models[Model.LARGE].model.forwards


def test_a_router_that_fails_to_judge_ends_its_request_alone(script):
    class Broken(Whim):
        def review(self, draft):
            raise KeyError("no opinion")

    engine = Engine(*[script.model(2, STEPS) for _ in Model], kv_cache_bytes=1 << 20)
    sampling = SamplingParams(temperature=0)
    routers = [RoutingParams(router=router) for router in (Broken(), SmallOnly())]
    broken, sound = engine.generate(["Go", "Go"], sampling, routers, use_tqdm=False)
    assert broken.outputs[0].finish_reason == "error"
    assert "no opinion" in broken.error
    assert sound.outputs[0].finish_reason == "stop"
    check_pages(engine)
