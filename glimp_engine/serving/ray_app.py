"""Replicas on Ray Serve: engines with the HTTP application, and one ingress before them that holds no weights.

The ingress reads a request, chooses the replica by its beginning and passes on, message by message, what that
replica's application sends. So all of HTTP is `app.py`, where the engine is; between the two go bytes.
"""

import asyncio
import dataclasses
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from ray import serve
from ray.serve.config import AutoscalingConfig, RequestRouterConfig
from starlette.types import Message, Scope

from glimp_engine.engine import Engine
from glimp_engine.errors import EngineError
from glimp_engine.load import load_router
from glimp_engine.routing import RoutingParams, SmallOnly, parse_router
from glimp_engine.serving.app import ServerOptions, make_app
from glimp_engine.serving.async_engine import AsyncEngine
from glimp_engine.serving.ray_ingress import Ingress
from glimp_engine.serving.ray_router import PrefixRouter

__all__ = ["Arguments", "EngineReplica", "Replicas", "app", "application"]

HEADER = b"x-glimp-replica"
FACT_SECONDS = 5  # that an engine has to tell of itself; one that fails meanwhile never does


@dataclasses.dataclass(frozen=True)
class Replicas:
    """How many engines there are, and what each may take."""

    least: int = 1
    most: int | None = None  # more than the least of them only while there is work for more
    max_unfinished: int = 1024  # requests of one engine
    drain_seconds: float = 60  # for what is open when a replica goes


class EngineReplica:
    """One engine with its own HTTP application; Ray makes as many as it's told to, and replaces what has failed."""

    def __init__(self, engine: dict[str, Any], options: ServerOptions, max_unfinished: int) -> None:
        """engine: what Engine takes."""
        self._engine = AsyncEngine(Engine(**engine), max_unfinished)
        self._app = make_app(self._engine, options)
        self._id = str(serve.get_replica_context().replica_id.unique_id)

    async def answer(self, scope: Scope, body: bytes) -> AsyncIterator[Message]:
        """What the application sends to a request, whose client is there until this is closed."""
        messages = asyncio.Queue[Message | None]()
        given: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> Message:
            if not given:
                await asyncio.Event().wait()  # a client that goes away has this task cancelled
            return given.pop()

        running = asyncio.ensure_future(self._app(scope, receive, messages.put))
        running.add_done_callback(lambda _: messages.put_nowait(None))
        try:
            while (message := await messages.get()) is not None:
                if message["type"] == "http.response.start":
                    message["headers"] = [*message["headers"], (HEADER, self._id.encode())]
                yield message
            await running
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    async def whole(self, scope: Scope) -> tuple[str, int, bytes]:
        """(replica, status, body) of what the application answers to a request without a body."""
        async with asyncio.timeout(FACT_SECONDS):
            messages = [message async for message in self.answer(scope, b"")]
        return self._id, messages[0]["status"], b"".join(each.get("body", b"") for each in messages[1:])

    async def record_routing_stats(self) -> dict[str, float]:
        """What Ray tells the router of this replica, every second."""
        async with asyncio.timeout(FACT_SECONDS):
            return {"pages_in_use": (await self._engine.stats()).kv_cache_usage}

    def check_health(self) -> None:
        """Ray replaces the replica when this has raised three times. Raises: EngineError when the engine has failed."""
        if self._engine.error is not None:
            raise EngineError(f"the engine has failed: {self._engine.error}")

    async def __del__(self) -> None:
        """Ray calls it when what was open has ended, or the time for that is over."""
        if hasattr(self, "_engine"):
            await self._engine.shutdown()


