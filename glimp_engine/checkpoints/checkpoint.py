"""From a path or a hub id to a model's configuration and its weights, every tensor by exact name and shape."""

import logging
import re
from collections.abc import Mapping
from dataclasses import replace
from os import PathLike
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from torch import Tensor
from tqdm import tqdm

from glimp_engine.checkpoints.config import ModelConfig
from glimp_engine.checkpoints.directory import open_directory
from glimp_engine.checkpoints.files import reading
from glimp_engine.checkpoints.gguf import open_gguf
from glimp_engine.checkpoints.gguf_header import is_gguf
from glimp_engine.checkpoints.stored_tensor import FLOAT_TYPES, QUANTIZED_TYPES, StoredTensor
from glimp_engine.checkpoints.tensors import FREQ_FACTORS, expected_tensors
from glimp_engine.errors import CheckpointError, ConfigError

__all__ = ["load_checkpoint", "locate", "open_checkpoint"]

log = logging.getLogger(__name__)

# no pickled weights and no code
HUB_FILES = ["*.safetensors", "*.json", "*.jinja", "*.model", "*.txt"]
FLOATS = (*FLOAT_TYPES, *QUANTIZED_TYPES, "F64")  # F64 of safetensors alone
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
COMPARED_VALUES = 1 << 22  # at a time
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def locate(source: str | PathLike[str]) -> Path:
    """A directory or a .gguf file on this machine; a hub id is fetched first.

    Raises: ConfigError when it is none of these; CheckpointError when the hub has no such model or can't be reached.
    """
    try:
        path = Path(source).expanduser()
    except RuntimeError as error:  # ~nobody/x
        raise ConfigError(f"model is {str(source)!r}: {error} Allowed: a directory, a .gguf file, a hub id") from None
    if path.is_dir() or (path.is_file() and is_gguf(path)):
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
    with reading(path, "a checkpoint"):
        config, tensors = open_gguf(path) if is_gguf(path) else open_directory(path)
        if config.num_layers > len(tensors):  # before there are names of all that should be there
            raise CheckpointError(f"{path}: expected {config.num_layers} layers, found {len(tensors)} tensors")
        config = with_own_head(config, tensors, path)
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
        with reading(tensor.file, f"tensor {name}"):
            weights[name] = tensor.read().to(device=device, dtype=torch.float32 if name == FREQ_FACTORS else dtype)
    return config, weights


def with_own_head(config: ModelConfig, tensors: Mapping[str, StoredTensor], path: Path) -> ModelConfig:
    """The configuration, whose head is not the embedding if another one is stored, whatever it says itself.

    Cost: where both are there, they are read, piece by piece, up to the first difference.
    """
    head, embedding = tensors.get(HEAD), tensors.get(EMBEDDING)
    if not config.tied_embeddings or head is None or embedding is None or are_equal(head, embedding):
        return config
    log.warning("%s: tie_word_embeddings is true, and %s isn't the embedding: it's used as it is stored", path, HEAD)
    return replace(config, tied_embeddings=False)


def are_equal(one: StoredTensor, other: StoredTensor) -> bool:
    """Whether they hold the same values, be it in different types."""
    if one.shape != other.shape:
        return False
    num_rows = max(COMPARED_VALUES // max(one.shape[-1], 1), 1)
    spans = ((start, min(start + num_rows, one.shape[0])) for start in range(0, one.shape[0], num_rows))
    return all(torch.equal(one.read(*span).double(), other.read(*span).double()) for span in spans)


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
        if found[name].type not in FLOATS:
            raise CheckpointError(
                f"{found[name].file}: tensor {name}: type is {found[name].type}; supported: {', '.join(FLOATS)}"
            )
    factors = found.get(FREQ_FACTORS)
    if factors is not None and (factors.shape, factors.type) != ((config.head_dim // 2,), "F32"):
        raise CheckpointError(
            f"{factors.file}: tensor {FREQ_FACTORS}: expected shape {(config.head_dim // 2,)} of F32, "
            f"found {factors.shape} of {factors.type}"
        )
    for name in found.keys() - expected.keys():
        if not is_redundant(name, config):
            raise CheckpointError(
                f"{found[name].file}: tensor {name}: expected none of this name, found shape {found[name].shape}"
            )


def is_redundant(name: str, config: ModelConfig) -> bool:
    """Whether a tensor that no weight is read from may be there: it repeats what the configuration says."""
    if name == HEAD:
        return config.tied_embeddings  # some tools save the tied embedding twice
    return name == FREQ_FACTORS or name.endswith(".rotary_emb.inv_freq")
