"""Tries files one after the other, each in a process of its own with limits.

python trials.py SOUND... < paths > results

It imports once and forks for each path. A result is one line of JSON: the outcome, and what was said.
"""

import json
import os
import resource
import signal
import sys
from contextlib import suppress
from pathlib import Path

import torch

from glimp_engine.checkpoints import load_checkpoint, locate
from glimp_engine.errors import GlimpError
from glimp_engine.models.rotary import cos_sin_table
from glimp_engine.text.messages import Chat
from glimp_engine.text.tokenizer import Text

MEMORY_BYTES = 4 << 30  # beyond what the imports have taken
SECONDS = 30
MAX_MODEL_LEN = 1 << 16
MESSAGES = [{"role": "user", "content": "The cat\n\nsat."}, {"role": "assistant", "content": "é"}]


def load(path):
    """All that is done with a checkpoint before its first forward, and what a first request does."""
    path = locate(path)
    config, weights = load_checkpoint(path, None, torch.device("cpu"))
    assert weights["model.embed_tokens.weight"].shape == (config.vocab_size, config.hidden_size)
    max_model_len = min(config.default_len, MAX_MODEL_LEN)
    assert len(cos_sin_table(config, max_model_len, torch.device("cpu"))) == max_model_len
    text = Text.load(path, config.vocab_size)
    assert all(0 <= i < config.vocab_size for i in text.end_token_ids)
    for ask in (lambda: text.encode("The cat\n\nsat é.", allow_special=True), lambda: text.encode_chat(Chat(MESSAGES))):
        with suppress(GlimpError):  # a request's fault, or its template's
            text.decode([i for i in ask() if i < config.vocab_size])


def attempt(path):
    """The outcome of loading it, and what was said."""
    try:
        load(path)
    except GlimpError as error:
        name = Path(path)
        return ("refused" if str(name) in str(error) else "unnamed"), str(error)
    except BaseException as error:
        return "raised", f"{type(error).__name__}: {error}"
    return "loaded", ""


def attempt_in_fork(path):
    """The same in a child with limits; a signal that ends it is an outcome."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        resource.setrlimit(resource.RLIMIT_AS, (ADDRESSES + MEMORY_BYTES,) * 2)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.alarm(SECONDS)
        with os.fdopen(writing, "w") as out:
            json.dump(attempt(path), out)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as told:
        said = told.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return f"signal {signal.Signals(os.WTERMSIG(status)).name}", ""
    return json.loads(said) if said else (f"exit {os.WEXITSTATUS(status)}", "")


if __name__ == "__main__":
    torch.set_num_threads(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # panics write there
    for sound in sys.argv[1:]:  # what is imported late is imported now
        attempt(sound)
    ADDRESSES = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    for line in sys.stdin:
        outcome, said = attempt_in_fork(line.rstrip("\n"))
        print(json.dumps([outcome, said]), flush=True)
