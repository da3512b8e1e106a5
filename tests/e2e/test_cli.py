"""The command line, on tiny checkpoints."""

import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from glimp_engine import Model
from glimp_engine.cli.main import main
from glimp_engine.cli.show import AnswerPrinter
from glimp_engine.kernels import native
from glimp_engine.outputs import Phase, Step

PROMPT = "How many apples are there in all"
SHORT = ["--max-tokens", "40", "--temperature", "0.9"]


@pytest.fixture
def run(small_path, large_path, capsys):
    """Exit status and what was printed of `glimp run`."""

    def call(*arguments, small=small_path, large=large_path):
        pair = ["--small", str(small)] + (["--large", str(large)] if large else [])
        status = main(["run", *pair, *SHORT, *arguments])
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return call


def test_an_answer_shows_who_wrote_each_step(run):
    status, out, _ = run("--router", "glimp:2.2", PROMPT)
    assert status == 0
    answer = json.loads(run("--router", "glimp:2.2", "--json", PROMPT)[1])
    steps = answer["outputs"][0]["steps"]
    assert {step["model"] for step in steps} == {"small", "large"}
    lines = iter(out.splitlines())
    for step in steps:  # in this order, each on a line of its own
        if step["text"].strip("\n"):
            margin = f"{step['model']:<5} {step['entropy']:>5.2f} | "
            assert any(line.startswith(margin) for line in lines), margin
    for name in ("steps", "tokens", "catch-up tokens", "forwards", "seconds"):
        assert any(name in line for line in lines)
    assert "hand-overs, " in out
    assert "tokens/s" in out


def test_json_is_the_whole_output(run):
    status, out, _ = run("--router", "glimp:2.2", "--json", PROMPT)
    answer = json.loads(out)
    completion, stats = answer["outputs"][0], answer["stats"]
    assert status == 0
    assert len(completion["token_ids"]) == 40
    assert "".join(step["text"] for step in completion["steps"]) == completion["text"]
    assert sum(step["token_end"] - step["token_start"] for step in completion["steps"]) == 40
    assert completion["finish_reason"] == "length"
    assert stats["small"]["tokens_written"] + stats["large"]["tokens_written"] == 40
    assert answer["seconds"] > 0


@pytest.mark.parametrize(
    ("arguments", "models"),
    [
        (["--router", "small"], {"small"}),
        (["--router", "large"], {"large"}),
        (["--router", "random:1"], {"large"}),
        (["--router", "random:0"], {"small"}),
        (["--router", "glimp:inf"], {"small"}),
        (["--router", "glimp:0:margin"], {"large"}),
    ],
)
def test_routers(run, arguments, models):
    steps = json.loads(run(*arguments, "--json", PROMPT)[1])["outputs"][0]["steps"]
    assert {step["model"] for step in steps} == models


def ids_of(printed):
    return json.loads(printed[1])["outputs"][0]["token_ids"]


def test_without_a_large_model_the_small_one_writes(run):
    assert ids_of(run("--json", PROMPT, large=None)) == ids_of(run("--router", "small", "--json", PROMPT))


def test_a_prompt_from_stdin(run, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{PROMPT}\n"))
    assert ids_of(run("--json")) == ids_of(run("--json", PROMPT))


def test_raw_prompts_bypass_the_template(run):
    raw, chat = (json.loads(run(*flags, "--json", PROMPT)[1])["prompt_token_ids"] for flags in (["--raw"], []))
    assert len(raw) == len(PROMPT) < len(chat)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--router", "glimp:-1", PROMPT], "glimp: threshold is -1.0; allowed:"),
        (["--temperature", "nan", PROMPT], "glimp: temperature is nan"),
        (["--device", "gpu", PROMPT], "glimp: device is 'gpu'"),
        (["--dtype", "int3", PROMPT], "glimp: dtype is 'int3'"),
        (["--raw", ""], "glimp: prompt is ''"),
        (["--speculation", "large", PROMPT], "glimp: speculation is 'large'; allowed: auto, off, or who proposes"),
    ],
)
def test_bad_arguments_are_told_in_one_line(run, arguments, message):
    status, out, err = run(*arguments)
    assert (status, out) == (1, "")
    assert err.strip().splitlines()[-1].startswith(message)


def test_a_path_that_is_no_model(run, tmp_path):
    status, _, err = run(PROMPT, small=tmp_path / "absent")
    assert status == 1
    assert f"glimp: model is '{tmp_path / 'absent'}'; allowed: a directory" in err
    status, _, err = run(PROMPT, large=tmp_path)
    assert status == 1
    assert "config.json: expected this file, found none" in err


def test_an_interrupt(run, monkeypatch):
    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("glimp_engine.engine.Engine.stream", interrupt)
    status, _, err = run(PROMPT)
    assert (status, err.splitlines()[-1]) == (130, "glimp: interrupted")


def test_newlines_between_steps_do_not_pile_up():
    class Lines:
        def __init__(self):
            self.text = ""

        def print(self, styled, **options):
            self.text += styled.plain

    console = Lines()
    printer = AnswerPrinter(console)
    for model, pieces in ((Model.SMALL, ["a", "\n", "b\n", "\n"]), (Model.LARGE, ["\n", "c"])):
        printer.start_step(Step(0, Phase.ANSWER, model, 0.5, 0, 0))
        for piece in pieces:
            printer.write(piece, "cyan")
    assert console.text == "small  0.50 | a\n              b\n\nlarge  0.50 | c"


def test_doctor(capsys):
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    for word in (
        "python",
        "torch",
        "transformers",
        "native ops",
        "built; this processor runs",
        "C++ compiler",
        "device cpu",
    ):
        assert word in out
    assert re.search(r"memory +│ [\d.]+ GB/s read, on device cpu", out)


def test_doctor_says_what_each_model_could_do_and_does(capsys, small_path, large_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["doctor", "--small", str(small_path), "--large", str(large_path)]) == 0
    out = capsys.readouterr().out
    for model in ("small", "large"):
        assert re.search(rf"the {model} model +│ 0.00 GB a token allow [\d.]+ tokens/s; it writes [\d.]+, \d+%", out)
    assert main(["doctor", "--small", str(small_path)]) == 0
    assert "large model" not in capsys.readouterr().out


def test_doctor_says_what_is_missing(capsys, monkeypatch, tmp_path):
    load_library = native.load_library
    monkeypatch.setattr(native, "load_library", lambda: load_library(tmp_path / "absent.so"))
    assert main(["doctor"]) == 1
    assert "missing: ops is 'native', and absent.so can't be loaded" in capsys.readouterr().out


def test_the_command_is_installed(small_path):
    command = Path(sys.executable).parent / "glimp"
    printed = subprocess.run(
        [command, "run", "--small", small_path, *SHORT, "--json", PROMPT], capture_output=True, text=True, check=True
    )
    assert json.loads(printed.stdout)["outputs"][0]["finish_reason"] == "length"
