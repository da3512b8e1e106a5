"""`glimp serve` as a process: signals, a port that is free again, a command line that says what is wrong."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager

import httpx
import pytest

from glimp_engine.demo_pair import LARGE, SMALL

RUN = "import sys; from glimp_engine.cli.main import main; sys.exit(main(sys.argv[1:]))"
# long enough that a signal comes in the middle
LONG = {
    "model": "pair@large",
    "messages": [{"role": "user", "content": "how far is porto to metz?"}],
    "temperature": 0,
    "ignore_eos": True,
    "stream": True,
    "routing": {"max_answer_tokens": 450},
}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def process(port, *more):
    """(its url, the process), once it's healthy."""
    files = ["--small", str(SMALL), "--large", str(LARGE), "--num-threads", "1", "--kv-cache-bytes", str(64 << 20)]
    command = [
        sys.executable,
        "-P",
        "-c",
        RUN,
        "serve",
        *files,
        "--served-model-name",
        "pair",
        "--port",
        str(port),
        *more,
    ]
    running = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 60
        while True:
            try:
                httpx.get(f"{url}/health")
                break
            except httpx.TransportError:
                assert running.poll() is None, running.stderr.read()
                assert time.monotonic() < deadline
                time.sleep(0.1)
        yield url, running
    finally:
        running.kill()
        running.wait()
        running.stderr.close()


async def read(client, began):
    """(all of a stream, the error that ended it)."""
    told = ""
    try:
        async with client.stream("POST", "/v1/chat/completions", json=LONG) as answer:
            assert answer.status_code == 200
            async for text in answer.aiter_text():
                told += text
                began.set()
    except httpx.TransportError as error:
        return told, error
    return told, None


async def while_read(url, act, num_streams=4):
    """The streams that were open when something was done, and what it gave."""
    async with httpx.AsyncClient(base_url=url, timeout=60) as client:
        events = [asyncio.Event() for _ in range(num_streams)]
        reading = [asyncio.ensure_future(read(client, began)) for began in events]
        await asyncio.gather(*[began.wait() for began in events])
        given = await act(client)
        return await asyncio.gather(*reading), given


@pytest.mark.slow
def test_sigterm_finishes_what_is_open():
    with process(free_port()) as (url, running):

        async def stop(client):
            running.send_signal(signal.SIGTERM)

        streams, _ = asyncio.run(while_read(url, stop))
        assert running.wait(30) == 0
    for told, error in streams:
        assert error is None
        assert told.endswith("data: [DONE]\n\n")


@pytest.mark.slow
def test_a_server_that_is_killed_closes_its_connections_and_leaves_its_port():
    port = free_port()
    with process(port) as (url, running):

        async def kill(client):
            running.send_signal(signal.SIGKILL)

        streams, _ = asyncio.run(while_read(url, kill))
        assert all(error is not None for _, error in streams)
        assert running.wait(30) == -signal.SIGKILL
    with process(port) as (url, _):
        assert httpx.get(f"{url}/v1/models").status_code == 200


@pytest.mark.slow
def test_a_key_may_come_from_the_environment(monkeypatch):
    monkeypatch.setitem(os.environ, "GLIMP_API_KEY", "secret")
    with process(free_port(), "--api-key", "other") as (url, _):
        for key, status in (("secret", 200), ("other", 200), ("none", 401)):
            assert httpx.get(f"{url}/v1/models", headers={"Authorization": f"Bearer {key}"}).status_code == status


def test_a_name_with_an_at_sign_is_refused(capsys):
    from glimp_engine.cli.main import main

    status = main(["serve", "--small", str(SMALL), "--large", str(LARGE), "--served-model-name", "a@b"])
    assert status == 1
    assert "served_model_name is 'a@b'" in capsys.readouterr().err
