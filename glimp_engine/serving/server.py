"""Serves an application until it's told to stop: then what is open is finished, and nothing new taken."""

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import uvicorn

from glimp_engine.serving.app import ServerOptions, make_app
from glimp_engine.serving.async_engine import AsyncEngine

__all__ = ["serve"]

log = logging.getLogger(__name__)


class DrainingServer(uvicorn.Server):
    """At the first signal the engine takes no more; at the second everything ends."""

    def __init__(self, config: uvicorn.Config, engine: AsyncEngine) -> None:
        super().__init__(config)
        self._engine = engine

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are for `handle_exit`; uvicorn's own way raises them again, when all has ended as it should."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {sig: signal.signal(sig, self.handle_exit) for sig in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for sig, handler in before.items():
                signal.signal(sig, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal has come."""
        self._engine.refuse_requests()
        log.info("shutting down: %d requests are unfinished", self._engine.num_unfinished)
        super().handle_exit(sig, frame)


async def serve(
    engine: AsyncEngine, options: ServerOptions, host: str = "127.0.0.1", port: int = 8000, drain_seconds: int = 60
) -> None:
    """Serve an engine until SIGTERM or Ctrl-C; what isn't finished drain_seconds later is ended.

    The engine is shut down then. Port 0 takes any that is free; which one is logged.

    Raises: SystemExit when the address can't be used.
    """
    app = make_app(engine, options)
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=drain_seconds,
        server_header=False,
        lifespan="off",
    )
    try:
        await DrainingServer(config, engine).serve()
    finally:
        await engine.shutdown()
