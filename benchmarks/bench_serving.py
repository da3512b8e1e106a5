"""Our server beside the engine in process, and beside llama.cpp's server with the same files, one after the other.

Requests of a group arrive at random moments (a Poisson process, the same for all), whether those before them have ended
or not. Times are the client's: until the first token, between tokens (of each request's mean), and tokens a second from
the first arrival to the last token. CPU seconds a token are shown apart: the server's event loop, the rest of its
process (engine and kernels), and the client.
"""

import argparse
import asyncio
import json
import os
import random
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from gsm8k import load_problems
from harness import MODELS, Case, arguments, report, summary
from tqdm import tqdm

from glimp_engine import Engine, LargeOnly, RoutingParams, SamplingParams
from glimp_engine.demo_pair import LARGE, SMALL, TEST

STREAMS = (1, 4, 16, 64)
ARRIVALS_PER_SECOND = 200.0  # so that a group is there within a third of a second
DEMO_TOKENS = 400  # of an answer: long beside the arrivals
SHORT = "Say a number from 1 to 9."
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


@dataclass
class Server:
    """One that runs, and how it's asked."""

    name: str
    port: int
    process: "subprocess.Popen[bytes]"
    model: str
    more: dict[str, Any] = field(default_factory=dict)

    def cpu_seconds(self) -> tuple[float, float]:
        """(of the main thread, which in ours is the event loop; of the others)."""
        main = cpu_seconds(f"/proc/{self.process.pid}/task/{self.process.pid}/stat")
        return main, cpu_seconds(f"/proc/{self.process.pid}/stat") - main


def cpu_seconds(path: str) -> float:
    fields = Path(path).read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def started(command: list[str], port: int) -> Iterator["subprocess.Popen[bytes]"]:
    """A server's process, once it's healthy."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while True:
            if process.poll() is not None:
                raise SystemExit(f"{command[0]} has ended with {process.returncode}")
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                break
            except OSError:
                time.sleep(0.1)
        yield process
    finally:
        process.terminate()
        process.wait()


@contextmanager
def our_server(small: Path, large: Path, threads: int, *more: str) -> Iterator[Server]:
    port = free_port()
    run = "import sys; from glimp_engine.cli.main import main; sys.exit(main(sys.argv[1:]))"
    files = ["--small", str(small), "--large", str(large), "--num-threads", str(threads)]
    command = [sys.executable, "-c", run, "serve", *files, "--port", str(port), "--served-model-name", "pair", *more]
    with started(command, port) as process:
        yield Server("glimp", port, process, "pair@large")


@contextmanager
def llama_server(binary: Path, large: Path, threads: int, draft: Path | None, slots: int) -> Iterator[Server]:
    port = free_port()
    command = [str(binary), "-m", str(large), "--port", str(port), "-t", str(threads), "-np", str(slots)]
    command += ["-c", str(1024 * slots), "--no-webui"]
    if draft is not None:
        command += ["-md", str(draft), "--spec-type", "draft-simple", "--spec-draft-n-max", "4"]
    with started(command, port) as process:
        name = "llama-server" if draft is None else "llama-server, draft"
        yield Server(name, port, process, "any", {"cache_prompt": True})


@dataclass
class Answer:
    """What one request saw, in seconds since it was sent."""

    sent: float
    first: float = 0.0
    last: float = 0.0
    num_tokens: int = 0

    @property
    def between(self) -> float:
        return (self.last - self.first) / max(self.num_tokens - 1, 1)


async def ask(server: Server, body: dict[str, Any]) -> Answer:
    """One request, as a stream; little is done here, as the client shares the processor."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    told = {"model": server.model, "stream": True, "stream_options": {"include_usage": True}, **body, **server.more}
    data = json.dumps(told).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n"
    head += "Content-Type: application/json\r\nConnection: close\r\n\r\n"
    answer = Answer(time.perf_counter())
    writer.write(head.encode() + data)
    received = b""
    while chunk := await reader.read(1 << 16):
        now = time.perf_counter()
        received += chunk
        if not answer.first and (b'"content":"' in received.replace(b'"content":""', b"") or b"reasoning" in received):
            answer.first = now - answer.sent
        answer.last = now - answer.sent
    writer.close()
    usages = [line for line in received.split(b"\n") if b'"usage":{' in line]
    if not usages:
        raise SystemExit(f"{server.name} answered {received[-500:]!r}")
    answer.num_tokens = json.loads(usages[-1][usages[-1].index(b"{") :])["usage"]["completion_tokens"]
    answer.first = answer.first or answer.last
    return answer


async def group(server: Server, bodies: list[dict[str, Any]], seed: int) -> tuple[list[Answer], float]:
    """All of them, each at its own moment; and the seconds from the first arrival to the last token."""
    chance, began = random.Random(seed), time.perf_counter()
    tasks = []
    for i, body in enumerate(bodies):
        if i:
            await asyncio.sleep(chance.expovariate(ARRIVALS_PER_SECOND))
        tasks.append(asyncio.ensure_future(ask(server, body)))
    return list(await asyncio.gather(*tasks)), time.perf_counter() - began


