"""`glimp serve`: a pair of models behind OpenAI's HTTP API."""

import argparse
import asyncio
import logging
import os
import sys
from typing import TYPE_CHECKING, Any

from glimp_engine.cli.engine_options import add_chat_options, add_engine_options, engine_arguments
from glimp_engine.cli.paths import file_path
from glimp_engine.cli.values import integer
from glimp_engine.errors import ConfigError, check_integer
from glimp_engine.load import load_router
from glimp_engine.routing import ROUTER_SPECS, RoutingParams, SmallOnly, parse_router

if TYPE_CHECKING:
    from glimp_engine.serving.app import ServerOptions

__all__ = ["add_parser"]

TOOL_PARSERS = ("auto", "hermes", "qwen3_coder", "none")


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `glimp serve`."""
    serve = commands.add_parser(
        "serve", help="answer over HTTP, as OpenAI's API does", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    serve.set_defaults(command=command)
    add_engine_options(serve)
    serve.add_argument("--router", default="glimp:1.0", help=f"what the model's bare name means: {ROUTER_SPECS}")
    serve.add_argument("--routing", type=file_path, help="a routing file of `glimp calibrate`, instead of --router")
    serve.add_argument("--answer-model", choices=("small", "large", "routed"), default="large", help="after </think>")
    add_chat_options(serve)
    serve.add_argument("--max-model-len", type=integer, help="tokens of a prompt and its answer")
    serve.add_argument("--max-batch-size", type=integer, default=64, help="sequences that run at once")
    serve.add_argument("--kv-cache-bytes", type=integer, help="of both models' K/V together")
    serve.add_argument("--max-unfinished", type=integer, default=1024, help="requests that run or wait; then 429")
    serve.add_argument("--host", default="127.0.0.1")
    serve.add_argument("--port", type=integer, default=8000)
    serve.add_argument(
        "--served-model-name", nargs="+", metavar="NAME", help="as clients call the pair; the large model's by default"
    )
    serve.add_argument(
        "--api-key", action="append", default=[], metavar="KEY", help="asked for; also read from GLIMP_API_KEY"
    )
    serve.add_argument(
        "--allowed-origins",
        nargs="+",
        default=[],
        metavar="ORIGIN",
        help="of web pages elsewhere that may ask; localhost: pages of this machine, *: all",
    )
    serve.add_argument("--tool-call-parser", choices=TOOL_PARSERS, default="auto")
    serve.add_argument("--drain-seconds", type=integer, default=60, help="for what is open when the server is stopped")
    serve.add_argument("--replicas", type=integer, help="engines, as processes of Ray's; else one in this process")
    serve.add_argument("--max-replicas", type=integer, help="as many, while there is work for more than --replicas")
    serve.add_argument("--log-json", action="store_true", help="a line of JSON for each request")


def command(options: argparse.Namespace) -> int:
    """Serve until a signal."""
    check_replicas(options)
    try:
        from glimp_engine.serving.app import ServerOptions
    except ModuleNotFoundError as error:
        raise ConfigError(f"glimp serve needs {error.name}: pip install 'glimp_engine[serve]'") from None

    routing = routing_of(options)
    logging.basicConfig(level=logging.INFO, format="%(message)s" if options.log_json else "%(asctime)s %(message)s")
    names = options.served_model_name or [name_of(options.large or options.small)]
    keys = [*options.api_key, *filter(None, [os.environ.get("GLIMP_API_KEY")])]
    server = ServerOptions(
        model_names=tuple(names),
        routing=routing,
        api_keys=tuple(keys),
        cors_origins=tuple(options.allowed_origins),
        tool_parser=None if options.tool_call_parser == "none" else options.tool_call_parser,
        log_json=options.log_json,
    )
    engine = engine_arguments(
        options,
        max_model_len=options.max_model_len,
        max_batch_size=options.max_batch_size,
        max_batch_tokens=max(512, options.max_batch_size),
        kv_cache_bytes=options.kv_cache_bytes,
    )
    run = serve_one if options.replicas is None else serve_many
    run(engine, server, options)
    return 0


def check_replicas(options: argparse.Namespace) -> None:
    """Raise ConfigError unless the numbers of replicas fit together."""
    if options.replicas is not None:
        check_integer("replicas", options.replicas, 1)
    if options.max_replicas is not None:
        if options.replicas is None:
            raise ConfigError("max_replicas is given without replicas; allowed: both")
        check_integer("max_replicas", options.max_replicas, options.replicas)


def serve_one(arguments: dict[str, Any], server: "ServerOptions", options: argparse.Namespace) -> None:
    """One engine in this process."""
    from glimp_engine.engine import Engine
    from glimp_engine.serving import AsyncEngine
    from glimp_engine.serving.server import serve

    engine = Engine(**arguments)
    tell_address(server, options)

    async def run() -> None:
        await serve(
            AsyncEngine(engine, options.max_unfinished), server, options.host, options.port, options.drain_seconds
        )

    asyncio.run(run())


def serve_many(arguments: dict[str, Any], server: "ServerOptions", options: argparse.Namespace) -> None:
    """Replicas on Ray."""
    try:
        from glimp_engine.serving.ray_app import Replicas, application
        from glimp_engine.serving.ray_server import serve_replicas
    except ModuleNotFoundError as error:
        raise ConfigError(f"--replicas needs {error.name}: pip install 'glimp_engine[ray]'") from None

    replicas = Replicas(options.replicas, options.max_replicas, options.max_unfinished, options.drain_seconds)
    tell_address(server, options)
    serve_replicas(application(arguments, server, replicas), options.host, options.port)


def tell_address(server: "ServerOptions", options: argparse.Namespace) -> None:
    """Say where it's served."""
    print(f"glimp: {server.model_names[0]} at http://{options.host}:{options.port}/v1", file=sys.stderr, flush=True)


def routing_of(options: argparse.Namespace) -> RoutingParams:
    """What the model's bare name means."""
    if options.routing is not None:
        router = load_router(options.routing, options.small, options.large)
    else:
        router = parse_router(options.router)
        router = SmallOnly() if options.large is None else router
    return RoutingParams(
        router=router,
        answer_model=options.answer_model,
        max_thinking_tokens=options.max_thinking_tokens,
        chat_template_kwargs=options.chat_template_kwargs,
    )


def name_of(source: object) -> str:
    """The last part of a path or a hub id, without what GGUF files end with."""
    return str(source).rstrip("/").rpartition("/")[2].removesuffix(".gguf").replace("@", "-") or "glimp"
