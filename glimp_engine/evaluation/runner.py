"""An evaluation: each router over all problems, on disk as it goes, so that a killed run goes on where it was."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

from tqdm import tqdm

from glimp_engine.engine import Engine
from glimp_engine.errors import ConfigError
from glimp_engine.evaluation.branches import BranchKey, branch_jobs, branch_result
from glimp_engine.evaluation.graders import Grader
from glimp_engine.evaluation.jobs import Job, run_jobs
from glimp_engine.evaluation.journal import Journal, write_atomically, write_jsonl
from glimp_engine.evaluation.problems import BadLine, Problem
from glimp_engine.evaluation.records import NUM_GLIMPSE_LOGPROBS, AnswerKey, result_of, timing_of, tokens_of
from glimp_engine.evaluation.run_files import check_object, read_json
from glimp_engine.routing import Model, RandomRouter, Router, RoutingParams, parse_router
from glimp_engine.sampling import SamplingParams

__all__ = ["BRANCH_ROUTER", "Branching", "Evaluation"]

BRANCH_ROUTER = "glimp:0"  # writes all steps with the large model, and glimpses


@dataclass(frozen=True)
class Branching:
    """How often each step is tried with the small model, and who goes on then."""

    num_samples: int
    rest: Model


class Evaluation:
    """Runs routers over problems, and keeps what comes out in a directory."""

    def __init__(
        self,
        engine: Engine,
        problems: list[Problem],
        grader: Grader,
        sampling: SamplingParams,
        routing: RoutingParams,
        settings: dict[str, Any],
        directory: Path,
    ) -> None:
        """`settings` says what else the results depend on, in JSON; `sampling` has the seed that all others come from.

        Raises: ConfigError when the directory has a run with other settings, or another process writes there.
        """
        self._engine, self._problems, self._grader = engine, {problem.id: problem for problem in problems}, grader
        self._sampling = sampling
        self._routing = replace(routing, glimpse_logprobs=NUM_GLIMPSE_LOGPROBS)
        self._directory = directory
        check_settings(directory, settings)
        self._journal = Journal(directory)

    def run(self, routers: list[str], repeats: int, concurrency: int, branching: Branching | None) -> None:
        """All that is not done yet, then the files of the whole."""
        if branching is not None and BRANCH_ROUTER not in routers:
            routers = [*routers, BRANCH_ROUTER]
        try:
            for position, spec in enumerate(routers):
                self._answer(spec, self._router(spec, routers[:position]), repeats, concurrency)
            branches = [] if branching is None else self._branch(branching, concurrency)
            self._write(routers, repeats, branches)
        finally:
            self._journal.close()

    def _answer(self, spec: str, router: Router, repeats: int, concurrency: int) -> None:
        keys = [AnswerKey(spec, repeat, problem) for repeat in range(repeats) for problem in self._problems]
        left = [key for key in keys if key_of(key) not in self._journal.items]
        num_done = len(keys) - len(left)
        routing = replace(self._routing, router=router)
        jobs = (
            Job(key, chat(self._problems[key.problem]), replace(self._sampling, seed=self._seed(key)), routing)
            for key in left
        )
        num_right = sum(self._result(key)["is_correct"] for key in keys if key_of(key) in self._journal.items)
        with tqdm(total=len(keys), initial=num_done, desc=spec, unit="answer") as progress:
            for job, output, clock in run_jobs(self._engine, jobs, concurrency):
                key = job.key
                assert isinstance(key, AnswerKey)
                result = result_of(key, self._problems[key.problem], self._seed(key), output, self._grader)
                if isinstance(router, RandomRouter):
                    result["rate"] = router.rate
                item = {"result": result, "timing": timing_of(key, output, clock, concurrency)}
                if spec == BRANCH_ROUTER and output.outputs:
                    item["tokens"] = tokens_of(output)
                self._journal.add(key_of(key), item)
                num_right += result["is_correct"]
                progress.update()
                progress.set_postfix(right=f"{num_right / progress.n:.1%}")

    def _branch(self, branching: Branching, concurrency: int) -> list[dict[str, Any]]:
        if not self._engine.has_one_vocabulary:
            raise ConfigError("branches are for pairs with one vocabulary: an answer is gone on with by its token ids")
        jobs = [
            job
            for key in (AnswerKey(BRANCH_ROUTER, 0, problem) for problem in self._problems)
            if self._result(key)["is_correct"]
            for job in branch_jobs(
                self._result(key),
                self._journal.items[key_of(key)]["tokens"],
                branching.num_samples,
                branching.rest,
                self._sampling,
                self._routing,
            )
        ]
        left = [job for job in jobs if key_of(job.key) not in self._journal.items]
        with tqdm(total=len(jobs), initial=len(jobs) - len(left), desc="branches", unit="step") as progress:
            for job, output, _ in run_jobs(self._engine, left, concurrency):
                key = job.key
                assert isinstance(key, BranchKey)
                if output.error is None:
                    item = self._journal.items[key_of(AnswerKey(BRANCH_ROUTER, 0, key.problem))]
                    problem = self._problems[key.problem]
                    line = branch_result(key, item["result"], item["tokens"], output, problem, self._grader)
                    self._journal.add(key_of(key), {"branch": line})
                progress.update()
        done = (self._journal.items.get(key_of(job.key)) for job in jobs)
        return [item["branch"] for item in done if item is not None]

    def _write(self, routers: list[str], repeats: int, branches: list[dict[str, Any]]) -> None:
        items = [
            self._journal.items[key_of(AnswerKey(spec, repeat, problem))]
            for spec in routers
            for repeat in range(repeats)
            for problem in self._problems
        ]
        write_jsonl(self._directory / "results.jsonl", (item["result"] for item in items))
        write_jsonl(self._directory / "timings.jsonl", (item["timing"] for item in items))
        write_jsonl(self._directory / "branches.jsonl", branches)

    def _router(self, spec: str, before: list[str]) -> Router:
        """The router of a spec; that of random@SPEC is as often large as SPEC, earlier in the list, has been."""
        name, at, other = spec.partition("@")
        if not at:
            return parse_router(spec)
        if name != "random" or other not in before:
            raise ConfigError(f"router is {spec!r}; allowed: random@ and a router that stands before it in the list")
        steps = [
            step
            for key, item in self._journal.items.items()
            if key[:2] == ("answer", other)
            for step in item["result"]["steps"]
            if step["signals"] is not None
        ]
        return RandomRouter(sum(step["model"] == "large" for step in steps) / max(len(steps), 1))

    def _seed(self, key: AnswerKey) -> int:
        """The same for all routers, so that they differ in nothing but the routes."""
        digest = blake2b(f"{self._sampling.seed}/{key.problem}/{key.repeat}".encode(), digest_size=4).digest()
        return int.from_bytes(digest, "little")

    def _result(self, key: AnswerKey) -> dict[str, Any]:
        result: dict[str, Any] = self._journal.items[key_of(key)]["result"]
        return result


def key_of(key: Any) -> tuple[str | int, ...]:
    """The key as the journal has it."""
    if isinstance(key, AnswerKey):
        return ("answer", key.router, key.repeat, key.problem)
    return ("branch", key.problem, key.step, key.num_samples, str(key.rest))


def chat(problem: Problem) -> list[dict[str, str]]:
    return [{"role": "user", "content": problem.prompt}]


def check_settings(directory: Path, settings: dict[str, Any]) -> None:
    """Write the settings, or see that they are what an earlier run has written."""
    settings, path = json.loads(json.dumps(settings)), directory / "run.json"
    directory.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        write_atomically(path, json.dumps(settings, indent=2))
        return
    saved = read_json(path, partial(check_object, "it"))
    differing = list(differences(saved, settings))
    if differing:
        raise ConfigError(f"out is {str(directory)!r}, which has another run: {'; '.join(differing)}")


def differences(saved: dict[str, Any], settings: dict[str, Any]) -> Iterator[str]:
    for name in [*saved, *(name for name in settings if name not in saved)]:
        if name != "machine" and saved.get(name) != settings.get(name):
            yield f"{name} is {saved.get(name)!r} there, {settings.get(name)!r} now"


def write_refused(directory: Path, bad: list[BadLine]) -> None:
    """The rows that were no problems."""
    write_jsonl(directory / "problems_refused.jsonl", (vars(line) for line in bad))
