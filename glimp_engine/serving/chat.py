"""POST /v1/chat/completions."""

import secrets
import time
from collections.abc import AsyncGenerator, Iterator
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from glimp_engine.outputs import CompletionOutput, RequestOutput
from glimp_engine.serving.answers import chat_logprobs, finish_of, shares_of, steps_of, usage, usage_of
from glimp_engine.serving.async_engine import RequestStream
from glimp_engine.serving.deltas import Delta, Piece
from glimp_engine.serving.messages import MessageParts
from glimp_engine.serving.parameters import routing_of, sampling_of
from glimp_engine.serving.problems import ApiError
from glimp_engine.serving.protocol import ChatRequest, StreamOptions
from glimp_engine.serving.served import Served
from glimp_engine.serving.sse import DONE, event, respond

__all__ = ["answer_chat"]


async def answer_chat(served: Served, fields: ChatRequest, request: Request, request_id: str) -> Response:
    """The answer to a chat, whole or as events."""
    sampling, routing = sampling_of(fields), routing_of(fields, served.models)
    stream = await served.engine.add_request(request_id, prompt_of(fields), sampling, routing)
    return await respond(ChatAnswer(served, fields, stream), request, fields.stream)


def prompt_of(fields: ChatRequest) -> dict[str, Any]:
    """The messages and what is told to the template, as the engine takes them."""
    names = ("documents", "add_generation_prompt", "continue_final_message")
    prompt = {name: getattr(fields, name) for name in names}
    messages = [message.model_dump(exclude_unset=True) for message in fields.messages]
    return {**prompt, "messages": messages, "tools": fields.tools if fields.tool_choice != "none" else None}


class ChatAnswer:
    """One request's answer on its way to the client."""

    def __init__(self, served: Served, fields: ChatRequest, stream: RequestStream) -> None:
        self._served = served
        self._fields = fields
        self._stream = stream
        self._options = fields.stream_options or StreamOptions()
        self._id = f"chatcmpl-{secrets.token_hex(12)}"
        self._created = int(time.time())
        self._num_written = 0

    async def whole(self) -> dict[str, Any]:
        """The response in one."""
        try:
            async for _ in self._served.deltas(self._stream):
                pass
        finally:
            self._stream.close()
        output = finished(self._stream)
        choices = [self._choice(each) for each in output.outputs]
        shares = shares_of(output.outputs, self._fields.include_steps)
        return {**self._head("chat.completion"), "choices": choices, "usage": usage_of(output), "glimp": shares}

    def _choice(self, output: CompletionOutput) -> dict[str, Any]:
        parts = self._parts()
        parts.push(output.text)
        parts.finish()
        choice = {
            "index": output.index,
            "message": {"role": "assistant", **parts.message(self._fields.include_reasoning)},
            "logprobs": None,
            "finish_reason": finish_of(output.finish_reason, bool(parts.num_calls)),
            "stop_reason": output.stop_reason,
        }
        if self._fields.logprobs:
            choice["logprobs"] = {"content": self._logprobs_of(output)}
        if self._fields.return_token_ids:
            choice["token_ids"] = output.token_ids
        return choice

    def _logprobs_of(self, output: CompletionOutput) -> list[dict[str, Any]]:
        told = []
        for step in output.steps:
            span = slice(step.token_start, step.token_end)
            own = (output.logprobs or [])[span]
            told += chat_logprobs(output.token_ids[span], own, self._served.text(step.model))
        return told

    async def events(self) -> AsyncGenerator[str, None]:
        """The response in chunks."""
        parts: dict[int, MessageParts] = {}
        try:
            async for delta in self._served.deltas(self._stream):
                index = delta.sequence_index
                if index not in parts:
                    parts[index] = self._parts()
                    yield self._chunk([choice_of(index, {"role": "assistant", "content": ""})])
                for chunk in self._pieces(delta, parts[index]):
                    yield chunk
            output = finished(self._stream)
        finally:
            self._stream.close()
        if self._options.include_usage:
            yield event({**self._head("chat.completion.chunk"), "choices": [], "usage": usage_of(output)})
        yield DONE

    def _pieces(self, delta: Delta, parts: MessageParts) -> Iterator[str]:
        """The chunks of a delta: what it says, if it says anything, and then why the answer has ended."""
        parts.push(delta.text)
        self._num_written += len(delta.token_ids)
        if delta.finish is not None:
            parts.finish()
        choice = choice_of(delta.sequence_index, parts.take(self._fields.include_reasoning))
        if self._fields.logprobs and delta.token_ids:
            choice["logprobs"] = {"content": self._logprobs(delta.pieces)}
        if self._fields.return_token_ids:
            choice["token_ids"] = delta.token_ids
        more = {"glimp": steps_of(delta.pieces)} if self._options.include_steps and delta.pieces else {}
        if choice["delta"] or choice["logprobs"] or choice.get("token_ids") or more:
            yield self._chunk([choice], more)
        if delta.finish is not None:
            reason = finish_of(delta.finish.finish_reason, bool(parts.num_calls))
            ended = choice_of(delta.sequence_index, {})
            ended |= {"finish_reason": reason, "stop_reason": delta.finish.stop_reason}
            is_told = self._options.include_steps and delta.output is not None
            yield self._chunk([ended], {"glimp": shares_of(delta.output.outputs)} if is_told and delta.output else {})

    def _logprobs(self, pieces: list[Piece]) -> list[dict[str, Any]]:
        return [
            each
            for piece in pieces
            for each in chat_logprobs(piece.token_ids, piece.logprobs, self._served.text(piece.step.model))
        ]

    def _chunk(self, choices: list[dict[str, Any]], more: dict[str, Any] | None = None) -> str:
        told = {**self._head("chat.completion.chunk"), "choices": choices, **(more or {})}
        if self._options.continuous_usage_stats:
            told["usage"] = usage(len(self._stream.prompt_token_ids), self._num_written)
        elif self._options.include_usage:
            told["usage"] = None
        return event(told)

    def _head(self, kind: str) -> dict[str, Any]:
        model = self._fields.model or self._served.models.names[0]
        return {"id": self._id, "object": kind, "created": self._created, "model": model, "system_fingerprint": None}

    def _parts(self) -> MessageParts:
        return self._served.parts_of(self._stream, self._fields.tools, self._fields.tool_choice)


def choice_of(index: int, delta: dict[str, Any]) -> dict[str, Any]:
    """A choice of a chunk."""
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}


def finished(stream: RequestStream) -> RequestOutput:
    """The output of a stream that is over. Raises: ApiError when the request failed."""
    assert stream.output is not None
    if stream.output.error is not None:
        raise ApiError(500, stream.output.error)
    return stream.output
