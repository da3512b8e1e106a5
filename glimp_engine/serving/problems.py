"""What goes wrong with a request, in OpenAI's shape: a status, and a body that names the field."""

import logging
import re
from typing import Any

from glimp_engine.errors import CapacityError, ConfigError, EngineError, RequestError
from glimp_engine.serving.async_engine import QueueFullError

__all__ = ["ApiError", "api_error", "field_of"]

KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    404: "not_found_error",
    405: "invalid_request_error",
    413: "invalid_request_error",
    422: "invalid_request_error",
    429: "rate_limit_error",
    503: "service_unavailable_error",
}
log = logging.getLogger(__name__)
FIELD = re.compile(r"[A-Za-z_][\w.\[\]'\"]*")


class ApiError(Exception):
    """An answer that isn't the one that was asked for."""

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None) -> None:
        """param: the field of the request that is to blame."""
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code

    @property
    def headers(self) -> dict[str, str]:
        """What the status asks for."""
        more = {401: {"WWW-Authenticate": "Bearer"}, 429: {"Retry-After": "1"}, 503: {"Retry-After": "10"}}
        return more.get(self.status, {})

    def body(self) -> dict[str, Any]:
        """The JSON that tells of it."""
        kind = KINDS.get(self.status, "internal_server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code or self.status}}


def api_error(error: Exception, is_draining: bool = False) -> ApiError:
    """What a client is told of an error of the engine's."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, QueueFullError):
        return ApiError(429, str(error))
    if isinstance(error, EngineError) and is_draining:
        return ApiError(503, str(error))
    if isinstance(error, (ConfigError, RequestError, CapacityError)):
        message = str(error)
        code = "context_length_exceeded" if "max_model_len" in message else None
        return ApiError(400, message, field_of(message), code)
    if isinstance(error, EngineError):
        return ApiError(500, str(error))
    log.error("a request has failed", exc_info=error)
    return ApiError(500, "the server has failed; its log says how")


def field_of(message: str) -> str | None:
    """The field that an error's message names first."""
    found = FIELD.match(message)
    return found.group() if found and (" is " in message or " has " in message) else None
