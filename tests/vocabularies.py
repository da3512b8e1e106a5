"""Where llama.cpp's vocabularies with their test vectors are: a directory that is named, or the sdist of a package."""

import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

CACHE = Path("~/.cache/glimp-vocabularies").expanduser()
PACKAGE = "llama-cpp-python"  # its sdist holds llama.cpp with its vocabularies, and no wheel does
SECONDS = 60  # that pip may take


def find_vocabularies():
    """(their directory, None), or (None, why there is none). GLIMP_VOCABS names it; else it's fetched, once."""
    given = os.environ.get("GLIMP_VOCABS")
    if given:
        directory = Path(given).expanduser()
        return (directory, None) if with_vectors(directory) else (None, f"GLIMP_VOCABS ({given}) has no test vectors")
    failure = CACHE / "failure"
    if not with_vectors(CACHE) and not failure.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        reason = fetch()
        if not with_vectors(CACHE):
            failure.write_text(reason)
    if with_vectors(CACHE):
        return CACHE, None
    return None, f"no vocabularies: {failure.read_text()}; set GLIMP_VOCABS, or delete {failure} to try again"


def with_vectors(directory):
    """The vocabularies that have inputs and outputs beside them."""
    return sorted(p.with_suffix("") for p in directory.glob("ggml-vocab-*.gguf.out") if p.with_suffix(".inp").exists())


def fetch():
    """Bring them into CACHE; what went wrong, in a line."""
    with tempfile.TemporaryDirectory(dir=CACHE) as directory:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", PACKAGE, "-d", directory]
        try:
            done = subprocess.run([*command, PACKAGE], capture_output=True, text=True, timeout=SECONDS, check=False)
        except subprocess.TimeoutExpired:
            return f"pip took more than {SECONDS} s"
        archives = list(Path(directory).glob("*.tar.gz"))
        if not archives:
            return (done.stderr.strip().splitlines() or ["pip brought nothing"])[-1]
        with tarfile.open(archives[0]) as archive:
            for member in archive:
                if "/models/ggml-vocab-" in member.name and member.isfile():
                    part = Path(directory) / "part"
                    part.write_bytes(archive.extractfile(member).read())
                    part.rename(CACHE / Path(member.name).name)
    return "the package has none"
