"""Files from strangers: each is refused with an error that names it, or loaded, whatever is in it.

A tenth is tried; with GLIMP_FUZZ=all, all. What is tried depends on the seed alone.
"""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from fuzz.hostile import templates, tokenizers
from fuzz.mutations import copy_directory, mutate_directory, mutated_bytes
from tiny import make_tokenizer, save_checkpoint
from unit.test_gguf import make_model, write_model
from unit.test_gguf_sentencepiece import sentencepiece

from glimp_engine.checkpoints import read_gguf_header

pytestmark = pytest.mark.slow

SHARE = 1 if os.environ.get("GLIMP_FUZZ") == "all" else 10  # one of so many is tried
HERE = Path(__file__).parent
FILES = ("llama", "qwen2", "qwen3", "sentencepiece")
SOUND = ("model", *(f"{name}/tiny.gguf" for name in FILES))
ALLOWED = {"refused", "loaded"}


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A directory that loads, and GGUF files of each family and kind of tokenizer."""
    path = tmp_path_factory.mktemp("sound")
    save_checkpoint(path / "model", make_tokenizer(), seed=1)
    for name in FILES:
        family, tokenizer = ("llama", sentencepiece({"▁": -1.0})) if name == "sentencepiece" else (name, {})
        (path / name).mkdir()
        write_model(path / name, make_model(family), family, tokenizer)
    return path


class Trials:
    """A process that tries paths in children of its own, and what came of them."""

    def __init__(self, sound):
        self.process = subprocess.Popen(
            [sys.executable, "-P", HERE / "trials.py", *(sound / name for name in SOUND)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "HF_HUB_OFFLINE": "1"},
        )
        self.findings, self.outcomes = [], {}

    def attempt(self, path, label):
        self.process.stdin.write(f"{path}\n")
        self.process.stdin.flush()
        outcome, said = json.loads(self.process.stdout.readline())
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1
        if outcome not in ALLOWED:
            self.findings.append(f"{label}: {outcome}: {said[:300]}")
        return outcome

    def close(self):
        self.process.stdin.close()
        self.process.wait()


@pytest.fixture(scope="module")
def process(sound):
    started = Trials(sound)
    yield started
    started.close()


@pytest.fixture
def trials(process):
    """The process, for one test, which fails with all that was found in it."""
    process.findings, process.outcomes = [], {}
    yield process
    print(process.outcomes)
    assert not process.findings, "\n".join(process.findings)


def seeds(count):
    return range(0, count, SHARE)


def test_what_is_sound_loads(sound, trials):
    for name in SOUND:
        assert trials.attempt(sound / name, name) == "loaded"


def test_mutated_gguf_files(sound, trials, tmp_path):
    files = {name: sound / name / "tiny.gguf" for name in FILES}
    blobs = {family: file.read_bytes() for family, file in files.items()}
    ends = {family: read_gguf_header(file).tensors[0].offset for family, file in files.items()}
    for seed in seeds(1300):
        rng = random.Random(seed)
        family = rng.choice(sorted(blobs))
        path = tmp_path / f"gguf-{seed}.gguf"
        path.write_bytes(mutated_bytes(rng, blobs[family], rng.choice((24, 1500, ends[family], ends[family]))))
        trials.attempt(path, f"gguf {seed}")
        path.unlink()


def test_mutated_directories(sound, trials, tmp_path):
    for seed in seeds(1000):
        path = copy_directory(sound / "model", tmp_path / f"directory-{seed}")
        mutate_directory(random.Random(seed), path)
        trials.attempt(path, f"directory {seed}")


def test_hostile_tokenizers_and_templates(sound, trials, tmp_path):
    contents = json.loads((sound / "model" / "tokenizer.json").read_text())
    config = json.loads((sound / "model" / "tokenizer_config.json").read_text())
    cases = [("tokenizer", case) for case in tokenizers(contents)] + [("template", case) for case in templates()]
    assert len(cases) >= 200
    for i in seeds(len(cases)):
        kind, case = cases[i]
        path = copy_directory(sound / "model", tmp_path / f"hostile-{i}")
        if kind == "template":
            (path / "chat_template.jinja").write_text(case)
        else:
            (path / "tokenizer.json").write_text(json.dumps(case[0]))
            (path / "tokenizer_config.json").write_text(json.dumps({**config, **case[1]}))
        trials.attempt(path, f"{kind} {i}")
