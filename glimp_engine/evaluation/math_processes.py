"""Compares mathematical expressions in processes that can be ended: sympy takes all time and memory for some."""

import importlib.util
import json
import select
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from glimp_engine.errors import ConfigError

__all__ = ["MathProcesses"]

SCRIPT = Path(__file__).with_name("math_process.py")
WALL_SECONDS = 60.0  # the process has a limit on processor time; this is for one that waits
MAX_CHARS = 4_000  # of an expression; longer ones are no answers


class MathProcesses:
    """As many processes as threads ask at once. They import the library once, and are replaced when they end."""

    def __init__(self) -> None:
        """Raises: ConfigError when the library isn't there."""
        if importlib.util.find_spec("math_verify") is None:
            raise ConfigError("grader is 'boxed', which takes math-verify: pip install 'glimp_engine[eval]'")
        self._idle: list[subprocess.Popen[str]] = []
        self._all: set[subprocess.Popen[str]] = set()
        self._lock = threading.Lock()
        self._is_closed = False

    def ask(self, *expressions: str) -> bool:
        """Whether one expression can be read, or two are the same; False where that can't be told in time."""
        if any(len(expression) > MAX_CHARS for expression in expressions):
            return False
        process = self._take()
        try:
            verdict = answer_of(process, json.dumps(expressions) + "\n")
        except BaseException:
            self._end(process)
            raise
        if verdict is None:
            self._end(process)
            return False
        with self._lock:
            self._idle.append(process)
        return verdict

    def close(self) -> None:
        """End all of them; who is waiting for one is told False."""
        with self._lock:
            self._is_closed = True
            for process in self._all:
                process.kill()

    def __del__(self) -> None:
        for process in getattr(self, "_all", ()):  # not there if what it takes isn't installed
            process.kill()
            process.wait()

    def _take(self) -> "subprocess.Popen[str]":
        with self._lock:
            if self._is_closed:
                raise RuntimeError("the grader is closed")
            if self._idle:
                return self._idle.pop()
            process = subprocess.Popen(
                [sys.executable, str(SCRIPT)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                start_new_session=True,  # no Ctrl-C from the terminal: it ends when its input does
            )
            self._all.add(process)
            return process

    def _end(self, process: "subprocess.Popen[str]") -> None:
        process.kill()
        process.communicate()
        with self._lock:
            self._all.discard(process)


def answer_of(process: "subprocess.Popen[str]", question: str) -> bool | None:
    """None if it ended, or said nothing for too long."""
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(question)
        process.stdin.flush()
    except BrokenPipeError:
        return None
    if not select.select([process.stdout], [], [], WALL_SECONDS)[0]:
        return None
    line: Any = process.stdout.readline()
    return bool(json.loads(line)) if line.endswith("\n") else None
