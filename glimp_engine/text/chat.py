"""Chat messages as the text that a model was trained on."""

from typing import Any

from transformers import PreTrainedTokenizerFast

from glimp_engine.errors import RequestError

__all__ = ["BEGIN_THINKING", "END_THINKING", "ChatTemplate"]

BEGIN_THINKING, END_THINKING = "<think>", "</think>"


class ChatTemplate:
    """One model's template. `chat` has it, and the special tokens' names that stand in it."""

    def __init__(self, chat: PreTrainedTokenizerFast, has_thinking: bool) -> None:
        self._chat = chat
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
        return str(self._chat.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))

    def _open_thinking(self, rendered: str) -> str:
        """Append <think> for a thinking model whose template leaves that to the model, so that step 0 is glimpsed."""
        thinks = self._has_thinking and END_THINKING in str(self._chat.chat_template)
        is_decided = rendered.rstrip().endswith((BEGIN_THINKING, END_THINKING))  # opened, or closed: not to think
        return rendered + f"{BEGIN_THINKING}\n" if thinks and not is_decided else rendered
