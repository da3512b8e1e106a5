"""`glimp calibrate` and routing files, on tiny checkpoints: made for one pair, and refused for another."""

import json

import pytest

from glimp_engine import ConfigError, Engine, GlimpRouter
from glimp_engine.checkpoints.fingerprint import fingerprint
from glimp_engine.cli.main import main
from glimp_engine.load import load_router
from glimp_engine.routing.files import RoutingFile


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"problem": f"How many apples are {i}?"}) + "\n" for i in range(12)))
    return path


@pytest.fixture
def routing_file(small_path, large_path, prompts, tmp_path):
    out = tmp_path / "routing.json"
    pair = ["--small", str(small_path), "--large", str(large_path)]
    target = ["--target", "share=0.3", "--max-tokens", "80"]
    assert main(["calibrate", "--prompts", str(prompts), *pair, *target, "-o", str(out)]) == 0
    return out


def test_a_file_from_prompts_alone_routes_about_that_share(routing_file, small_path, large_path):
    made = RoutingFile.load(routing_file)
    assert made.fingerprints == {"small": fingerprint(small_path), "large": fingerprint(large_path)}
    assert made.num_problems == 12
    low, high = made.threshold_interval
    router = load_router(routing_file, small_path, large_path)
    assert isinstance(router, GlimpRouter)
    assert low <= router.threshold <= high
    value, least, most = made.predicted["share_of_large_tokens"]
    assert least <= value <= most
    assert 0.05 < value <= 0.3


def test_an_engine_and_glimp_run_take_it(routing_file, small_path, large_path, capsys):
    engine = Engine(small_path, large_path, routing=routing_file)
    router = load_router(routing_file, small_path, large_path)
    by_file = engine.generate("How many?", use_tqdm=False)[0].outputs[0]
    assert all((step.entropy >= router.threshold) == (str(step.model) == "large") for step in by_file.steps)
    capsys.readouterr()
    pair = ["--small", str(small_path), "--large", str(large_path), "--max-tokens", "80"]
    assert main(["run", *pair, "--routing", str(routing_file), "--json", "How many?"]) == 0
    steps = json.loads(capsys.readouterr().out)["outputs"][0]["steps"]
    assert all((step["entropy"] >= router.threshold) == (step["model"] == "large") for step in steps)


def test_another_pair_is_refused(routing_file, small_path, large_path, cousin_path):
    with pytest.raises(ConfigError) as refused:
        Engine(small_path, cousin_path, routing=routing_file)
    for named in (str(small_path), str(large_path), str(cousin_path), "glimp calibrate"):
        assert named in str(refused.value)
    with pytest.raises(ConfigError, match="large is None; allowed then: a path or a hub id"):
        Engine(small_path, routing=routing_file)


@pytest.mark.parametrize("text", ["", "[]", '{"router": "small"}'])
def test_a_file_that_is_none_is_refused(small_path, large_path, tmp_path, text):
    path = tmp_path / "routing.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"isn't a routing file .*make one with `glimp calibrate`"):
        Engine(small_path, large_path, routing=path)


def test_a_fingerprint_tells_weights_apart(small_path, large_path, tmp_path):
    assert fingerprint(small_path) != fingerprint(large_path)
    path = tmp_path / "model.gguf"
    path.write_bytes(b"a" * 100)
    first = fingerprint(path)
    path.rename(tmp_path / "other.gguf")
    assert fingerprint(tmp_path / "other.gguf") == first  # a file's name says nothing
    (tmp_path / "other.gguf").write_bytes(b"a" * 99 + b"b")
    assert fingerprint(tmp_path / "other.gguf") != first


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--target", "share=0.3"], "give either the directory of a run or --prompts"),
        (["--prompts", "PROMPTS", "--target", "latency=2"], "target is 'latency=2', which takes a run"),
        (["--prompts", "PROMPTS", "--target", "share=0.3"], "--prompts takes --small and --large"),
        (["nowhere", "--target", "share=0.3"], "nowhere: expected the files of a finished"),
    ],
)
def test_bad_arguments_are_told_in_one_line(prompts, tmp_path, capsys, arguments, message):
    arguments = [str(prompts) if each == "PROMPTS" else each for each in arguments]
    assert main(["calibrate", *arguments, "-o", str(tmp_path / "routing.json")]) == 1
    assert message in capsys.readouterr().err
