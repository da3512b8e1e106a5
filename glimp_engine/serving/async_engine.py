"""One thread that owns an engine, for any number of asyncio tasks."""

import asyncio
import logging
import secrets
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Self, TypeVar
from weakref import WeakValueDictionary

from glimp_engine.engine import Engine
from glimp_engine.errors import CapacityError, EngineError, check_integer
from glimp_engine.outputs import Event, Finish, RequestOutput, Stats
from glimp_engine.routing import RoutingParams
from glimp_engine.sampling import SamplingParams
from glimp_engine.sequences import PreparedRequest, Prompt
from glimp_engine.serving.deltas import Delta, Mailbox

__all__ = ["AsyncEngine", "QueueFullError", "RequestStream"]

T = TypeVar("T")
Command = Callable[[], None]
log = logging.getLogger(__name__)


class QueueFullError(CapacityError):
    """There are as many unfinished requests as the engine takes; later there may be fewer."""


class RequestStream(AsyncIterator[Delta]):
    """The deltas of one request, up to its last. Whoever reads slowly gets fewer and longer ones, and loses nothing.

    Closing it, or losing it, aborts the request. It belongs to the event loop in which it was made.
    """

    def __init__(self, prepared: PreparedRequest, abort: Callable[[str], None]) -> None:
        self.request_id = prepared.request.request_id
        self.prompt_token_ids = prepared.request.prompt_token_ids
        self.is_thinking = prepared.request.is_thinking  # whether the prompt ends inside a thinking
        self.output: RequestOutput | None = None  # when it has ended
        self._abort = abort
        self._loop = asyncio.get_running_loop()
        self._mailbox = Mailbox()
        self._error: Exception | None = None
        self._has_news = asyncio.Event()
        self._is_closed = False

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        return self._loop

    def __aiter__(self) -> "RequestStream":
        return self

    async def __anext__(self) -> Delta:
        """The next delta. Raises: EngineError when the engine has failed."""
        while not self._mailbox:
            if self._error is not None:
                raise self._error
            if self.output is not None or self._is_closed:
                raise StopAsyncIteration
            self._has_news.clear()
            await self._has_news.wait()
        return self._mailbox.take()

    def put(self, event: Event) -> None:
        """Take an event of the request; in the stream's event loop, as `fail` too."""
        if not self._is_closed:
            self._mailbox.put(event)
            if isinstance(event, Finish) and event.output is not None:
                self.output = event.output
            self._has_news.set()

    def fail(self, error: Exception) -> None:
        """End it with an error, behind what has come."""
        self._error = error
        self._has_news.set()

    def close(self) -> None:
        """Abort the request unless it's finished; what it has written comes no more."""
        if not self._is_closed:
            self._is_closed = True
            self._has_news.set()
            if self.output is None and self._error is None:
                self._abort(self.request_id)

    def __del__(self) -> None:
        self.close()


