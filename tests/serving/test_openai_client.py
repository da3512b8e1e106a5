"""The openai package, unmodified, at our server; what it gets is what the engine in process gives."""

import openai
import pytest

from glimp_engine import GlimpRouter, LargeOnly, Model, RoutingParams, SamplingParams, SmallOnly

GREEDY = SamplingParams(temperature=0)


@pytest.fixture(scope="module")
def client(server):
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


def ask(question):
    return [{"role": "user", "content": question}]


def whole(engine, prompt, sampling=GREEDY, routing=None):
    (output,) = engine.generate(prompt, sampling, routing, use_tqdm=False)
    return output


def parts(text):
    """(thought, answer)."""
    thought, _, answer = text.partition("</think>")
    return thought.rstrip("\n"), answer.lstrip("\n")


def test_a_chat(client, engine, questions, routing):
    for question in questions[:5]:
        answer = client.chat.completions.create(model="demo", messages=ask(question), temperature=0)
        output = whole(engine, ask(question), routing=routing)
        thought, said = parts(output.outputs[0].text)
        message = answer.choices[0].message
        assert (message.role, message.content) == ("assistant", said)
        assert message.reasoning.rstrip("\n") == message.reasoning_content.rstrip("\n") == thought
        assert answer.choices[0].finish_reason == "stop"
        assert answer.usage.prompt_tokens == len(output.prompt_token_ids)
        assert answer.usage.completion_tokens == len(output.outputs[0].token_ids)
        thinking = [step for step in output.outputs[0].steps if str(step.phase) == "thinking"]
        assert answer.usage.completion_tokens_details.reasoning_tokens == sum(step.num_tokens for step in thinking)


