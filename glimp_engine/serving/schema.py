"""What /openapi.json says: the statuses that there are, and what a stream is."""

from typing import Any

from fastapi import FastAPI

from glimp_engine.serving.problems import KINDS
from glimp_engine.serving.protocol import MOST_TOKEN_IDS

__all__ = ["describe"]

ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "integer", "null"]},
            },
        }
    },
}
STREAMS = ("/v1/chat/completions", "/v1/completions", "/v1/responses")
TEXTS = {"/metrics": "text/plain"}  # what isn't JSON


def describe(app: FastAPI, num_tokens: int) -> None:
    """Let the application's description be true, for a vocabulary of so many tokens."""
    plain = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = plain()
            schema.setdefault("components", {}).setdefault("schemas", {})["Error"] = ERROR
            bound_ids(schema, num_tokens)
            for path, operations in schema["paths"].items():
                for operation in operations.values():
                    correct(path, operation["responses"])
        return app.openapi_schema or {}

    app.openapi = openapi  # type: ignore[method-assign]


def bound_ids(schema: Any, num_tokens: int) -> None:
    """Say how large a token id may be, wherever one stands."""
    if isinstance(schema, dict):
        if schema.get("maximum") == MOST_TOKEN_IDS:
            schema["maximum"] = num_tokens - 1
        for value in schema.values():
            bound_ids(value, num_tokens)
    elif isinstance(schema, list):
        for value in schema:
            bound_ids(value, num_tokens)


def correct(path: str, responses: dict[str, Any]) -> None:
    """Each status of an operation, and the type of what comes with it."""
    responses.pop("422", None)  # FastAPI's own way to say that a body is wrong; ours is 400
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    for status, kind in {**KINDS, 500: "internal_server_error"}.items():
        responses[str(status)] = {"description": kind, "content": error}
    told = {"schema": {"type": "object"}}
    responses["200"]["content"] = {TEXTS.get(path, "application/json"): {} if path in TEXTS else told}
    if path in STREAMS:
        responses["200"]["content"]["text/event-stream"] = {}
