"""Whatever a model writes or a file holds: a grader gives a verdict in time, or names the line."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, seed, settings
from hypothesis import strategies as st

from glimp_engine import ConfigError
from glimp_engine.evaluation.graders import GRADERS, TextGrader, make_grader
from glimp_engine.evaluation.grading import Grading, grade
from glimp_engine.evaluation.journal import read_jsonl, write_jsonl
from glimp_engine.evaluation.problems import read_by_fields, read_problems, rows_of_file
from glimp_engine.evaluation.run_lines import check_refused

TEXTS = {name: make_grader(name) for name in ("exact", "number", "choice", "table", "finance")}
BOXED = make_grader("boxed")
LONG = (
    "\n" * 16_000,
    " " * 16_000,
    "(" * 200 + "1" + ")" * 200,
    "[" * 100_000,
    "9" * 5_000,
    "A " * 8_000,
    "answer is " * 4_000,
    ", " * 8_000,
    "1 / " * 8_000,
    "\\boxed{" * 4_000,
    "```python\n" * 4_000,
    "\\boxed{" + "{" * 3_000 + "}" * 3_001,
    "1e400",
    "-1e999 inf nan",
    "\\boxed{9^{9^{9^{9^9}}}}",
    "\\boxed{\\frac{1}{0}}",
    "\\boxed{" + "\\sqrt{" * 200 + "2" + "}" * 201,
    "Answer: K",
    "\ud83d\x00",
)
KEYS = (
    1e400,
    float("nan"),
    "inf",
    "1e400",
    "9" * 400,
    10**5000,
    "K",
    "",
    None,
    True,
    [],
    [[1]],
    {},
    {"tests": 5},
    b"x",
)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*TEXTS, "boxed"])
@pytest.mark.parametrize("number", range(len(LONG)))
def test_long_and_odd_texts_are_graded_in_time(name, number):
    grader = TEXTS.get(name, BOXED)
    reference = {"choice": "A", "table": ["a", "b"], "boxed": "1"}.get(name, "5")
    began = time.monotonic()
    assert not grade(grader, LONG[number], reference).is_correct or (name, LONG[number][0]) in {
        ("choice", "A"),
        ("boxed", "("),
    }
    assert time.monotonic() - began < (60 if name == "boxed" else 2)


@pytest.mark.parametrize("name", GRADERS)
@pytest.mark.parametrize("number", range(len(KEYS)))
def test_odd_keys_are_refused_or_graded(name, number):
    grader = TEXTS.get(name) or (BOXED if name == "boxed" else make_grader(name, is_unsafe_allowed=True))
    told = None
    try:
        grader.check_reference(KEYS[number])
    except ValueError as error:
        told = str(error)
    if told is not None:
        assert 0 < len(told) < 400
    else:
        assert not grade(grader, "5 \\boxed{5}", KEYS[number]).is_correct


def test_no_number_is_close_to_infinity():
    assert not grade(TEXTS["number"], "9" * 400, "5").is_correct
    assert not grade(TEXTS["table"], "9" * 400, "5").is_correct
    assert grade(TEXTS["number"], "1.5e3", "1500").is_correct
    from glimp_engine.evaluation.code_grader import same_lines, same_value

    assert not same_lines("5", "inf")
    assert not same_value(10**400, 1.0)
    assert same_lines("inf", "inf")


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner))
PIECES = st.sampled_from(
    [
        "\\boxed{",
        "}",
        "answer",
        " is ",
        "A",
        "J",
        "K",
        "1",
        ",",
        ".",
        "/",
        "e9",
        "-",
        "%",
        "|",
        "\n",
        " and ",
        "</think>",
    ]
)


@seed(15)
@settings(max_examples=300, deadline=2000, database=None)
@given(VALUES, st.lists(PIECES | st.text(max_size=5), max_size=40).map("".join))
def test_any_key_and_any_answer(key, text):
    for grader in TEXTS.values():
        try:
            grader.check_reference(key)
        except ValueError:
            continue
        assert isinstance(grade(grader, text, key).is_correct, bool)


@seed(16)
@settings(max_examples=60, deadline=None, database=None)
@given(VALUES, st.lists(PIECES | st.sampled_from("^_{}()+*x\\"), max_size=20).map("".join))
@pytest.mark.slow
def test_any_expression(key, text):
    try:
        BOXED.check_reference(key)
    except ValueError:
        key = "1"
    assert isinstance(grade(BOXED, f"\\boxed{{{text}}}", key).is_correct, bool)


@pytest.mark.parametrize(
    "line",
    [
        b'{"problem": "How?", "answer": 1e400}',
        b'{"problem": "How?", "answer": ' + b"[" * 100_000,
        b'{"problem": "How?", "answer": ' + b"[" * 500 + b"]" * 500 + b"}",
        b'{"problem": "How?", "answer": ' + b"9" * 5_000 + b"}",
        b'{"problem": 5, "answer": "5"}',
        b'{"problem": "\xff", "answer": "5"}',
        b"5",
        b"null",
        b"{}",
    ],
)
def test_a_line_that_is_no_problem_is_named(tmp_path, line):
    path = tmp_path / "problems.jsonl"
    path.write_bytes(b'{"problem": "How?", "answer": "5"}\n' + line + b"\n")
    problems, bad = read_problems(rows_of_file(path), read_by_fields(None, ""), TEXTS["number"])
    assert len(problems) == 1
    assert [each.where for each in bad] == [f"{path}:2"]
    assert len(str(bad[0])) < 600


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", b"5"),
        ("a.json", b"[" * 100_000),
        ("a.json", b"\xff"),
        ("a.csv", b"id,problem\n\xff"),
        ("a.parquet", b"x"),
    ],
)
def test_a_file_that_holds_no_problems_is_named(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=name):
        list(rows_of_file(path))


def test_odd_code_references_are_refused():
    grader = make_grader("code", is_unsafe_allowed=True)
    good = {"input": "1", "output": "1"}
    for answer in (
        {"tests": [5]},
        {"tests": {"input": "1", "output": "1"}},
        {"tests": [{"input": 1, "output": "1"}]},
        {"tests": [good], "function": 5},
        {"tests": [good], "function": "import os"},
        {"tests": [{"input": "{", "output": "1"}], "function": "f"},
        {"tests": [{"input": "1", "output": "[" * 100_000}], "function": "f"},
    ):
        with pytest.raises(ValueError, match=r"expected|isn't JSON"):
            grader.check_reference(answer)
    deep = {"tests": [{"input": "1", "output": "1"}], "function": "f"}
    assert not grade(grader, "```python\ndef f(x):\n    print('[' * 100000)\n    exit()\n```", deep).is_correct
    assert not grade(grader, "```python\n\ud83d\x00\n```", deep).is_correct


def test_lines_are_read_back_as_they_were_written(tmp_path):
    lines = [{"where": "a\u2028b\x85c", "what": "\ud83d"}, {"where": "d", "what": "é"}]
    write_jsonl(tmp_path / "lines.jsonl", lines)
    assert read_jsonl(tmp_path / "lines.jsonl", check_refused) == lines
    (tmp_path / "lines.jsonl").write_text(json.dumps(lines[0]) + "\n[1]\n")
    with pytest.raises(ConfigError, match=r"lines.jsonl:2: damaged: expected an object, found list"):
        read_jsonl(tmp_path / "lines.jsonl", check_refused)


class SlowGrader(TextGrader):
    """Judges when it's told to."""

    def __init__(self):
        self.may_go, self.is_closed = threading.Event(), False

    def check_reference(self, answer):
        pass

    def extract(self, text):
        return text

    def is_correct(self, extracted, answer):
        self.may_go.wait(30)
        return extracted == answer

    def close(self):
        self.is_closed = True
        self.may_go.set()


def test_who_adds_a_text_does_not_wait_for_its_grade():
    grader, told = SlowGrader(), []
    with Grading(grader) as grading:
        began = time.monotonic()
        for text in "abc":
            grading.add([text], "b", lambda grades: told.append(grades[0].is_correct))
            grading.collect()
        assert time.monotonic() - began < 5
        assert told == []
        grader.may_go.set()
        grading.finish()
    assert sorted(told) == [False, False, True]
    assert grader.is_closed


def test_an_interrupt_waits_for_no_grade():
    grader, told = SlowGrader(), []
    began = time.monotonic()

    def interrupted():
        with Grading(grader) as grading:
            for _ in range(20):
                grading.add(["a"], "a", told.append)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert time.monotonic() - began < 5
    assert told == []


@pytest.mark.slow
def test_expressions_are_compared_by_several_threads_at_once():
    grader = make_grader("boxed")
    with ThreadPoolExecutor(4) as threads:
        verdicts = list(threads.map(lambda n: grade(grader, f"\\boxed{{{n % 2} + 1}}", "2").is_correct, range(12)))
    assert verdicts == [n % 2 == 1 for n in range(12)]
    grader.close()
