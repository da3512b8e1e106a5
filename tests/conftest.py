"""Paths of tiny random checkpoints and of the real ones; scripts."""

import os
from pathlib import Path

import on_gpu  # noqa: F401  first: it asks for the interpreter before anything imports Triton
import pytest
import torch
from browser import chromium_path, opened_page
from tiny import THINKING, THINKING_TEMPLATE, WORDS, Script, make_text, make_tokenizer, save_checkpoint

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)  # the tests of threads ask for them by number


@pytest.fixture(scope="session")
def small_path(tmp_path_factory):
    return save_checkpoint(tmp_path_factory.mktemp("small"), make_tokenizer(), seed=1)


@pytest.fixture(scope="session")
def large_path(tmp_path_factory):
    return save_checkpoint(
        tmp_path_factory.mktemp("large"), make_tokenizer(), seed=2, num_layers=3, hidden_size=48, heads=(6, 2)
    )


@pytest.fixture(scope="session")
def foreign_path(tmp_path_factory):
    """A large model with a vocabulary of its own: other words, in another order."""
    words = tuple(reversed([word.replace("w", "v") for word in WORDS]))
    return save_checkpoint(tmp_path_factory.mktemp("foreign"), make_tokenizer(words=words), seed=3, num_layers=3)


@pytest.fixture(scope="session")
def cousin_path(tmp_path_factory):
    """A large model with the same words and other special tokens."""
    tokenizer = make_tokenizer(special=("<|extra|>", *THINKING, "<|im_end|>", "<|im_start|>"))
    return save_checkpoint(tmp_path_factory.mktemp("cousin"), tokenizer, seed=4, num_layers=3)


@pytest.fixture(scope="session")
def script():
    return Script(make_text())


@pytest.fixture(scope="session")
def thinking_script():
    return Script(make_text(template=THINKING_TEMPLATE))


@pytest.fixture(scope="session")
def real_models():
    """Paths of the real checkpoints, by name."""
    directory = Path(os.environ.get("GLIMP_MODELS", "~/.cache/glimp-models")).expanduser()
    names = {
        "smollm2": "smollm2-135m-instruct-q4_1.gguf",
        "qwen-small": "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
        "qwen-large": "qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
    }
    missing = [name for name in names.values() if not (directory / name).exists()]
    if missing:
        pytest.skip(f"GLIMP_MODELS ({directory}) has no {', '.join(missing)}")
    return {name: directory / file for name, file in names.items()}


@pytest.fixture(scope="session")
def chromium():
    return chromium_path()


@pytest.fixture
def page(chromium):
    with opened_page(chromium, viewport={"width": 1100, "height": 1200}) as opened:
        yield opened
