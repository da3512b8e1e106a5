"""POST /v1/completions."""

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from glimp_engine.outputs import CompletionOutput, RequestOutput
from glimp_engine.serving.answers import completion_logprobs, finish_of, shares_of, steps_of, usage, usage_of
from glimp_engine.serving.async_engine import RequestStream
from glimp_engine.serving.chat import finished
from glimp_engine.serving.deltas import Delta
from glimp_engine.serving.parameters import routing_of, sampling_of
from glimp_engine.serving.problems import ApiError
from glimp_engine.serving.protocol import CompletionRequest, StreamOptions
from glimp_engine.serving.served import Served
from glimp_engine.serving.sse import DONE, event, respond

__all__ = ["answer_completion"]

MAX_PROMPTS = 1024  # of one request


async def answer_completion(served: Served, fields: CompletionRequest, request: Request, request_id: str) -> Response:
    """The completions of one prompt or several, whole or as events."""
    prompts = prompts_of(fields)
    sampling, routing = sampling_of(fields), routing_of(fields, served.models)
    streams: list[RequestStream] = []
    try:
        for i, prompt in enumerate(prompts):
            own_id = request_id if len(prompts) == 1 else f"{request_id}-{i}"
            streams.append(await served.engine.add_request(own_id, prompt, sampling, routing))
    except BaseException:
        for stream in streams:
            stream.close()
        raise
    return await respond(CompletionAnswer(served, fields, streams), request, fields.stream)


def prompts_of(fields: CompletionRequest) -> list[str | list[int]]:
    """The prompts, one by one."""
    prompt = fields.prompt
    prompts: list[Any] = [prompt] if isinstance(prompt, str) or isinstance(prompt[0], int) else list(prompt)
    if len(prompts) > MAX_PROMPTS:
        raise ApiError(400, f"prompt has {len(prompts)} prompts; allowed: {MAX_PROMPTS}", "prompt")
    return prompts


