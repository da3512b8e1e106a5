"""The tokenizer of a checkpoint: its files in the hub's layout, or a GGUF file's metadata."""

from pathlib import Path

from tokenizers import Tokenizer, models
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from glimp_engine.checkpoints import Fields, read_gguf_header, read_json, reading
from glimp_engine.errors import CheckpointError
from glimp_engine.text.gguf_tokenizer import build_gguf_tokenizer
from glimp_engine.text.tokenizer_json import check_template, check_tokenizer_files

__all__ = ["read_directory", "read_gguf", "read_other"]


def read_directory(path: Path) -> tuple[Tokenizer, PreTrainedTokenizerFast, list[int]]:
    """The tokenizer of a directory in the hub's layout, with its chat template, and its end tokens."""
    with reading(path, "a tokenizer that transformers can read"):
        check_tokenizer_files(path)
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False, local_files_only=True)
        if not isinstance(tokenizer, PreTrainedTokenizerFast):
            raise CheckpointError(f"{path}: expected a tokenizer.json, found {type(tokenizer).__name__}")
        end_ids = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
        backend = tokenizer.backend_tokenizer
        without_padding(backend)
    return backend, tokenizer, end_ids + end_ids_of(path)


def end_ids_of(path: Path) -> list[int]:
    """The end tokens that a directory's configurations name."""
    end_ids: list[int] = []
    for name in ("generation_config.json", "config.json"):
        if (path / name).exists():
            end_ids += Fields(read_json(path / name), str(path / name)).one_or_more_integers("eos_token_id")
    return end_ids


def read_gguf(path: Path) -> tuple[Tokenizer, PreTrainedTokenizerFast, list[int]]:
    """The tokenizer of a GGUF file, its chat template, and its end tokens."""
    with reading(path, "a tokenizer in a GGUF file"):
        metadata = read_gguf_header(path).metadata
        fields = Fields(metadata, str(path), "tokenizer.")
        backend = build_gguf_tokenizer(metadata, path)
        without_padding(backend)
        tokens = fields.texts("ggml.tokens")
        ids = {kind: id_under(fields, kind) for kind in ("bos", "eos", "unknown", "padding")}
        named = {
            f"{ours}_token": tokens[token_id]
            for ours, theirs in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding"))
            if (token_id := ids[theirs]) is not None and token_id < len(tokens)
        }
        added = {token.content for token in backend.get_added_tokens_decoder().values()}
        backend.add_special_tokens(sorted({*named.values()} - added))  # special whatever their type in the file
        template = fields.text("chat_template", "") or None
        check_template(template or "", f"{path}: tokenizer.chat_template")
        # without a vocabulary: transformers would copy it
        chat = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()), chat_template=template, **named)
        return backend, chat, end_ids_in(fields)


def end_ids_in(fields: Fields) -> list[int]:
    """The end tokens that a GGUF file names."""
    ends = (id_under(fields, kind) for kind in ("eos", "eot", "eom"))
    return [end_id for end_id in ends if end_id is not None]


def read_other(directory: Path, path: Path) -> tuple[Tokenizer, PreTrainedTokenizerFast, list[int]]:
    """A directory's tokenizer in place of the one of the checkpoint at `path`, whose end tokens hold as well."""
    if not (directory / "tokenizer.json").is_file():
        raise CheckpointError(f"{directory}: expected a directory with a tokenizer.json, found none")
    backend, chat, end_ids = read_directory(directory)
    if path.suffix != ".gguf":
        return backend, chat, end_ids + end_ids_of(path)
    with reading(path, "a GGUF file"):
        fields = Fields(read_gguf_header(path).metadata, str(path), "tokenizer.")
        if chat.chat_template is None and "chat_template" in fields:
            chat.chat_template = fields.text("chat_template")
            check_template(chat.chat_template, f"{path}: tokenizer.chat_template")
        return backend, chat, end_ids + end_ids_in(fields)


def id_under(fields: Fields, kind: str) -> int | None:
    """The id of a special token; None where there is none."""
    key = f"ggml.{kind}_token_id"
    return fields.integer(key, 0, (1 << 32) - 1) if key in fields else None


def without_padding(backend: Tokenizer) -> None:
    """Drop what would cut or stretch a prompt: how long one may be is the engine's to say."""
    backend.no_padding()
    backend.no_truncation()