class AsyncEngine:
    """An engine that any number of asyncio tasks use at once: `generate`, `stream` and `add_request` as the engine's.

    A task that is cancelled while it waits aborts its request. Its thread runs the engine, and sleeps while there is
    nothing to do; another one reads prompts. From here on the engine must not be used by anybody else.

    Units:  max_unfinished in requests, those that run and those that wait.
    Raises: ConfigError.
    """

    def __init__(self, engine: Engine, max_unfinished: int = 1024) -> None:
        check_integer("max_unfinished", max_unfinished, 1)
        self.max_unfinished = max_unfinished
        self.error: BaseException | None = None  # that has ended the engine's thread
        self._engine = engine
        self._commands = SimpleQueue[Command]()
        # unfinished ones that are still wanted; the engine's thread alone looks here
        self._streams = WeakValueDictionary[str, RequestStream]()
        self._outboxes: dict[asyncio.AbstractEventLoop, Outbox] = {}
        self._unfinished: set[str] = set()
        self._num_read = 0  # prompts that are being read
        self._lock = threading.Lock()  # of the queue's end: what is put into it before is answered
        self._is_closed = False
        self._is_draining = False
        self._is_over = False
        self._reader = ThreadPoolExecutor(1, "glimp-prompts")
        self._thread = threading.Thread(target=self._run, name="glimp-engine", daemon=True)
        self._thread.start()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.shutdown()

    @property
    def engine(self) -> Engine:
        """The engine, for what may be asked of it from any thread: its sizes and texts."""
        return self._engine

    @property
    def num_unfinished(self) -> int:
        """Requests that have been taken and have not ended."""
        return len(self._unfinished) + self._num_read

    @property
    def is_draining(self) -> bool:
        """Whether no more requests are taken."""
        return self._is_draining

    async def generate(
        self, prompt: Prompt, sampling: SamplingParams | None = None, routing: RoutingParams | None = None
    ) -> RequestOutput:
        """The finished output of one prompt. Raises: as `add_request`, and EngineError when the engine fails."""
        stream = await self.add_request(None, prompt, sampling, routing, is_told=False)
        try:
            async for _ in stream:
                pass
        finally:
            stream.close()
        assert stream.output is not None
        return stream.output

    async def stream(
        self, prompt: Prompt, sampling: SamplingParams | None = None, routing: RoutingParams | None = None
    ) -> AsyncIterator[Delta]:
        """What one prompt brings, as it comes. Raises: as `generate`."""
        stream = await self.add_request(None, prompt, sampling, routing)
        try:
            async for delta in stream:
                yield delta
        finally:
            stream.close()

    async def add_request(
        self,
        request_id: str | None,
        prompt: Prompt,
        sampling: SamplingParams | None = None,
        routing: RoutingParams | None = None,
        is_told: bool = True,
    ) -> RequestStream:
        """The stream of a request that is now queued; without an id it gets one, without is_told deltas have no text.

        Raises: RequestError, ConfigError as the engine's; QueueFullError; EngineError when it has failed, or takes no
                more requests.
        """
        self._check_open()
        if self.num_unfinished >= self.max_unfinished:
            raise QueueFullError(
                f"{self.num_unfinished} requests are unfinished; allowed: {self.max_unfinished}, so come back later"
            )
        request_id = f"request-{secrets.token_hex(8)}" if request_id is None else request_id
        self._num_read += 1
        try:
            prepare = self._engine.prepare_request
            what = request_id, prompt, sampling, routing, is_told
            prepared = await asyncio.get_running_loop().run_in_executor(self._reader, prepare, *what)
        finally:
            self._num_read -= 1
        self._check_open(is_taken=True)
        stream = RequestStream(prepared, self.abort)
        self._unfinished.add(request_id)
        try:
            self._send(lambda: self._add(prepared, stream))
        except EngineError:
            self._unfinished.discard(request_id)
            raise
        return stream

    def abort(self, request_id: str) -> None:
        """End a request; its stream's last delta comes. An unknown id is ignored."""
        with suppress(EngineError):  # what has ended needs no end
            self._send(lambda: self._abort(request_id))

    async def stats(self) -> Stats:
        """The engine's counters. Raises: EngineError when it has failed."""
        return await self.ask(Engine.stats)

    async def ask(self, question: Callable[[Engine], T]) -> T:
        """What a function of the engine returns or raises, asked between two ticks.

        Raises: EngineError when the engine has failed.
        """
        self._check_open(is_taken=True)
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()

        def command() -> None:
            try:
                self._check_alive()
                result = question(self._engine)
            except Exception as error:
                tell(loop, settle, answer, None, error)
            else:
                tell(loop, settle, answer, result, None)

        self._send(command)
        return await answer

    def refuse_requests(self) -> None:
        """Take no more requests."""
        self._is_draining = True

    async def drain(self) -> None:
        """Take no more requests, and wait until those that there are have ended."""
        self.refuse_requests()
        while self.num_unfinished and self.error is None:
            await asyncio.sleep(0.02)

    async def shutdown(self) -> None:
        """End what is unfinished, and the engine's thread. It may be called more than once."""
        self._is_draining = True
        with suppress(EngineError):
            self._send(self._end)
        await asyncio.to_thread(self._thread.join)
        self._reader.shutdown(wait=False)

    # In the engine's thread.

    def _run(self) -> None:
        """Commands, then a tick, and again; without anything to do it waits for a command."""
        try:
            while not self._is_over:
                self._follow_commands()
                if self._engine.has_unfinished():
                    self._hand_out(self._engine.advance())
            error: BaseException = EngineError("the engine was shut down")
        except BaseException as failure:
            log.critical("the engine has failed", exc_info=failure)
            self.error = failure
            error = EngineError(f"the engine has failed: {type(failure).__name__}: {failure}")
        with self._lock:
            self._is_closed = True
        while not self._commands.empty():
            self._commands.get()()  # tells whoever waits that it's too late
        self._unfinished.clear()
        for stream in list(self._streams.values()):
            tell(stream.loop, stream.fail, error)

    def _follow_commands(self) -> None:
        command = None if self._engine.has_unfinished() else self._commands.get()
        while True:
            if command is not None:
                command()
            try:
                command = self._commands.get_nowait()
            except Empty:
                return

    def _add(self, prepared: PreparedRequest, stream: RequestStream) -> None:
        try:
            self._check_alive()
            self._engine.add_request(stream.request_id, prepared)
        except Exception as error:
            self._unfinished.discard(stream.request_id)
            tell(stream.loop, stream.fail, error)
        else:
            self._streams[stream.request_id] = stream

    def _abort(self, request_id: str) -> None:
        if not self._is_closed:
            self._engine.abort(request_id)

    def _end(self) -> None:
        self._is_over = True

    def _check_alive(self) -> None:
        """Raise EngineError if the engine has failed, or no tick comes any more."""
        if self._is_closed:
            self._check_open(is_taken=True)
            raise EngineError("the engine was shut down")

    def _hand_out(self, events: list[Event]) -> None:
        """Give each event to its stream, in that stream's event loop."""
        touched = set()
        for event in events:
            stream = self._streams.get(event.request_id)
            if isinstance(event, Finish) and event.output is not None:
                self._unfinished.discard(event.request_id)
                self._streams.pop(event.request_id, None)
            if stream is not None:
                outbox = self._outbox_of(stream.loop)
                outbox.events.append((stream, event))
                touched.add(outbox)
        for outbox in touched:
            outbox.send()

    def _outbox_of(self, loop: asyncio.AbstractEventLoop) -> "Outbox":
        outbox = self._outboxes.get(loop)
        if outbox is None:
            self._outboxes = {other: box for other, box in self._outboxes.items() if not other.is_closed()}
            outbox = self._outboxes[loop] = Outbox(loop)
        return outbox

    def _send(self, command: Command) -> None:
        """Let the engine's thread do something. Raises: EngineError when it has ended."""
        with self._lock:
            if not self._is_closed:
                return self._commands.put(command)
        self._check_open()
        raise EngineError("the engine is being shut down and takes no more requests")

    def _check_open(self, is_taken: bool = False) -> None:
        """Raise EngineError if the engine has failed or, unless the request is taken already, takes no more."""
        if self.error is not None:
            raise EngineError(f"the engine has failed: {type(self.error).__name__}: {self.error}")
        if not self._thread.is_alive() or (self._is_draining and not is_taken):
            raise EngineError("the engine is being shut down and takes no more requests")


class Outbox:
    """Events on their way to one event loop, which is woken once for all that have come until it looks."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.events: deque[tuple[RequestStream, Event]] = deque()
        self._loop = loop
        self._is_woken = False

    def send(self) -> None:
        """Wake the loop, unless that was done already."""
        if not self._is_woken:
            self._is_woken = True
            tell(self._loop, self._empty)

    def _empty(self) -> None:
        self._is_woken = False  # first: what comes from here on wakes it again
        while self.events:
            stream, event = self.events.popleft()
            stream.put(event)


def tell(loop: asyncio.AbstractEventLoop, function: Callable[..., None], *arguments: object) -> None:
    """Call a function in an event loop; if that is closed, nobody is there who could want it."""
    try:
        loop.call_soon_threadsafe(function, *arguments)
    except RuntimeError:
        log.debug("an event loop was closed before its requests had ended")


def settle(answer: "asyncio.Future[T]", result: T, error: Exception | None) -> None:
    """Set a future's result or error, unless its task was cancelled."""
    if answer.cancelled():
        return
    if error is None:
        answer.set_result(result)
    else:
        answer.set_exception(error)
