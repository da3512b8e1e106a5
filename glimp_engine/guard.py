"""Who may be in the engine: one caller at a time, in the process that made it, and no interrupt in the middle."""

# What `signal` is made of: a call of that takes 20 us to make enums, and this 1.
import _signal  # type: ignore[import-not-found]
import os
import threading
from collections.abc import Callable
from signal import SIGINT
from types import FrameType, TracebackType

from glimp_engine.errors import EngineError

__all__ = ["Guard"]

Handler = Callable[[int, FrameType | None], object]


class Guard:
    """Held while the engine's state changes: `with guard: ...`.

    A Ctrl-C that comes meanwhile is raised when the change is complete, so that pages, marks and sequences agree; a
    second one is raised at once.

    Raises: EngineError when another thread is in the engine, or a router has called it, or the process was forked.
    """

    def __init__(self) -> None:
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._owner = 0
        # The main thread's alone, which is where Python handles signals.
        self._handler: Handler | None = None
        self._num_interrupts = 0

    def __enter__(self) -> None:
        if os.getpid() != self._process:
            raise EngineError(
                f"the engine was made in process {self._process} and is used in {os.getpid()}, forked from it "
                "without its threads; allowed: an engine made there"
            )
        handler = self._note_interrupts()  # before the lock is taken, as an interrupt in between would leave it taken
        if not self._lock.acquire(blocking=False):
            self._raise_interrupts(handler)
            by = "its own tick, by a router" if self._owner == threading.get_ident() else "two threads at once"
            raise EngineError(f"the engine is used from {by}; allowed: one call at a time")
        self._owner, self._handler = threading.get_ident(), handler

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        handler = self._handler
        self._lock.release()
        self._raise_interrupts(handler)
        if handler is not None and self._num_interrupts:
            self._num_interrupts = 0
            handler(SIGINT, None)

    def _note_interrupts(self) -> Handler | None:
        """Count interrupts from now on; who handled them before comes back, None if that isn't Python, or not here."""
        if threading.current_thread() is not threading.main_thread():
            return None
        handler: Handler | None = _signal.getsignal(SIGINT)
        if not callable(handler):
            return None
        _signal.signal(SIGINT, self._note)
        return handler

    def _raise_interrupts(self, handler: Handler | None) -> None:
        if handler is not None:
            _signal.signal(SIGINT, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._num_interrupts += 1
        if self._num_interrupts > 1 and self._handler is not None:
            self._num_interrupts = 0
            self._handler(number, frame)
