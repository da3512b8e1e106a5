"""What every request passes and what the small endpoints tell; bodies as they come over the wire."""

import asyncio
import json
import logging
import re
import time

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from serving.conftest import OPTIONS
from serving.running import running

from glimp_engine import Engine, Model
from glimp_engine.demo_pair import LARGE, SMALL

CHAT = {"model": "demo", "messages": [{"role": "user", "content": "how far is porto to metz?"}], "temperature": 0}


@pytest.fixture(scope="module")
def http(server):
    with httpx.Client(base_url=server.url) as client:
        yield client


@pytest.fixture(scope="module")
def strict():
    """A server with keys, origins, and room for one request."""
    engine = Engine(SMALL, LARGE, **OPTIONS)
    options = {"api_keys": ("one", "two"), "cors_origins": ("https://ok.example",), "log_json": True}
    with running(engine, max_unfinished=1, **options) as found:
        yield found


# Keys, ids, sizes, origins.


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"Authorization": "Bearer three"}, 401),
        ({"Authorization": "one"}, 401),
        ({"Authorization": "Bearer one"}, 200),
        ({"Authorization": "bearer two"}, 200),
        ({"x-api-key": "two"}, 200),
    ],
)
def test_a_key_is_asked_for(strict, headers, status):
    answer = httpx.get(f"{strict.url}/v1/models", headers=headers)
    assert answer.status_code == status
    if status == 401:
        assert answer.json()["error"]["code"] == "invalid_api_key"
        assert answer.headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize("path", ["/health", "/version", "/metrics"])
def test_some_paths_are_open(strict, path):
    assert httpx.get(strict.url + path).status_code == 200


def test_other_origins_are_answered_only_where_they_are_allowed(strict, http):
    for origin, allowed in (("https://ok.example", "https://ok.example"), ("https://no.example", None)):
        answer = httpx.get(f"{strict.url}/health", headers={"Origin": origin})
        assert answer.headers.get("Access-Control-Allow-Origin") == allowed
    asked = {"Origin": "https://ok.example", "Access-Control-Request-Method": "POST"}
    assert httpx.options(f"{strict.url}/v1/chat/completions", headers=asked).status_code == 200
    assert "Access-Control-Allow-Origin" not in http.get("/health", headers={"Origin": "https://ok.example"}).headers


def test_a_request_has_an_id(http):
    assert http.get("/health", headers={"X-Request-Id": "mine-1"}).headers["X-Request-Id"] == "mine-1"
    for given in (None, "a\tb", "x" * 500):
        headers = {} if given is None else {"X-Request-Id": given}
        assert re.fullmatch("[0-9a-f]{16}", http.get("/health", headers=headers).headers["X-Request-Id"])


def test_names_of_headers_are_small_letters_as_asgi_has_them(server):
    """An application around ours, as the ingress before replicas, looks them up so."""
    sent = []

    async def ask():
        scope = {"type": "http", "method": "GET", "path": "/health", "headers": [], "query_string": b""}

        async def receive():
            return {"type": "http.request", "body": b""}

        async def send(message):
            sent.append(message)

        await server.app(scope, receive, send)

    asyncio.run(ask())
    names = [name for name, _ in sent[0]["headers"]]
    assert b"x-request-id" in names
    assert names == [name.lower() for name in names]


def test_one_line_is_logged_for_a_request(strict, caplog):
    with caplog.at_level(logging.INFO, "glimp_engine.serving.requests"):
        httpx.get(f"{strict.url}/v1/models", headers={"X-Request-Id": "told", "Authorization": "Bearer one"})
        deadline = time.monotonic() + 10  # the line comes behind the answer
        while not (lines := [record.getMessage() for record in caplog.records if "told" in record.getMessage()]):
            assert time.monotonic() < deadline
            time.sleep(0.01)
    (line,) = lines
    told = json.loads(line)
    assert (told["path"], told["status"], told["method"]) == ("/v1/models", 200, "GET")
    assert "one" not in line.replace("/v1/models", "")


def test_a_path_cannot_write_a_line_of_its_own(server, caplog):
    with caplog.at_level(logging.INFO, "glimp_engine.serving.requests"):
        httpx.get(f"{server.url}/a%0Aforged=1", headers={"X-Request-Id": "forger"})
        deadline = time.monotonic() + 10
        while not (lines := [each.getMessage() for each in caplog.records if "forger" in each.getMessage()]):
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert "\n" not in lines[0]
    assert "path=/a%0Aforged%3D1" in lines[0]


