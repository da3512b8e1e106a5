"""From paths to two models that share one page table: weights, text, K/V stores, runners."""

import gc
import logging
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import torch

from glimp_engine.checkpoints import fingerprint, load_checkpoint, locate, open_checkpoint, reading
from glimp_engine.config import EngineConfig
from glimp_engine.errors import CapacityError, ConfigError
from glimp_engine.execution import (
    CudaGraphs,
    Forward,
    GraphRunner,
    ModelRunner,
    NativeRunner,
    PlainTicks,
    Recorder,
)
from glimp_engine.kernels import Ops
from glimp_engine.kernels.native import NativeOps
from glimp_engine.models import Decoder, KVStore, NativeDecoder, num_pages_within, read_weights
from glimp_engine.routing import Model, Router, RoutingFile
from glimp_engine.sequences import Dictionary, Voice
from glimp_engine.text import BoundaryTable, Text, digit_table, relate

__all__ = [
    "LoadedModel",
    "Memory",
    "load_models",
    "load_router",
    "make_dictionary",
    "make_runners",
    "make_voice",
    "plan_memory",
]

log = logging.getLogger(__name__)

BYTES_WORTH_FREEZING = 16 << 20  # of weights: a collection takes 0.2 s, which a model for a test isn't worth


@dataclass(frozen=True)
class LoadedModel:
    """A model's weights behind `forward`, and its text."""

    model: Forward
    text: Text


ModelSource = str | PathLike[str] | LoadedModel


def load_models(
    small: ModelSource,
    large: ModelSource | None,
    config: EngineConfig,
    ops: Ops,
    small_tokenizer: str | PathLike[str] | None = None,
    large_tokenizer: str | PathLike[str] | None = None,
) -> list[LoadedModel]:
    """The small model, and the large one if there is one; a source given twice is loaded once.

    Raises: CheckpointError, ConfigError.
    """
    if large is None and large_tokenizer is not None:
        raise ConfigError(f"large_tokenizer is {str(large_tokenizer)!r} without a large model; allowed: None")
    loaded_small = load_model("small", small, config, ops, small_tokenizer)
    if large is None:
        return [loaded_small]
    are_paths = not isinstance(small, LoadedModel) and not isinstance(large, LoadedModel)
    if small_tokenizer == large_tokenizer and (large is small or (are_paths and small == large)):
        return [loaded_small, loaded_small]
    return [loaded_small, load_model("large", large, config, ops, large_tokenizer)]


def load_model(
    name: str, source: ModelSource, config: EngineConfig, ops: Ops, tokenizer: str | PathLike[str] | None
) -> LoadedModel:
    """One model, loaded unless it is already, with another tokenizer than its own if one is given."""
    if isinstance(source, LoadedModel):
        if tokenizer is not None:
            raise ConfigError(f"{name}_tokenizer is {str(tokenizer)!r} and {name} is a LoadedModel; allowed: None")
        return source
    if not isinstance(source, (str, PathLike)) or not str(source):
        raise ConfigError(f"{name} is {source!r}; allowed: a directory, a .gguf file, a hub id, a LoadedModel")
    if tokenizer is not None and not (isinstance(tokenizer, (str, PathLike)) and Path(tokenizer).is_dir()):
        raise ConfigError(f"{name}_tokenizer is {tokenizer!r}; allowed: None, a directory with a tokenizer.json")
    path, other = locate(source), None if tokenizer is None else Path(tokenizer)
    if isinstance(ops, NativeOps):
        loaded = load_native(path, other, config, ops)
    else:
        loaded = load_reference(path, other, config, ops)
    if loaded.model.weight_bytes >= BYTES_WORTH_FREEZING:
        gc.collect()
        gc.freeze()  # what imports and loading have made stays: a collection within a tick would look through it
    return loaded


def load_native(path: Path, tokenizer: Path | None, config: EngineConfig, ops: NativeOps) -> LoadedModel:
    """The model on the native ops, its weights as they are stored unless the configuration says otherwise."""
    model_config, tensors = open_checkpoint(path)
    # before the weights, which then take the memory that it frees
    text = Text.load(path, model_config.vocab_size, tokenizer)
    with reading(path, "a model that fits in the memory"):
        weights = read_weights(path, tensors, ops, config.native_dtype, config.quantization)
        return LoadedModel(NativeDecoder(model_config, weights, ops), text)


def load_reference(path: Path, tokenizer: Path | None, config: EngineConfig, ops: Ops) -> LoadedModel:
    """The model in PyTorch, its weights dequantised."""
    with reading(path, "a model that fits in the memory"):
        model_config, weights = load_checkpoint(path, config.torch_dtype, config.torch_device)
        model = Decoder(model_config, weights, ops)
    return LoadedModel(model, Text.load(path, model_config.vocab_size, tokenizer))


def load_router(path: str | PathLike[str], small: object, large: object) -> Router:
    """The router of a routing file, for the pair that it was made for.

    Raises: ConfigError when it was made for another pair, or the models aren't given as checkpoints.
    """
    routing, fingerprints = RoutingFile.load(Path(path)), {}
    for name, source in (("small", small), ("large", large)):
        if not isinstance(source, (str, PathLike)):
            raise ConfigError(f"routing is {str(path)!r} and {name} is {source!r}; allowed then: a path or a hub id")
        fingerprints[name] = fingerprint(locate(source))
    try:
        return routing.router_for(fingerprints)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error} (small is {str(small)!r}, large {str(large)!r})") from None


