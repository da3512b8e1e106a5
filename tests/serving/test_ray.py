"""Replicas on a real Ray: the same answers, one replica for what begins alike, and what happens when one goes."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import httpx
import openai
import pytest

ray = pytest.importorskip("ray", reason="ray isn't installed: pip install 'glimp_engine[ray]'")

from ray import serve  # noqa: E402
from starlette.datastructures import Headers  # noqa: E402

from glimp_engine import SamplingParams  # noqa: E402
from glimp_engine.demo_pair import LARGE, ROUTING, SMALL  # noqa: E402
from glimp_engine.serving.ray_app import Arguments, app  # noqa: E402
from glimp_engine.serving.ray_ingress import Labelled  # noqa: E402
from glimp_engine.serving.ray_router import NUM_CHARS, PrefixRouter, affinity_of  # noqa: E402
from glimp_engine.serving.ray_server import SETTINGS, start  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("ray")]
LONG = {"model": "demo@large", "max_tokens": 400, "n": 32, "seed": 1, "ignore_eos": True, "stream": True}
LONG |= {"routing": {"stop_repeated_steps": False, "speculation": "off"}}  # at least a second, whatever is written


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def wait_until(holds, seconds=300):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it never holds"
        time.sleep(0.1)


# The router, without a cluster.


def key_of(headers=None, **fields):
    return affinity_of(Headers(headers or {}), json.dumps(fields).encode())


def test_what_begins_alike_has_one_affinity():
    system = {"role": "system", "content": "be brief"}
    first, second = {"role": "user", "content": "hello"}, {"role": "user", "content": "good bye"}
    said = {"role": "assistant", "content": "hello!"}
    one = key_of(messages=[system, first])
    assert one
    assert one == key_of(messages=[system, first, said, second], model="other", temperature=0)
    assert one != key_of(messages=[system, second])
    long = {"role": "system", "content": "x" * NUM_CHARS}
    assert key_of(messages=[long, first]) == key_of(messages=[long, second])
    assert key_of(prompt="y" * NUM_CHARS + "a") == key_of(prompt=["y" * NUM_CHARS + "b", "c"])
    assert key_of(prompt=[1, 2, 3]) == key_of(prompt=[[1, 2, 3], [4]]) != key_of(prompt=[1, 2, 4])
    assert key_of({"X-Session-Id": "me"}, prompt="a") == key_of(prompt="b", prompt_cache_key="me") == "me"


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"prompt": 3}', b'{"messages": []}', b'{"prompt": []}'])
def test_what_has_no_beginning_has_no_affinity(body):
    assert affinity_of(Headers({}), body) == ""


class Id(str):
    @property
    def unique_id(self):
        return str(self)


class Chosen:
    """A router over replicas of which so many requests are open, and so many pages in use."""

    def __init__(self, **replicas):
        self.router = PrefixRouter.__new__(PrefixRouter)
        self.router._replica_queue_len_cache = {name: open_ for name, (open_, _) in replicas.items()}
        self.replicas = [
            SimpleNamespace(replica_id=Id(name), routing_stats={"pages_in_use": used})
            for name, (_, used) in replicas.items()
        ]

    def __call__(self, session):
        pending = SimpleNamespace(metadata=SimpleNamespace(session_id=session), routing_context=SimpleNamespace())
        ranks = asyncio.run(self.router.choose_replicas(self.replicas, pending))
        return [sorted(each.replica_id.unique_id for each in rank) for rank in ranks]


def test_a_session_has_a_home_until_that_one_is_busy():
    even = Chosen(a=(0, 0.0), b=(0, 0.0), c=(0, 0.0))
    homes = {str(i): even(str(i))[0][0] for i in range(60)}
    assert {name: list(homes.values()).count(name) > 8 for name in "abc"} == dict.fromkeys("abc", True)
    fewer = Chosen(a=(0, 0.0), b=(0, 0.0))
    assert all(fewer(session)[0] == [home] for session, home in homes.items() if home != "c")
    (session,) = [session for session, home in homes.items() if home == "a"][:1]
    assert Chosen(a=(8, 0.0), b=(0, 0.0))(session)[0] == ["a"]
    assert Chosen(a=(9, 0.0), b=(0, 0.0))(session) == [["a", "b"]]
    assert Chosen(a=(0, 0.95), b=(0, 0.2))(session) == [["a", "b"]]
    assert Chosen(a=(0, 0.95), b=(0, 0.95))(session)[0] == ["a"]
    assert Chosen(a=(99, 0.95))(session)[0] == ["a"]
    assert len(even("")) == 1


def test_metrics_of_several_replicas_are_one_collection():
    text = b'# HELP some_tokens_total Tokens\n# TYPE some_tokens_total counter\nsome_tokens_total{model="m"} %d\n'
    (metric,) = Labelled({"a": text % 1, "b": text % 2}).collect()
    assert [(each.name, each.labels["replica"], each.value) for each in metric.samples] == [
        ("some_tokens_total", "a", 1.0),
        ("some_tokens_total", "b", 2.0),
    ]


# The command, with a cluster of its own.


def test_the_command_drains_and_ends():
    port = free_port()
    command = "from glimp_engine.cli.main import main; import sys; sys.exit(main(sys.argv[1:]))"
    options = f"serve --small {SMALL} --large {LARGE} --routing {ROUTING} --device cpu --num-threads 1"
    more = f"--kv-cache-bytes {64 << 20} --served-model-name demo --port {port} --replicas 2 --drain-seconds 60"
    process = subprocess.Popen([sys.executable, "-P", "-c", command, *options.split(), *more.split()])
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until(lambda: is_up(url) or process.poll() is not None)
        with httpx.stream("POST", f"{url}/v1/completions", json={**LONG, "prompt": "a"}, timeout=120) as response:
            lines = (line for line in response.iter_lines() if line)
            next(lines)
            process.send_signal(signal.SIGTERM)
            rest = list(lines)
        assert rest[-1] == "data: [DONE]"
        reasons = [json.loads(line[6:])["choices"][0]["finish_reason"] for line in rest[:-1]]
        assert reasons.count("length") == LONG["n"]
        assert process.wait(60) == 0
    finally:
        process.kill()


def is_up(url):
    try:
        return httpx.get(f"{url}/health", timeout=30).status_code == 200
    except httpx.HTTPError:
        return False


# Two replicas for all tests from here on.


@pytest.fixture(scope="module")
def replicas():
    """Where two replicas of the demo pair are served."""
    before = dict(os.environ)
    os.environ.update(SETTINGS)
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    port = free_port()
    arguments = Arguments(
        small=str(SMALL),
        large=str(LARGE),
        routing=str(ROUTING),
        device="cpu",
        num_threads=1,
        kv_cache_bytes=64 << 20,
        served_model_name="demo",
        replicas=2,
    )
    try:
        start(app(arguments), "127.0.0.1", port)
        yield f"http://127.0.0.1:{port}"
        serve.shutdown()
    finally:
        ray.shutdown()
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture(scope="module")
def client(replicas):
    return openai.OpenAI(base_url=f"{replicas}/v1", api_key="none", max_retries=0)


@pytest.fixture(scope="module")
def sessions(replicas):
    """By replica, a session whose home it is."""
    return sessions_of(replicas)


def sessions_of(url):
    found = {}
    for i in range(50):
        found.setdefault(replica_of(url, f"session {i}"), f"session {i}")
    assert len(found) == 2
    return found


def replica_of(url, session):
    body = {"model": "demo", "prompt": "a", "max_tokens": 1}
    response = httpx.post(f"{url}/v1/completions", json=body, headers={"X-Session-Id": session}, timeout=60)
    assert response.status_code == 200, response.text
    return response.headers["x-glimp-replica"]


def load(url):
    response = httpx.get(f"{url}/load", timeout=60)
    assert response.status_code == 200, response.text
    return response.json()


def actor_of(replica):
    (name,) = [
        each["name"] for each in ray.util.list_named_actors(all_namespaces=True) if each["name"].endswith(replica)
    ]
    return ray.get_actor(name, namespace="serve")


class LongRequest:
    """A stream of some seconds at a session's home, read by a thread."""

    def __init__(self, url, session):
        self.lines, self.status, self._has_begun = [], None, threading.Event()
        self._thread = threading.Thread(target=self._read, args=(url, session))
        self._thread.start()
        assert self._has_begun.wait(60)

    def _read(self, url, session):
        body, headers = {**LONG, "prompt": session}, {"X-Session-Id": session}
        with httpx.stream("POST", f"{url}/v1/completions", json=body, headers=headers, timeout=120) as response:
            self.status = response.status_code
            for line in response.iter_lines():
                self.lines += [line] if line else []
                self._has_begun.set()

    def end(self):
        self._thread.join(120)
        assert self.lines[-1] == "data: [DONE]"
        return [json.loads(line[6:]) for line in self.lines[:-1]]


