"""Odd calls of `glimp`: each ends in one line on stderr that says what was wrong, and never in a traceback."""

import errno
import fcntl
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import termios
import time

import pytest
from odd_calls import CALLS, JOURNALS, PROMPTS, RESULTS, ROUTINGS, RUNS, SETTINGS, TIMINGS, TRACES

from glimp_engine.cli.main import main
from glimp_engine.demo_pair import LARGE, ROUTING, SMALL

PAIR = ["--small", str(SMALL), "--large", str(LARGE)]
SHORT = ["--max-tokens", "8"]
COMMAND = [sys.executable, "-c", "import sys; from glimp_engine.cli.main import main; sys.exit(main(sys.argv[1:]))"]
QUESTION = "how far is lille to odessa to naples?"
FINISHED = ("run.json", "results.jsonl", "timings.jsonl", "branches.jsonl", "problems_refused.jsonl")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A directory of odd files, by the names that the calls give them; and a finished run, and an answer."""
    root = tmp_path_factory.mktemp("world")
    rows = [{"id": f"p{i}", "problem": f"{QUESTION} {i}", "answer": "108 km"} for i in range(3)]
    (root / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    routers = ["--routers", "small,large,glimp:0.5,glimp:1.5", "--out", str(root / "finished")]
    assert main(["eval", str(root / "problems.jsonl"), *PAIR, *SHORT, *routers]) == 0
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", printed)
        assert main(["run", *PAIR, *SHORT, "--json", QUESTION]) == 0
    (root / "answer.json").write_text(printed.getvalue())
    shutil.copy(ROUTING, root / "routing.json")
    for suffix in ("json", "jsonl", "csv", "tsv", "parquet", "gguf", "txt"):
        (root / f"empty.{suffix}").touch()
        (root / f"directory.{suffix}").mkdir()
        (root / f"bytes.{suffix}").write_bytes(b'{"id": "\xff\xfe", "problem": "\xe9"}\n')
        (root / f"loop.{suffix}").symlink_to(root / f"loop.{suffix}")  # unreadable, for root too
    for name, text in (("list", "[]"), ("number", "5"), ("null", "null"), ("word", '"x"'), ("deep", "[" * 100_000)):
        for suffix in ("json", "jsonl"):
            (root / f"{name}.{suffix}").write_text(text)
    (root / "wide.csv").write_text(f"id,problem,answer\n1,{'x' * 200_000},c\n")
    (root / "no_answer.jsonl").write_text('{"problem": "a"}\n')
    (root / "rows.json").write_text("[1, null]")
    (root / "empty_run").mkdir()
    return root


@pytest.fixture
def glimp(world, capsys, monkeypatch):
    """Exit status, stdout, and stderr of a call, in this process; {x} in an argument is what x stands for."""
    monkeypatch.chdir(world)

    def call(arguments, stdin=None):
        monkeypatch.setattr(sys, "stdin", stdin)
        capsys.readouterr()
        given = [each.replace("{small}", str(SMALL)).replace("{large}", str(LARGE)) for each in arguments]
        return main(given), *capsys.readouterr()

    return call


def check_line(found, words, statuses=(1, 2)):
    """One line that starts with `glimp: ` and has these words; progress bars and refused rows may stand before it."""
    status, _, err = found
    assert "Traceback" not in err
    assert status in statuses, err
    told = [line for line in err.splitlines() if line.startswith("glimp: ")]
    others = [line for line in err.splitlines() if line.strip() and not line.startswith(("glimp: ", "refused: "))]
    assert not [line for line in others if "tensor/s" not in line and "answer" not in line], err
    assert len(told) == 1, err
    assert err.splitlines()[-1] == told[0]
    for word in words:
        assert word in told[0]


@pytest.mark.parametrize(("arguments", "words"), CALLS, ids=lambda value: " ".join(value)[:80] or "-")
def test_a_call(glimp, arguments, words):
    check_line(glimp(arguments), words)


@pytest.mark.parametrize("prompt", PROMPTS, ids=ascii)
def test_a_prompt(glimp, prompt):
    check_line(glimp(["run", *PAIR, *SHORT, prompt]), ["prompt"])
    check_line(glimp(["run", *PAIR, *SHORT], stdin=io.StringIO(prompt)), ["prompt"])


def changed(value, changes):
    """A copy of a JSON value with the values at some paths changed; a path to DELETE is taken out."""
    value = json.loads(json.dumps(value))
    for path, new in changes.items():
        *inner, last = path
        part = value
        for key in inner:
            part = part[key]
        if new is ...:
            del part[last]
        else:
            part[last] = new
    return value


@pytest.mark.parametrize(("path", "new"), ROUTINGS, ids=str)
def test_a_routing_file(glimp, world, tmp_path, path, new):
    odd = tmp_path / "odd.json"
    odd.write_text(json.dumps(changed(json.loads((world / "routing.json").read_text()), {path: new})))
    check_line(glimp(["run", *PAIR, "--routing", str(odd), QUESTION]), ["odd.json", str(path[0])])


@pytest.mark.parametrize(("path", "new"), TRACES, ids=str)
def test_an_answer_to_draw(glimp, world, tmp_path, path, new):
    odd = tmp_path / "odd.json"
    odd.write_text(json.dumps(changed(json.loads((world / "answer.json").read_text()), {path: new})))
    check_line(glimp(["trace", str(odd), "-o", str(tmp_path / "page.html")]), ["odd.json", str(path[-1])])
    assert not (tmp_path / "page.html").exists()


def damaged(world, directory, name, change):
    """The finished run, with one file's lines changed."""
    directory.mkdir()
    for each in FINISHED:
        shutil.copy(world / "finished" / each, directory / each)
    text = (directory / name).read_text()
    if name.endswith(".json"):
        (directory / name).write_text(json.dumps(change(json.loads(text))))
    else:
        lines = change([json.loads(line) for line in text.splitlines()])
        (directory / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return directory


@pytest.mark.parametrize(
    ("name", "path", "new"),
    [
        *(("run.json", path, new) for path, new in SETTINGS),
        *(("results.jsonl", path, new) for path, new in RESULTS),
        *(("timings.jsonl", path, new) for path, new in TIMINGS),
    ],
    ids=str,
)
def test_a_finished_run(glimp, world, tmp_path, name, path, new):
    odd = damaged(world, tmp_path / "odd", name, lambda value: changed(value, {path: new}))
    found = glimp(["calibrate", str(odd), "--target", "latency=1", "-o", str(tmp_path / "routing.json")])
    check_line(found, [name if name == "run.json" else f"{name}:{path[0] + 1}", str(path[-1])])


@pytest.mark.parametrize("name", ["run.json", "results.jsonl", "timings.jsonl", "branches.jsonl"])
@pytest.mark.parametrize("content", RUNS, ids=lambda content: content[:8].decode("latin-1") or "-")
def test_a_file_of_a_finished_run(glimp, world, tmp_path, name, content):
    odd = damaged(world, tmp_path / "odd", name, lambda value: value)
    (odd / name).write_bytes(content)
    if content == b"" and name == "branches.jsonl":  # as a run without branches leaves it
        return
    check_line(glimp(["calibrate", str(odd), "--target", "share=0.5", "-o", str(tmp_path / "routing.json")]), [name])


@pytest.mark.parametrize("name", ["run.json", "journal.jsonl"])
@pytest.mark.parametrize(
    "content", [each + b"\n" for each in RUNS if each], ids=lambda content: content[:8].decode("latin-1")
)
def test_a_run_to_go_on_with(glimp, world, tmp_path, name, content):
    shutil.copytree(world / "finished", tmp_path / "odd")
    (tmp_path / "odd" / name).write_bytes(content)
    routers = ["--routers", "small,large,glimp:0.5,glimp:1.5", "--out", str(tmp_path / "odd")]
    check_line(glimp(["eval", str(world / "problems.jsonl"), *PAIR, *SHORT, *routers]), [name])


@pytest.mark.parametrize(("path", "new"), JOURNALS, ids=str)
def test_a_line_of_a_journal(glimp, world, tmp_path, path, new):
    shutil.copytree(world / "finished", tmp_path / "odd")
    journal = tmp_path / "odd" / "journal.jsonl"
    first, *rest = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join([json.dumps(changed(json.loads(first), {path: new})) + "\n", *rest]))
    problems = str(world / "problems.jsonl")
    routers = ["--routers", "small,large,glimp:0.5,glimp:1.5", "--out", str(tmp_path / "odd")]
    check_line(glimp(["eval", problems, *PAIR, *SHORT, *routers]), ["journal.jsonl:1", str(path[-1])])
    assert journal.read_text().splitlines(keepends=True)[1:] == rest


