"""POST /v1/responses: a chat by OpenAI's newer names, text in and text out."""

import secrets
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from glimp_engine.outputs import FinishReason, RequestOutput
from glimp_engine.serving.answers import shares_of, usage_of
from glimp_engine.serving.async_engine import RequestStream
from glimp_engine.serving.chat import finished, prompt_of
from glimp_engine.serving.parameters import routing_of, sampling_of
from glimp_engine.serving.protocol import ChatRequest, InputMessage, InputReasoning, ResponsesRequest
from glimp_engine.serving.served import Served
from glimp_engine.serving.sse import event, respond

__all__ = ["answer_response"]


async def answer_response(served: Served, fields: ResponsesRequest, request: Request, request_id: str) -> Response:
    """The response to an input, whole or as events."""
    chat = as_chat(fields)
    sampling, routing = sampling_of(chat), routing_of(chat, served.models)
    stream = await served.engine.add_request(request_id, prompt_of(chat), sampling, routing)
    return await respond(ResponseAnswer(served, fields, stream), request, fields.stream)


def as_chat(fields: ResponsesRequest) -> ChatRequest:
    """The same as a chat."""
    instructions = [] if fields.instructions is None else [{"role": "system", "content": fields.instructions}]
    items = [InputMessage(role="user", content=fields.input)] if isinstance(fields.input, str) else fields.input
    effort = None if fields.reasoning is None else fields.reasoning.effort
    return ChatRequest.model_validate(
        {
            "model": fields.model,
            "messages": [*instructions, *messages_of(items)],
            "max_tokens": fields.max_output_tokens,
            "temperature": fields.temperature,
            "top_p": fields.top_p,
            "reasoning_effort": effort,
            "response_format": response_format(fields),
            "routing": fields.routing,
        }
    )


def response_format(fields: ResponsesRequest) -> Any:
    """`text.format` as a chat has it: there a schema's fields stand in an object of their own."""
    form = None if fields.text is None else fields.text.format
    if form is None or form.get("type") != "json_schema":
        return form
    return {"type": "json_schema", "json_schema": {key: value for key, value in form.items() if key != "type"}}


def messages_of(items: Sequence[InputMessage | InputReasoning]) -> Iterator[dict[str, Any]]:
    """The messages among the input's items; what an earlier response thought goes to the message behind it."""
    thought = ""
    for item in items:
        if isinstance(item, InputReasoning):
            thought = "".join(part.text for part in item.content or [])
            continue
        message = item.model_dump(exclude_unset=True, exclude={"type"})
        if item.role == "developer":
            message["role"] = "system"
        if thought and item.role == "assistant":
            message["reasoning_content"] = thought
        thought = ""
        yield message


