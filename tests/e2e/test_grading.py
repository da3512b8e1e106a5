"""`glimp eval` where grading takes long, where programs can't be contained, and where a run's files are damaged."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from glimp_engine.cli.main import main
from glimp_engine.evaluation.containment import Containment
from glimp_engine.evaluation.graders import ExactGrader

SHORT = ["--max-tokens", "12", "--max-step-tokens", "6", "--temperature", "0.9", "--concurrency", "3"]
TESTS = {"tests": [{"input": "1", "output": "1"}]}


@pytest.fixture
def pair(small_path, large_path):
    return ["--small", str(small_path), "--large", str(large_path)]


def problems_in(directory, answer="w1"):
    path = directory / "problems.jsonl"
    rows = [{"id": f"p{i}", "problem": f"How many apples are {i}?", "answer": answer} for i in range(4)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture(scope="module")
def finished(small_path, large_path, tmp_path_factory):
    out = tmp_path_factory.mktemp("finished")
    arguments = ["eval", problems_in(out), "--small", str(small_path), "--large", str(large_path), "--out", str(out)]
    assert main([*arguments, "--routers", "small,glimp:2.2", *SHORT]) == 0
    return out


def copied(finished, tmp_path, *names):
    for name in names:
        (tmp_path / name).write_bytes((finished / name).read_bytes())


def go_on(finished, pair, out):
    arguments = ["eval", str(finished / "problems.jsonl"), *pair, "--out", str(out)]
    return main([*arguments, "--routers", "small,glimp:2.2", *SHORT])


def test_the_results_are_the_same_whatever_grading_takes(finished, pair, tmp_path, monkeypatch):
    judge, num_judged = ExactGrader.is_correct, []

    def slowly(self, extracted, answer):
        num_judged.append(extracted)
        time.sleep(0.15 / len(num_judged))
        return judge(self, extracted, answer)

    monkeypatch.setattr(ExactGrader, "is_correct", slowly)
    assert go_on(finished, pair, tmp_path) == 0
    assert (tmp_path / "results.jsonl").read_bytes() == (finished / "results.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (b"[1, 2]", "expected an object, found list"),
        (b"5", "expected an object, found int"),
        (b"null", "expected an object, found null"),
        (b'{"key": ["answ', "damaged"),
        (b"\xff\xfe", "damaged"),
        (b"[" * 100_000, "damaged"),
        (b"{}", "the line has no key"),
        (b'{"key": 5, "item": {}}', "key is int; expected list"),
        (b'{"key": ["other", 1], "item": {}}', "expected [answer, router, repeat, problem]"),
        (b'{"key": ["answer", "small", 0, ["p0"]], "item": {}}', "expected [answer, router, repeat, problem]"),
        (b'{"key": ["answer", "small", 0, "p0"], "item": {}}', "item has no result"),
        (b'{"key": ["answer", "small", 0, "p0"], "item": {"result": {"steps": 5}, "timing": {}}}', "result has no"),
        (b'{"key": ["branch", "p0", 0, 1, "large"], "item": {"branch": []}}', "branch is list; expected dict"),
    ],
)
def test_a_damaged_journal_is_told_by_file_and_line(finished, pair, tmp_path, capsys, line, told):
    copied(finished, tmp_path, "run.json")
    lines = (finished / "journal.jsonl").read_bytes().splitlines(keepends=True)
    journal = tmp_path / "journal.jsonl"
    damaged = b"".join([*lines[:2], line, b"\n", *lines[2:]])
    journal.write_bytes(damaged)
    capsys.readouterr()
    assert go_on(finished, pair, tmp_path) == 1
    message = capsys.readouterr().err
    assert message.splitlines()[-1].startswith(f"glimp: {journal}:3: damaged: ")
    assert told in message
    assert journal.read_bytes() == damaged  # whoever mends it has all of it


@pytest.mark.parametrize("name", ["steps", "is_correct", "num_tokens", "problem"])
@pytest.mark.parametrize("value", [None, "x", [5], 7.5])
def test_a_result_of_other_types_is_told(finished, pair, tmp_path, capsys, name, value):
    copied(finished, tmp_path, "run.json")
    entry = json.loads((finished / "journal.jsonl").read_text().split("\n")[0])
    entry["item"]["result"][name] = value
    (tmp_path / "journal.jsonl").write_text(json.dumps(entry) + "\n")
    assert go_on(finished, pair, tmp_path) == 1
    assert f"glimp: {tmp_path}/journal.jsonl:1: damaged: " in capsys.readouterr().err


@pytest.mark.parametrize("content", ["[1]", "5", "{", "", "null", "[" * 100_000])
def test_settings_that_are_none_are_told(finished, pair, tmp_path, capsys, content):
    (tmp_path / "run.json").write_text(content)
    assert go_on(finished, pair, tmp_path) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"glimp: {tmp_path}/run.json: damaged: ")


@pytest.mark.parametrize("name", ["results", "timings", "branches", "problems_refused"])
def test_damaged_files_of_a_finished_run_are_told(finished, tmp_path, capsys, name):
    copied(finished, tmp_path, *(path.name for path in finished.glob("*.json*")))
    with (tmp_path / f"{name}.jsonl").open("a") as file:
        file.write("[1]\n")
    assert main(["calibrate", str(tmp_path), "--target", "share=0.5", "--out", str(tmp_path / "routing.json")]) == 1
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith(f"glimp: {tmp_path}/{name}.jsonl:")
    assert told.endswith("damaged: expected an object, found list")


def test_without_containment_programs_are_refused(pair, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(Containment, "fault", lambda self: None if self.level == "limits" else "forbidden here")
    arguments = ["eval", problems_in(tmp_path, TESTS), *pair, "--grader", "code", "--routers", "small", *SHORT]
    assert main([*arguments, "--out", str(tmp_path / "a")]) == 1
    (told,) = capsys.readouterr().err.splitlines()
    assert told.startswith("glimp: grader is 'code', which runs what a model has written")
    assert not (tmp_path / "a").exists()
    assert main([*arguments, "--out", str(tmp_path / "b"), "--unsafe"]) == 0
    assert "Programs were contained by limits" in " ".join(capsys.readouterr().out.split())
    assert "<b>limits</b>: limits on time" in (tmp_path / "b" / "report.html").read_text()


INTERRUPTED = """
import sys
from glimp_engine.cli.main import main
from glimp_engine.evaluation.code_grader import CodeGrader
CodeGrader.extract = lambda self, text: "import time; open('up', 'w'); time.sleep(600)"
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupt_leaves_no_program_behind(pair, tmp_path, number):
    arguments = ["eval", problems_in(tmp_path, TESTS), *pair, "--grader", "code", "--routers", "small", *SHORT]
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", INTERRUPTED, *arguments, "--unsafe", "--out", str(tmp_path / "out")],
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    while not (running := programs_below(process.pid)):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(number)
    assert process.wait(20) == (130 if number == signal.SIGINT else -number)
    deadline = time.monotonic() + 5
    while any(Path(f"/proc/{pid}").exists() for pid in running) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [pid for pid in running if Path(f"/proc/{pid}").exists()]


def programs_below(pid):
    """All descendants, once one of them is a graded program."""
    parents, programs = {}, set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
            if b"program.py" in (path.parent / "cmdline").read_bytes().split(b"\0"):
                programs.add(int(path.parent.name))
        except OSError:
            continue
    below = {pid}
    for _ in range(8):
        below |= {child for child, parent in parents.items() if parent in below}
    return below - {pid, os.getpid()} if programs & below else set()
