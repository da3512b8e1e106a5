"""Types of the options that are paths, and where something can be written: asked before hours are spent on it."""

import argparse
import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from glimp_engine.errors import ConfigError

__all__ = ["check_writable", "file_path", "make_directory", "model_source", "writing"]

NUM_SHOWN = 60  # characters of a text that is no path


def file_path(text: str) -> Path:
    """A path that a file might have."""
    return Path(model_source(text))


def model_source(text: str) -> str:
    """A path that a file might have, or a hub id, as it's written."""
    shown = repr(text[:NUM_SHOWN]) + "..." * (len(text) > NUM_SHOWN)
    if not text:
        raise argparse.ArgumentTypeError(f"found {shown}; allowed: a path")
    try:
        os.lstat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"found {shown}; allowed: a path, which has no such character") from None
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise argparse.ArgumentTypeError(
                f"found {shown}, {len(text)} characters long; allowed: a path that is shorter"
            ) from None
    return text


def check_writable(name: str, path: Path) -> None:
    """Raise ConfigError if a file can't be written there, so far as that can be known without doing it."""
    with writing(name, path):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        path.parent.stat()
        if not path.parent.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        if not os.access(path if path.exists() else path.parent, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def make_directory(name: str, path: Path) -> None:
    """Make the directory, and those above it, unless it's there. Raises: ConfigError when nothing can be written."""
    with writing(name, path, "a directory that can be made, or written to"):
        path.mkdir(parents=True, exist_ok=True)
        if not os.access(path, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


@contextmanager
def writing(name: str, path: Path, allowed: str = "a file that can be written") -> Iterator[None]:
    """An OSError within is a ConfigError that names the argument."""
    try:
        yield
    except OSError as error:
        raise ConfigError(f"{name} is {path}: {error.strerror}; allowed: {allowed}") from None
