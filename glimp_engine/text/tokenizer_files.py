"""The tokenizer of a checkpoint: its files in the hub's layout, or a GGUF file's metadata."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from glimp_engine.checkpoints import Fields, is_gguf, read_gguf_header, read_json, reading
from glimp_engine.errors import CheckpointError
from glimp_engine.text.chat import ChatFormat
from glimp_engine.text.gguf_tokenizer import build_gguf_tokenizer
from glimp_engine.text.tokenizer_json import check_template, check_tokenizer_files

__all__ = ["read_directory", "read_gguf", "read_other"]

# tokenizers in other forms, from which the hub's libraries make a tokenizer.json
OTHER_TOKENIZERS = ("tokenizer.model", "tekken.json", "vocab.json", "vocab.txt", "merges.txt", "tiktoken.model")


def read_directory(path: Path) -> tuple[Tokenizer, ChatFormat, list[int]]:
    """The tokenizer of a directory in the hub's layout, with its chat template, and its end tokens.

    `tokenizer.json` alone says how text is cut: a class named beside it may be another's. The other files say only
    which tokens are special, what the template is, and where a text ends.

    Raises: CheckpointError when there is none, or one that can't be read.
    """
    with reading(path, "a tokenizer"):
        check_tokenizer_files(path)
        file = path / "tokenizer.json"
        if not file.exists():
            others = sorted(name for name in OTHER_TOKENIZERS if (path / name).exists())
            raise CheckpointError(
                f"{path}: expected tokenizer.json, found {', '.join(others) or 'no tokenizer'}"
                + (" (transformers' AutoTokenizer writes one with save_pretrained)" if others else "")
            )
        backend = Tokenizer.from_file(str(file))
        without_padding(backend)
        special = read_special_tokens(path)
        make_special(backend, special)
        chat_format = ChatFormat(read_template(path), special)
        eos_id = backend.token_to_id(str(special.get("eos_token", "")))
        end_ids = [] if eos_id is None else [eos_id]
    return backend, chat_format, end_ids + end_ids_of(path)


def end_ids_of(path: Path) -> list[int]:
    """The end tokens that a directory's configurations name."""
    end_ids: list[int] = []
    for name in ("generation_config.json", "config.json"):
        if (path / name).exists():
            end_ids += Fields(read_json(path / name), str(path / name)).one_or_more_integers("eos_token_id")
    return end_ids


def read_special_tokens(path: Path) -> dict[str, Any]:
    """The special tokens by the names that templates have for them, from the files beside tokenizer.json."""
    special: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if not (path / name).exists():
            continue
        config = read_json(path / name)
        named = {key: value for key, value in config.items() if key.endswith("_token")}
        extra = config.get("extra_special_tokens")
        named |= extra if isinstance(extra, dict) else {}
        special |= {key: token for key, value in named.items() if (token := content_of(value))}
        more = config.get("additional_special_tokens") or (extra if isinstance(extra, list) else [])
        if isinstance(more, list) and more:
            special["additional_special_tokens"] = [token for value in more if (token := content_of(value))]
    return special


def content_of(token: Any) -> str | None:
    """A token's text, which is given as it is or with its properties."""
    content = token.get("content") if isinstance(token, dict) else token
    return content if isinstance(content, str) and content else None


def read_template(path: Path) -> str | dict[str, str] | None:
    """The chat template, or several by name; a file of its own is newer than an entry of the configuration."""
    named: dict[str, str] = {}
    for name in ("tokenizer_config.json", "chat_template.json"):
        fields = Fields(read_json(path / name), str(path / name)) if (path / name).exists() else None
        value = None if fields is None else fields.raw("chat_template")
        if isinstance(value, str):
            named["default"] = value
        elif isinstance(value, list):
            named |= {str(each["name"]): str(each["template"]) for each in value}
        elif value is not None:
            assert fields is not None
            raise fields.error("chat_template", "a template, or a list of them with names")
    named |= {file.stem: file.read_text(encoding="utf-8") for file in path.glob("additional_chat_templates/*.jinja")}
    file = path / "chat_template.jinja"
    if file.exists():
        named["default"] = file.read_text(encoding="utf-8")
    return named.get("default", named or None) if set(named) <= {"default"} else named


def make_special(backend: Tokenizer, special: dict[str, Any]) -> None:
    """Make the tokens special that are named so, if the vocabulary has them, whatever tokenizer.json says of them."""
    names = [name for value in special.values() for name in (value if isinstance(value, list) else [value])]
    known = {token.content for token in backend.get_added_tokens_decoder().values() if token.special}
    backend.add_special_tokens(
        [name for name in dict.fromkeys(names) if name not in known and backend.token_to_id(name) is not None]
    )


def read_gguf(path: Path) -> tuple[Tokenizer, ChatFormat, list[int]]:
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
        make_special(backend, named)
        template = fields.text("chat_template", "") or None
        check_template(template or "", f"{path}: tokenizer.chat_template")
        return backend, ChatFormat(template, named), end_ids_in(fields)


def end_ids_in(fields: Fields) -> list[int]:
    """The end tokens that a GGUF file names."""
    ends = (id_under(fields, kind) for kind in ("eos", "eot", "eom"))
    return [end_id for end_id in ends if end_id is not None]


def read_other(directory: Path, path: Path) -> tuple[Tokenizer, ChatFormat, list[int]]:
    """A directory's tokenizer in place of the one of the checkpoint at `path`, whose end tokens hold as well."""
    if not (directory / "tokenizer.json").is_file():
        raise CheckpointError(f"{directory}: expected a directory with a tokenizer.json, found none")
    backend, chat_format, end_ids = read_directory(directory)
    if not is_gguf(path):
        return backend, chat_format, end_ids + end_ids_of(path)
    with reading(path, "a GGUF file"):
        fields = Fields(read_gguf_header(path).metadata, str(path), "tokenizer.")
        if chat_format.template is None:
            template = fields.text("chat_template", "") or None
            check_template(template or "", f"{path}: tokenizer.chat_template")
            chat_format = replace(chat_format, template=template)
        return backend, chat_format, end_ids + end_ids_in(fields)


def id_under(fields: Fields, kind: str) -> int | None:
    """The id of a special token; None where there is none."""
    key = f"ggml.{kind}_token_id"
    return fields.integer(key, 0, (1 << 32) - 1) if key in fields else None


def without_padding(backend: Tokenizer) -> None:
    """Drop what would cut or stretch a prompt: how long one may be is the engine's to say."""
    backend.no_padding()
    backend.no_truncation()