class CompletionAnswer:
    """The answer to all prompts of a request on its way to the client. Choice i * n + j is of prompt i."""

    def __init__(self, served: Served, fields: CompletionRequest, streams: list[RequestStream]) -> None:
        self._served = served
        self._fields = fields
        self._streams = streams
        self._options = fields.stream_options or StreamOptions()
        self._num_each = fields.n or 1
        self._id = f"cmpl-{secrets.token_hex(12)}"
        self._created = int(time.time())
        self._num_written = 0
        self._offsets: dict[int, int] = {}  # by choice: characters told so far

    async def whole(self) -> dict[str, Any]:
        """The response in one."""
        try:
            for stream in self._streams:
                async for _ in self._served.deltas(stream):
                    pass
        finally:
            self._close()
        outputs = [finished(stream) for stream in self._streams]
        choices = [self._choice(i, output, each) for i, output in enumerate(outputs) for each in output.outputs]
        sequences = [each for output in outputs for each in output.outputs]
        shares = {} if self._is_score else {"glimp": shares_of(sequences, self._fields.include_steps)}
        return {**self._head(), "choices": choices, "usage": self._usage(outputs), **shares}

    @property
    def _is_score(self) -> bool:
        """Whether nothing is to be written: the token that was drawn all the same is left out."""
        return self._fields.max_tokens == 0

    def _choice(self, i: int, output: RequestOutput, own: CompletionOutput) -> dict[str, Any]:
        prompt_text = self._prompt_text(output.prompt_token_ids) if self._fields.echo else ""
        text = "" if self._is_score else own.text
        choice: dict[str, Any] = {"index": i * self._num_each + own.index, "text": prompt_text + text, "logprobs": None}
        if self._fields.logprobs is not None:
            choice["logprobs"] = self._logprobs(output, own, len(prompt_text))
        if self._fields.prompt_logprobs is not None:
            choice["prompt_logprobs"] = plain_logprobs(output)
        if self._fields.return_token_ids:
            choice["token_ids"] = [] if self._is_score else own.token_ids
            choice["prompt_token_ids"] = output.prompt_token_ids
        reason = "length" if self._is_score else finish_of(own.finish_reason)
        return {**choice, "finish_reason": reason, "stop_reason": own.stop_reason}

    def _logprobs(self, output: RequestOutput, own: CompletionOutput, offset: int) -> dict[str, list[Any]]:
        told: dict[str, list[Any]] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
        if self._fields.echo:
            text = self._served.text_named(self._fields.model)
            prompt = completion_logprobs(output.prompt_token_ids, output.prompt_logprobs or [], text, 0, is_start=True)
            told = {key: told[key] + prompt[key] for key in told}
        for step in () if self._is_score else own.steps:
            span = slice(step.token_start, step.token_end)
            text = self._served.text(step.model)
            of_step = completion_logprobs(own.token_ids[span], (own.logprobs or [])[span], text, offset)
            told = {key: told[key] + of_step[key] for key in told}
            offset += sum(map(len, of_step["tokens"]))
        return told

    def _prompt_text(self, token_ids: list[int]) -> str:
        """The prompt as its tokens read, special ones too."""
        text = self._served.text_named(self._fields.model)
        return b"".join(map(text.bytes_of, token_ids)).decode(errors="replace")

    def _usage(self, outputs: list[RequestOutput]) -> dict[str, Any]:
        each = [usage_of(output) for output in outputs]

        def total(*path: str) -> int:
            values: list[Any] = each
            for key in path:
                values = [value[key] for value in values]
            return sum(values)

        return usage(
            total("prompt_tokens"),
            0 if self._is_score else total("completion_tokens"),
            total("prompt_tokens_details", "cached_tokens"),
            total("completion_tokens_details", "reasoning_tokens"),
        )

    # As events.

    async def events(self) -> AsyncGenerator[str, None]:
        """The response in chunks."""
        try:
            async for i, delta in together([self._served.deltas(stream) for stream in self._streams]):
                yield self._chunk(i, delta)
            outputs = [finished(stream) for stream in self._streams]
        finally:
            self._close()
        if self._options.include_usage:
            yield event({**self._head(), "choices": [], "usage": self._usage(outputs)})
        yield DONE

    def _chunk(self, i: int, delta: Delta) -> str:
        index = i * self._num_each + delta.sequence_index
        text, token_ids = delta.text, delta.token_ids
        self._num_written += len(token_ids)
        offset = self._offsets.get(index, 0)
        if index not in self._offsets and self._fields.echo:
            offset = len(text := self._prompt_text(self._streams[i].prompt_token_ids) + text)
        self._offsets[index] = offset + len(delta.text)
        choice: dict[str, Any] = {"index": index, "text": text, "logprobs": None, "finish_reason": None}
        if self._fields.logprobs is not None and token_ids:
            told: dict[str, list[Any]] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
            for piece in delta.pieces:
                own = self._served.text(piece.step.model)
                of_piece = completion_logprobs(piece.token_ids, piece.logprobs, own, offset)
                told = {key: told[key] + of_piece[key] for key in told}
                offset += len(piece.text)
            choice["logprobs"] = told
        if self._fields.return_token_ids:
            choice["token_ids"] = token_ids
        chunk = {**self._head(), "choices": [choice]}
        if self._options.include_steps:
            chunk["glimp"] = steps_of(delta.pieces)
        if delta.finish is not None:
            choice["finish_reason"] = finish_of(delta.finish.finish_reason)
            choice["stop_reason"] = delta.finish.stop_reason
            if delta.output is not None and self._options.include_steps:
                chunk["glimp"] |= shares_of(delta.output.outputs)
        if self._options.continuous_usage_stats:
            num_prompt = sum(len(stream.prompt_token_ids) for stream in self._streams)
            chunk["usage"] = usage(num_prompt, self._num_written)
        elif self._options.include_usage:
            chunk["usage"] = None
        return event(chunk)

    def _head(self) -> dict[str, Any]:
        model = self._fields.model or self._served.models.names[0]
        return {"id": self._id, "object": "text_completion", "created": self._created, "model": model}

    def _close(self) -> None:
        for stream in self._streams:
            stream.close()


async def together(streams: list[AsyncIterator[Delta]]) -> AsyncIterator[tuple[int, Delta]]:
    """(index of the stream, delta) of all streams, as they come."""
    waiting = {next_of(stream): i for i, stream in enumerate(streams)}
    try:
        while waiting:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                i = waiting.pop(task)
                try:
                    delta = task.result()
                except StopAsyncIteration:
                    continue
                waiting[next_of(streams[i])] = i
                yield i, delta
    finally:
        for task in waiting:
            task.cancel()


def next_of(stream: AsyncIterator[Delta]) -> "asyncio.Task[Delta]":
    async def take() -> Delta:
        return await anext(stream)

    return asyncio.ensure_future(take())


def plain_logprobs(output: RequestOutput) -> list[dict[str, Any] | None]:
    """The prompt's log-probabilities as vLLM gives them: by token id."""
    return [
        None
        if each is None
        else {str(token_id): {"logprob": own.logprob, "rank": own.rank} for token_id, own in each.items()}
        for each in output.prompt_logprobs or []
    ]
