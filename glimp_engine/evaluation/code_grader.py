"""Runs the program that a text contains against tests, in a process that is contained."""

import json
import math
import re
from typing import Any

from glimp_engine.evaluation.containment import Containment

__all__ = ["CodeGrader"]

CODE = re.compile(r"```(?:python|py|python3)?[ \t]*\n(.*?)```", re.DOTALL | re.IGNORECASE)
SECONDS_A_TEST = 6.0  # LiveCodeBench's own limit

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
    """

    def __init__(self, containment: Containment, seconds: float = SECONDS_A_TEST) -> None:
        """`seconds` of processor time for each test."""
        self._containment = containment
        self._seconds = seconds
        self.containment: str | None = containment.level

    def check_reference(self, answer: Any) -> None:
        tests = answer.get("tests") if isinstance(answer, dict) else None
        if not isinstance(tests, list) or not tests or not all(map(is_test, tests)):
            raise ValueError(f"answer is {str(answer)[:60]!r}; expected tests, each with input and output, both texts")
        function = answer.get("function")
        if function is None:
            return
        if not isinstance(function, str) or not function.isidentifier():
            raise ValueError(f"function is {str(function)[:60]!r}; expected a name")
        for number, test in enumerate(tests):
            try:
                json.loads(request_of(function, test))
                json.loads(test["output"])
            except (ValueError, RecursionError) as error:
                raise ValueError(f"tests[{number}] has what isn't JSON: {error}") from None

    def extract(self, text: str) -> str | None:
        blocks = CODE.findall(text.rpartition("</think>")[2])
        return blocks[-1] if blocks else None

    def is_correct(self, extracted: str, answer: Any) -> bool:
        return all(self._passes(extracted, test, answer.get("function")) for test in answer["tests"])

    def close(self) -> None:
        self._containment.close()

    def _passes(self, code: str, test: dict[str, str], function: str | None) -> bool:
        files = {"program.py": encoded(code + (CALL if function else ""))}
        if function:
            files["request.json"] = encoded(request_of(function, test))
        given = b"" if function else encoded(test["input"])
        output = self._containment.run(files, list(files), given, self._seconds)
        if output is None:
            return False
        printed = output.decode(errors="replace")
        try:
            if function is None:
                return same_lines(printed, test["output"])
            return same_value(json.loads(printed.rstrip().rpartition("\n")[2]), json.loads(test["output"]))
        except (ValueError, RecursionError):
            return False


def is_test(test: object) -> bool:
    return isinstance(test, dict) and all(isinstance(test.get(name), str) for name in ("input", "output"))


def request_of(function: str, test: dict[str, str]) -> str:
    """What CALL reads. The arguments stay as they are written: deep ones may be read, but not written again."""
    arguments = ",".join(line for line in test["input"].split("\n") if line.strip())
    return f'{{"function": {json.dumps(function)}, "arguments": [{arguments}]}}'


def encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")  # half a surrogate pair is a program that fails, not one of ours


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
        return is_number(ours) and is_number(theirs) and abs(ours - theirs) <= 1e-6 * max(1.0, abs(theirs))
    return bool(ours == theirs)


def is_number(value: Any) -> bool:
    """Whether it can be compared with a float: infinity is as close to everything, and 10**400 is none."""
    try:
        return isinstance(value, (int, float)) and math.isfinite(value)
    except OverflowError:
        return False
