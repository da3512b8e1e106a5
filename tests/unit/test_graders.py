"""Graders: which answer a text gives, and what counts as the same."""

import time

import pytest

from glimp_engine import ConfigError
from glimp_engine.evaluation.code_grader import CodeGrader
from glimp_engine.evaluation.containment import find_containment
from glimp_engine.evaluation.graders import last_boxed, make_grader


@pytest.mark.parametrize(
    ("text", "boxed"),
    [
        ("\\boxed{7}", "7"),
        ("\\boxed{1} then \\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("\\boxed{never closed", None),
        ("nothing", None),
        ("\\boxed{}", ""),
    ],
)
def test_the_last_box(text, boxed):
    assert last_boxed(text) == boxed


@pytest.mark.parametrize(
    ("name", "text", "reference", "is_right"),
    [
        ("exact", "We think.\n\nThe answer is Paris.", "paris", True),
        ("exact", "Answer: 131 km", "131 km", True),
        ("exact", "131 km", "131  KM", True),
        ("exact", "132 km", "131 km", False),
        ("exact", "<think>131 km</think>\n\n130 km", "131 km", False),
        ("number", "It makes $1,234.50 in all.", "1234.5", True),
        ("number", "3 of 4, so \\boxed{75\\%} in the end, not 80", "75", True),
        ("number", "\\boxed{\\frac{1}{2}}", "0.5", False),  # for that there is `boxed`
        ("number", "1/2", "0.5", True),
        ("number", "-3", "3", False),
        ("number", "18.0", "18", True),
        ("number", "none", "18", False),
        ("boxed", "so \\boxed{\\frac{1}{2}}", "0.5", True),
        ("boxed", "so \\boxed{x^2+2x+1}", "(x+1)^2", True),
        ("boxed", "so \\boxed{x^2+2x}", "(x+1)^2", False),
        ("boxed", "it's 0.5", "0.5", False),
        ("choice", "The correct answer is (C).", "C", True),
        ("choice", "\\boxed{B}", "b", True),
        ("choice", "**Answer: D**", "D", True),
        ("choice", "A or B?\n\nB", "B", True),
        ("choice", "Answer: A", "B", False),
        ("choice", "I can't tell.", "A", False),
        ("table", "Answer: b | a", ["a", "b"], True),
        ("table", "Answer: a, b and c", ["a", "b", "c"], True),
        ("table", "Answer: a", ["a", "b"], False),
        ("table", "Answer: a | b | c", ["a", "b"], False),
        ("table", "Answer: 1,200 people", "1200", True),
        ("table", "Answer: Rome, Italy", "rome, italy", True),
        ("finance", "Answer: 10.02%", 0.1, True),
        ("finance", "Answer: 0.12", 0.1, False),
    ],
)
def test_right_and_wrong(name, text, reference, is_right):
    grader = make_grader(name)
    grader.check_reference(reference)
    answer = grader.extract(text)
    assert (answer is not None and grader.is_correct(answer, reference)) == is_right, answer


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("exact", ""),
        ("exact", None),
        ("number", "many"),
        ("number", None),
        ("boxed", ""),
        ("choice", "Z"),
        ("choice", 1),
        ("table", []),
        ("code", {"tests": []}),
        ("code", "print(1)"),
    ],
)
def test_references_that_nothing_can_be_compared_with(name, reference):
    with pytest.raises(ValueError, match=r"answer is .*; expected"):
        make_grader(name, is_unsafe_allowed=True).check_reference(reference)


def test_an_unknown_grader_is_refused():
    with pytest.raises(ConfigError, match="grader is 'best'; allowed: exact, number"):
        make_grader("best")


ECHO = {"tests": [{"input": "5\n", "output": "5\n"}]}


@pytest.fixture(scope="module")
def containment():
    return find_containment(is_unsafe_allowed=True)


@pytest.fixture
def verdict(containment):
    return lambda code, answer=ECHO, seconds=2.0: CodeGrader(containment, seconds).is_correct(code, answer)


def test_programs_are_run_against_their_tests(verdict):
    assert verdict("print(input())")
    assert verdict("print(float(input()))")  # numbers by value
    assert not verdict("print(int(input()) + 1)")
    assert not verdict("raise SystemExit(3)")
    assert not verdict("print(")
    two = {"tests": [*ECHO["tests"], {"input": "6\n", "output": "7\n"}]}
    assert not verdict("print(input())", two)  # all of them have to pass


def test_functions_are_called(verdict):
    answer = {"function": "add", "tests": [{"input": "[1, 2]\n3", "output": "[4, 5]"}]}
    assert verdict("def add(xs, y):\n    print('a word')\n    return [x + y for x in xs]", answer)
    assert verdict("class Solution:\n    def add(self, xs, y):\n        return [x + y for x in xs]", answer)
    assert not verdict("def add(xs, y):\n    return xs", answer)
    assert not verdict("def other(xs, y):\n    return xs", answer)


@pytest.mark.parametrize(
    "code",
    [
        "while True: pass",
        "import time; time.sleep(60)",
        "x = bytearray(1 << 36)",
        "while True: print('x' * 10**6)",
        "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']).wait()",
        "import os\nos.fork()\nwhile True: pass",
    ],
    ids=["loops", "sleeps", "fills the memory", "fills the disk", "starts others", "forks"],
)
@pytest.mark.slow
def test_a_program_that_takes_too_much_is_ended(verdict, code):
    began = time.monotonic()
    assert not verdict(code, seconds=1.0)
    assert time.monotonic() - began < 20  # not how fast it is: that it ends at all


def test_the_last_block_is_the_program(containment):
    text = "```python\nprint(1)\n```\n\nor better\n\n```py\nprint(2)\n```"
    assert CodeGrader(containment).extract(text) == "print(2)\n"
    assert CodeGrader(containment).extract("print(1)") is None
