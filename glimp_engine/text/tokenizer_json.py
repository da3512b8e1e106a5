"""What a tokenizer's files may say, looked at before anything is built from them.

A tokenizer is built and run by a library in another language, where what is absurd doesn't raise but panics, aborts the
process, or never ends. Why it's looked at here and not tried in a process of its own: docs/decisions.md.
"""

import base64
import binascii
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from glimp_engine.checkpoints import check_file, read_json, shown
from glimp_engine.errors import CheckpointError

__all__ = ["MAX_ADDED_TOKENS", "check_regex", "check_template", "check_tokenizer_files"]

MAX_FILE_BYTES = 64 << 20
MAX_ADDED_TOKENS = 1 << 17  # speech models have 65,000
MAX_TOKEN_CHARS = 4096
MAX_TEMPLATE_CHARS = 1 << 18  # the longest known has 60,000
MAX_PARTS = 64  # of a normalizer, a pre-tokenizer, a post-processor
MAX_GROWTH = 64  # of a text by its normalizer
MAX_REGEX_CHARS = 4096
MAX_CHARSMAP_BYTES = 64  # that one character becomes
READ_SUFFIXES = (".json", ".jinja", ".model", ".txt", ".tiktoken")


def check_tokenizer_files(path: Path) -> None:
    """Raise CheckpointError if one of the directory's tokenizer files is none, or asks for more than it may.

    Cost:   reads tokenizer.json once more: 30 ms a MB.
    """
    templates = path / "additional_chat_templates"
    for file in (*path.iterdir(), *(templates.iterdir() if templates.is_dir() else ())):
        if file.suffix in READ_SUFFIXES:
            check_file(file, MAX_FILE_BYTES)
    for file in (*path.glob("*.jinja"), *templates.glob("*.jinja")):
        check_template(file.read_text(encoding="utf-8"), str(file))
    for name in ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"):
        if (path / name).exists():
            check_config(read_json(path / name), str(path / name))
    if (path / "tokenizer.json").exists():
        check_tokenizer(read_json(path / "tokenizer.json"), str(path / "tokenizer.json"))


def check_template(template: str, where: str) -> None:
    """Raise CheckpointError if a chat template is too long."""
    if len(template) > MAX_TEMPLATE_CHARS:
        raise CheckpointError(
            f"{where}: expected a chat template of at most {MAX_TEMPLATE_CHARS} characters, found {len(template)}"
        )


def check_config(config: dict[str, Any], where: str) -> None:
    """Raise CheckpointError if what goes beside tokenizer.json is too much of it."""
    for value in walk(config):
        if isinstance(value, str):
            check_template(value, where)
    for key, value in {**config, "this file": config}.items():
        if isinstance(value, (list, dict)) and len(value) > MAX_ADDED_TOKENS:
            raise CheckpointError(f"{where}: {key}: expected at most {MAX_ADDED_TOKENS} entries, found {len(value)}")


def check_tokenizer(contents: dict[str, Any], where: str) -> None:
    """Raise CheckpointError if tokenizer.json asks for more than a text's length, its own size and a limit allow."""
    added = contents.get("added_tokens") or []
    if not isinstance(added, list) or len(added) > MAX_ADDED_TOKENS:
        raise CheckpointError(f"{where}: added_tokens: expected at most {MAX_ADDED_TOKENS}, found {shown(added)}")
    for i, token in enumerate(added):
        content = token.get("content") if isinstance(token, dict) else None
        if not isinstance(content, str) or len(content) > MAX_TOKEN_CHARS:
            raise CheckpointError(
                f"{where}: added_tokens[{i}] is {shown(token)}; "
                f"expected content of at most {MAX_TOKEN_CHARS} characters"
            )
    for section in ("normalizer", "pre_tokenizer", "post_processor", "decoder"):
        check_section(section, contents.get(section), where)
    growth = 1.0
    for part in parts_of(contents.get("normalizer")):
        growth *= growth_of(part, where)
        if growth > MAX_GROWTH:
            raise CheckpointError(f"{where}: normalizer: expected text to grow {MAX_GROWTH} times at most, found more")


def check_section(section: str, value: Any, where: str) -> None:
    """Raise CheckpointError if a section has too many parts, or a part that would run for ever or panic."""
    parts = list(parts_of(value))
    if len(parts) > MAX_PARTS:
        raise CheckpointError(f"{where}: {section}: expected at most {MAX_PARTS} parts, found {len(parts)}")
    for part in parts:
        pattern = part.get("pattern")
        if isinstance(pattern, dict) and "Regex" in pattern:
            check_regex(pattern["Regex"], f"{where}: {section}")
        if part.get("type") == "FixedLength" and not part.get("length"):
            raise CheckpointError(f"{where}: {section}: FixedLength is {shown(part)}; expected a length from 1 on")
        pieces = part.get("single")
        if isinstance(pieces, list) and (
            len(pieces) > MAX_PARTS or sum("Sequence" in piece for piece in pieces if isinstance(piece, dict)) > 1
        ):
            raise CheckpointError(
                f"{where}: {section}: expected a template of at most {MAX_PARTS} pieces, one of them the text, "
                f"found {shown(pieces)}"
            )


