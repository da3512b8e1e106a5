"""An answer's text as the parts of a message: reasoning, content, calls of tools."""

from typing import Any

from glimp_engine.serving.call_parser import CallDelta, CallParser, Deltas
from glimp_engine.serving.reasoning import ReasoningSplitter

__all__ = ["MessageParts"]


class MessageParts:
    """Grows with the text; `take` gives what is new, `message` all of it."""

    def __init__(self, splitter: ReasoningSplitter, parser: CallParser | None) -> None:
        self.num_calls = 0
        self._splitter = splitter
        self._parser = parser
        self._reasoning: list[str] = []
        self._content: list[str] = []
        self._calls: list[CallDelta] = []

    def push(self, text: str) -> None:
        """Take text in."""
        self._add(*self._splitter.push(text))

    def finish(self) -> None:
        """There is no more text."""
        self._add(*self._splitter.finish())
        if self._parser is not None:
            self._add_deltas(self._parser.finish())

    def take(self, with_reasoning: bool) -> dict[str, Any]:
        """A chunk's delta: what has come since the last one, as OpenAI has it; thinking by both of its names."""
        reasoning, content, calls = "".join(self._reasoning), "".join(self._content), self._calls
        self._reasoning, self._content, self._calls = [], [], []
        told: dict[str, Any] = {}
        if reasoning and with_reasoning:
            told |= {"reasoning": reasoning, "reasoning_content": reasoning}
        if content:
            told["content"] = content
        if calls:
            told["tool_calls"] = [call_delta(call) for call in calls]
        return told

    def message(self, with_reasoning: bool) -> dict[str, Any]:
        """The whole message, if nothing of it was taken before."""
        reasoning, content = "".join(self._reasoning), "".join(self._content)
        told: dict[str, Any] = {"content": content or (None if self._calls else "")}
        if reasoning and with_reasoning:
            told |= {"reasoning": reasoning, "reasoning_content": reasoning}
        if self._calls:
            told["tool_calls"] = joined(self._calls)
        return told

    def _add(self, reasoning: str, content: str) -> None:
        if reasoning:
            self._reasoning.append(reasoning)
        if content and self._parser is None:
            self._content.append(content)
        elif content and self._parser is not None:
            self._add_deltas(self._parser.push(content))

    def _add_deltas(self, deltas: Deltas) -> None:
        for delta in deltas:
            if isinstance(delta, CallDelta):
                self.num_calls = max(self.num_calls, delta.index + 1)
                self._calls.append(delta)
            else:
                self._content.append(delta.text)


def call_delta(call: CallDelta) -> dict[str, Any]:
    """A fragment of a call."""
    function = {"arguments": call.arguments} if call.name is None else {"name": call.name, "arguments": call.arguments}
    told = {"index": call.index, "function": function}
    return told if call.id is None else {**told, "id": call.id, "type": "function"}


def joined(calls: list[CallDelta]) -> list[dict[str, Any]]:
    """Whole calls of their fragments."""
    whole: dict[int, dict[str, Any]] = {}
    for call in calls:
        if call.index not in whole:
            function = {"name": call.name, "arguments": ""}
            whole[call.index] = {"id": call.id, "type": "function", "function": function}
        whole[call.index]["function"]["arguments"] += call.arguments
    return list(whole.values())
