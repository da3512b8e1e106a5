"""The tokenizer of a checkpoint: its files in the hub's layout, or a GGUF file's metadata."""

import json
from pathlib import Path

from tokenizers import Tokenizer, models
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from glimp_engine.checkpoints import read_gguf_header
from glimp_engine.errors import CheckpointError
from glimp_engine.text.gguf_tokenizer import build_gguf_tokenizer

__all__ = ["read_directory", "read_gguf"]


def read_directory(path: Path) -> tuple[Tokenizer, PreTrainedTokenizerFast, list[int]]:
    """The tokenizer of a directory in the hub's layout, with its chat template, and its end tokens."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # transformers raises many types
        raise CheckpointError(f"{path}: expected a tokenizer that transformers can read, found: {error}") from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise CheckpointError(f"{path}: expected a tokenizer.json, found {type(tokenizer).__name__}")
    end_ids = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    for name in ("generation_config.json", "config.json"):
        if (path / name).exists():
            found = json.loads((path / name).read_text(encoding="utf-8")).get("eos_token_id")
            end_ids += found if isinstance(found, list) else [] if found is None else [found]
    return tokenizer.backend_tokenizer, tokenizer, end_ids


def read_gguf(path: Path) -> tuple[Tokenizer, PreTrainedTokenizerFast, list[int]]:
    """The tokenizer of a GGUF file, its chat template, and its end tokens."""
    metadata = read_gguf_header(path).metadata
    backend = build_gguf_tokenizer(metadata, path)
    tokens = metadata["tokenizer.ggml.tokens"]
    named = {
        f"{ours}_token": tokens[metadata[f"tokenizer.ggml.{theirs}_token_id"]]
        for ours, theirs in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding"))
        if metadata.get(f"tokenizer.ggml.{theirs}_token_id", len(tokens)) < len(tokens)
    }
    added = {token.content for token in backend.get_added_tokens_decoder().values()}
    backend.add_special_tokens(sorted({*named.values()} - added))  # special whatever their type in the file
    template = metadata.get("tokenizer.chat_template")
    # without a vocabulary: transformers would copy it
    chat = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()), chat_template=template, **named)
    ends = (metadata.get(f"tokenizer.ggml.{kind}_token_id") for kind in ("eos", "eot", "eom"))
    return backend, chat, [end_id for end_id in ends if end_id is not None]
