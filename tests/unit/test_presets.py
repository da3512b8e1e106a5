"""Each preset on a few rows in its data set's own format, and a right and a wrong answer to them."""

import pickle
from base64 import b64encode
from pathlib import Path
from zlib import compress

import pytest

from glimp_engine import ConfigError
from glimp_engine.evaluation.graders import make_grader
from glimp_engine.evaluation.presets import PRESETS, find_preset, rows_of_preset
from glimp_engine.evaluation.problems import read_problems
from glimp_engine.evaluation.rows import private_tests

DATA = Path(__file__).parents[1] / "fixtures" / "datasets"
SUM = "```python\na, b = map(int, input().split())\nprint(a + b)\n```"
SCALE = "```python\nclass Solution:\n    def scale(self, nums, k):\n        return [n * k for n in nums]\n```"
CASES = {  # preset -> (file, ids, a right answer to each, a wrong one to each)
    "aime24": ("aime24.jsonl", ["60"], ["so \\boxed{5}"], ["so \\boxed{6}"]),
    "aime25": ("aime25.jsonl", ["0"], ["$\\boxed{070}$"], ["70 or 71: \\boxed{71}"]),
    "math500": (
        "math500.jsonl",
        ["test/precalculus/807.json"],
        ["\\boxed{(3, \\pi/2)}"],
        ["\\boxed{(3, \\pi)}"],
    ),
    "gpqa-diamond": ("gpqa.csv", ["rec1", "rec2"], None, None),
    "livecodebench-v5": ("livecodebench.jsonl", ["abc1_a", "9001"], [SUM, SCALE], [SUM.replace("+", "-"), SUM]),
    "livecodebench-v6": (
        "livecodebench.jsonl",
        ["abc1_a", "9001"],
        [SUM, SCALE],
        ["no", SCALE.replace("* k", "")],
    ),
    "wikitq": ("wikitq.jsonl", ["nu-0"], ["Answer: 1924 | 1900"], ["Answer: 1900"]),
    "tabfact": ("tabfact.jsonl", ["0", "1"], ["Answer: True.", "Answer: false"], ["Answer: false", "Answer: true"]),
    "hitab": ("hitab/test_samples.jsonl", ["h1"], ["Answer: 1,200 students"], ["Answer: 800"]),
    "finqa": ("finqa.json", ["A/2010/page_1.pdf-1"], ["Answer: 10%"], ["Answer: 20%"]),
    "tablebench": ("tablebench.jsonl", ["t1", "t3"], ["Answer: 2", "Answer: y, x"], ["Answer: 3", "Answer: x"]),
    "gsm8k": ("gsm8k.jsonl", ["gsm8k-0", "gsm8k-1"], ["It's \\boxed{7}.", "2000"], ["\\boxed{8}", "1,000"]),
}


def load(name, path):
    preset = find_preset(name)
    grader = make_grader(preset.grader, is_unsafe_allowed=True)
    return *read_problems(rows_of_preset(preset, path), preset.reader(), grader), grader


def test_each_preset_has_a_case():
    assert set(CASES) == set(PRESETS)


@pytest.mark.parametrize("name", CASES)
def test_a_preset_reads_its_own_format_and_grades(name):
    file, ids, right, wrong = CASES[name]
    problems, _, grader = load(name, DATA / file)
    assert [problem.id for problem in problems] == ids
    assert all(problem.prompt.startswith(PRESETS[name].instruction) for problem in problems)
    for i, problem in enumerate(problems):
        texts = (right[i], wrong[i]) if right else (f"Answer: {problem.answer}", f"Answer: {other_letter(problem)}")
        verdicts = []
        for text in texts:
            answer = grader.extract(f"<think>\\boxed{{1}}\n\nAnswer: 0</think>\n\n{text}")
            verdicts.append(answer is not None and grader.is_correct(answer, problem.answer))
        assert verdicts == [True, False], (problem, texts)


def other_letter(problem):
    return "ABCD"["ABCD".index(problem.answer) - 1]


def test_the_choices_are_in_an_order_of_their_own_and_the_same_each_time():
    first, _, _ = load("gpqa-diamond", DATA / "gpqa.csv")
    again, _, _ = load("gpqa-diamond", DATA / "gpqa.csv")
    assert first == again
    for problem, right in zip(first, ("neutron", "argon"), strict=True):
        assert f"({problem.answer}) {right}" in problem.prompt


def test_tables_and_texts_stand_in_the_prompt():
    (wikitq,), _, _ = load("wikitq", DATA / "wikitq.jsonl")
    assert "| Year | City |\n| --- | --- |\n| 1896 | Athens |" in wikitq.prompt
    (finqa,), _, _ = load("finqa", DATA / "finqa.json")
    assert "revenue rose ." in finqa.prompt
    assert "see note 3 ." in finqa.prompt
    scale = load("livecodebench-v6", DATA / "livecodebench.jsonl")[0][1]
    assert "def scale(self" in scale.prompt


@pytest.mark.parametrize(
    ("name", "file", "where", "what"),
    [
        ("hitab", "hitab/test_samples.jsonl", "test_samples.jsonl:2", "table_id is '12'; expected its table in"),
        ("gsm8k", "gsm8k.jsonl", "gsm8k.jsonl:3", "expected a solution that ends with ####"),
        ("aime24", "gsm8k.jsonl", "gsm8k.jsonl:1", "expected a field 'problem'; found"),
        ("wikitq", "gsm8k.jsonl", "gsm8k.jsonl:1", "expected a field 'table'"),
    ],
)
def test_rows_of_another_kind_are_named(name, file, where, what):
    _, bad, _ = load(name, DATA / file)
    assert any(line.where.endswith(where) and what in line.what for line in bad), bad


def test_private_tests_run_no_code():
    class Harmful:
        def __reduce__(self):
            return print, ("harmed",)

    packed = b64encode(compress(pickle.dumps(Harmful()))).decode()
    with pytest.raises(ValueError, match=r"has a builtins.print; expected plain text"):
        private_tests(packed)


def test_without_a_file_the_hub_is_asked_for_it(monkeypatch):
    asked = []

    def download(repo, file, **options):
        asked.append((repo, file, options["repo_type"]))
        return DATA / "aime25.jsonl"

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    problems, _, _ = load("aime25", None)
    assert len(problems) == 1
    assert asked == [("math-ai/aime25", "test.jsonl", "dataset")]
    with pytest.raises(ConfigError, match=r"use dataset/test.json of github.com/czyssrs/FinQA"):
        load("finqa", None)


def test_a_hub_that_cannot_be_reached_is_told(monkeypatch):
    def fail(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fail)
    with pytest.raises(ConfigError, match=r"math-ai/aime25: test\.jsonl can't be had from the hub"):
        load("aime25", None)


def test_an_unknown_preset_is_refused():
    with pytest.raises(ConfigError, match=r"preset is 'mmlu'; allowed: aime24, aime25"):
        find_preset("mmlu")
