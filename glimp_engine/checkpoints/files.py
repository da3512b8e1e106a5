"""Files from strangers: what may be opened, and one guard around all that reads them."""

import json
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from glimp_engine.errors import CheckpointError, GlimpError

__all__ = ["MAX_JSON_BYTES", "check_file", "read_json", "reading"]

MAX_JSON_BYTES = 64 << 20  # the largest tokenizer.json known to us has 33 MB
KINDS = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a character device"),
    (stat.S_ISBLK, "a block device"),
)
# what is often found in a model's place, by how it begins
IMPOSTORS = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself: run `git lfs pull`"),
    (b"<!doctype html", "an HTML page, as a server gives in place of a file"),
    (b"<html", "an HTML page, as a server gives in place of a file"),
    (b"pk\x03\x04", "a zip archive, as PyTorch's pickled weights are"),
)


@contextmanager
def reading(path: Path, expected: str) -> Iterator[None]:
    """Whatever is raised inside becomes a CheckpointError that names the file; our own errors and interrupts pass."""
    try:
        yield
    except (GlimpError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # what panics in Rust is no Exception
        found = f"{type(error).__name__}: {error}"[:500]
        raise CheckpointError(f"{path}: expected {expected}, found: {found}") from error


def check_file(path: Path, max_bytes: int | None = None) -> int:
    """The size in bytes of a file that may be opened: a regular one, no larger than max_bytes, what it pretends to be.

    Raises: CheckpointError that says what it is instead.
    """
    try:
        status = path.stat()
    except FileNotFoundError:
        raise CheckpointError(f"{path}: expected this file, found none") from None
    if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
        kind = next((name for is_kind, name in KINDS if is_kind(status.st_mode)), "something else")
        raise CheckpointError(f"{path}: expected a file, found {kind}")
    if max_bytes is not None and status.st_size > max_bytes:
        raise CheckpointError(f"{path}: expected at most {max_bytes} bytes, found {status.st_size}")
    with path.open("rb") as file:
        begin = file.read(64).lstrip().lower()
    for beginning, name in IMPOSTORS:
        if begin.startswith(beginning):
            raise CheckpointError(f"{path}: found {name}")
    return status.st_size


def read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises: CheckpointError when there is none.
    """
    with reading(file, "a readable file"):
        check_file(file, MAX_JSON_BYTES)
        contents = file.read_bytes()
    try:
        value = json.loads(contents)
    except (ValueError, RecursionError) as error:  # also numbers of too many digits, also what isn't UTF-8
        raise CheckpointError(f"{file}: expected JSON, found: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{file}: expected an object, found {type(value).__name__}")
    return value
