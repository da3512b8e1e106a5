"""Runs the program that a text contains against tests, in a process of its own with limits on time and memory."""

import json
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

__all__ = ["CodeGrader"]

CODE = re.compile(r"```(?:python|py|python3)?[ \t]*\n(.*?)```", re.DOTALL | re.IGNORECASE)
SECONDS_A_TEST = 6.0  # LiveCodeBench's own limit
MEMORY_BYTES = 4 << 30
OUTPUT_BYTES = 16 << 20

# Calls a function, or LeetCode's Solution().function, with each test's arguments, and prints what came back as JSON.
CALL = """
import json as _json, sys as _sys
_request = _json.load(open(_sys.argv[1]))
_owner = Solution() if "Solution" in globals() else None
_call = getattr(_owner, _request["function"]) if _owner else globals()[_request["function"]]
print("\\n" + _json.dumps(_call(*_request["arguments"])))
"""


class CodeGrader:
    """The last fenced block of Python passes all tests.

    The answer is a dict: `tests`, a list of {input, output}; with `function`, its name, inputs are its arguments, one
    JSON value a line, and outputs what it returns; else they are what the program reads and prints.

    The limits protect from programs that loop, fork, or fill the memory or the disk, not from malice: what must not
    reach files or the network has to run in a container.
    """

    def __init__(self, seconds: float = SECONDS_A_TEST) -> None:
        self._seconds = seconds

    def check_reference(self, answer: Any) -> None:
        tests = answer.get("tests") if isinstance(answer, dict) else None
        if not tests or not all(isinstance(test, dict) and {"input", "output"} <= test.keys() for test in tests):
            raise ValueError(f"answer is {str(answer)[:60]!r}; expected tests, each with input and output")

    def extract(self, text: str) -> str | None:
        blocks = CODE.findall(text.rpartition("</think>")[2])
        return blocks[-1] if blocks else None

    def is_correct(self, extracted: str, answer: Any) -> bool:
        return all(self._passes(extracted, test, answer.get("function")) for test in answer["tests"])

    def _passes(self, code: str, test: dict[str, str], function: str | None) -> bool:
        with tempfile.TemporaryDirectory(prefix="glimp-") as directory:
            program, request = Path(directory, "program.py"), Path(directory, "request.json")
            program.write_text(code + (CALL if function else ""), encoding="utf-8")
            if function:
                arguments = [json.loads(line) for line in test["input"].splitlines() if line.strip()]
                request.write_text(json.dumps({"function": function, "arguments": arguments}), encoding="utf-8")
            printed = self._run([str(program), str(request)], "" if function else test["input"], directory)
        if printed is None:
            return False
        if function is None:
            return same_lines(printed, test["output"])
        try:
            return same_value(json.loads(printed.rstrip().rpartition("\n")[2]), json.loads(test["output"]))
        except ValueError:
            return False

    def _run(self, arguments: list[str], given: str, directory: str) -> str | None:
        """What the program prints; None if it fails, or takes too much of anything."""
        printed = Path(directory, "printed")
        with printed.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-I", *arguments],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.DEVNULL,
                cwd=directory,
                env={"PATH": os.environ.get("PATH", ""), "OMP_NUM_THREADS": "1"},
                start_new_session=True,  # so that all it starts can be killed with it
                preexec_fn=self._limit,
            )
            try:
                process.communicate(given.encode(), timeout=self._seconds)
            except subprocess.TimeoutExpired:
                return None
            finally:
                kill_group(process)
        return printed.read_text(encoding="utf-8", errors="replace") if process.returncode == 0 else None

    def _limit(self) -> None:
        seconds = int(self._seconds) + 1
        for kind, most in (
            (resource.RLIMIT_CPU, seconds),
            (resource.RLIMIT_AS, MEMORY_BYTES),
            (resource.RLIMIT_FSIZE, OUTPUT_BYTES),
            (resource.RLIMIT_CORE, 0),
        ):
            resource.setrlimit(kind, (most, most))


def kill_group(process: "subprocess.Popen[bytes]") -> None:
    """End the program and all that it has started in its session."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def same_lines(printed: str, expected: str) -> bool:
    """The same lines, but for space at their ends; numbers by value."""
    ours, theirs = (text.strip().splitlines() for text in (printed, expected))
    return len(ours) == len(theirs) and all(map(same_line, ours, theirs))


def same_line(ours: str, theirs: str) -> bool:
    if ours.split() == theirs.split():
        return True
    try:
        values = [[float(word) for word in line.split()] for line in (ours, theirs)]
    except ValueError:
        return False
    return same_value(*values)


def same_value(ours: Any, theirs: Any) -> bool:
    if isinstance(ours, list) and isinstance(theirs, list):
        return len(ours) == len(theirs) and all(map(same_value, ours, theirs))
    if isinstance(ours, float) or isinstance(theirs, float):
        is_number = isinstance(ours, (int, float)) and isinstance(theirs, (int, float))
        return is_number and abs(ours - theirs) <= 1e-6 * max(1.0, abs(theirs))
    return bool(ours == theirs)
