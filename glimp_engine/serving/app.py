"""The HTTP application: OpenAI's endpoints, vLLM's beside them, and ours."""

import dataclasses
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse, Response
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request

from glimp_engine.errors import GlimpError
from glimp_engine.routing import RoutingParams, SmallOnly
from glimp_engine.serving.async_engine import AsyncEngine
from glimp_engine.serving.chat import answer_chat
from glimp_engine.serving.completions import answer_completion
from glimp_engine.serving.gate import Gate
from glimp_engine.serving.metrics import Metrics
from glimp_engine.serving.names import ServedModels
from glimp_engine.serving.page import page_response
from glimp_engine.serving.problems import ApiError, api_error
from glimp_engine.serving.protocol import (
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    ResponsesRequest,
    TokenizeRequest,
)
from glimp_engine.serving.responses import answer_response
from glimp_engine.serving.schema import describe
from glimp_engine.serving.served import Served
from glimp_engine.serving.tokens import detokenize, tokenize, tokenizer_info

__all__ = ["ServerOptions", "make_app"]

TYPES = ("str", "int", "float", "bool", "dict", "list", "literal")
LOCAL, LOCAL_ORIGIN = "localhost", r"https?://(localhost|127\.0\.0\.1|\[::1\])(:\d+)?"


@dataclasses.dataclass(frozen=True)
class ServerOptions:
    """How an engine is served."""

    model_names: tuple[str, ...] = ("glimp",)
    routing: RoutingParams | None = None  # what a bare name means
    api_keys: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()  # * for all, localhost for pages of this machine
    tool_parser: str | None = "auto"
    log_json: bool = False


def make_app(engine: AsyncEngine, options: ServerOptions) -> FastAPI:
    """The application over an engine, which whoever made it has to shut down."""
    has_large = engine.engine.has_large
    routing = options.routing or (RoutingParams() if has_large else RoutingParams(router=SmallOnly()))
    models = ServedModels(list(options.model_names), routing, has_large)
    served = Served(engine, models, Metrics(options.model_names[0]), options.tool_parser)
    app = FastAPI(title="glimp_engine", version=version("glimp_engine"), docs_url=None, redoc_url=None)
    add_answers(app, served)
    add_facts(app, served)
    add_errors(app, served)
    describe(app, served.text_named(None).num_tokens)
    if options.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=[origin for origin in options.cors_origins if origin != LOCAL],
            allow_origin_regex=LOCAL_ORIGIN if LOCAL in options.cors_origins else None,
            allow_methods=["GET", "POST", "DELETE", "OPTIONS"],
            allow_headers=["*"],
            allow_credentials=True,
            expose_headers=["X-Request-Id"],
        )
    app.add_middleware(Gate, api_keys=options.api_keys, log_json=options.log_json)
    return app


def add_answers(app: FastAPI, served: Served) -> None:
    """The endpoints that write."""

    @app.post("/chat/completions", include_in_schema=False)  # for clients whose base URL lacks the version
    @app.post("/v1/chat/completions")
    async def chat(fields: ChatRequest, request: Request) -> Response:
        return await answer_chat(served, fields, request, request_id(fields.request_id, request))

    @app.post("/completions", include_in_schema=False)
    @app.post("/v1/completions")
    async def completion(fields: CompletionRequest, request: Request) -> Response:
        return await answer_completion(served, fields, request, request_id(fields.request_id, request))

    @app.post("/responses", include_in_schema=False)
    @app.post("/v1/responses")
    async def response(fields: ResponsesRequest, request: Request) -> Response:
        return await answer_response(served, fields, request, request_id(None, request))

    @app.post("/tokenize")
    async def tokens(fields: TokenizeRequest) -> dict[str, Any]:
        return tokenize(served, fields)

    @app.post("/detokenize")
    async def text(fields: DetokenizeRequest) -> dict[str, Any]:
        return detokenize(served, fields)


def add_facts(app: FastAPI, served: Served) -> None:
    """The endpoints that tell."""

    @app.get("/", include_in_schema=False)
    def page() -> Response:
        return page_response(served.models.default)

    @app.get("/models", include_in_schema=False)
    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [model_card(served, name) for name in served.models.listed]}

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        served.models.router_of(name, 0)
        return model_card(served, name)

    @app.get("/health")
    async def health() -> Response:
        if served.engine.error is not None:
            raise ApiError(503, f"the engine has failed: {served.engine.error}")
        if served.engine.is_draining:
            raise ApiError(503, "the server is being shut down")
        return JSONResponse({"status": "ok"})

    @app.get("/load")
    async def load() -> dict[str, Any]:
        stats = await served.engine.stats()
        return {
            "server_load": served.engine.num_unfinished,
            "num_running": stats.num_running,
            "num_waiting": stats.num_waiting,
            "kv_cache_usage": stats.kv_cache_usage,
        }

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(served.metrics.text(await served.engine.stats()), media_type="text/plain; version=0.0.4")

    @app.get("/tokenizer_info")
    async def info() -> dict[str, Any]:
        return tokenizer_info(served)

    @app.get("/version")
    async def told_version() -> dict[str, Any]:
        return {"version": version("glimp_engine")}


def add_errors(app: FastAPI, served: Served) -> None:
    """Errors in OpenAI's shape."""

    def respond(error: ApiError) -> Response:
        return JSONResponse(error.body(), error.status, error.headers)

    async def told(request: Request, error: Exception) -> Response:
        return respond(api_error(error, served.engine.is_draining))

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        told = ApiError(error.status_code, f"{request.method} {request.url.path}: {error.detail}")
        return JSONResponse(told.body(), told.status, {**told.headers, **(error.headers or {})})

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, (RequestValidationError, ValidationError))
        return respond(invalid_field(error))

    for own in (ApiError, GlimpError, Exception):
        app.add_exception_handler(own, told)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(ValidationError, invalid)  # of a body that was made of another


def invalid_field(error: RequestValidationError | ValidationError) -> ApiError:
    """The field that is not as it must be; of a union's several complaints the first."""
    first = error.errors()[0]
    skipped = int(isinstance(error, RequestValidationError))  # where there is "body" before it
    place = [str(part) for part in first["loc"][skipped:] if is_field(part)]
    name = ".".join(place) or "body"
    if first["type"] == "extra_forbidden":
        return ApiError(400, f"{name} is no field that is known here; allowed: not to give it", name)
    return ApiError(400, f"{name}: {first['msg']}", name)


def is_field(part: int | str) -> bool:
    """Whether a part of an error's place is a field or an index, and not a type of the union that stands there."""
    return isinstance(part, int) or not (part[:1].isupper() or part in TYPES or "[" in part or "-" in part)


def request_id(given: str | None, request: Request) -> str:
    """The id that the body, the header or the gate gives it."""
    return str(given or request.scope["state"]["request_id"])


def model_card(served: Served, name: str) -> dict[str, Any]:
    """One model as `/v1/models` lists it."""
    return {
        **{"id": name, "object": "model", "created": served.created, "owned_by": "glimp_engine"},
        **{"root": served.models.names[0], "parent": None, "max_model_len": served.max_model_len},
    }
