"""From a finished output to a line of results.jsonl and one of timings.jsonl.

Results have nothing in them that a clock has measured: the same run gives the same bytes.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from glimp_engine.evaluation.grading import Grade
from glimp_engine.evaluation.jobs import Clock
from glimp_engine.evaluation.problems import Problem
from glimp_engine.outputs import CompletionOutput, RequestOutput, Step
from glimp_engine.routing import SIGNALS, Draft, Glimpse, Model

__all__ = ["NUM_GLIMPSE_LOGPROBS", "AnswerKey", "result_of", "text_of", "timing_of", "tokens_of", "uncertainty_of"]

NUM_GLIMPSE_LOGPROBS = max(signal.num_top_logprobs for signal in SIGNALS.values())


@dataclass(frozen=True)
class AnswerKey:
    """Which answer of a run."""

    router: str
    repeat: int
    problem: str


def result_of(key: AnswerKey, problem: Problem, seed: int, output: RequestOutput, grade: Grade) -> dict[str, Any]:
    """A line of results.jsonl."""
    completion = output.outputs[0] if output.outputs else None
    steps = [] if completion is None else completion.steps
    return {
        "problem": key.problem,
        "router": key.router,
        "repeat": key.repeat,
        "seed": seed,
        "reference": problem.answer if isinstance(problem.answer, (str, int, float, list)) else None,
        "answer": grade.answer,
        "is_correct": output.error is None and grade.is_correct,
        "error": output.error,
        "finish_reason": str(completion.finish_reason) if completion else None,
        "thinking_finish_reason": thinking_finish_reason(completion),
        "text": text_of(output),
        "num_prompt_tokens": len(output.prompt_token_ids),
        "num_tokens": 0 if completion is None else len(completion.token_ids),
        "num_large_tokens": sum(step.num_tokens for step in steps if step.model is Model.LARGE),
        "num_redone_tokens": sum(step.num_redone_tokens for step in steps),
        "hand_overs": sum(before.model is not after.model for before, after in pairwise(steps)),
        "steps": [plain_step(step) for step in steps],
    }


def text_of(output: RequestOutput) -> str:
    return output.outputs[0].text if output.outputs else ""


def timing_of(
    key: AnswerKey, output: RequestOutput, clock: Clock, concurrency: int, containment: str | None
) -> dict[str, Any]:
    """A line of timings.jsonl, in seconds; the answer took [began, ended] since 1970, beside at most so many others.

    Here, not in the results, stands what has contained its program: machines differ in that. And what was proposed to
    the models that wrote it, as that follows what time it takes.
    """
    steps = [step for completion in output.outputs for step in completion.steps]
    return {
        "problem": key.problem,
        "router": key.router,
        "repeat": key.repeat,
        "began": clock.began,
        "ended": clock.began + clock.seconds,
        "seconds": clock.seconds,
        "first_token_seconds": clock.first_token_seconds,
        "concurrency": concurrency,
        "containment": containment,
        "num_proposed_tokens": sum(step.num_proposed_tokens for step in steps),
        "num_accepted_tokens": sum(step.num_accepted_tokens for step in steps),
        "step_seconds": [step.seconds for step in steps],
    }


def tokens_of(output: RequestOutput) -> dict[str, Any]:
    """What it takes to go on from any step of an answer."""
    completion = output.outputs[0]
    return {
        "prompt_token_ids": output.prompt_token_ids,
        "token_ids": completion.token_ids,
        "token_starts": [step.token_start for step in completion.steps],
        "text_starts": [step.text_start for step in completion.steps],
    }


def signals_of(step: Step) -> dict[str, float] | None:
    """Each signal of the step's glimpse; None where none was taken."""
    if step.entropy is None or not step.first_tokens:
        return None
    token, logprob = step.first_tokens[0]
    glimpse = Glimpse(step.entropy, token, logprob, tuple(logprob for _, logprob in step.first_tokens))
    return {name: signal.measure(glimpse) for name, signal in SIGNALS.items()}


def plain_step(step: Step) -> dict[str, Any]:
    return {
        "phase": str(step.phase),
        "model": str(step.model),
        "num_tokens": step.num_tokens,
        "entropy": step.entropy,
        "signals": signals_of(step),
        **uncertainty_of(step),
        "score": step.score,
        "num_redone_tokens": step.num_redone_tokens,
    }


def uncertainty_of(step: Step) -> dict[str, float | None]:
    """Of the step as it was written, by its writer; None where the step has nothing that it's measured of."""
    draft = Draft(step.num_tokens, step.mean_entropy, step.mean_logprob, step.score, step.number_entropy)
    return {
        "step_entropy": draft.mean_entropy,
        "step_perplexity": draft.perplexity,
        "number_entropy": draft.number_entropy,
    }


def thinking_finish_reason(completion: CompletionOutput | None) -> str | None:
    reason = None if completion is None else completion.thinking_finish_reason
    return None if reason is None else str(reason)