def test_answers_are_those_of_the_engine(client, engine, questions, routing):
    sampling = {"temperature": 0, "max_tokens": 60}
    outputs = engine.generate(questions[:4], SamplingParams(**sampling), routing, use_tqdm=False)
    for question, output in zip(questions[:4], outputs, strict=True):
        answer = client.completions.create(model="demo", prompt=question, **sampling)
        assert answer.choices[0].text == output.outputs[0].text
        assert answer.usage.completion_tokens == len(output.outputs[0].token_ids)
        chunks = client.completions.create(model="demo", prompt=question, stream=True, **sampling)
        assert "".join(chunk.choices[0].text for chunk in chunks) == output.outputs[0].text


def test_a_chat_and_an_error(client, engine, questions, routing):
    messages = [{"role": "user", "content": questions[0]}]
    answer = client.chat.completions.create(model="demo", messages=messages, temperature=0)
    (output,) = engine.generate(messages, SamplingParams(temperature=0), routing, use_tqdm=False)
    assert answer.usage.completion_tokens == len(output.outputs[0].token_ids)
    with pytest.raises(openai.BadRequestError, match="temperature") as caught:
        client.chat.completions.create(model="demo", messages=messages, temperature=-1)
    assert caught.value.param == "temperature"
    with pytest.raises(openai.NotFoundError, match="gpt-4"):
        client.chat.completions.create(model="gpt-4", messages=messages)


