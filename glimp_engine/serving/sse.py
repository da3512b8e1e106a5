"""Server-sent events, and requests whose client goes away."""

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable
from contextlib import aclosing
from typing import Any, Protocol, TypeVar

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Send

from glimp_engine.serving.problems import api_error

__all__ = ["DONE", "Answer", "event", "respond"]

T = TypeVar("T")
DONE = "data: [DONE]\n\n"
LEFT = 499  # nginx's status of a client that has gone away


def event(data: dict[str, Any], name: str | None = None) -> str:
    """One event with JSON in it, by a name if it has one."""
    told = "" if name is None else f"event: {name}\n"
    return f"{told}data: {json.dumps(data, ensure_ascii=False, separators=(',', ':'))}\n\n"


class EventStreamResponse(StreamingResponse):
    """Events as they come. When the client goes away, the generator is closed at once.

    What goes wrong behind the first event is an event, too: the status has been sent.
    """

    def __init__(self, events: AsyncGenerator[str, None]) -> None:
        super().__init__(events, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        self._events = events

    async def stream_response(self, send: Send) -> None:
        async with aclosing(self._events):
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            try:
                async for each in self._events:
                    await send({"type": "http.response.body", "body": each.encode(), "more_body": True})
            except Exception as error:
                body = event(api_error(error).body()) + DONE
                await send({"type": "http.response.body", "body": body.encode(), "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})


class Answer(Protocol):
    """What an endpoint writes."""

    def events(self) -> AsyncGenerator[str, None]:
        """All of it, as it comes."""

    async def whole(self) -> dict[str, Any]:
        """All of it, when it's there."""


async def respond(answer: Answer, request: Request, is_stream: bool | None) -> Response:
    """The answer in the form that was asked for; who leaves before it's there gets none."""
    if is_stream:
        return EventStreamResponse(answer.events())
    whole = await until_disconnected(request, answer.whole())
    return Response(status_code=LEFT) if whole is None else JSONResponse(whole)


async def until_disconnected(request: Request, work: Awaitable[T]) -> T | None:
    """What the work gives; None, with the work cancelled, when the client goes away before."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(disconnected(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        return await working if working.done() else None
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def disconnected(request: Request) -> None:
    """Return when the client has gone away."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
