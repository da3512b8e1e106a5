"""Checkpoints as directories in the hub's layout: config.json, and safetensors files."""

from collections.abc import Callable, Iterable
from pathlib import Path

from safetensors import safe_open
from torch import Tensor

from glimp_engine.checkpoints.config import ModelConfig
from glimp_engine.checkpoints.fields import shown
from glimp_engine.checkpoints.files import check_file, read_json, reading
from glimp_engine.checkpoints.stored_tensor import StoredTensor
from glimp_engine.errors import CheckpointError

__all__ = ["open_directory"]


def open_directory(path: Path) -> tuple[ModelConfig, dict[str, StoredTensor]]:
    """A directory in the hub's layout: config.json and one or several safetensors files."""
    config = ModelConfig.from_json(read_json(path / "config.json"), str(path / "config.json"))
    tensors: dict[str, StoredTensor] = {}
    for file in safetensors_files(path):
        for name, tensor in open_safetensors(file):
            if name in tensors:
                raise CheckpointError(f"{file}: tensor {name}: expected once, found in {tensors[name].file} too")
            tensors[name] = tensor
    return config, tensors


def safetensors_files(path: Path) -> list[Path]:
    """The checkpoint's files: those of its index, else model.safetensors."""
    index = path / "model.safetensors.index.json"
    if not index.exists():
        single = path / "model.safetensors"
        if not single.exists():
            found = sorted(file.name for file in path.iterdir() if file.suffix in (".bin", ".pt", ".pth", ".gguf"))
            raise CheckpointError(
                f"{path}: expected model.safetensors or {index.name}, found {', '.join(found) or 'no weights'}"
            )
        return [single]
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict):
        raise CheckpointError(f"{index}: expected a weight_map, found {shown(weight_map)}")
    for tensor, name in weight_map.items():
        if not isinstance(name, str):
            raise CheckpointError(f"{index}: tensor {tensor}: expected a file's name, found {shown(name)}")
    files = [path / name for name in sorted(set(weight_map.values()))]
    for file in files:
        if file.parent != path or not file.exists():
            raise CheckpointError(f"{index}: expected the shard {file.name} beside it, found none")
    return files


def open_safetensors(file: Path) -> Iterable[tuple[str, StoredTensor]]:
    """Name and tensor of all that a file holds."""
    check_length(file)
    with reading(file, "a safetensors file"), safe_open(file, framework="pt") as handle:
        slices = {name: handle.get_slice(name) for name in handle.keys()}  # noqa: SIM118
        found = {name: (tuple(part.get_shape()), part.get_dtype()) for name, part in slices.items()}

    def loader(name: str) -> Callable[[int, int], Tensor]:
        def load(start: int, end: int) -> Tensor:
            with reading(file, f"rows {start} to {end} of {name}"), safe_open(file, framework="pt") as handle:
                rows: Tensor = handle.get_slice(name)[start:end]
                return rows

        return load

    return [(name, StoredTensor(file, shape, dtype, loader(name))) for name, (shape, dtype) in found.items()]


def check_length(file: Path) -> None:
    """Raise CheckpointError unless the file holds the header whose length it begins with."""
    num_bytes = check_file(file)
    with file.open("rb") as opened:
        header_bytes = int.from_bytes(opened.read(8), "little")
    if 8 + header_bytes > num_bytes:
        raise CheckpointError(
            f"{file}: expected a safetensors file, found: a header of {header_bytes} bytes in a file of {num_bytes}"
        )
