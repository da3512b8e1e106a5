"""Many requests through one engine, a given number at a time; each comes back when it's finished, with its times."""

import time
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, field

from glimp_engine.engine import Engine
from glimp_engine.errors import RequestError
from glimp_engine.outputs import Finish, RequestOutput, Token
from glimp_engine.routing import RoutingParams
from glimp_engine.sampling import SamplingParams
from glimp_engine.sequences import Prompt

__all__ = ["Clock", "Job", "run_jobs"]


@dataclass(frozen=True)
class Job:
    """A request, and what it's for."""

    key: Hashable
    prompt: Prompt
    sampling: SamplingParams
    routing: RoutingParams


@dataclass
class Clock:
    """When a request began, and how long it took, in seconds; `began` since 1970."""

    began: float = field(default_factory=time.time)
    seconds: float = 0.0
    first_token_seconds: float | None = None
    _started: float = field(default_factory=time.perf_counter)

    def elapsed(self) -> float:
        return time.perf_counter() - self._started


Finished = tuple[Job, RequestOutput, Clock]


def run_jobs(engine: Engine, jobs: Iterable[Job], concurrency: int) -> Iterator[list[Finished]]:
    """Run all jobs, at most `concurrency` at once, in their order; a prompt that can't be run gives an error output.

    Gives a list for each tick, of what has finished in it: often nothing, so that others get their turn.
    """
    waiting, running = iter(jobs), dict[str, tuple[Job, Clock]]()
    num_added = 0
    while True:
        finished: list[Finished] = []
        while len(running) < concurrency and (job := next(waiting, None)) is not None:
            request_id, clock = f"job-{num_added}", Clock()
            num_added += 1
            try:
                engine.add_request(request_id, job.prompt, job.sampling, job.routing)
                running[request_id] = job, clock
            except RequestError as error:
                finished.append((job, RequestOutput.failed(request_id, job.prompt, error), clock))
                break  # all of a file may be refused: that takes no tick, but others get their turn
        if not running and not finished:
            return
        if not running:
            yield finished
            continue
        for event in engine.advance():
            job, clock = running[event.request_id]
            if isinstance(event, Token) and clock.first_token_seconds is None:
                clock.first_token_seconds = clock.elapsed()
            if isinstance(event, Finish) and event.output is not None:
                clock.seconds = clock.elapsed()
                del running[event.request_id]
                finished.append((job, event.output, clock))
        yield finished
