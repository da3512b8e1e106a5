"""From a path or a hub id to a model's configuration and its weights, every tensor by exact name and shape."""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from safetensors import SafetensorError, safe_open
from torch import Tensor
from tqdm import tqdm

from glimp_engine.errors import CheckpointError, ConfigError
from glimp_engine.gguf import open_gguf
from glimp_engine.model import FREQ_FACTORS, expected_tensors
from glimp_engine.model_config import ModelConfig
from glimp_engine.stored_tensor import StoredTensor

__all__ = ["load_checkpoint", "locate", "open_checkpoint"]

# no pickled weights and no code
HUB_FILES = ["*.safetensors", "*.json", "*.jinja", "*.model", "*.txt"]
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def locate(source: str | PathLike[str]) -> Path:
    """A directory or a .gguf file on this machine; a hub id is fetched first.

    Raises: ConfigError when it is none of these; CheckpointError when the hub has no such model or can't be reached.
    """
    path = Path(source).expanduser()
    if path.is_dir() or (path.is_file() and path.suffix == ".gguf"):
        return path
    if path.exists() or not HUB_ID.fullmatch(str(source)):
        raise ConfigError(f"model is {str(source)!r}; allowed: a directory, a .gguf file, or a hub id as owner/name")
    try:
        return Path(snapshot_download(str(source), allow_patterns=HUB_FILES))
    except Exception as error:  # the hub library raises many types, and none of them names the two readings
        raise CheckpointError(f"{source}: no such directory here, and the hub gave: {error}") from error


def open_checkpoint(path: Path) -> tuple[ModelConfig, dict[str, StoredTensor]]:
    """The model's configuration and its tensors by their names in transformers, unread but checked.

    Raises: CheckpointError with file, tensor, expected and found.
    """
    config, tensors = open_gguf(path) if path.suffix == ".gguf" else open_directory(path)
    expected = expected_tensors(config)
    check_tensors(expected, tensors, config, path)
    return config, {name: tensors[name] for name in [*expected, *({FREQ_FACTORS} & tensors.keys())]}


def load_checkpoint(
    path: Path, dtype: torch.dtype | None, device: torch.device
) -> tuple[ModelConfig, dict[str, Tensor]]:
    """The model's configuration and its weights, for the reference ops.

    `dtype` None keeps the checkpoint's own; quantised tensors are dequantised, then to float32.

    Raises: CheckpointError with file, tensor, expected and found.
    """
    config, tensors = open_checkpoint(path)
    dtype = dtype or config.dtype or torch.float32
    weights = {}
    for name, tensor in tqdm(tensors.items(), desc=path.stem, unit="tensor", leave=False):
        weights[name] = tensor.read().to(device=device, dtype=torch.float32 if name == FREQ_FACTORS else dtype)
    return config, weights


def check_tensors(
    expected: Mapping[str, tuple[int, ...]], found: Mapping[str, StoredTensor], config: ModelConfig, path: Path
) -> None:
    """Raise CheckpointError unless every tensor is there, with its shape, and nothing is left over."""
    for name, shape in expected.items():
        if name not in found:
            raise CheckpointError(f"{path}: tensor {name}: expected shape {shape}, found none")
        if found[name].shape != shape:
            raise CheckpointError(
                f"{found[name].file}: tensor {name}: expected shape {shape}, found {found[name].shape}"
            )
    for name in found.keys() - expected.keys():
        if not is_redundant(name, config):
            raise CheckpointError(
                f"{found[name].file}: tensor {name}: expected none of this name, found shape {found[name].shape}"
            )


def is_redundant(name: str, config: ModelConfig) -> bool:
    """Whether a tensor that no weight is read from may be there: it repeats what the configuration says."""
    if name == "lm_head.weight":
        return config.tied_embeddings  # some tools save the tied embedding twice
    return name == FREQ_FACTORS or name.endswith(".rotary_emb.inv_freq")


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
        raise CheckpointError(f"{index}: expected a weight_map, found {weight_map!r}")
    files = [path / name for name in sorted(set(weight_map.values()))]
    for file in files:
        if file.parent != path or not file.exists():
            raise CheckpointError(f"{index}: expected the shard {file.name} beside it, found none")
    return files


def open_safetensors(file: Path) -> Iterable[tuple[str, StoredTensor]]:
    """Name and tensor of all that a file holds."""
    try:
        with safe_open(file, framework="pt") as handle:
            slices = {name: handle.get_slice(name) for name in handle.keys()}  # noqa: SIM118
            found = {name: (tuple(part.get_shape()), part.get_dtype()) for name, part in slices.items()}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file}: expected a safetensors file, found: {error}") from error

    def loader(name: str) -> Callable[[int, int], Tensor]:
        def load(start: int, end: int) -> Tensor:
            with safe_open(file, framework="pt") as handle:
                rows: Tensor = handle.get_slice(name)[start:end]
                return rows

        return load

    return [(name, StoredTensor(file, shape, dtype, loader(name))) for name, (shape, dtype) in found.items()]


def read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file."""
    try:
        contents = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{file}: expected this file, found none") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file}: expected JSON, found: {error}") from error
    if not isinstance(contents, dict):
        raise CheckpointError(f"{file}: expected an object, found {type(contents).__name__}")
    return contents