def test_a_run_whose_lines_are_not_all_there(glimp, world, tmp_path):
    odd = damaged(world, tmp_path / "odd", "timings.jsonl", lambda lines: lines[:-1])
    calibrate = ["--target", "latency=1", "-o", str(tmp_path / "routing.json")]
    check_line(glimp(["calibrate", str(odd), *calibrate]), ["timings.jsonl", "results.jsonl"])
    for name in ("results.jsonl", "timings.jsonl"):
        lines = (world / "finished" / name).read_text().splitlines(keepends=True)
        (odd / name).write_text("".join(lines[:-1]))  # one router has a problem less
    check_line(glimp(["calibrate", str(odd), *calibrate]), ["results.jsonl", "glimp:1.5"])


def test_latencies_that_do_not_compare(glimp, world, tmp_path):
    def others_at_once(lines):
        return [{**line, "concurrency": 1 if line["router"] == "small" else 2} for line in lines]

    odd = damaged(world, tmp_path / "odd", "timings.jsonl", others_at_once)
    check_line(glimp(["calibrate", str(odd), "--target", "latency=1", "-o", str(tmp_path / "r.json")]), ["latency"])


@pytest.mark.parametrize(
    ("package", "arguments"),
    [
        ("math_verify", ["eval", "problems.jsonl", *PAIR, "--grader", "boxed", "--out", "unused"]),
        ("pyarrow.parquet", ["eval", "bytes.parquet", *PAIR, "--out", "unused"]),
        ("matplotlib", ["eval", "problems.jsonl", *PAIR, *SHORT, "--routers", "small", "--out", "no_matplotlib"]),
    ],
)
def test_a_package_that_is_missing(glimp, monkeypatch, package, arguments):
    monkeypatch.setitem(sys.modules, package, None)
    check_line(glimp(arguments), ["pip install 'glimp_engine[eval]'"])


