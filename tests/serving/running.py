"""A server in a thread of its own, on a port that was free."""

import asyncio
import threading
from contextlib import contextmanager

import uvicorn

from glimp_engine.serving import AsyncEngine
from glimp_engine.serving.app import ServerOptions, make_app


class Running:
    """Where a server listens, and what it serves."""

    def __init__(self, url, door, app):
        self.url = url
        self.door = door
        self.app = app


@contextmanager
def running(engine, max_unfinished=1024, **options):
    """A server over this engine, until the block ends."""
    found, is_up = [], threading.Event()

    async def whole():
        door = AsyncEngine(engine, max_unfinished)
        app = make_app(door, ServerOptions(**options))
        server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, access_log=False, lifespan="off"))
        serving = asyncio.ensure_future(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        found.extend([server, Running(f"http://127.0.0.1:{port}", door, app)])
        is_up.set()
        await serving
        await door.shutdown()

    thread = threading.Thread(target=asyncio.run, args=(whole(),))
    thread.start()
    assert is_up.wait(30)
    try:
        yield found[1]
    finally:
        found[0].should_exit = True
        thread.join()