def measure(server: Server, bodies: list[dict[str, Any]], seed: int) -> Case:
    """One group's figures."""
    main, others, own = *server.cpu_seconds(), time.process_time()
    answers, seconds = asyncio.run(group(server, bodies, seed))
    num_tokens = sum(answer.num_tokens for answer in answers)
    after = server.cpu_seconds()
    return {
        "tokens_per_second": num_tokens / seconds,
        "first_token_ms": median(answer.first for answer in answers) * 1e3,
        "between_tokens_ms": median(answer.between for answer in answers) * 1e3,
        "loop_cpu_us": (after[0] - main) / num_tokens * 1e6,
        "other_cpu_us": (after[1] - others) / num_tokens * 1e6,
        "client_cpu_us": (time.process_time() - own) / num_tokens * 1e6,
    }


def in_process(engine: Engine, bodies: list[dict[str, Any]]) -> Case:
    """The same answers by `Engine.generate`, which has no arrivals to wait for."""
    sampling = [SamplingParams(temperature=0, max_tokens=body["max_tokens"], ignore_eos=True) for body in bodies]
    began = time.perf_counter()
    prompts = [body["messages"] for body in bodies]
    outputs = engine.generate(prompts, sampling, RoutingParams(router=LargeOnly()), use_tqdm=False)
    seconds = time.perf_counter() - began
    num_tokens = sum(len(output.outputs[0].token_ids) for output in outputs)
    return {"tokens_per_second": num_tokens / seconds, "between_tokens_ms": seconds / num_tokens * len(bodies) * 1e3}


def medians(pair: str, num_streams: int, way: str, rounds: list[Case]) -> Case:
    """One line: what was measured in the rounds, the first one left out."""
    kept = rounds[1:] if len(rounds) > 1 else rounds
    figures = {key: median(each[key] for each in kept) for key in kept[0]}
    spread = summary([each["tokens_per_second"] for each in kept])
    return {"pair": pair, "streams": num_streams, "way": way, **figures, "p10": spread["p10"], "p90": spread["p90"]}


def bodies_of(texts: list[str], num_streams: int, max_tokens: int, turn: int) -> list[dict[str, Any]]:
    """Requests of as many streams; another turn asks other questions."""
    chosen = [texts[(turn * num_streams + i) % len(texts)] for i in range(num_streams)]
    more = {"temperature": 0, "max_tokens": max_tokens, "ignore_eos": True}
    return [{"messages": [{"role": "user", "content": text}], **more} for text in chosen]


def demo_cases(options: argparse.Namespace) -> list[Case]:
    """The server over the engine, where a token costs least."""
    texts = [json.loads(line)["problem"] for line in TEST.read_text().splitlines()]
    cases = []
    engine = Engine(SMALL, LARGE, num_threads=options.threads)
    with our_server(SMALL, LARGE, options.threads) as server:
        for num_streams in tqdm(STREAMS, desc="demo pair"):
            ours: list[Case] = []
            alone: list[Case] = []
            for turn in range(options.repeats + 1):
                bodies = bodies_of(texts, num_streams, DEMO_TOKENS, turn)
                alone.append(in_process(engine, bodies))
                ours.append(measure(server, bodies, turn))
            cases += [medians("demo", num_streams, "engine", alone), medians("demo", num_streams, "glimp serve", ours)]
    return cases


def real_cases(options: argparse.Namespace) -> list[Case]:
    """Beside llama.cpp's server, with its own speculation and without."""
    small, large = options.models
    texts = [problem.message for problem in load_problems(options.problems)]
    cases = []
    with ExitStack() as stack:
        servers = [stack.enter_context(our_server(small, large, options.threads))]
        if options.llama_server is not None:
            for draft in (None, small):
                servers.append(
                    stack.enter_context(llama_server(options.llama_server, large, options.threads, draft, 16))
                )
        for num_streams in tqdm((0, *[n for n in STREAMS if n <= 16]), desc="real pair"):
            rounds: dict[str, list[Case]] = {server.name: [] for server in servers}
            for turn in range(options.repeats + 1):
                short = bodies_of([f"{SHORT} {turn}"], 1, 8, 0)
                bodies = bodies_of(texts, num_streams, 64, turn) if num_streams else short
                for server in servers:
                    rounds[server.name].append(measure(server, bodies, turn))
            cases += [medians("real", num_streams, name, each) for name, each in rounds.items()]
    return cases


def main() -> None:
    parser = arguments(__doc__ or "", repeats=5, models=MODELS[1:])
    parser.add_argument("--problems", type=Path, help="GSM8K's form; without them only the demo pair is served")
    parser.add_argument("--llama-server", type=Path, help="the peer's binary")
    options = parser.parse_args()
    cases = demo_cases(options)
    if options.problems is not None:
        cases += real_cases(options)
    report(options.name or "serving", cases, {}, threads=options.threads, arrivals_per_second=ARRIVALS_PER_SECOND)


if __name__ == "__main__":
    main()
