"""A tokenizer from what a GGUF file says about it.

A GGUF file holds tokens and merges, but only a name for how text is cut before the merges. The cuts known here are
those of the models' own `tokenizer.json`; llama.cpp's list of the names is the source for which name means which.
"""

from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from glimp_engine.errors import CheckpointError

__all__ = ["CONTROL", "UNUSED", "USER_DEFINED", "build_gguf_tokenizer"]

# Values of tokenizer.ggml.token_type
CONTROL, USER_DEFINED, UNUSED = 3, 4, 5

_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_ONE_DIGIT, _THREE_DIGITS = r"\p{N}", r"\p{N}{1,3}"

_QWEN = ("qwen2", "deepseek-r1-qwen")
_LLAMA3 = ("llama-bpe", "llama3", "llama-v3")
_SINGLE_DIGITS = ("smollm", "starcoder", "refact")
_GPT2 = ("gpt-2",)


def build_gguf_tokenizer(metadata: dict[str, Any], path: Path) -> Tokenizer:
    """The tokenizer described by a GGUF file's metadata.

    Cost:   about 0.5 s for 150,000 tokens where the cut is known here; else transformers' own reading, about 10 s.
    Raises: CheckpointError if a key is missing or the kind of tokenizer can't be read.
    """
    for key in ("model", "tokens", "token_type"):
        if f"tokenizer.ggml.{key}" not in metadata:
            raise CheckpointError(f"{path}: expected tokenizer.ggml.{key} in the metadata, found none")
    known = (*_QWEN, *_LLAMA3, *_SINGLE_DIGITS, *_GPT2)
    is_known = metadata["tokenizer.ggml.model"] == "gpt2" and metadata.get("tokenizer.ggml.pre") in known
    return _byte_level_bpe(metadata, path) if is_known else _as_transformers_reads_it(path)


def _byte_level_bpe(metadata: dict[str, Any], path: Path) -> Tokenizer:
    tokens, kinds = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.token_type"]
    pre = metadata["tokenizer.ggml.pre"]
    if "tokenizer.ggml.merges" not in metadata:
        raise CheckpointError(f"{path}: expected tokenizer.ggml.merges in the metadata, found none")
    vocabulary = {token: i for i, (token, kind) in enumerate(zip(tokens, kinds, strict=True)) if kind != UNUSED}
    merges = [tuple(merge.split(" ", 1)) for merge in metadata["tokenizer.ggml.merges"]]
    # Llama 3 was trained with whole words taken from the vocabulary before any merge.
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=pre in _LLAMA3))
    if pre == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = _cut(pre)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens(
        [
            AddedToken(token, normalized=False, special=kind == CONTROL)
            for token, kind in zip(tokens, kinds, strict=True)
            if kind in (CONTROL, USER_DEFINED)
        ]
    )
    _add_begin_token(tokenizer, metadata)
    return tokenizer


def _cut(pre: str) -> pre_tokenizers.PreTokenizer:
    """How text is cut into the words within which merges apply."""
    if pre in _GPT2:
        return pre_tokenizers.ByteLevel(add_prefix_space=False)
    if pre in _SINGLE_DIGITS:
        return pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    words = _WORDS + (_THREE_DIGITS if pre in _LLAMA3 else _ONE_DIGIT) + _REST
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(words), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def _add_begin_token(tokenizer: Tokenizer, metadata: dict[str, Any]) -> None:
    """Put the begin token before every prompt where the file says so; Llama 3 does when the file says nothing."""
    begin_id = metadata.get("tokenizer.ggml.bos_token_id")
    if begin_id is None or not metadata.get("tokenizer.ggml.add_bos_token", metadata["tokenizer.ggml.pre"] in _LLAMA3):
        return
    token = metadata["tokenizer.ggml.tokens"][begin_id]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{token} $A", pair=None, special_tokens=[(token, begin_id)]
    )


def _as_transformers_reads_it(path: Path) -> Tokenizer:
    from transformers import AutoTokenizer  # takes 1.5 s, and most files don't need it

    try:
        loaded = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name, local_files_only=True)
    except (ValueError, KeyError, NotImplementedError) as error:
        raise CheckpointError(f"{path}: expected a tokenizer that transformers can read ({error})") from error
    backend = loaded.backend_tokenizer
    assert isinstance(backend, Tokenizer)
    return backend
