"""lm-eval's API models, unmodified, get from our server what the engine in process gives."""

import pytest

from glimp_engine import LargeOnly, Model, RoutingParams, SamplingParams, SmallOnly
from glimp_engine.demo_pair import SMALL

pytest.importorskip("lm_eval", reason="pip install 'lm-eval[api]'")

from lm_eval.api.instance import Instance
from lm_eval.models.openai_completions import LocalChatCompletion, LocalCompletionsAPI

ROUTERS = {"demo@small": SmallOnly(), "demo@large": LargeOnly()}
STOPS = ["\n\n\n", "</think>"]


def instances(kind, arguments):
    return [Instance(request_type=kind, doc={}, arguments=each, idx=i) for i, each in enumerate(arguments)]


def score(engine, router, context, continuation):
    """(log-probability of a continuation, whether it's the likeliest) as lm-eval means them."""
    text = engine.text(Model.SMALL)
    start = len(text.encode(context, allow_special=True))
    whole = text.encode(context + continuation, allow_special=True)
    sampling = SamplingParams(prompt_logprobs=1, max_tokens=1)
    (output,) = engine.generate({"prompt_token_ids": whole}, sampling, RoutingParams(router=router), use_tqdm=False)
    own = [(each[token_id], each) for token_id, each in zip(whole[start:], output.prompt_logprobs[start:], strict=True)]
    return sum(each.logprob for each, _ in own), all(each.rank == 1 for each, _ in own)


@pytest.fixture(scope="module", params=list(ROUTERS))
def name(request):
    return request.param


@pytest.mark.slow
def test_scores(server, engine, questions, name):
    pairs = [(question, " one two") for question in questions[:6]] + [(questions[0], " porto"), ("how", " far is")]
    model = LocalCompletionsAPI(
        base_url=f"{server.url}/v1/completions",
        model=name,
        tokenizer=str(SMALL),
        tokenizer_backend="huggingface",
        batch_size=4,
        max_length=512,
    )
    told = model.loglikelihood(instances("loglikelihood", pairs), disable_tqdm=True)
    for (logprob, is_greedy), pair in zip(told, pairs, strict=True):
        expected = score(engine, ROUTERS[name], *pair)
        assert logprob == pytest.approx(expected[0], abs=1e-4)
        assert is_greedy == expected[1]


@pytest.mark.slow
def test_texts(server, engine, questions, name):
    model = LocalCompletionsAPI(
        base_url=f"{server.url}/v1/completions",
        model=name,
        tokenizer=str(SMALL),
        tokenizer_backend="huggingface",
        max_length=512,
    )
    asked = [(question, {"until": STOPS, "max_gen_toks": 20, "temperature": 0}) for question in questions[:4]]
    told = model.generate_until(instances("generate_until", asked), disable_tqdm=True)
    sampling = SamplingParams(temperature=0, max_tokens=20, stop=STOPS)
    outputs = engine.generate(questions[:4], sampling, RoutingParams(router=ROUTERS[name]), use_tqdm=False)
    assert told == [output.outputs[0].text for output in outputs]


@pytest.mark.slow
def test_chats(server, engine, questions, name):
    model = LocalChatCompletion(base_url=f"{server.url}/v1/chat/completions", model=name)
    asked = [
        (f'[{{"role": "user", "content": "{question}"}}]', {"until": [], "max_gen_toks": 100, "temperature": 0})
        for question in questions[:4]
    ]
    chats = [[{"role": "user", "content": question}] for question in questions[:4]]
    from lm_eval.models.api_models import JsonChatStr

    asked = [(JsonChatStr(prompt), kwargs) for prompt, kwargs in asked]
    told = model.generate_until(instances("generate_until", asked), disable_tqdm=True)
    sampling = SamplingParams(temperature=0, max_tokens=100)
    outputs = engine.generate(chats, sampling, RoutingParams(router=ROUTERS[name]), use_tqdm=False)
    assert told == [output.outputs[0].text.partition("</think>")[2].strip() for output in outputs]