@dataclass(frozen=True)
class Memory:
    """How the K/V budget is spent."""

    num_pages: int
    max_model_len: int


def plan_memory(models: list[LoadedModel], dictionary: Dictionary, config: EngineConfig) -> Memory:
    """Turn the K/V budget into pages, and see that the longest sequence fits into them.

    Raises: CapacityError when it doesn't; ConfigError when max_model_len is more than a model's context.
    """
    size = config.page_size
    bytes_per_page = size * sum(kv_bytes_per_token(loaded.model) for loaded in models)
    budget_bytes = config.kv_budget_bytes()
    num_pages = num_pages_within(budget_bytes, bytes_per_page)
    num_streams = 1 if dictionary.pair.kind == "identical" else 2
    capacity = num_pages // num_streams * size
    configs = [loaded.model.config for loaded in models]
    context = min(each.max_positions for each in configs)
    max_model_len = config.max_model_len or min(capacity, *(each.default_len for each in configs))
    if max_model_len > context:
        windows = [each.window for each in configs if each.window is not None and each.max_positions == context]
        why = "".join(f", as {window.where} has {window.key}" for window in windows[:1])
        raise ConfigError(f"max_model_len is {max_model_len}; the models' context allows {context}{why}")
    if max_model_len > capacity:
        raise CapacityError(
            f"max_model_len is {max_model_len} tokens; {num_pages} pages of {size} hold {capacity}: "
            f"raise kv_cache_bytes to {-(-max_model_len // size) * num_streams * bytes_per_page}"
        )
    log.info(
        "K/V: %d bytes // (%d tokens a page * %d bytes a token of all models) = %d pages, %d tokens a sequence at most",
        *(budget_bytes, size, bytes_per_page // size, num_pages, max_model_len),
    )
    return Memory(num_pages, max_model_len)


def kv_bytes_per_token(model: Forward) -> int:
    """Bytes of the model's K/V of one position."""
    return model.config.kv_bytes_per_token(model.kv_layout.dtype.itemsize)


def make_dictionary(models: list[LoadedModel]) -> Dictionary:
    """How the models' ids relate."""
    small, large = models[0].text, models[-1].text
    pair = relate(small, large)
    vocab_sizes = (models[0].model.config.vocab_size, models[-1].model.config.vocab_size)
    return Dictionary((small, small if pair.kind == "identical" else large), pair, vocab_sizes)


def make_voice(loaded: LoadedModel, text: Text, skip_code_fences: bool) -> Voice:
    """How the model's tokens read, one class for each token of its logits."""
    end_of_thinking = [] if text.end_thinking_id is None else [text.end_thinking_id]
    vocab_size = loaded.model.config.vocab_size
    end_token_ids = loaded.text.end_token_ids
    ids = range(loaded.text.num_tokens)
    boundaries = BoundaryTable.build(
        map(loaded.text.bytes_of, ids), end_of_thinking, end_token_ids, vocab_size, skip_code_fences
    )
    return Voice(text, boundaries, digit_table(map(loaded.text.written_bytes, ids), vocab_size))


def make_runners(
    models: list[LoadedModel],
    voices: list[Voice],
    dictionary: Dictionary,
    memory: Memory,
    config: EngineConfig,
    ops: Ops,
) -> list[ModelRunner]:
    """A runner for each model; they share the recorder of their ticks, as they share the device."""
    recorder: Recorder | None = None
    if config.has_graphs:
        recorder = CudaGraphs() if config.torch_device.type == "cuda" else PlainTicks()
    return [
        make_runner(loaded, voice, dictionary.unknown_to_other(which), memory, config, ops, recorder)
        for which, loaded, voice in zip(Model, models, voices, strict=False)
    ]


def make_runner(
    loaded: LoadedModel,
    voice: Voice,
    forbidden_ids: list[int],
    memory: Memory,
    config: EngineConfig,
    ops: Ops,
    recorder: Recorder | None,
) -> ModelRunner:
    """The model with K/V tensors of its own and what it must not write; with a recorder its ticks are graphs."""
    model = loaded.model
    num_pages = memory.num_pages + (recorder is not None)  # the padding's
    kv = KVStore(model.config, num_pages, config.page_size, model.kv_layout, model.device, memory.max_model_len)
    token_class = torch.from_numpy(voice.boundaries.token_class).to(model.device)
    forbidden = torch.tensor(forbidden_ids, dtype=torch.int64, device=model.device)
    shared = ops, kv, token_class, forbidden
    if recorder is not None:
        max_pages = -(-memory.max_model_len // config.page_size)
        return GraphRunner(model, *shared, max_pages, recorder, voice.boundaries, config.max_ticks)
    if isinstance(model, NativeDecoder) and isinstance(ops, NativeOps) and config.runs_ahead:
        return NativeRunner(model, ops, kv, token_class, forbidden, voice.boundaries, config.max_ticks)
    return ModelRunner(model, *shared)
