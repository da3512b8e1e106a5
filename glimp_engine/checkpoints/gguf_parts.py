"""A GGUF file that was split: which files it's in, as llama.cpp's `llama-gguf-split` names and numbers them."""

import re
from pathlib import Path

from glimp_engine.checkpoints.fields import Fields
from glimp_engine.checkpoints.gguf_header import GGUFHeader, read_gguf_header
from glimp_engine.errors import CheckpointError

__all__ = ["part_names", "read_parts"]

MAX_PARTS = 1 << 16
PART_NAME = re.compile(r"(.*)-\d{5}(-of-)(\d{5})(\.gguf)", re.IGNORECASE)


def part_names(path: Path) -> list[Path]:
    """The paths of all parts, if the name is that of one, else the path alone."""
    match = PART_NAME.fullmatch(path.name)
    if match is None:
        return [path]
    stem, of, count, suffix = match.groups()
    return [path.with_name(f"{stem}-{i:05}{of}{count}{suffix}") for i in range(1, min(int(count), MAX_PARTS) + 1)]


def read_parts(path: Path) -> dict[Path, GGUFHeader]:
    """The headers of all parts, the first one first: it alone has the metadata. A whole file is its own only part.

    Raises: CheckpointError that names the part which is missing, of another split, or in the first one's place.
    """
    first = read_gguf_header(path)
    number, count = split_of(first, path)
    if count <= 1:
        return {path: first}
    paths = part_names(path)
    if number != 0:
        raise CheckpointError(
            f"{path}: expected the first part of a split GGUF, found part {number + 1} of {count}: give {paths[0].name}"
        )
    if len(paths) != count or paths[0] != path:
        raise CheckpointError(
            f"{path}: expected a name that ends with -00001-of-{count:05}.gguf, as it's the first of {count} parts"
        )
    headers = {path: first}
    for i, part in enumerate(paths[1:], 1):
        if not part.exists():
            raise CheckpointError(f"{path}: expected part {i + 1} of {count} beside it, {part.name}, found none")
        headers[part] = read_gguf_header(part)
        if split_of(headers[part], part) != (i, count):
            found, of = split_of(headers[part], part)
            raise CheckpointError(f"{part}: expected part {i + 1} of {count}, found part {found + 1} of {of}")
    num_tensors = sum(len(header.tensors) for header in headers.values())
    expected = Fields(first.metadata, str(path)).integer("split.tensors.count", 0, 1 << 31, num_tensors)
    if expected != num_tensors:
        raise CheckpointError(f"{path}: split.tensors.count is {expected}; found {num_tensors} in all {count} parts")
    return headers


def split_of(header: GGUFHeader, path: Path) -> tuple[int, int]:
    """(which part, counted from 0, of how many)."""
    fields = Fields(header.metadata, str(path))
    return fields.integer("split.no", 0, MAX_PARTS, 0), fields.integer("split.count", 0, MAX_PARTS, 0)
