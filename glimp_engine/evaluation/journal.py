"""What a run has done so far, on disk: a line for each finished item, written as it finishes.

A run may be killed at any moment. What was finished then is kept, and a line that was torn is dropped.
"""

import fcntl
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from glimp_engine.errors import ConfigError, check_fields
from glimp_engine.evaluation.run_files import LINES, check_key, check_object, parsed

__all__ = ["Journal", "write_atomically", "write_jsonl"]

Key = tuple[str | int, ...]


class Journal:
    """The finished items of one run, by key. One process at a time has it."""

    def __init__(self, directory: Path) -> None:
        """Raises: ConfigError when another process has it, or a line is none that it has written."""
        self._file = (directory / "journal.jsonl").open("a+b")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise ConfigError(f"out is {str(directory)!r}, and another evaluation is writing there") from None
        self.items: dict[Key, dict[str, Any]] = dict(self._recover())

    def add(self, key: Key, item: dict[str, Any]) -> None:
        """Keep an item; once this comes back it's on disk."""
        self.items[key] = item
        self._file.write(json.dumps({"key": key, "item": item}).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()

    def _recover(self) -> Iterator[tuple[Key, dict[str, Any]]]:
        """Read all whole lines, and cut off what follows them."""
        self._file.seek(0)
        num_whole_bytes = 0
        for number, line in enumerate(self._file, start=1):
            if not line.endswith(b"\n"):
                break
            num_whole_bytes += len(line)
            entry = parsed(f"{self._file.name}:{number}", line, check_entry)
            yield tuple(entry["key"]), entry["item"]
        self._file.truncate(num_whole_bytes)
        self._file.seek(0, os.SEEK_END)


def check_entry(entry: Any) -> None:
    """Raise ConfigError unless a line has a key, and what is kept under keys of its kind."""
    check_fields("", entry, {"key": check_key, "item": check_object})
    if entry["key"][0] == "answer":
        check_fields("item.", entry["item"], {"result": check_object, "timing": check_object})
        LINES["results"](entry["item"]["result"])
        LINES["timings"](entry["item"]["timing"])
    else:
        check_fields("item.", entry["item"], {"branch": check_object})


def write_atomically(path: Path, text: str) -> None:
    """Replace the file by one with this text, or leave it as it is."""
    new = path.with_suffix(path.suffix + ".new")
    with new.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)


def write_jsonl(path: Path, items: Iterable[dict[str, Any]]) -> None:
    """One JSON object a line, all or nothing."""
    write_atomically(path, "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items))