def test_turns_of_a_conversation_meet_on_one_replica(client, questions):
    used = set()
    for question in questions[:8]:
        messages = [{"role": "user", "content": question}]
        own = set()
        for _ in range(3):
            raw = client.chat.completions.with_raw_response.create(model="demo", messages=messages, max_tokens=20)
            own.add(raw.headers["x-glimp-replica"])
            assert raw.headers["x-request-id"].count(",") == 0
            messages += [{"role": "assistant", "content": "one"}, {"role": "user", "content": "and then?"}]
        assert len(own) == 1
        used |= own
    assert len(used) == 2


def test_facts_are_of_all_replicas(replicas, sessions):
    assert set(load(replicas)["replicas"]) == set(sessions)
    text = httpx.get(f"{replicas}/metrics", timeout=60).text
    assert text.count("# TYPE vllm:num_requests_running gauge") == 1
    for replica in sessions:
        assert f'vllm:num_requests_running{{model_name="demo",replica="{replica}"}} 0.0' in text


def test_a_client_that_leaves_gets_its_pages_back(replicas, sessions):
    session = next(iter(sessions.values()))
    body, headers = {**LONG, "prompt": "leaving"}, {"X-Session-Id": session}
    with httpx.stream("POST", f"{replicas}/v1/completions", json=body, headers=headers, timeout=60) as response:
        lines = response.iter_lines()  # closes the connection when it goes
        assert next(lines).startswith('data: {"id"')
        replica = response.headers["x-glimp-replica"]
        assert load(replicas)["replicas"][replica]["kv_cache_usage"] > 0
    left = time.monotonic()
    wait_until(lambda: load(replicas)["server_load"] == 0)
    seconds = time.monotonic() - left
    assert load(replicas)["kv_cache_usage"] == 0
    began = time.monotonic()
    LongRequest(replicas, session).end()
    assert seconds < (time.monotonic() - began) / 2  # it was ended, it hasn't ended


def test_a_killed_replica_loses_its_own_requests(replicas, sessions):
    (killed, own), (_, other) = sessions.items()
    requests = [LongRequest(replicas, own), LongRequest(replicas, other)]
    ray.kill(actor_of(killed))
    lost, kept = (request.end() for request in requests)
    assert "has died" in lost[-1]["error"]["message"]
    assert lost[-1]["error"]["type"] == "service_unavailable_error"
    assert [each["choices"][0]["finish_reason"] for each in kept].count("length") == LONG["n"]
    assert replica_of(replicas, own) != killed
    wait_until(lambda: len(load(replicas)["replicas"]) == 2)
    assert killed not in sessions_of(replicas)


def test_a_replica_whose_engine_has_failed_is_replaced(replicas):
    found = sessions_of(replicas)
    failed, session = next(iter(found.items()))

    def fail(actor):
        def raises():
            raise MemoryError("no more of it")

        engine = actor._replica_impl._user_callable_wrapper._callable._engine
        engine._commands.put(raises)
        engine._thread.join()

    ray.get(actor_of(failed).__ray_call__.remote(fail))
    body, headers = {"model": "demo", "prompt": "a"}, {"X-Session-Id": session}
    response = httpx.post(f"{replicas}/v1/completions", json=body, headers=headers, timeout=60)
    assert response.status_code == 500
    assert "no more of it" in response.json()["error"]["message"]
    wait_until(lambda: len(set(load(replicas)["replicas"]) - {failed}) == 2)
    assert failed not in sessions_of(replicas)


def test_what_is_open_is_finished_when_the_application_goes(replicas):
    request = LongRequest(replicas, "open")
    serve.delete("glimp")
    assert [each["choices"][0]["finish_reason"] for each in request.end()].count("length") == LONG["n"]
