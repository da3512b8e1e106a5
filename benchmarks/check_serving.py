"""Many clients at a server for minutes, some slow, some that leave: is any token lost or doubled, does memory grow?

Every answer is compared with what the engine in process gives for the same question and seed, id by id. A fifth of the
clients read slowly, a fifth leave at a random moment. At the end all pages must have come back.
"""

import argparse
import asyncio
import json
import os
import random
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench_serving import Server, our_server
from harness import report, summary
from tqdm import tqdm

from glimp_engine import Engine, LargeOnly, RoutingParams, SamplingParams
from glimp_engine.demo_pair import LARGE, SMALL, TEST

NUM_QUESTIONS = 200
KV_CACHE_BYTES = 64 << 20
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass
class Counts:
    """What has come of all requests."""

    whole: int = 0
    left: int = 0
    errors: list[str] = field(default_factory=list)
    tokens: int = 0


@dataclass
class Question:
    """What is asked, and what has to come."""

    body: dict[str, Any]
    token_ids: list[int]


def questions_of(engine: Engine) -> list[Question]:
    """Problems with seeds of their own, and the engine's answers in process."""
    texts = [json.loads(line)["problem"] for line in TEST.read_text().splitlines()[:NUM_QUESTIONS]]
    prompts = [[{"role": "user", "content": text}] for text in texts]
    sampling = [SamplingParams(temperature=1.0, seed=i, max_tokens=120) for i in range(len(texts))]
    outputs = engine.generate(prompts, sampling, RoutingParams(router=LargeOnly()))
    shared = {"temperature": 1.0, "max_tokens": 120, "stream": True, "return_token_ids": True}
    return [
        Question({**shared, "messages": prompt, "seed": i}, output.outputs[0].token_ids)
        for i, (prompt, output) in enumerate(zip(prompts, outputs, strict=True))
    ]


async def client(kind: str, server: Server, questions: list[Question], until: float, seed: int, counts: Counts) -> None:
    """Ask one question after the other."""
    chance = random.Random(seed)
    while time.monotonic() < until:
        question = chance.choice(questions)
        try:
            ids = await ask(kind, server, question, chance)
        except (OSError, ValueError, KeyError) as error:
            counts.errors.append(f"{type(error).__name__}: {error}")
            continue
        if ids is None:
            counts.left += 1
        elif ids == question.token_ids:
            counts.whole += 1
            counts.tokens += len(ids)
        else:
            counts.errors.append(f"seed {question.body['seed']}: {ids} is not {question.token_ids}")


async def ask(kind: str, server: Server, question: Question, chance: random.Random) -> list[int] | None:
    """The ids that a stream brought; None where the client left."""
    limit = 1 << 12 if kind == "slow" else 1 << 16  # what is read ahead of the client
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=limit)
    try:
        data = json.dumps({"model": server.model, **question.body}).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n"
        writer.write(f"{head}Content-Type: application/json\r\nConnection: close\r\n\r\n".encode() + data)
        received = b""
        leaves_after = chance.randrange(1, 4000) if kind == "leaver" else None
        while chunk := await reader.read(256 if kind == "slow" else 1 << 14):
            received += chunk
            if leaves_after is not None and len(received) >= leaves_after:
                return None
            if kind == "slow":
                await asyncio.sleep(chance.random() * 0.05)
    finally:
        writer.close()
    return ids_of(received)


def ids_of(received: bytes) -> list[int]:
    """The token ids of all chunks. Raises: ValueError on an answer that isn't whole, or is an error."""
    events = [line[6:] for line in received.split(b"\n") if line.startswith(b"data: ")]
    if not events or events[-1].strip() != b"[DONE]":
        raise ValueError(f"no whole stream: {received[-300:]!r}")
    chunks = [json.loads(event) for event in events[:-1]]
    return [token_id for chunk in chunks for choice in chunk["choices"] for token_id in choice.get("token_ids", [])]


async def watch(server: Server, until: float) -> list[float]:
    """The server's memory in MB, each second."""
    sizes = []
    with tqdm(total=round(until - time.monotonic()), unit="s") as progress:
        while time.monotonic() < until:
            resident = int(Path(f"/proc/{server.process.pid}/statm").read_text().split()[1])
            sizes.append(resident * PAGE_BYTES / 1e6)
            progress.set_postfix(MB=f"{sizes[-1]:.0f}")
            progress.update()
            await asyncio.sleep(1)
    return sizes


async def run(
    server: Server, questions: list[Question], num_clients: int, seconds: float
) -> tuple[Counts, list[float]]:
    """All clients at once."""
    until, counts = time.monotonic() + seconds, Counts()
    kinds = ["slow" if i % 5 == 0 else "leaver" if i % 5 == 1 else "reader" for i in range(num_clients)]
    clients = [client(kind, server, questions, until, seed, counts) for seed, kind in enumerate(kinds)]
    sizes, *_ = await asyncio.gather(watch(server, until), *clients)
    return counts, sizes


async def pages_in_use(server: Server) -> float:
    """The share of pages in use once nothing runs any more."""
    for _ in range(100):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"GET /load HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        told = json.loads((await reader.read()).partition(b"\r\n\r\n")[2])
        writer.close()
        if told["server_load"] == 0:
            return float(told["kv_cache_usage"])
        await asyncio.sleep(0.1)
    raise SystemExit(f"requests have not ended: {told}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args()
    questions = questions_of(Engine(SMALL, LARGE, num_threads=options.threads))
    # a cache of pages that is full soon, so that memory grows by what it shouldn't alone
    with our_server(SMALL, LARGE, options.threads, "--kv-cache-bytes", str(KV_CACHE_BYTES)) as server:
        counts, sizes = asyncio.run(run(server, questions, options.clients, options.seconds))
        in_use = asyncio.run(pages_in_use(server))
    settled = sizes[len(sizes) // 5 :]
    case = {
        "clients": options.clients,
        "seconds": options.seconds,
        "whole_answers": counts.whole,
        "tokens": counts.tokens,
        "left": counts.left,
        "errors": len(counts.errors),
        "pages_in_use": in_use,
        "mb_after_a_fifth": settled[0],
        "mb_at_the_end": settled[-1],
        "mb": summary(settled),
    }
    for error in counts.errors[:5]:
        print(error)
    report("serving-soak", [case], {}, rows=[{key: value for key, value in case.items() if key != "mb"}])
    if counts.errors or in_use:
        raise SystemExit("errors, or pages that have not come back: see above")


if __name__ == "__main__":
    main()
