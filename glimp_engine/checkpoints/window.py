"""Attention windows: which of them a model has, and how long a sequence may be before one leaves anything out."""

from dataclasses import dataclass

from glimp_engine.checkpoints.fields import Fields, shown
from glimp_engine.errors import CheckpointError

__all__ = ["Window", "window_from_gguf", "window_from_json"]

MAX_WINDOW = 1 << 40
DEFAULT_WINDOW = 4096  # of transformers' Mistral and Qwen, where use_sliding_window is true
DEFAULT_MAX_WINDOW_LAYERS = 28


@dataclass(frozen=True)
class Window:
    """Up to so many positions attention with a window is attention to everything."""

    num_positions: int
    key: str  # that says so
    where: str


def window_from_json(fields: Fields, family: str, num_layers: int) -> Window | None:
    """The window of a model of which at least one layer has one.

    Raises: CheckpointError on layers of a kind that isn't known.
    """
    windows = [sliding_window(fields, family, num_layers), dual_chunks(fields)]
    return min((window for window in windows if window is not None), key=lambda w: w.num_positions, default=None)


def sliding_window(fields: Fields, family: str, num_layers: int) -> Window | None:
    """As transformers reads it: Qwen has a window where use_sliding_window is true, from max_window_layers on."""
    kinds = fields.raw("layer_types") or []
    if not isinstance(kinds, list) or any(kind not in ("full_attention", "sliding_attention") for kind in kinds):
        found = sorted({str(kind) for kind in kinds}) if isinstance(kinds, list) else kinds
        raise CheckpointError(
            f"{fields.where}: layer_types has {shown(found)}; supported: full_attention, sliding_attention"
        )
    is_qwen = family.startswith("qwen")
    default = 0 if family == "llama" or fields.has("sliding_window") else DEFAULT_WINDOW
    is_used = fields.flag("use_sliding_window", not is_qwen)
    size = fields.integer("sliding_window", 1, MAX_WINDOW, default) if is_used else 0
    if "sliding_attention" in kinds and not size:
        found = fields.raw("sliding_window") if is_used else "not used"
        raise CheckpointError(
            f"{fields.where}: layer_types has 'sliding_attention' and sliding_window is {found}; expected its size"
        )
    if is_qwen and not kinds:
        slides = fields.integer("max_window_layers", 0, MAX_WINDOW, DEFAULT_MAX_WINDOW_LAYERS) < num_layers
    else:
        slides = family == "mistral" or not kinds or "sliding_attention" in kinds
    return Window(size, "sliding_window", fields.where) if slides and size else None


def dual_chunks(fields: Fields) -> Window | None:
    """Dual chunk attention (arXiv 2402.17463), of Qwen's models for a million tokens: one chunk is as without it."""
    values = fields.mapping("dual_chunk_attention_config")
    if not values:
        return None
    chunks = Fields(values, f"{fields.where}: dual_chunk_attention_config")
    size, local = chunks.integer("chunk_size", 1, MAX_WINDOW), chunks.integer("local_size", 0, MAX_WINDOW)
    if local >= size:
        raise chunks.error("local_size", f"less than chunk_size, {size}")
    return Window(size - local, "dual_chunk_attention_config", fields.where)


def window_from_gguf(fields: Fields) -> Window | None:
    """Of a GGUF file; 0 stands for none."""
    size = fields.integer("attention.sliding_window", 0, MAX_WINDOW, 0)
    return Window(size, "attention.sliding_window", fields.where) if size else None