def test_a_body_that_is_too_large_is_refused(server):
    big = json.dumps({**CHAT, "user": "x" * (65 << 20)})
    answer = httpx.post(f"{server.url}/v1/chat/completions", content=big, headers={"Content-Type": "application/json"})
    assert answer.status_code == 413
    assert "allowed" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/nowhere", 404), ("GET", "/v1/chat/completions", 405), ("DELETE", "/v1/models", 405)],
)
def test_what_isnt_there_is_told_in_openais_shape(http, method, path, status):
    answer = http.request(method, path)
    assert answer.status_code == status
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b'"text"', b'{"model": 1}', b"\xff\xfe", b'{"messages": "hi"}', b'{"messages": [1]}'],
)
def test_bodies_that_are_none(http, body):
    answer = http.post("/v1/chat/completions", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[("temperature", -1), ("temperature", "hot"), ("top_p", 0), ("n", 0), ("max_tokens", 0), ("seed", 2**63)],
        *[("stop", [1]), ("stop", [""]), ("logit_bias", 3), ("logit_bias", {"a": 1}), ("allowed_token_ids", [])],
        *[("top_logprobs", 3), ("stream", "yes"), ("stream_options", {"include_usage": True}), ("bad_words", [""])],
        *[("routing", {"threshold": -1}), ("routing", {"router": "best"}), ("routing", {"what": 1})],
        *[("tool_choice", "must"), ("messages", [{"role": "user"}]), ("messages", [{"content": "x"}])],
        *[("response_format", {"type": "xml"}), ("chat_template_kwargs", {"messages": 1})],
    ],
)
def test_an_error_names_the_field(http, field, value):
    answer = http.post("/v1/chat/completions", json={**CHAT, field: value})
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert field in error["message"]
    assert (error["param"] or field).split(".")[0].split("[")[0] in (field, "router", "stop", "prompt")


def test_a_full_server_says_when_to_come_back(strict):
    async def fill():
        headers = {"Authorization": "Bearer one"}
        async with httpx.AsyncClient(base_url=strict.url, headers=headers) as client:
            body = {**CHAT, "model": "glimp@large", "ignore_eos": True}
            answers = await asyncio.gather(*[client.post("/v1/chat/completions", json=body) for _ in range(8)])
        return answers

    answers = asyncio.run(fill())
    statuses = [answer.status_code for answer in answers]
    assert set(statuses) == {200, 429}
    refused = answers[statuses.index(429)]
    assert refused.headers["Retry-After"] == "1"
    assert refused.json()["error"]["type"] == "rate_limit_error"


# What is told.


def test_health_tells_of_a_failed_engine_and_of_a_server_that_ends():
    engine = Engine(SMALL, LARGE, **OPTIONS)
    with running(engine) as server:
        assert httpx.get(f"{server.url}/health").status_code == 200
        server.door.refuse_requests()
        assert httpx.get(f"{server.url}/health").status_code == 503
        answer = httpx.post(f"{server.url}/v1/chat/completions", json={**CHAT, "model": "glimp"})
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "10")
    engine = Engine(SMALL, LARGE, **OPTIONS)
    with running(engine) as server:
        engine.advance = lambda: 1 / 0
        answer = httpx.post(f"{server.url}/v1/chat/completions", json={**CHAT, "model": "glimp"})
        assert answer.status_code == 500
        assert "the engine has failed" in answer.json()["error"]["message"]
        health = httpx.get(f"{server.url}/health")
        assert (health.status_code, "ZeroDivisionError" in health.text or "division" in health.text) == (503, True)


def test_metrics(http, server):
    http.post("/v1/chat/completions", json=CHAT)
    families = {family.name: family for family in text_string_to_metric_families(http.get("/metrics").text)}
    for name in (
        *("vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc"),
        *("vllm:prefix_cache_hits", "vllm:time_to_first_token_seconds", "vllm:inter_token_latency_seconds"),
        *("vllm:e2e_request_latency_seconds", "vllm:spec_decode_num_accepted_tokens", "vllm:generation_tokens"),
        *("glimp:steps", "glimp:tokens", "glimp:hand_overs", "glimp:catch_up_tokens", "glimp:glimpse_entropy_nats"),
    ):
        assert families[name].samples, name
    tokens = {
        sample.labels["model"]: sample.value for sample in families["glimp:tokens"].samples if "model" in sample.labels
    }
    assert tokens["small"] > 0
    assert families["vllm:num_requests_running"].samples[0].value == 0


def test_load(http):
    assert http.get("/load").json()["server_load"] == 0


