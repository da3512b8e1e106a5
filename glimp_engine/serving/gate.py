"""What every request passes: its id, the key, the size of its body, and a line in the log when it has ended."""

import hmac
import json
import logging
import secrets
import time
from collections.abc import Iterable
from urllib.parse import quote

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from glimp_engine.serving.problems import ApiError

__all__ = ["Gate"]

MAX_BODY_BYTES = 64 << 20
MAX_ID_CHARS = 128
OPEN_PATHS = ("/health", "/", "/metrics", "/version")  # that tell nothing of what anybody has asked
log = logging.getLogger("glimp_engine.serving.requests")


class Gate:
    """An ASGI application before another."""

    def __init__(
        self, app: ASGIApp, api_keys: Iterable[str] = (), max_body_bytes: int = MAX_BODY_BYTES, log_json: bool = False
    ) -> None:
        """api_keys: any of these is asked for, if there are some."""
        self._app = app
        self._keys = [key.encode() for key in api_keys]
        self._max_body_bytes = max_body_bytes
        self._log_json = log_json

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        headers, began = Headers(scope=scope), time.perf_counter()
        request_id = clean_id(headers.get("x-request-id")) or secrets.token_hex(8)
        scope.setdefault("state", {})["request_id"] = request_id
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            error = self._refuses(scope, headers)
            if error is not None:
                await respond(send_with_id, error)
            else:
                await self._app(scope, Counted(receive, self._max_body_bytes), send_with_id)
        except TooLargeError as error:
            if status == 0:
                await respond(send_with_id, ApiError(413, str(error)))
        finally:
            self._tell(scope, request_id, status, time.perf_counter() - began)

    def _refuses(self, scope: Scope, headers: Headers) -> ApiError | None:
        declared = headers.get("content-length", "0")
        if declared.isdecimal() and int(declared) > self._max_body_bytes:
            return ApiError(413, f"the body has {declared} bytes; allowed: {self._max_body_bytes}")
        if not self._keys or scope["path"] in OPEN_PATHS or scope["method"] == "OPTIONS":
            return None
        scheme, _, key = headers.get("authorization", "").partition(" ")
        given = key.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        if any(hmac.compare_digest(given.encode(), known) for known in self._keys):
            return None
        return ApiError(
            401, "the API key is missing or wrong; allowed: Authorization: Bearer KEY", code="invalid_api_key"
        )

    def _tell(self, scope: Scope, request_id: str, status: int, seconds: float) -> None:
        """One line a request; 499 is a client that has gone away."""
        client = "-" if scope.get("client") is None else scope["client"][0]
        told = {
            **{"request_id": request_id, "client": client, "method": scope["method"], "path": quote(scope["path"])},
            **{"status": status or 499, "seconds": round(seconds, 4)},
            **scope["state"].get("told", {}),
        }
        line = json.dumps(told) if self._log_json else " ".join(f"{key}={value}" for key, value in told.items())
        log.info("%s", line)


class TooLargeError(Exception):
    """A body is larger than it may be."""


class Counted:
    """`receive`, which raises TooLargeError beyond a size."""

    def __init__(self, receive: Receive, max_bytes: int) -> None:
        self._receive = receive
        self._max_bytes = max_bytes
        self._num_bytes = 0

    async def __call__(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self._num_bytes += len(message.get("body", b""))
            if self._num_bytes > self._max_bytes:
                raise TooLargeError(f"the body has more than {self._max_bytes} bytes; allowed: as many")
        return message


def clean_id(given: str | None) -> str | None:
    """A client's id for its request, if it can stand in a log."""
    is_fit = given is not None and given.isascii() and given.isprintable() and 0 < len(given) <= MAX_ID_CHARS
    return given if is_fit else None


async def respond(send: Send, error: ApiError) -> None:
    """Send an error, without asking the application."""
    body = json.dumps(error.body()).encode()
    more = [(key.lower().encode(), value.encode()) for key, value in error.headers.items()]
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *more]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
