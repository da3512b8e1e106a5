"""A tensor of a checkpoint that has not been read yet."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

__all__ = ["StoredTensor"]


@dataclass(frozen=True)
class StoredTensor:
    """Where it is, what it will be, and how to read it."""

    file: Path
    shape: tuple[int, ...]
    read: Callable[[], Tensor]
