"""`glimp eval` on tiny checkpoints: killed runs, other concurrencies, bad rows, branches, and the report."""

import json
import multiprocessing
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from proposers import Whims
from quiet_main import quiet_main

from glimp_engine.cli.main import main
from glimp_engine.evaluation.journal import Journal

SHORT = ["--max-tokens", "24", "--max-step-tokens", "6", "--temperature", "0.9"]
ROUTERS = "small,large,glimp:2.2,random@glimp:2.2,step_entropy:2.0,specreason:5,number_entropy:2.0,late:20"
FILES = ("results.jsonl", "branches.jsonl")


@pytest.fixture(scope="session")
def problems(tmp_path_factory):
    path = tmp_path_factory.mktemp("problems") / "problems.jsonl"
    lines = [{"id": f"p{i}", "problem": f"How many apples are {i}?", "answer": f"w{i}"} for i in range(6)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def pair(small_path, large_path):
    return ["--small", str(small_path), "--large", str(large_path)]


def evaluate(problems, pair, out, *more):
    return main(["eval", str(problems), *pair, "--out", str(out), "--routers", ROUTERS, *SHORT, *more])


def read(out, name="results.jsonl"):
    return [json.loads(line) for line in (out / name).read_text().splitlines()]


@pytest.fixture(scope="session")
def unbroken(problems, small_path, large_path, tmp_path_factory):
    out = tmp_path_factory.mktemp("unbroken")
    pair = ["--small", str(small_path), "--large", str(large_path)]
    assert evaluate(problems, pair, out, "--repeats", "2", "--concurrency", "3") == 0
    return out


@pytest.mark.slow
def test_a_run_that_is_killed_goes_on_where_it_was(problems, pair, unbroken, tmp_path):
    arguments = ["eval", str(problems), *pair, "--out", str(tmp_path), "--routers", ROUTERS, *SHORT, "--repeats", "2"]
    program = [sys.executable, "-c", "import sys; from glimp_engine.cli.main import main; sys.exit(main(sys.argv[1:]))"]
    processes = multiprocessing.get_context("forkserver")  # imports, which take seconds, are there when it begins
    processes.set_forkserver_preload(["glimp_engine.cli.main", "glimp_engine.evaluation.runner"])
    generator, journal, num_kills = random.Random(7), tmp_path / "journal.jsonl", 0
    while num_kills < 10:
        size = journal.stat().st_size if journal.exists() else 0
        process = processes.Process(target=quiet_main, args=([*arguments, "--concurrency", "3"],))
        process.start()
        while process.is_alive() and not (journal.exists() and journal.stat().st_size > size):
            time.sleep(0.001)
        time.sleep(generator.random() * 0.05)  # somewhere within the next few answers
        assert process.is_alive(), "it was done before it was killed ten times"
        process.kill()
        process.join()
        num_kills += 1
        assert not (tmp_path / "results.jsonl").exists()
    assert subprocess.run([*program, *arguments], stderr=subprocess.DEVNULL, check=True).returncode == 0
    for name in FILES:
        assert (tmp_path / name).read_bytes() == (unbroken / name).read_bytes()


def test_a_torn_line_is_dropped(problems, pair, unbroken, tmp_path):
    lines = (unbroken / "journal.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "journal.jsonl").write_bytes(b"".join(lines[:20]) + lines[20][:31])
    (tmp_path / "run.json").write_bytes((unbroken / "run.json").read_bytes())
    assert evaluate(problems, pair, tmp_path, "--repeats", "2") == 0
    assert (tmp_path / "results.jsonl").read_bytes() == (unbroken / "results.jsonl").read_bytes()
    assert (tmp_path / "journal.jsonl").read_bytes().startswith(b"".join(lines[:20]))


def test_two_runs_in_one_directory_are_refused(problems, pair, unbroken, tmp_path, capsys):
    (tmp_path / "run.json").write_bytes((unbroken / "run.json").read_bytes())
    journal = Journal(tmp_path)
    assert evaluate(problems, pair, tmp_path, "--repeats", "2") == 1
    assert "another evaluation is writing there" in capsys.readouterr().err
    journal.close()


def test_a_run_with_other_settings_is_refused(problems, pair, unbroken, capsys):
    assert evaluate(problems, pair, unbroken, "--seed", "5") == 1
    message = capsys.readouterr().err
    assert "which has another run: sampling is" in message
    assert "'seed': 0" in message
    assert "'seed': 5" in message


def test_what_a_line_of_the_results_says(unbroken):
    lines = read(unbroken)
    assert [(line["router"], line["repeat"], line["problem"]) for line in lines] == [
        (router, repeat, f"p{i}") for router in ROUTERS.split(",") for repeat in range(2) for i in range(6)
    ]
    for line in lines:
        assert line["num_tokens"] == sum(step["num_tokens"] for step in line["steps"])
        large = sum(step["num_tokens"] for step in line["steps"] if step["model"] == "large")
        assert line["num_large_tokens"] == large
        assert all((step["signals"] is None) == (line["router"] == "large") for step in line["steps"])
        if line["router"].startswith("glimp"):
            assert all((step["entropy"] >= 2.2) == (step["model"] == "large") for step in line["steps"])
            assert all(step["signals"]["entropy"] == step["entropy"] for step in line["steps"])
    seeds = {(line["problem"], line["repeat"]): line["seed"] for line in lines}
    assert all(seeds[line["problem"], line["repeat"]] == line["seed"] for line in lines)
    assert len(set(seeds.values())) == 12
    glimp = [step["model"] for line in lines if line["router"] == "glimp:2.2" for step in line["steps"]]
    rates = {line["rate"] for line in lines if line["router"].startswith("random")}
    assert rates == {glimp.count("large") / len(glimp)}
    timings = read(unbroken, "timings.jsonl")
    assert len(timings) == len(lines)
    assert all(0 < timing["first_token_seconds"] <= timing["seconds"] for timing in timings)


def test_proposals_are_counted_beside_the_times_and_change_no_result(
    problems, pair, unbroken, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("glimp_engine.engine.Proposing", lambda *parts: Whims(1))
    assert evaluate(problems, pair, tmp_path, "--repeats", "2") == 0
    assert (tmp_path / "results.jsonl").read_bytes() == (unbroken / "results.jsonl").read_bytes()
    timings = read(tmp_path, "timings.jsonl")
    sums = {name: sum(timing[f"num_{name}_tokens"] for timing in timings) for name in ("proposed", "accepted")}
    assert sums["proposed"] > sums["accepted"] > 0
    assert all(timing["num_proposed_tokens"] >= timing["num_accepted_tokens"] for timing in timings)
    printed = capsys.readouterr().out
    for router in ("small", "glimp:2.2"):
        own = [timing for timing in timings if timing["router"] == router]
        proposed, accepted = (sum(timing[f"num_{name}_tokens"] for timing in own) for name in ("proposed", "accepted"))
        cells = f"{proposed / len(own):.1f}", f"{accepted / proposed:.1%}"
        line = next(line for line in printed.splitlines() if f" {router} " in line)
        assert [cell.strip() for cell in line.split("│")[-3:-1]] == list(cells)
        assert "<td>{}</td><td>{}</td>".format(*cells) in (tmp_path / "report.html").read_text()


def test_a_run_without_proposals_goes_on_without_them_only(problems, pair, tmp_path, capsys):
    """Its latencies would be of two kinds; a run of before there were proposals is one without."""
    small = ("--routers", "small", "--limit", "2")
    assert evaluate(problems, pair, tmp_path, *small, "--speculation", "off") == 0
    assert all(timing["num_proposed_tokens"] == 0 for timing in read(tmp_path, "timings.jsonl"))
    settings = json.loads((tmp_path / "run.json").read_text())
    assert "speculation" not in {**settings["engine"], **settings["routing"]}
    journal = [json.loads(line) for line in (tmp_path / "journal.jsonl").read_text().splitlines()]
    for line in journal:
        del line["item"]["timing"]["num_proposed_tokens"], line["item"]["timing"]["num_accepted_tokens"]
    (tmp_path / "journal.jsonl").write_text("".join(json.dumps(line) + "\n" for line in journal))
    capsys.readouterr()
    assert evaluate(problems, pair, tmp_path, *small, "--speculation", "off") == 0
    row = next(line for line in capsys.readouterr().out.splitlines() if " small " in line)
    assert [cell.strip() for cell in row.split("│")[-3:-1]] == ["-", "-"]
    assert evaluate(problems, pair, tmp_path, *small) == 1
    assert "which has another run: engine is" in capsys.readouterr().err


def test_the_report_has_all_sections(unbroken):
    page = (unbroken / "report.html").read_text()
    for title in ("Routers", "Accuracy and latency", "First-token entropies", "Time by model and phase", "The run"):
        assert f"<h2>{title}</h2>" in page
    assert page.count("<svg") == 3
    assert "http" not in page.replace("http://www.w3.org", "")  # which names what SVG is, and is never asked for


def test_bad_rows_are_named_and_the_rest_is_run(pair, tmp_path, capsys):
    path = tmp_path / "problems.jsonl"
    rows = [
        '{"id": "a", "problem": "How many?", "answer": "w1"}',
        '{"id": "b", "problem": "How',
        '{"id": "c", "answer": "w1"}',
        '{"id": "d", "problem": "How many?", "answer": ""}',
        '{"id": "a", "problem": "How many more?", "answer": "w1"}',
        "[1, 2]",
        '{"id": "e", "problem": "How many others?", "answer": "w2"}',
    ]
    path.write_text("\n".join(rows))
    assert evaluate(path, pair, tmp_path / "out", "--routers", "small") == 0
    message = capsys.readouterr().err
    for number, what in (
        (2, "expected a JSON object"),
        (3, "expected a field 'problem'; found answer, id"),
        (4, "answer is ''"),
        (5, "id 'a' was there before"),
        (6, "expected a JSON object"),
    ):
        assert any(f"{path}:{number}: {what}" in line for line in message.splitlines()), number
    assert [line["problem"] for line in read(tmp_path / "out")] == ["a", "e"]
    assert len(read(tmp_path / "out", "problems_refused.jsonl")) == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--routers", "best"], "router is 'best'; allowed: small, large"),
        (["--routers", "random@glimp:1"], "allowed: random@ and a router that stands before it"),
        (["--fields", "uid=id"], "fields is 'uid=id'"),
        (["--grader", "boxed", "--limit", "0"], "has none that can be used"),
    ],
)
def test_bad_arguments_are_told_in_one_line(problems, pair, tmp_path, capsys, arguments, message):
    assert evaluate(problems, pair, tmp_path, *arguments) == 1
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith("glimp: ")
    assert message in told


@pytest.mark.slow
def test_branches_try_each_step_of_a_right_answer_with_the_small_model(pair, large_path, tmp_path, monkeypatch):
    """One model as both: then no step by the small one does harm, and greedy continuations are the answer itself."""
    problems = tmp_path / "problems.jsonl"
    candidates = [json.dumps({"id": f"a{i}", "problem": f"How many {i}?", "answer": "?"}) for i in range(60)]
    problems.write_text("\n".join(candidates))
    same = ["--small", str(large_path), "--large", str(large_path)]
    # steps end with blank lines alone: a random model's limit of tokens may cut a character
    greedy = ["--temperature", "0", "--routers", "glimp:0", "--max-step-tokens", "512", "--max-tokens", "60"]
    assert evaluate(problems, same, tmp_path / "first", *greedy) == 0
    i, first = max(enumerate(read(tmp_path / "first")), key=lambda pair: len(pair[1]["steps"]))
    assert len(first["steps"]) > 2
    problems.write_text(json.dumps({"id": "a", "problem": f"How many {i}?", "answer": first["answer"]}))
    assert evaluate(problems, same, tmp_path / "same", *greedy, "--branches", "3") == 0
    branches = read(tmp_path / "same", "branches.jsonl")
    assert [branch["step"] for branch in branches] == list(range(len(first["steps"])))
    assert {(branch["num_samples"], branch["num_right"]) for branch in branches} == {(1, 1)}
    assert evaluate(problems, pair, tmp_path / "other", *greedy, "--branches", "3") == 0
    branches = read(tmp_path / "other", "branches.jsonl")
    assert len(branches) == len(first["steps"])
    assert sum(branch["num_right"] for branch in branches) < len(branches)
    (other,) = read(tmp_path / "other")
    for branch in branches:
        assert branch["signals"]["entropy"] == pytest.approx(other["steps"][branch["step"]]["entropy"])
        assert branch["signals"]["late"] == sum(step["num_tokens"] for step in other["steps"][: branch["step"]])
    numbers = [branch["signals"]["number_entropy"] for branch in branches]
    assert any(entropy is not None and entropy > 0 for entropy in numbers)
    assert "<h2>Signals</h2>" in Path(tmp_path / "other" / "report.html").read_text()
