"""Serves replicas until it's told to stop: on the Ray cluster that this machine is part of, or on one of its own."""

import logging
import os
import signal
import threading

import ray
from ray import serve

from glimp_engine.errors import EngineError

__all__ = ["SETTINGS", "serve_replicas", "start"]

NAME = "glimp"  # of the application on its cluster
# Of a cluster that is started here, unless the environment says something else. Between processes each message takes
# gRPC and one event loop, not objects of Ray's and two loops: 16 streams of 50 tokens a second come 0.8 ms late in
# place of 4.2 (p90 1.4 in place of 10.4; docs/serving.md).
SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_SERVE_USE_GRPC_BY_DEFAULT": "1",
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
}
QUIET = {"log_level": "WARNING", "enable_access_log": False}  # the ingress tells a line for each request
log = logging.getLogger(__name__)


def serve_replicas(application: serve.Application, host: str = "127.0.0.1", port: int = 8000) -> None:
    """Serve an application until SIGTERM or Ctrl-C; then what is open is finished, and nothing new taken.

    A cluster that runs is found as Ray finds it: by RAY_ADDRESS, else the one that `ray start` has made here. There
    the proxies may listen already, and keep their address.

    Raises: EngineError when the replicas don't start.
    """
    is_told = threading.Event()
    connect()
    for number in (signal.SIGTERM, signal.SIGINT):  # only now: Ray sets its own when it connects
        signal.signal(number, lambda *_: is_told.set())
    try:
        start(application, host, port)
        log.info("the replicas are ready")
        is_told.wait()
        log.info("shutting down: what is open is finished")
        serve.delete(NAME)
    finally:
        ray.shutdown()


def connect() -> None:
    """Connect this process to a cluster that runs, or to a new one."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    ray.init(include_dashboard=False, logging_level=logging.WARNING)


def start(application: serve.Application, host: str, port: int) -> None:
    """Have an application run on the cluster. Raises: EngineError."""
    try:
        serve.start(http_options={"host": host, "port": port}, logging_config=QUIET)
        serve.run(application, name=NAME, logging_config=QUIET)
    except RuntimeError as error:
        raise EngineError(f"the replicas don't start: {error}") from None
