"""A tokenizer from what a GGUF file says about it.

The kinds that are built are those that come out as the model's own `tokenizer.json` or SentencePiece model would; any
other is refused by its name, as a wrong token looks like any other token.
"""

from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors

from glimp_engine.checkpoints import Fields
from glimp_engine.errors import CheckpointError
from glimp_engine.text.gguf_cuts import CUTS, Cut
from glimp_engine.text.gguf_sentencepiece import BYTE, build_sentencepiece
from glimp_engine.text.tokenizer_json import MAX_ADDED_TOKENS, MAX_TOKEN_CHARS

__all__ = ["BYTE", "CONTROL", "UNUSED", "USER_DEFINED", "build_gguf_tokenizer"]

# Values of tokenizer.ggml.token_type
UNKNOWN, CONTROL, USER_DEFINED, UNUSED = 2, 3, 4, 5
WAY_OUT = "or tokenizer=DIR, a directory with the model's own tokenizer.json (small_tokenizer, large_tokenizer)"
SPM_NAMES = ("", "default", "llama-spm")  # under tokenizer.ggml.pre, where it says nothing
PHI3_ENDS = ("<unk>", "<s>", "<|endoftext|>")  # the special tokens of Phi-3 that leave the spaces after them


def build_gguf_tokenizer(metadata: dict[str, Any], path: Path) -> Tokenizer:
    """The tokenizer described by a GGUF file's metadata.

    Cost:   0.2 to 0.9 s for 250,000 tokens.
    Raises: CheckpointError if a key is missing or the kind of tokenizer is none that's known to come out right.
    """
    fields = Fields(metadata, str(path), "tokenizer.ggml.")
    model, pre = fields.text("model"), fields.text("pre", "")
    if model not in ("gpt2", "llama", "gemma4"):
        raise fields.error("model", f"gpt2, llama or gemma4, {WAY_OUT}")
    tokens, kinds = fields.texts("tokens"), fields.integers("token_type")
    check_tokens(fields, tokens, kinds)
    unused = {i for i, kind in enumerate(kinds) if kind == UNUSED}
    begins = True
    if model == "llama":
        if pre not in SPM_NAMES:
            raise fields.error("pre", f"default for this model, {WAY_OUT}")
        never_text = {i for i, kind in enumerate(kinds) if kind in (UNKNOWN, CONTROL, UNUSED, BYTE)}
        tokenizer = build_sentencepiece(fields, tokens, set(range(len(tokens))) - never_text, unused)
    elif model == "gemma4":
        tokenizer = gemma4(fields, tokens, unused)
    elif pre in CUTS:
        tokenizer, begins = byte_level(fields, tokens, unused, CUTS[pre]), CUTS[pre].begins
    else:
        raise fields.error("pre", f"one of {', '.join(sorted(CUTS))}, {WAY_OUT}")
    strips = model == "llama" and metadata.get("general.architecture") == "phi3"
    tokenizer.add_tokens(
        [
            AddedToken(
                token,
                normalized=False,
                special=kind != USER_DEFINED,
                rstrip=strips and token not in PHI3_ENDS,
            )
            for token, kind in zip(tokens, kinds, strict=True)
            if kind in (CONTROL, USER_DEFINED, UNKNOWN)
        ]
    )
    put_around_prompts(tokenizer, fields, tokens, model == "llama", begins)
    return tokenizer


def check_tokens(fields: Fields, tokens: list[str], kinds: list[int]) -> None:
    """Raise CheckpointError if the lists don't go together, or hold more than a tokenizer may."""
    where = f"{fields.where}: tokenizer.ggml"
    if len(kinds) != len(tokens):
        raise CheckpointError(f"{where}.token_type: expected one for each of {len(tokens)} tokens, found {len(kinds)}")
    num_added = sum(kind in (CONTROL, USER_DEFINED, UNKNOWN) for kind in kinds)
    if num_added > MAX_ADDED_TOKENS:
        raise CheckpointError(
            f"{where}.token_type: expected at most {MAX_ADDED_TOKENS} special tokens, found {num_added}"
        )
    longest = max(map(len, tokens), default=0)
    if longest > MAX_TOKEN_CHARS:
        raise CheckpointError(
            f"{where}.tokens: expected words of at most {MAX_TOKEN_CHARS} characters, found one of {longest}"
        )


def byte_level(fields: Fields, tokens: list[str], unused: set[int], cut: Cut) -> Tokenizer:
    """GPT-2's kind: bytes written as letters, words cut as the model's name says, and merges."""
    vocabulary = {token: i for i, token in enumerate(tokens) if i not in unused}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges_of(fields), ignore_merges=cut.takes_words))
    if (normalizer := cut.normalizer()) is not None:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = cut.pre_tokenizer()
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def gemma4(fields: Fields, tokens: list[str], unused: set[int]) -> Tokenizer:
    """Gemma 4's kind: merges over the whole text, with spaces written as SentencePiece does."""
    vocabulary = {token: i for i, token in enumerate(tokens) if i not in unused}
    unknown = tokens[fields.integer("unknown_token_id", 0, len(tokens) - 1)]
    tokenizer = Tokenizer(
        models.BPE(vocab=vocabulary, merges=merges_of(fields), unk_token=unknown, fuse_unk=True, byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return tokenizer


def merges_of(fields: Fields) -> list[tuple[str, str]]:
    """What is merged, in the order of its rank."""
    return [(left, right) for left, right in (merge.split(" ", 1) for merge in fields.texts("merges"))]


def put_around_prompts(
    tokenizer: Tokenizer, fields: Fields, tokens: list[str], is_sentencepiece: bool, begins: bool
) -> None:
    """Put the begin token before every prompt and the end token behind it, where the file or its kind says so.

    Raises: CheckpointError if the file asks for one that it doesn't name.
    """
    default_ids = {"bos": 1, "eos": 2} if is_sentencepiece else {}
    named: dict[str, tuple[str, int]] = {}
    for kind, adds in (("bos", begins), ("eos", False)):
        key = f"{kind}_token_id"
        if fields.flag(f"add_{kind}_token", adds):
            if key in fields or kind in default_ids:
                token_id = fields.integer(key, 0, len(tokens) - 1, default_ids.get(kind, 0))
                named[kind] = (tokens[token_id], token_id)
            elif f"add_{kind}_token" in fields:
                raise fields.error(key, f"the token that add_{kind}_token adds")
    if named:
        # as they are written in the template a token that is named A or 1 would be read as something else
        around = [kind for kind in ("bos", "$A", "eos") if kind in named or kind == "$A"]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=" ".join(around), pair=None, special_tokens=[(kind, i) for kind, (_, i) in named.items()]
        )
