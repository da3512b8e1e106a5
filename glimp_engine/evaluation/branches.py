"""Would it have done harm to let the small model write this step? Asked of every step of a right answer.

On an answer whose every step the large model wrote, with glimpses taken, the tokens before a step are kept, the small
model writes that step, and the large one what follows, some times over: how many of these answers are still right?
With `rest` small the small model goes on to the end instead.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any, ClassVar

from glimp_engine.evaluation.grading import Grade
from glimp_engine.evaluation.jobs import Job
from glimp_engine.evaluation.records import uncertainty_of
from glimp_engine.outputs import RequestOutput
from glimp_engine.routing import Glimpse, Model, RouteContext, RoutingParams
from glimp_engine.sampling import SamplingParams

__all__ = ["BranchKey", "branch_jobs", "branch_result", "branch_texts"]


@dataclass(frozen=True)
class BranchKey:
    """Before which step of which answer, and how it goes on."""

    problem: str
    step: int
    num_samples: int
    rest: Model


@dataclass(frozen=True)
class SmallOnce:
    """The small model writes the first step, `rest` all others."""

    rest: Model
    only: ClassVar[Model | None] = None
    num_top_logprobs: ClassVar[int] = 0

    def decide(self, glimpse: Glimpse, context: RouteContext) -> Model:
        return Model.SMALL if context.step_index == 0 else self.rest


def branch_jobs(
    result: dict[str, Any],
    tokens: dict[str, Any],
    num_samples: int,
    rest: Model,
    sampling: SamplingParams,
    routing: RoutingParams,
) -> Iterator[Job]:
    """A request for each routed step of an answer; `tokens` has its token_ids, its prompt's, and where steps start."""
    for index, step in enumerate(result["steps"]):
        if step["signals"] is None:
            continue
        start = tokens["token_starts"][index]
        used = {"max_thinking_tokens": start} if step["phase"] == "thinking" else {}
        left = {name: max(getattr(routing, name) - num_used, 1) for name, num_used in used.items()}
        max_tokens = None if sampling.max_tokens is None else max(sampling.max_tokens - start, 1)
        is_greedy = sampling.temperature == 0
        yield Job(
            BranchKey(result["problem"], index, num_samples, rest),
            tokens["prompt_token_ids"] + tokens["token_ids"][:start],
            replace(sampling, n=1 if is_greedy else num_samples, seed=result["seed"] + index, max_tokens=max_tokens),
            replace(routing, router=SmallOnce(rest), glimpse_logprobs=0, **left),
        )


def branch_texts(key: BranchKey, result: dict[str, Any], tokens: dict[str, Any], output: RequestOutput) -> list[str]:
    """The whole answers: what was kept, and what was written behind it."""
    kept = result["text"][: tokens["text_starts"][key.step]]
    return [kept + completion.text for completion in output.outputs]


def branch_result(
    key: BranchKey,
    result: dict[str, Any],
    output: RequestOutput,
    grades: list[Grade],
) -> dict[str, Any]:
    """A line of branches.jsonl."""
    drafts = [uncertainty_of(completion.steps[0]) for completion in output.outputs]
    own = {name: mean_of([draft[name] for draft in drafts]) for name in drafts[0]}
    late = sum(step["num_tokens"] for step in result["steps"][: key.step])
    return {
        "problem": key.problem,
        "step": key.step,
        "signals": {**result["steps"][key.step]["signals"], **own, "late": late},
        "num_samples": len(grades),
        "rest": str(key.rest),
        "num_right": sum(grade.is_correct for grade in grades),
    }


def mean_of(values: list[float | None]) -> float | None:
    """Of those that there are."""
    known = [value for value in values if value is not None]
    return fmean(known) if known else None
