"""Text that goes on where other text ends: some tokenizers put a space before each text, as if it were a beginning."""

import json
from typing import Any

from tokenizers import Tokenizer

__all__ = ["Start", "starts_of"]

Start = tuple[Any, Any]  # a normalizer and a pre-tokenizer, which a backend is given before it reads


def starts_of(backend: Tokenizer) -> tuple[Start, Start]:
    """How the backend reads a text's beginning, and how what goes on: the same, but for what is put before a text."""
    beginning = backend.normalizer, backend.pre_tokenizer
    return beginning, (going_on("normalizer", beginning[0]), going_on("pre_tokenizer", beginning[1]))


def going_on(name: str, part: Any) -> Any:
    """A backend's normalizer or pre-tokenizer without what it puts before a text; itself if it puts nothing there."""
    state = state_of(part)
    changed = without_start(state)
    return part if changed == state else getattr(Tokenizer.from_str(json.dumps({**EMPTY, name: changed})), name)


EMPTY: dict[str, Any] = {
    **{"version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "post_processor": None},
    **{"normalizer": None, "pre_tokenizer": None, "decoder": None},
    "model": {"type": "BPE", "vocab": {}, "merges": []},
}


def state_of(part: Any) -> Any:
    """The part as tokenizer.json has it; None also for one of our own making, which puts nothing before a text."""
    try:
        return None if part is None else json.loads(part.__getstate__())
    except Exception:  # the library's word for what it can't write
        return None


def without_start(part: Any) -> Any:
    """A normalizer or a pre-tokenizer that puts nothing before a text, and takes nothing away there."""
    if not isinstance(part, dict):
        return part
    kind, part = part.get("type"), dict(part)
    for name in ("normalizers", "pretokenizers"):
        if name in part:
            part[name] = [each for each in map(without_start, part[name]) if each is not None]
    if kind == "Prepend":
        return None
    if kind == "Metaspace":
        part |= {"prepend_scheme": "never"}
        part.pop("add_prefix_space", None)
    if kind == "ByteLevel" and "add_prefix_space" in part:
        part["add_prefix_space"] = False
    if kind == "Strip":
        part |= {"strip_left": False, "strip_right": False}
    return part
