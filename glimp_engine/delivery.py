"""Events go to whoever asked for their request: to a call's own queue, or to `advance`."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator

from glimp_engine.outputs import Event, Finish

__all__ = ["Delivery", "EventStream"]


class Delivery:
    """One queue for each call of `generate` or `stream`, and one for `advance`."""

    def __init__(self) -> None:
        self.abandoned: deque[str] = deque()  # requests that were lost while somebody else was in the engine
        self._own: dict[str, deque[Event]] = {}  # by request
        self._others: list[Event] = []

    def emit(self, events: list[Event]) -> None:
        """Put each event where it belongs."""
        for event in events:
            self._own.get(event.request_id, self._others).append(event)

    def claim(self, request_id: str, queue: deque[Event]) -> None:
        """The request's events go to this queue."""
        self._own[request_id] = queue

    def is_claimed(self, request_id: str) -> bool:
        return request_id in self._own

    def release(self, request_id: str) -> None:
        """Nobody waits for the request any more, and it brings no more events."""
        self._own.pop(request_id, None)

    def has_others(self) -> bool:
        """Whether `take_others` has something to give."""
        return bool(self._others)

    def take_others(self) -> list[Event]:
        """The events of requests that nobody has claimed."""
        events, self._others = self._others, []
        return events


class EventStream(Iterator[Event]):
    """The events of one request, up to its last."""

    def __init__(self, next_events: Callable[[], Iterable[Event]], drop: Callable[[], None]) -> None:
        self._next_events = next_events
        self._drop = drop
        self._events: Iterator[Event] = iter(())
        self._is_over = False

    def __next__(self) -> Event:
        while not self._is_over:
            for event in self._events:
                if isinstance(event, Finish) and event.output is not None:
                    self.close()
                return event
            self._events = iter(self._next_events())
        raise StopIteration

    def close(self) -> None:
        """Abort the request unless it's finished."""
        if not self._is_over:
            self._is_over = True
            self._drop()

    def __del__(self) -> None:
        self.close()