@pytest.mark.parametrize(
    ("opened", "arguments"),
    [
        ("routing.json", ["run", *PAIR, "--routing", "routing.json", QUESTION]),
        ("problems.jsonl", ["eval", "problems.jsonl", *PAIR, "--out", "unused"]),
        ("problems.jsonl", ["calibrate", "--prompts", "problems.jsonl", *PAIR, "--target", "share=1", "-o", "x.json"]),
        ("answer.json", ["trace", "answer.json", "-o", "page.html"]),
        ("results.jsonl", ["calibrate", "finished", "--target", "share=1", "-o", "x.json"]),
        ("run.json", ["calibrate", "finished", "--target", "share=1", "-o", "x.json"]),
        ("config.json", ["run", *PAIR, QUESTION]),
    ],
)
def test_a_file_without_permission(glimp, monkeypatch, opened, arguments):
    """Root may read everything, so that a mode of 000 shows nothing where these tests run as root."""
    real = io.open

    def refuse(file, *more, **others):
        if str(file).endswith(opened):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(file))
        return real(file, *more, **others)

    monkeypatch.setattr(io, "open", refuse)
    check_line(glimp(arguments), [opened, "Permission denied"])


def test_a_preset_without_network(glimp, monkeypatch):
    def fail(*arguments, **options):
        raise ConnectionError("no network\nat all")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fail)
    check_line(glimp(["eval", "--preset", "gsm8k", *PAIR, "--out", "unused"]), ["gsm8k", "give the file itself"])
    monkeypatch.setattr("glimp_engine.checkpoints.checkpoint.snapshot_download", fail)
    check_line(glimp(["run", "--small", "nobody/nothing", QUESTION]), ["nobody/nothing"])


