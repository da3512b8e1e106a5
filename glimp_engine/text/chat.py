"""Chat messages as the text that a model was trained on."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerFast

from glimp_engine.errors import RequestError
from glimp_engine.text.sandbox import TemplateSandbox

__all__ = ["BEGIN_THINKING", "END_THINKING", "ChatTemplate"]

BEGIN_THINKING, END_THINKING = "<think>", "</think>"
REASONING = ("reasoning_content", "thinking", "reasoning")  # what a message's thinking may be called; the first is read


class ChatTemplate:
    """One model's template. `chat` has it, and the special tokens' names that stand in it."""

    def __init__(self, chat: PreTrainedTokenizerFast, has_thinking: bool) -> None:
        self._chat = chat
        self._sandbox = TemplateSandbox()
        self._has_thinking = has_thinking  # whether the vocabulary has </think>

    def render(self, messages: list[dict[str, Any]]) -> str:
        """The messages, up to where the answer begins; thinking is opened.

        Raises: RequestError when a message is malformed, or there is no template, or it refuses them.
        """
        for i, message in enumerate(messages):
            is_message = isinstance(message, dict) and isinstance(message.get("role"), str)
            if not is_message or not isinstance(message.get("content"), (str, list)):
                raise RequestError(f"messages[{i}] is {message!r}; allowed: a dict with role and content")
        if not self._chat.chat_template:
            raise RequestError("prompt is a list of messages, and the model has no chat template; allowed: text")
        try:
            return self._open_thinking(self._render(messages))
        except Exception as error:  # a template may raise anything
            raise RequestError(f"messages don't fit the chat template: {error}") from error

    def render_turn(self, question: str) -> str:
        """What ends an answer in its middle and asks a user's question; without a template the bare question."""
        if not self._chat.chat_template:
            return f"\n\n{question}\n"
        mark = "(here the answer ends)"
        turns = (("user", "?"), ("assistant", mark), ("user", question))
        return self._render([{"role": role, "content": content} for role, content in turns]).rpartition(mark)[2]

    def _render(self, messages: list[dict[str, Any]]) -> str:
        """What transformers' apply_chat_template writes, but within limits."""
        if not messages:
            raise ValueError("there are no messages; allowed: one or more")
        values = {
            **self._chat.special_tokens_map,
            "messages": [with_reasoning(plain_message(message)) for message in messages],
            "tools": None,
            "documents": None,
            "add_generation_prompt": True,
        }
        return self._sandbox.render(self._source(), values)

    def _source(self) -> str:
        """The template, the default one of several."""
        template = self._chat.chat_template
        if isinstance(template, dict):
            if "default" not in template:
                raise ValueError(f"the model has several templates, {', '.join(sorted(template))}, and no default")
            template = template["default"]
        return str(template)

    def _open_thinking(self, rendered: str) -> str:
        """Append <think> for a thinking model whose template leaves that to the model, so that step 0 is glimpsed."""
        thinks = self._has_thinking and END_THINKING in str(self._chat.chat_template)
        is_decided = rendered.rstrip().endswith((BEGIN_THINKING, END_THINKING))  # opened, or closed: not to think
        return rendered + f"{BEGIN_THINKING}\n" if thinks and not is_decided else rendered


def plain_message(message: Mapping[str, Any]) -> dict[str, Any]:
    """The message in plain types, without what is None: many templates would write the word."""
    return {key: plain(value) for key, value in message.items() if value is not None}


def with_reasoning(message: dict[str, Any]) -> dict[str, Any]:
    """The message with its thinking under the names that templates read."""
    reasoning = next((message[key] for key in REASONING if message.get(key) is not None), None)
    return message if reasoning is None else {"thinking": reasoning, **message, "reasoning_content": reasoning}


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
