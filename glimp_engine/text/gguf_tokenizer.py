"""A tokenizer from what a GGUF file says about it.

A GGUF file holds tokens and merges, but only a name for how text is cut before the merges. The cuts known here are
those of the models' own `tokenizer.json`; llama.cpp's list of the names is the source for which name means which.
"""

from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from glimp_engine.checkpoints import Fields, reading
from glimp_engine.errors import CheckpointError
from glimp_engine.text.tokenizer_json import MAX_ADDED_TOKENS

__all__ = ["CONTROL", "UNUSED", "USER_DEFINED", "build_gguf_tokenizer"]

# Values of tokenizer.ggml.token_type
CONTROL, USER_DEFINED, UNUSED = 3, 4, 5
MAX_SQUARED_CHARS = 1 << 28  # transformers looks for merges in every cut of every token; 150,000 have 7 million

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
    fields = Fields(metadata, str(path), "tokenizer.ggml.")
    tokens, kinds = fields.texts("tokens"), fields.integers("token_type")
    if len(kinds) != len(tokens):
        raise CheckpointError(
            f"{path}: tokenizer.ggml.token_type: expected one for each of {len(tokens)} tokens, found {len(kinds)}"
        )
    num_added = sum(kind in (CONTROL, USER_DEFINED) for kind in kinds)
    if num_added > MAX_ADDED_TOKENS:
        raise CheckpointError(
            f"{path}: tokenizer.ggml.token_type: expected at most {MAX_ADDED_TOKENS} special tokens, found {num_added}"
        )
    if sum(len(token) ** 2 for token in tokens) > MAX_SQUARED_CHARS:
        raise CheckpointError(
            f"{path}: tokenizer.ggml.tokens: expected words, found one of {max(map(len, tokens))} characters"
        )
    known = (*_QWEN, *_LLAMA3, *_SINGLE_DIGITS, *_GPT2)
    pre = fields.text("pre", "")
    if fields.text("model") != "gpt2" or pre not in known:
        return _as_transformers_reads_it(path)
    tokenizer = _byte_level_bpe(fields, tokens, kinds, pre)
    _add_begin_token(tokenizer, fields, tokens, pre)
    return tokenizer


def _byte_level_bpe(fields: Fields, tokens: list[str], kinds: list[int], pre: str) -> Tokenizer:
    vocabulary = {token: i for i, (token, kind) in enumerate(zip(tokens, kinds, strict=True)) if kind != UNUSED}
    merges = [(left, right) for left, _, right in (merge.partition(" ") for merge in fields.texts("merges"))]
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


def _add_begin_token(tokenizer: Tokenizer, fields: Fields, tokens: list[str], pre: str) -> None:
    """Put the begin token before every prompt where the file says so; Llama 3 does when the file says nothing."""
    if "bos_token_id" not in fields or not fields.flag("add_bos_token", pre in _LLAMA3):
        return
    begin_id = fields.integer("bos_token_id", 0, len(tokens) - 1)
    token = tokens[begin_id]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{token} $A", pair=None, special_tokens=[(token, begin_id)]
    )


def _as_transformers_reads_it(path: Path) -> Tokenizer:
    from transformers import AutoTokenizer  # takes 1.5 s, and most files don't need it

    with reading(path, "a tokenizer that transformers can read"):
        loaded = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name, local_files_only=True)
    backend = loaded.backend_tokenizer
    assert isinstance(backend, Tokenizer)
    return backend