def test_an_interrupt_anywhere(glimp, monkeypatch):
    class Interrupted(io.StringIO):
        def read(self, *arguments):
            raise KeyboardInterrupt

    check_line(glimp(["run", *PAIR], stdin=Interrupted()), ["interrupted"], statuses=(130,))


def start(arguments, **options):
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.Popen([*COMMAND, *arguments], **pipes)


def shell(line, **variables):
    """(status, stdout, stderr) of a line for the shell, in which $GLIMP is the command."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "", **variables}
    script = f'glimp() {{ "{COMMAND[0]}" -c "{COMMAND[2]}" "$@"; }}\n{line}'
    run = subprocess.run(["bash", "-c", script], capture_output=True, env=environment, stdin=subprocess.DEVNULL)
    return run.returncode, run.stdout.decode(errors="replace"), run.stderr.decode(errors="replace")


RUN = f"glimp run --small {SMALL} {' '.join(SHORT)}"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "variables", "words"),
    [
        (f"{RUN} <&-", {}, ["prompt", "stdin"]),
        (f"{RUN} </dev/null", {}, ["prompt"]),
        (f"printf 'a\\xff\\xfeb' | {RUN}", {"PYTHONIOENCODING": "utf-8"}, ["stdin", "UTF-8"]),
        (f"printf 'a\\xff\\xfeb' | {RUN}", {"LC_ALL": "C"}, ["prompt", "UTF-8"]),
        (f"{RUN} $'a\\xffb'", {}, ["prompt", "UTF-8"]),
        (f"{RUN} --json hi >/dev/full", {}, ["stdout", "No space left on device"]),
        (f"{RUN} hi >/dev/full", {}, ["stdout", "No space left on device"]),
        ("glimp --help >/dev/full", {}, ["stdout", "No space left on device"]),
        ("glimp doctor >/dev/full", {}, ["stdout", "No space left on device"]),
        ("glimp run --small ~nobody-there/x hi", {}, ["~nobody-there/x"]),
    ],
    ids=str,
)
def test_in_a_shell(line, variables, words):
    check_line(shell(line, **variables), words)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "variables"),
    [
        (f"{RUN} --json hi | head -0", {}),
        (f"{RUN} hi | head -0", {}),
        (f"{RUN} --json hi | head -c 10 >/dev/null", {}),
        ("glimp --help | head -0", {}),
        ("glimp doctor | head -0", {}),
        (f"{RUN} hi >&-", {}),
        (f"{RUN} --json hi >&- 2>&-", {}),
        (f"{RUN} hi 2>&- | cat", {}),
        (f"{RUN} ünï", {"LC_ALL": "C"}),
        (f"{RUN} ünï", {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}),
        ("glimp run --nonsense 2>&-", {}),
    ],
    ids=str,
)
def test_it_ends_quietly(line, variables):
    _, _, err = shell(line, **variables)
    assert not [each for each in err.splitlines() if each.strip() and "tensor/s" not in each], err


@pytest.mark.slow
def test_a_bad_status_though_stderr_is_closed():
    assert shell(f"{RUN} --router nonsense hi 2>&-")[0] == 1
    status, out, _ = shell("glimp nonsense 2>&-")
    assert (status, out) == (2, "")


@pytest.mark.slow
def test_an_interrupt_from_outside():
    process = start(["run", "--small", str(SMALL)], stdin=subprocess.PIPE)
    process.stdin.write(b"half a prompt")
    process.stdin.flush()
    while int.from_bytes(fcntl.ioctl(process.stdin, termios.FIONREAD, bytes(4)), sys.byteorder):  # bytes not yet read
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err.decode()) == (130, "glimp: interrupted\n")


def test_the_table_is_as_long_as_it_should_be():
    tables = (CALLS, PROMPTS * 2, ROUTINGS, TRACES, SETTINGS, RESULTS, TIMINGS, RUNS * 4)
    assert sum(map(len, tables)) >= 190
    assert len({str(call) for call, _ in CALLS}) == len(CALLS)