def test_a_chat_as_a_stream(client, engine, questions, routing):
    chunks = list(
        client.chat.completions.create(
            model="demo",
            messages=ask(questions[0]),
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    output = whole(engine, ask(questions[0]), routing=routing)
    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    assert deltas[0].role == "assistant"
    text = "".join(delta.content or "" for delta in deltas)
    reasoning = "".join(getattr(delta, "reasoning", None) or "" for delta in deltas)
    assert (reasoning.rstrip("\n"), text) == parts(output.outputs[0].text)
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == len(output.outputs[0].token_ids)
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert len({chunk.id for chunk in chunks}) == 1


def test_a_stream_has_every_token_id(client, engine, questions, routing):
    """Also those whose text is left out, as the blank lines around a mark."""
    chunks = client.chat.completions.create(
        model="demo",
        messages=ask(questions[0]),
        temperature=0,
        stream=True,
        extra_body={"return_token_ids": True},
    )
    ids = [token_id for chunk in chunks for token_id in getattr(chunk.choices[0], "token_ids", None) or []]
    assert ids == whole(engine, ask(questions[0]), routing=routing).outputs[0].token_ids


def test_usage_in_every_chunk(client, questions):
    options = {"include_usage": True, "continuous_usage_stats": True}
    chunks = list(
        client.chat.completions.create(model="demo", messages=ask(questions[0]), stream=True, stream_options=options)
    )
    counts = [chunk.usage.completion_tokens for chunk in chunks]
    assert counts == sorted(counts)
    assert counts[-1] > 0


def test_without_options_no_usage_comes(client, questions):
    chunks = list(client.chat.completions.create(model="demo", messages=ask(questions[0]), stream=True))
    assert all(chunk.usage is None and chunk.choices for chunk in chunks)


def test_several_answers(client, engine, questions, routing):
    sampling = {"temperature": 1.0, "seed": 7, "n": 3}
    answer = client.chat.completions.create(model="demo", messages=ask(questions[1]), **sampling)
    output = whole(engine, ask(questions[1]), SamplingParams(**sampling), routing)
    assert [choice.message.content for choice in answer.choices] == [parts(each.text)[1] for each in output.outputs]
    texts = {}
    for chunk in client.chat.completions.create(model="demo", messages=ask(questions[1]), stream=True, **sampling):
        own = chunk.choices[0]
        texts[own.index] = texts.get(own.index, "") + (own.delta.content or "")
    assert [texts[i] for i in range(3)] == [parts(each.text)[1] for each in output.outputs]


def test_log_probabilities_of_a_chat(client, engine, questions, routing):
    answer = client.chat.completions.create(
        model="demo", messages=ask(questions[0]), temperature=0, logprobs=True, top_logprobs=3
    )
    output = whole(engine, ask(questions[0]), SamplingParams(temperature=0, logprobs=3), routing).outputs[0]
    told = answer.choices[0].logprobs.content
    assert len(told) == len(output.token_ids)
    for each, token_id, own in zip(told, output.token_ids, output.logprobs, strict=True):
        assert bytes(each.bytes) == engine.text(Model.SMALL).bytes_of(token_id)
        if own:  # a forced mark has none
            assert each.logprob == pytest.approx(own[token_id].logprob)
            assert len(each.top_logprobs) == 3
            assert [top.logprob for top in each.top_logprobs] == sorted(
                (top.logprob for top in each.top_logprobs), reverse=True
            )
    streamed = client.chat.completions.create(
        model="demo", messages=ask(questions[0]), temperature=0, logprobs=True, top_logprobs=3, stream=True
    )
    chunks = [chunk.choices[0] for chunk in streamed if chunk.choices]
    assert [each for chunk in chunks if chunk.logprobs for each in chunk.logprobs.content] == told


def test_completions(client, engine, questions, routing):
    prompts = [f"how far is {question[-20:]}" for question in questions[:3]]
    sampling = {"temperature": 0, "max_tokens": 12}
    answer = client.completions.create(model="demo", prompt=prompts, **sampling)
    outputs = engine.generate(prompts, SamplingParams(**sampling), routing, use_tqdm=False)
    assert [choice.text for choice in answer.choices] == [output.outputs[0].text for output in outputs]
    texts = ["", "", ""]
    for chunk in client.completions.create(model="demo", prompt=prompts, stream=True, **sampling):
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == [output.outputs[0].text for output in outputs]


def test_completions_of_token_ids(client, engine, questions, routing):
    ids = engine.text(Model.SMALL).encode(questions[0], allow_special=True)
    sampling = {"temperature": 0, "max_tokens": 8}
    for prompt, count in ((ids, 1), ([ids, ids[:5]], 2)):
        answer = client.completions.create(model="demo", prompt=prompt, **sampling)
        assert len(answer.choices) == count
        expected = whole(engine, {"prompt_token_ids": ids}, SamplingParams(**sampling), routing)
        assert answer.choices[0].text == expected.outputs[0].text


@pytest.mark.parametrize("name", ["demo@small", "demo@large", "demo@glimp:0.1"])
def test_scores_of_a_prompt(client, engine, questions, name):
    """As lm-eval asks for them: nothing is written, the prompt comes back with its log-probabilities."""
    routers = {"demo@small": SmallOnly(), "demo@large": LargeOnly(), "demo@glimp:0.1": GlimpRouter(0.1)}
    text = f"{questions[0]} one and two"
    answer = client.completions.create(model=name, prompt=text, max_tokens=0, echo=True, logprobs=2)
    choice, own = (
        answer.choices[0],
        whole(engine, text, SamplingParams(prompt_logprobs=2, max_tokens=1), RoutingParams(router=routers[name])),
    )
    assert choice.text == text
    assert "".join(choice.logprobs.tokens) == text
    assert choice.logprobs.token_logprobs[0] is None
    expected = [each[i].logprob for i, each in zip(own.prompt_token_ids, own.prompt_logprobs, strict=True) if each]
    assert choice.logprobs.token_logprobs[1:] == pytest.approx(expected)
    assert choice.logprobs.text_offset == [
        len("".join(choice.logprobs.tokens[:i])) for i in range(len(own.prompt_token_ids))
    ]
    assert answer.usage.completion_tokens == 0


def test_a_models_name_says_who_writes(client, engine, questions):
    names = {"demo@small": SmallOnly(), "demo@large": LargeOnly(), "demo@glimp:0.01": GlimpRouter(0.01)}
    for name, router in names.items():
        answer = client.chat.completions.create(model=name, messages=ask(questions[2]), temperature=0)
        output = whole(engine, ask(questions[2]), routing=RoutingParams(router=router))
        assert answer.choices[0].message.content == parts(output.outputs[0].text)[1]
        shares = answer.glimp
        assert shares["large"]["tokens"] == sum(
            step.num_tokens for step in output.outputs[0].steps if step.model is Model.LARGE
        )


def test_routing_in_the_body(client, questions):
    shares = [
        client.chat.completions.create(
            model="demo", messages=ask(questions[2]), temperature=0, extra_body={"routing": routing}
        ).glimp["large"]["share"]
        for routing in ({"router": "small"}, {"threshold": 0.05}, {"threshold": 0}, {"fraction": 1.0})
    ]
    assert shares[0] == 0.0
    assert shares == sorted(shares)


@pytest.mark.parametrize("spelling", ["thinking_token_budget", "thinking_budget_tokens", "custom_params"])
def test_a_budget_of_the_thinking_is_held(client, questions, spelling):
    body = {"thinking_budget": 6} if spelling == "custom_params" else 6
    for speculation in ("auto", "off"):
        answer = client.chat.completions.create(
            model="demo@large",
            messages=ask(questions[0]),
            temperature=0,
            extra_body={spelling: body, "routing": {"speculation": speculation}},
        )
        assert answer.choices[0].message.content
        assert "</think>" not in answer.choices[0].message.content
        num_forced = answer.usage.completion_tokens_details.reasoning_tokens - 6
        assert 0 < num_forced <= 3  # a line break, the mark, a blank line


def test_steps_on_request(client, questions):
    chunks = list(
        client.chat.completions.create(
            model="demo",
            messages=ask(questions[0]),
            temperature=0,
            stream=True,
            stream_options={"include_usage": True, "include_steps": True},  # type: ignore[typeddict-unknown-key]
        )
    )
    pieces = [piece for chunk in chunks if hasattr(chunk, "glimp") for piece in chunk.glimp.get("pieces", [])]
    starts = [piece for piece in pieces if piece.get("begins")]
    assert [piece["index"] for piece in starts] == list(range(len(starts)))
    assert {piece["model"] for piece in pieces} <= {"small", "large"}
    assert all(piece["entropy"] >= 0 for piece in starts if piece["phase"] == "thinking")
    last = [chunk for chunk in chunks if chunk.choices][-1].glimp
    assert last["small"]["share"] + last["large"]["share"] == pytest.approx(1)


def test_errors(client):
    with pytest.raises(openai.NotFoundError, match="gpt-4"):
        client.chat.completions.create(model="gpt-4", messages=ask("hello"))
    with pytest.raises(openai.NotFoundError, match="allowed: small, large"):
        client.chat.completions.create(model="demo@best", messages=ask("hello"))
    with pytest.raises(openai.BadRequestError, match="temperature") as caught:
        client.chat.completions.create(model="demo", messages=ask("hello"), temperature=-1)
    assert caught.value.param == "temperature"
    with pytest.raises(openai.BadRequestError, match="no_such_field") as caught:
        client.chat.completions.create(model="demo", messages=ask("hello"), extra_body={"no_such_field": 1})
    assert caught.value.param == "no_such_field"
    with pytest.raises(openai.BadRequestError, match="max_model_len") as caught:
        client.completions.create(model="demo", prompt="x " * 5000)
    assert caught.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError, match="prompt"):
        client.completions.create(model="demo", prompt=[10**6])
    with pytest.raises(openai.BadRequestError, match="messages"):
        client.chat.completions.create(model="demo", messages=[])
    with pytest.raises(openai.BadRequestError, match="budget"):
        client.chat.completions.create(
            model="demo", messages=ask("a"), extra_body={"thinking_token_budget": 1, "thinking_budget_tokens": 2}
        )


def test_models(client):
    names = [model.id for model in client.models.list()]
    assert names[:4] == ["demo", "demo@small", "demo@large", "demo@glimp:0.5"]
    assert "alias" in names
    assert client.models.retrieve("alias@large").max_model_len > 0
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")
