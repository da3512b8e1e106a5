"""A contestant in a process of its own, ours or a peer: it computes only while it's asked to, and sleeps otherwise."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
IDLE_SECONDS = 0.1  # until the threads of the one that ran before have gone to sleep


class Contestant:
    """Calls into the process; see peers/serve.py for what it can do.

    Raises: RuntimeError with the contestant's own message when a call fails or its process ends.
    """

    def __init__(self, name: str, python: str, script: Path, *arguments: str) -> None:
        self.name = name
        self.version: str | None = None
        self._process = subprocess.Popen(
            [python, str(script), *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        hello = self._read()
        self.import_rss_bytes: int = hello["peak_rss_bytes"]
        self._calls: list[str] = hello["calls"]

    def __enter__(self) -> "Contestant":
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def open(self, models: list[Path], num_threads: int, num_tokens: int, **options: Any) -> dict[str, Any]:
        """Load the models; num_tokens is the most that they will hold at a time."""
        paths = [str(path) for path in models]
        opened = self.call("open", models=paths, num_threads=num_threads, num_tokens=num_tokens, **options)
        self.version = opened["version"]
        return opened

    def can(self, do: str) -> bool:
        """Whether the contestant knows that call."""
        return do in self._calls

    def call(self, do: str, **arguments: Any) -> dict[str, Any]:
        """What `do` returns there."""
        assert self._process.stdin is not None
        time.sleep(IDLE_SECONDS)
        self._process.stdin.write(json.dumps({"do": do, "arguments": arguments}) + "\n")
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name}: the process ended with code {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise RuntimeError(f"{self.name}: {answer['error']}")
        return answer


def glimp() -> Contestant:
    """Our engine, in this Python."""
    return Contestant("glimp", sys.executable, HERE / "ours.py")


def llama_cpp(python: str) -> Contestant:
    """llama.cpp, in a Python that has llama-cpp-python."""
    return Contestant("llama.cpp", python, HERE / "peers" / "over_llama_cpp.py")


def transformers(python: str, dtype: str) -> Contestant:
    """transformers, in a Python that has it."""
    return Contestant(f"transformers {dtype}", python, HERE / "peers" / "over_transformers.py", dtype)