def application(engine: dict[str, Any], options: ServerOptions, replicas: Replicas) -> serve.Application:
    """What `serve.run` takes. engine: what Engine takes; its paths must be there on each machine."""
    num_cpus, num_gpus = resources(engine, replicas)
    engine = {name: absolute(value) for name, value in engine.items()}
    scaled: dict[str, Any] = {"num_replicas": replicas.least}
    if replicas.most is not None:
        target = engine.get("max_batch_size", 64)  # more than run at once would have to wait
        config = AutoscalingConfig(
            min_replicas=replicas.least, max_replicas=replicas.most, target_ongoing_requests=target
        )
        scaled = {"autoscaling_config": config}
    engines = serve.deployment(
        EngineReplica,
        name="Engine",
        ray_actor_options={"num_cpus": num_cpus, "num_gpus": num_gpus},
        max_ongoing_requests=replicas.max_unfinished,
        max_queued_requests=replicas.max_unfinished,
        graceful_shutdown_timeout_s=replicas.drain_seconds,
        graceful_shutdown_wait_loop_s=0.2,
        health_check_period_s=2,
        request_router_config=RequestRouterConfig(
            request_router_class=PrefixRouter, request_routing_stats_period_s=1, request_routing_stats_timeout_s=30
        ),
        **scaled,
    ).bind(engine, dataclasses.replace(options, api_keys=()), replicas.max_unfinished)
    ingress = serve.deployment(
        serve.ingress()(Ingress),
        name="Ingress",
        ray_actor_options={"num_cpus": 0},
        max_ongoing_requests=replicas.max_unfinished * (replicas.most or replicas.least) * 2,
        graceful_shutdown_timeout_s=replicas.drain_seconds,
        graceful_shutdown_wait_loop_s=0.2,
    )
    return ingress.bind(engines, options.api_keys, options.log_json)


def resources(engine: dict[str, Any], replicas: Replicas) -> tuple[int, int]:
    """(processors, GPUs) of one replica. The native ops take as many threads as Ray gives it processors."""
    device = str(engine.get("device", "auto"))
    if device.startswith("cuda") or (device == "auto" and torch.cuda.is_available()):
        return 1, 1
    share = (os.cpu_count() or 1) // (replicas.most or replicas.least)
    return engine.get("num_threads") or max(1, share), 0


def absolute(value: Any) -> Any:
    """A path that exists as one that a process elsewhere on the machine finds; all else as it is."""
    is_path = isinstance(value, (str, Path)) and Path(value).exists()
    return str(Path(value).resolve()) if is_path else value


class Arguments(BaseModel):
    """What `serve run` and Serve's config files may say; names and meanings as of `glimp serve`."""

    model_config = ConfigDict(extra="forbid")

    small: str
    large: str | None = None
    small_tokenizer: str | None = None
    large_tokenizer: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    ops: str = "auto"
    quantization: str | None = None
    num_threads: int | None = None
    speculation: str = "auto"
    max_model_len: int | None = None
    max_batch_size: int = Field(64, ge=1)
    kv_cache_bytes: int | None = None
    router: str = "glimp:1.0"
    routing: str | None = None  # a file, in place of router
    answer_model: Literal["small", "large", "routed"] = "large"
    max_thinking_tokens: int = 8192
    served_model_name: str = "glimp"
    api_key: str | None = None
    max_unfinished: int = Field(1024, ge=1)
    drain_seconds: float = Field(60, ge=0)
    replicas: int = Field(1, ge=1)
    max_replicas: int | None = Field(None, ge=1)


ENGINE_FIELDS = (
    *("small", "large", "small_tokenizer", "large_tokenizer", "device", "dtype", "ops", "quantization"),
    *("num_threads", "speculation", "max_model_len", "max_batch_size", "kv_cache_bytes"),
)


def app(arguments: Arguments) -> serve.Application:
    """The application of `serve run glimp_engine.serving.ray_app:app small=... large=... replicas=2`."""
    if arguments.routing is not None:
        router = load_router(Path(arguments.routing), arguments.small, arguments.large)
    else:
        router = SmallOnly() if arguments.large is None else parse_router(arguments.router)
    options = ServerOptions(
        model_names=(arguments.served_model_name,),
        routing=RoutingParams(
            router=router, answer_model=arguments.answer_model, max_thinking_tokens=arguments.max_thinking_tokens
        ),
        api_keys=() if arguments.api_key is None else (arguments.api_key,),
    )
    engine = {name: getattr(arguments, name) for name in ENGINE_FIELDS}
    engine["max_batch_tokens"] = max(512, arguments.max_batch_size)
    replicas = Replicas(arguments.replicas, arguments.max_replicas, arguments.max_unfinished, arguments.drain_seconds)
    return application(engine, options, replicas)
