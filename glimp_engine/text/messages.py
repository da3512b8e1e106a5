"""Chat messages as they are given, and as a template may read them.

What a user writes is text: the names of special tokens in it are broken up by a mark, which is no character, so that
they pass through the template as they are and are never taken for the template's own.
"""

import dataclasses
import json
from collections.abc import Collection, Mapping
from itertools import pairwise
from typing import Any

import numpy as np

from glimp_engine.errors import RequestError, shown

__all__ = ["BREAK", "REASONING", "Chat", "SpecialNames", "plain", "read_messages"]

BREAK = "\ufdd0"  # a noncharacter: no text has it
REASONING = ("reasoning_content", "reasoning", "thinking")  # what a message's thinking may be called; the first is read
TEXT_PARTS = ("text", "input_text", "output_text")  # as OpenAI's two APIs call them


@dataclasses.dataclass(frozen=True)
class Chat:
    """Messages, and what a template is told beside them; names as in vLLM's `LLM.chat`.

    continue_final_message leaves the last message open, so that the answer goes on with it. With parse_special the
    names of special tokens in messages become those tokens. max_thinking_tokens 0 asks for an answer without thinking.
    """

    messages: list[Any]
    tools: list[Any] | None = None
    documents: list[Any] | None = None
    chat_template_kwargs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    add_generation_prompt: bool | None = None  # None: unless the final message is continued
    continue_final_message: bool = False
    parse_special: bool = False
    is_thinking_allowed: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.messages, (list, tuple)) or not self.messages:
            raise RequestError(f"messages is {shown(self.messages)}; allowed: a list of at least one message")
        for name in ("tools", "documents"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, (list, tuple)):
                raise RequestError(f"{name} is {shown(value)}; allowed: None or a list")
        for name in ("continue_final_message", "parse_special"):
            if not isinstance(getattr(self, name), bool):
                raise RequestError(f"{name} is {shown(getattr(self, name))}; allowed: True or False")
        if self.add_generation_prompt not in (None, True, False):
            raise RequestError(f"add_generation_prompt is {shown(self.add_generation_prompt)}; allowed: True or False")
        if self.continue_final_message and self.add_generation_prompt:
            raise RequestError("add_generation_prompt and continue_final_message are both True; allowed: one of them")


class SpecialNames:
    """The names of special tokens, to be broken up where they stand in a text."""

    def __init__(self, names: Collection[str]) -> None:
        self._names = frozenset(name for name in names if len(name) > 1)
        self._starts = {name[0] for name in self._names}
        self._lengths = sorted(map(len, self._names))

    def broken(self, text: str, kept: Collection[str] = ()) -> str:
        """The text with a mark behind the first character of each name, but for the names to keep."""
        return BREAK.join(self.pieces(text, kept))

    def pieces(self, text: str, kept: Collection[str] = ()) -> list[str]:
        """The text in pieces none of which has a whole name in it."""
        places = (i + 1 for i, char in enumerate(text) if char in self._starts and self._stands_at(text, i, kept))
        cuts = [0, *places, len(text)]
        return [text[begin:end] for begin, end in pairwise(cuts)]

    def _stands_at(self, text: str, start: int, kept: Collection[str]) -> bool:
        found = (text[start : start + length] for length in dict.fromkeys(self._lengths))
        return any(name in self._names and name not in kept for name in found)


def read_messages(messages: list[Any]) -> list[dict[str, Any]]:
    """The messages in plain types: text parts joined, the arguments of calls as objects, thinking under each name.

    Raises: RequestError that names the message and what is wrong with it.
    """
    return [read_message(message, f"messages[{i}]") for i, message in enumerate(messages)]


def read_message(message: Any, name: str) -> dict[str, Any]:
    """One message; without what is None, which many templates would write as a word."""
    if callable(getattr(message, "model_dump", None)):
        message = message.model_dump()  # of the openai package
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        raise RequestError(f"{name} is {shown(message)}; allowed: a dict with role and content")
    content, calls = message.get("content"), message.get("tool_calls")
    if content is None and not calls:
        raise RequestError(f"{name} is {shown(message)}; allowed: a dict with role and content, or tool_calls")
    read = {key: plain(value) for key, value in message.items() if value is not None}
    read["content"] = read_content(content, name)
    if calls:
        read["tool_calls"] = read_calls(calls, name)
    reasoning = next((read[key] for key in REASONING if key in read), None)
    if reasoning is not None and not isinstance(reasoning, str):
        raise RequestError(f"{name}: thinking is {shown(reasoning)}; allowed: text")
    return read if reasoning is None else {**dict.fromkeys(REASONING, reasoning), **read}


def read_content(content: Any, name: str) -> str:
    """What a message says. Its text parts are lines, as in vLLM; there are no models here that see or hear others."""
    if content is None:
        return ""
    if isinstance(content, str):
        return str(content)
    if not isinstance(content, (list, tuple)):
        raise RequestError(f"{name}: content is {shown(content)}; allowed: text, a list of text parts, or None")
    texts = []
    for i, part in enumerate(content):
        kind = part.get("type", "text") if isinstance(part, Mapping) else "text"
        text = part.get("text") if isinstance(part, Mapping) else part
        if kind not in TEXT_PARTS or not isinstance(text, str):
            raise RequestError(
                f"{name}: content[{i}] is {shown(part if kind in TEXT_PARTS else kind)}; "
                "allowed: {'type': 'text', 'text': ...}"
            )
        texts.append(text)
    return "\n".join(texts)


def read_calls(calls: Any, name: str) -> list[Any]:
    """Calls of tools; arguments come as JSON, and templates write them as an object."""
    if not isinstance(calls, (list, tuple)):
        raise RequestError(f"{name}: tool_calls is {shown(calls)}; allowed: a list")
    read = plain(list(calls))
    for i, call in enumerate(read):
        function = call.get("function", call) if isinstance(call, dict) else None
        if not isinstance(function, dict):
            raise RequestError(f"{name}: tool_calls[{i}] is {shown(call)}; allowed: a dict with a function")
        arguments = function.get("arguments")
        if isinstance(arguments, str):
            try:
                function["arguments"] = json.loads(arguments) if arguments.strip() else {}
            except (ValueError, RecursionError) as error:
                raise RequestError(
                    f"{name}: tool_calls[{i}] has arguments {shown(arguments)}; allowed: JSON ({error})"
                ) from None
    return list(read)


def plain(value: Any) -> Any:
    """The value in JSON's types, of which a template can't make anything else; what is none of these is named."""
    if value is None or type(value) in (str, int, float, bool):
        return value
    for kind in (str, int, float):
        if isinstance(value, kind):
            return getattr(kind, f"__{kind.__name__}__")(value)
    if isinstance(value, Mapping):
        return {plain(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(plain, value)) if type(value) in (list, tuple) else [plain(item) for item in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if callable(getattr(value, "model_dump", None)):
        return plain(value.model_dump())
    return f"<{type(value).__name__}>"