class ResponseAnswer:
    """One response on its way to the client: what was thought is an item, what is said another one."""

    def __init__(self, served: Served, fields: ResponsesRequest, stream: RequestStream) -> None:
        self._served = served
        self._fields = fields
        self._stream = stream
        self._parts = served.parts_of(stream, None, None)
        self._id = f"resp_{secrets.token_hex(16)}"
        self._created = int(time.time())
        self._items: list[OpenItem] = []
        self._num_events = 0

    async def whole(self) -> dict[str, Any]:
        """The response in one."""
        async for _ in self._told():
            pass
        return self._response(finished(self._stream))

    async def events(self) -> AsyncGenerator[str, None]:
        """The response as typed events."""
        for name in ("response.created", "response.in_progress"):
            yield self._event(name, response=self._response(None))
        async for name, told in self._told():
            yield self._event(name, **told)
        response = self._response(finished(self._stream))
        yield self._event(f"response.{response['status']}", response=response)

    async def _told(self) -> AsyncGenerator[tuple[str, dict[str, Any]], None]:
        """(name, fields) of each event of an item, as the stream brings its text."""
        try:
            async for delta in self._served.deltas(self._stream):
                self._parts.push(delta.text)
                if delta.finish is not None:
                    self._parts.finish()
                new = self._parts.take(with_reasoning=True)
                for kind, text in (("reasoning", new.get("reasoning")), ("message", new.get("content"))):
                    if text:
                        for each in self._grow(kind, text):
                            yield each
            if not self._items or self._items[-1].kind != "message":
                for each in self._grow("message", ""):
                    yield each
            for each in self._items[-1].end():
                yield each
        finally:
            self._stream.close()

    def _grow(self, kind: str, text: str) -> Iterator[tuple[str, dict[str, Any]]]:
        if not self._items or self._items[-1].kind != kind:
            if self._items:
                yield from self._items[-1].end()
            self._items.append(OpenItem(kind, len(self._items)))
            yield from self._items[-1].begin()
        if text:
            yield self._items[-1].grow(text)

    def _response(self, output: RequestOutput | None) -> dict[str, Any]:
        """The response so far, or with the output when it has ended."""
        told: dict[str, Any] = {
            **{"id": self._id, "object": "response", "created_at": self._created, "status": "in_progress"},
            **{"error": None, "incomplete_details": None, "instructions": self._fields.instructions},
            **{"model": self._fields.model or self._served.models.names[0], "output": [], "usage": None},
            **{"max_output_tokens": self._fields.max_output_tokens, "metadata": self._fields.metadata or {}},
            **{"temperature": self._fields.temperature, "top_p": self._fields.top_p, "truncation": "disabled"},
            **{"tools": [], "tool_choice": "none", "parallel_tool_calls": False, "previous_response_id": None},
        }
        if output is None:
            return told
        is_whole = output.outputs[0].finish_reason is not FinishReason.LENGTH
        told["status"] = "completed" if is_whole else "incomplete"
        told["incomplete_details"] = None if is_whole else {"reason": "max_output_tokens"}
        told["output"] = [item.whole() for item in self._items]
        told["usage"] = renamed(usage_of(output))
        told["glimp"] = shares_of(output.outputs)
        return told

    def _event(self, name: str, **told: Any) -> str:
        self._num_events += 1
        return event({"type": name, "sequence_number": self._num_events - 1, **told}, name)


class OpenItem:
    """An item of the output while its text grows."""

    def __init__(self, kind: str, index: int) -> None:
        """kind: reasoning or message."""
        self.kind = kind
        self._where = {"output_index": index, "item_id": f"{kind[:3]}_{secrets.token_hex(12)}"}
        self._texts: list[str] = []
        self._part = "reasoning_text" if kind == "reasoning" else "output_text"

    def begin(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """The events that open it."""
        item = {**self.whole("in_progress"), "content": []}
        yield "response.output_item.added", {"output_index": self._where["output_index"], "item": item}
        yield "response.content_part.added", {**self._where, "content_index": 0, "part": self._content()}

    def grow(self, text: str) -> tuple[str, dict[str, Any]]:
        """The event of more text."""
        self._texts.append(text)
        more: dict[str, Any] = {"logprobs": []} if self.kind == "message" else {}
        return f"response.{self._part}.delta", {**self._where, "content_index": 0, "delta": text, **more}

    def end(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """The events that close it."""
        more: dict[str, Any] = {"logprobs": []} if self.kind == "message" else {}
        text = "".join(self._texts)
        yield f"response.{self._part}.done", {**self._where, "content_index": 0, "text": text, **more}
        yield "response.content_part.done", {**self._where, "content_index": 0, "part": self._content()}
        yield "response.output_item.done", {"output_index": self._where["output_index"], "item": self.whole()}

    def whole(self, status: str = "completed") -> dict[str, Any]:
        """The item with its text."""
        role: dict[str, Any] = {"summary": []} if self.kind == "reasoning" else {"role": "assistant"}
        item = {"id": self._where["item_id"], "type": self.kind, "status": status, "content": [self._content()]}
        return {**item, **role}

    def _content(self) -> dict[str, Any]:
        more: dict[str, Any] = {"annotations": [], "logprobs": []} if self.kind == "message" else {}
        return {"type": self._part, "text": "".join(self._texts), **more}


def renamed(usage: dict[str, Any]) -> dict[str, Any]:
    """A chat's usage by this API's names."""
    return {
        "input_tokens": usage["prompt_tokens"],
        "input_tokens_details": usage["prompt_tokens_details"],
        "output_tokens": usage["completion_tokens"],
        "output_tokens_details": usage["completion_tokens_details"],
        "total_tokens": usage["total_tokens"],
    }
