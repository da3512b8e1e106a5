"""The ingress before the replicas: it checks the key, chooses a replica, and passes on what that one sends."""

import json
import logging
from typing import Any

from prometheus_client import generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from glimp_engine.serving.gate import Gate, respond
from glimp_engine.serving.problems import ApiError
from glimp_engine.serving.ray_router import affinity_of
from glimp_engine.serving.sse import DONE, event

__all__ = ["Ingress"]

PASSED_ON = ("type", "http_version", "method", "scheme", "path", "raw_path", "query_string", "root_path", "client")
log = logging.getLogger(__name__)


class Ingress:
    """The deployment that Ray's proxies send requests to."""

    def __init__(self, engines: DeploymentHandle, api_keys: tuple[str, ...], log_json: bool) -> None:
        logging.basicConfig(level=logging.INFO, format="%(message)s" if log_json else "%(asctime)s %(message)s")
        self._engines = engines
        self._answers = engines.options(method_name="answer", stream=True)
        self._api_keys = api_keys
        self._log_json = log_json

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """Ray asks for the application when the replica starts."""
        routes = [
            Route("/metrics", self.metrics),
            Route("/load", self.load),
            Mount("/", self.relay),
        ]
        app = Starlette(routes=routes, exception_handlers={ApiError: told_of})
        return once_named(Gate(app, api_keys=self._api_keys, log_json=self._log_json))

    async def relay(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, answered by one replica. When the client goes away Ray cancels it, here and there."""
        body = await body_of(receive)
        if body is None:
            return
        handle = self._answers.options(session_id=affinity_of(Headers(scope=scope), body))
        answer = Answer(scope, send)
        messages = handle.remote(passed_on(scope), body)
        try:
            async for message in messages:
                await answer.send(message)
        except Exception as error:
            await answer.fail(lost(error))
        finally:
            if not answer.is_whole:
                messages.cancel()

    async def metrics(self, request: Request) -> Response:
        """All replicas' metrics, each with its replica's id."""
        found = await self._ask_all(request)
        return Response(generate_latest(Labelled(found)), media_type="text/plain; version=0.0.4")

    async def load(self, request: Request) -> Response:
        """The load of all replicas together, and of each."""
        loads = {replica: json.loads(body) for replica, body in (await self._ask_all(request)).items()}
        names = ("server_load", "num_running", "num_waiting")
        whole: dict[str, Any] = {name: sum(each[name] for each in loads.values()) for name in names}
        usage = sum(each["kv_cache_usage"] for each in loads.values()) / max(len(loads), 1)
        return JSONResponse({**whole, "kv_cache_usage": usage, "replicas": loads})

    async def _ask_all(self, request: Request) -> dict[str, bytes]:
        """By replica the body of its answer; without those that can't tell."""
        asked = self._engines.broadcast("whole", passed_on(request.scope))
        try:
            told = await asked.results_async(timeout_s=10, return_exceptions=True)
        except TimeoutError:
            raise ApiError(503, "a replica doesn't answer; come back later") from None
        found = [each for each in told if not isinstance(each, BaseException)]
        return {replica: body for replica, status, body in found if status == 200}


class Answer:
    """What has been sent to a client so far."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self.is_whole = False
        self._state = scope["state"]
        self._send = send
        self._headers: Headers | None = None

    async def send(self, message: Message) -> None:
        """Pass a replica's message on."""
        if message["type"] == "http.response.start":
            self._headers = Headers(raw=message["headers"])
            self._state["told"] = {"replica": self._headers.get("x-glimp-replica")}
        else:
            self.is_whole = not message.get("more_body", False)
        await self._send(message)

    async def fail(self, error: ApiError) -> None:
        """Tell of an error, in the way that is still open. Raises: the error where there is none."""
        if self._headers is None:
            await respond(self._send, error)
        elif self.is_whole:
            return
        elif "event-stream" in self._headers.get("content-type", ""):
            body = (event(error.body()) + DONE).encode()
            await self._send({"type": "http.response.body", "body": body, "more_body": False})
        else:
            raise error
        self.is_whole = True


def passed_on(scope: Scope) -> dict[str, Any]:
    """The part of a request's scope that another process can use, with the id that the gate gave it."""
    given = [(name, value) for name, value in scope["headers"] if name != b"x-request-id"]
    headers = [*given, (b"x-request-id", scope["state"]["request_id"].encode())]
    return {**{name: scope[name] for name in PASSED_ON if name in scope}, "headers": headers}


async def body_of(receive: Receive) -> bytes | None:
    """The whole body; None when the client goes away before it has sent it."""
    parts = []
    while (message := await receive())["type"] == "http.request":
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)
    return None


def once_named(app: ASGIApp) -> ASGIApp:
    """The application without the header X-Request-Id, which Ray's proxy sets with the same id."""

    async def called(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_without(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [each for each in message["headers"] if each[0].lower() != b"x-request-id"]
            await send(message)

        await app(scope, receive, send_without)

    return called


async def told_of(request: Request, error: Exception) -> Response:
    """The answer that tells of an error."""
    assert isinstance(error, ApiError)
    return JSONResponse(error.body(), error.status, error.headers)


def lost(error: Exception) -> ApiError:
    """What the client of a request is told whose replica didn't answer it to the end."""
    if isinstance(error, BackPressureError):
        return ApiError(429, "all replicas have as many requests as they take, so come back later")
    if isinstance(error, (RayActorError, DeploymentUnavailableError)):
        return ApiError(503, "the replica that had this request has died, and the request with it; send it again")
    log.error("a replica has failed a request", exc_info=error)
    return ApiError(500, "the replica that had this request has failed; its log says how")


class Labelled:
    """Metrics of several replicas as one collection, as Prometheus's writer takes it."""

    def __init__(self, texts: dict[str, bytes]) -> None:
        """texts: in Prometheus's format, by replica."""
        self._texts = texts

    def collect(self) -> list[Metric]:
        """Each metric once, with the samples of all replicas."""
        found: dict[str, Metric] = {}
        for replica, text in self._texts.items():
            for metric in text_string_to_metric_families(text.decode()):
                whole = found.setdefault(metric.name, Metric(metric.name, metric.documentation, metric.type))
                for sample in metric.samples:
                    whole.add_sample(sample.name, {**sample.labels, "replica": replica}, sample.value)
        return list(found.values())
