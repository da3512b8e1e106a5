"""Grades beside the engine's loop: a few threads ask the grader, whose long work is done in processes of its own."""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from types import TracebackType

from glimp_engine.evaluation.graders import Grader

__all__ = ["Grade", "Grading", "grade"]

MAX_THREADS = 4


@dataclass(frozen=True)
class Grade:
    """The answer that a text gives, None if it gives none, and whether it's right."""

    answer: str | None
    is_correct: bool


def grade(grader: Grader, text: str, reference: object) -> Grade:
    answer = grader.extract(text)
    return Grade(answer, answer is not None and grader.is_correct(answer, reference))


class Grading:
    """Answers that are being graded. What is to be done with a grade is done by whoever collects it, in its thread."""

    def __init__(self, grader: Grader) -> None:
        """Closes the grader in the end, so that nothing that it has started outlives this."""
        self._grader = grader
        self._threads = ThreadPoolExecutor(min(MAX_THREADS, max((os.cpu_count() or 1) // 2, 1)), "grading")
        self._waiting: dict[Future[list[Grade]], Callable[[list[Grade]], None]] = {}

    def __enter__(self) -> "Grading":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:  # an interrupt too: what is still running is of no use to anybody
            self._threads.shutdown(wait=False, cancel_futures=True)
        self._grader.close()
        self._threads.shutdown()

    def add(self, texts: Iterable[str], reference: object, then: Callable[[list[Grade]], None]) -> None:
        """Grade these texts; `then` is called with their grades by a later `collect`."""
        texts = list(texts)
        future = self._threads.submit(lambda: [grade(self._grader, text, reference) for text in texts])
        self._waiting[future] = then

    def collect(self) -> None:
        """Hand on what is graded by now."""
        for future in [future for future in self._waiting if future.done()]:
            self._waiting.pop(future)(future.result())

    def finish(self) -> None:
        """Hand on all."""
        while self._waiting:
            wait(self._waiting, return_when=FIRST_COMPLETED)
            self.collect()