def test_tokens_and_back(http, engine):
    text = "how far is porto to metz? <|im_end|> ä 😀"
    told = http.post("/tokenize", json={"prompt": text, "return_token_strs": True}).json()
    assert told["tokens"] == engine.text(Model.SMALL).encode(text, allow_special=True)
    assert told["count"] == len(told["tokens"]) == len(told["token_strs"])
    assert http.post("/detokenize", json={"tokens": told["tokens"]}).json()["prompt"] == text
    chat = http.post("/tokenize", json={"messages": CHAT["messages"]}).json()["tokens"]
    asked = http.post("/v1/chat/completions", json=CHAT).json()
    assert len(chat) == asked["usage"]["prompt_tokens"]
    for body in ({}, {"prompt": "a", "messages": CHAT["messages"]}):
        assert http.post("/tokenize", json=body).status_code == 400
    assert http.post("/detokenize", json={"tokens": [10**6]}).json()["error"]["param"] == "tokens.0"


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_ends_its_request(stream, monkeypatch):
    """The engine is slowed down, so that there is time to leave."""
    engine = Engine(SMALL, LARGE, **OPTIONS)
    advance = engine.advance
    monkeypatch.setattr(engine, "advance", lambda: time.sleep(0.01) or advance())
    body = {**CHAT, "model": "glimp@large", "ignore_eos": True, "max_tokens": 450, "stream": stream}

    async def leave(server):
        async with httpx.AsyncClient(base_url=server.url) as client:
            asking = asyncio.ensure_future(client.post("/v1/chat/completions", json=body))
            while (await client.get("/load")).json()["num_running"] == 0:
                await asyncio.sleep(0.01)
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
            async with asyncio.timeout(2):  # 450 ticks take more than 4 seconds
                while server.door.num_unfinished:
                    await asyncio.sleep(0.01)
            return (await client.get("/metrics")).text, (await client.get("/load")).json()

    with running(engine) as server:
        metrics, load = asyncio.run(leave(server))
    assert engine.stats().large.tokens_written < 300
    assert load["kv_cache_usage"] == 0
    assert 'finished_reason="abort"' in metrics


def test_what_a_client_needs_to_count_tokens(http, engine):
    told = http.get("/tokenizer_info").json()
    assert told["num_tokens"] == engine.text(Model.SMALL).num_tokens
    assert "im_start" in told["chat_template"]


# Events as they come over the wire.


def lines_of(http, path, body):
    with http.stream("POST", path, json=body) as answer:
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        return [line for line in answer.read().decode().split("\n\n") if line]


def test_the_form_of_a_stream(http):
    events = lines_of(http, "/v1/chat/completions", {**CHAT, "stream": True})
    assert all(each.startswith("data: ") for each in events)
    assert events[-1] == "data: [DONE]"
    chunks = [json.loads(each.removeprefix("data: ")) for each in events[:-1]]
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks][-1] == "stop"
    assert not any("glimp" in chunk or "usage" in chunk for chunk in chunks)


def test_responses(http):
    body = {"model": "demo", "input": CHAT["messages"][0]["content"], "temperature": 0}
    whole = http.post("/v1/responses", json=body).json()
    chat = http.post("/v1/chat/completions", json=CHAT).json()
    message = chat["choices"][0]["message"]
    assert [item["type"] for item in whole["output"]] == ["reasoning", "message"]
    assert whole["output"][0]["content"][0]["text"] == message["reasoning"]
    assert whole["output"][1]["content"][0]["text"] == message["content"]
    assert whole["usage"]["output_tokens"] == chat["usage"]["completion_tokens"]
    assert whole["status"] == "completed"
    events = lines_of(http, "/v1/responses", {**body, "stream": True})
    told = [json.loads(each.partition("data: ")[2]) for each in events]
    assert [each.partition("\n")[0] for each in events] == [f"event: {each['type']}" for each in told]
    assert [each["sequence_number"] for each in told] == list(range(len(told)))
    assert (told[0]["type"], told[-1]["type"]) == ("response.created", "response.completed")
    text = "".join(each["delta"] for each in told if each["type"] == "response.output_text.delta")
    assert text == message["content"]
    assert [item["content"] for item in told[-1]["response"]["output"]] == [item["content"] for item in whole["output"]]
    assert http.post("/v1/responses", json={**body, "previous_response_id": "resp_1"}).status_code == 400
    assert http.post("/v1/responses", json={**body, "input": [{"type": "function_call"}]}).status_code == 400
    cut = http.post("/v1/responses", json={**body, "max_output_tokens": 3}).json()
    assert (cut["status"], cut["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