def parts_of(section: Any) -> Iterator[dict[str, Any]]:
    """The objects within a section that have a type, as sequences hold them."""
    return (value for value in walk(section) if isinstance(value, dict) and "type" in value)


def walk(value: Any) -> Iterator[Any]:
    """The value and all within it."""
    waiting = [value]
    while waiting:
        value = waiting.pop()
        yield value
        if isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value


def growth_of(part: dict[str, Any], where: str) -> float:
    """How many times longer a part of a normalizer makes a text, at most."""
    kind = part.get("type")
    if kind == "Prepend":
        return 1 + len(str(part.get("prepend", "")))
    if kind == "Replace":
        pattern, content = part.get("pattern"), str(part.get("content", ""))
        plain = pattern.get("String") if isinstance(pattern, dict) else None
        if plain == "":
            raise CheckpointError(f"{where}: normalizer: Replace has an empty pattern; expected one of a character on")
        return max(1.0, len(content) / len(plain)) if isinstance(plain, str) else 1.0 + len(content)
    if kind == "ByteLevel":
        return 2.0
    if kind == "Precompiled":
        check_charsmap(part.get("precompiled_charsmap"), where)
    return 1.0  # the forms of Unicode, which don't add up: a text in one of them stays in it


def check_charsmap(charsmap: Any, where: str) -> None:
    """Raise CheckpointError if a map of characters makes one of them too long."""
    try:
        contents = base64.b64decode(str(charsmap), validate=True)
    except binascii.Error as error:
        raise CheckpointError(f"{where}: precompiled_charsmap: expected base64, found: {error}") from error
    trie_bytes = int.from_bytes(contents[:4], "little")
    longest = max(map(len, contents[4 + trie_bytes :].split(b"\0")), default=0)
    if longest > MAX_CHARSMAP_BYTES or trie_bytes % 4 or 4 + trie_bytes > len(contents):
        raise CheckpointError(
            f"{where}: precompiled_charsmap: expected characters that become {MAX_CHARSMAP_BYTES} bytes at most, "
            f"found {longest} behind {trie_bytes} of {len(contents)} bytes"
        )


def check_regex(pattern: Any, where: str) -> None:
    """Raise CheckpointError if a regular expression is too long, or can take time exponential in the text's length.

    That takes a repetition within one, as in (a+)+, or a call of a group by itself.
    """
    if not isinstance(pattern, str) or len(pattern) > MAX_REGEX_CHARS:
        raise CheckpointError(
            f"{where}: the pattern is {shown(pattern)}; expected a regular expression of {MAX_REGEX_CHARS} characters"
        )
    if re.search(r"\\[gk]|\(\?[R&0-9]", pattern):
        raise CheckpointError(f"{where}: the pattern {shown(pattern)} calls a group; expected none that does")
    if has_nested_repetition(pattern):
        raise CheckpointError(f"{where}: the pattern {shown(pattern)} repeats a repetition; expected none that does")


# an escaped character or property, a set, the two ends of a group, a repetition
TOKENS = re.compile(r"\\[pP]\{[^}]*\}|\\.|\[(?:\\.|\[:\w+:\]|[^\]\\])*\]|\(|\)|[*+]|\{\d*,?\d*\}", re.DOTALL)


def has_nested_repetition(pattern: str) -> bool:
    """Whether a group that is repeated without end has a repetition without end in it."""
    open_groups = [False]  # for each open group, whether it repeats something
    closed_at, closed_repeats = -1, False  # where a group has just ended, and whether that one did
    for token in TOKENS.finditer(pattern):
        written = token[0]
        if written == "(":
            open_groups.append(False)
        elif written == ")":
            closed_repeats = open_groups.pop() if len(open_groups) > 1 else False
            open_groups[-1] |= closed_repeats
            closed_at = token.end()
        elif is_endless(written):
            if token.start() == closed_at and closed_repeats:
                return True
            open_groups[-1] = True
    return False


def is_endless(written: str) -> bool:
    """Whether it's a repetition that goes on as long as the text does."""
    if written in ("*", "+"):
        return True
    count = re.fullmatch(r"\{(\d*)(,?)(\d*)\}", written)
    return count is not None and (bool(count[2] and not count[3]) or int(count[3] or count[1] or 0) > 16)
