"""What is told of an answer beside its text: usage, log-probabilities, steps and shares."""

from collections.abc import Sequence
from typing import Any

from glimp_engine.outputs import CompletionOutput, FinishReason, Logprob, Phase, RequestOutput, Step
from glimp_engine.routing import Model
from glimp_engine.serving.deltas import Piece
from glimp_engine.text import Text

__all__ = ["chat_logprobs", "completion_logprobs", "finish_of", "shares_of", "steps_of", "usage_of"]

LEAST_LOGPROB = -9999.0  # JSON has no infinity; vLLM's number for it
FINISH = {
    FinishReason.STOP: "stop",
    FinishReason.LENGTH: "length",
    FinishReason.REPEATED_STEP: "stop",
    FinishReason.ABORT: "abort",
    FinishReason.ERROR: "error",
}


def finish_of(reason: FinishReason | None, has_calls: bool = False) -> str:
    """The finish reason by OpenAI's names; an answer that calls tools and ends by itself has ended for them."""
    told = FINISH.get(reason or FinishReason.ERROR, "stop")
    return "tool_calls" if has_calls and told == "stop" else told


def usage_of(output: RequestOutput) -> dict[str, Any]:
    """Tokens in and out; those of the thinking, and those found in the prefix cache, are among them."""
    num_reasoning = sum(
        step.num_tokens for each in output.outputs for step in each.steps if step.phase is Phase.THINKING
    )
    num_written = sum(len(each.token_ids) for each in output.outputs)
    return usage(len(output.prompt_token_ids), num_written, output.num_cached_tokens, num_reasoning)


def usage(num_prompt: int, num_written: int, num_cached: int = 0, num_reasoning: int = 0) -> dict[str, Any]:
    """The same, of these numbers."""
    return {
        "prompt_tokens": num_prompt,
        "completion_tokens": num_written,
        "total_tokens": num_prompt + num_written,
        "prompt_tokens_details": {"cached_tokens": num_cached},
        "completion_tokens_details": {"reasoning_tokens": num_reasoning},
    }


# Steps.


def step_of(step: Step) -> dict[str, Any]:
    """A step that has begun."""
    return {"index": step.index, "model": str(step.model), "phase": str(step.phase), "entropy": step.entropy}


def steps_of(pieces: list[Piece]) -> dict[str, Any]:
    """Which steps a delta's text is of, and how long those took that end with it."""
    told = []
    for piece in pieces:
        of_step = {**step_of(piece.step), "text": piece.text, "num_tokens": len(piece.token_ids)}
        if piece.begins:
            of_step["begins"] = True
            of_step["is_hand_over"] = piece.is_hand_over
        if piece.ends:
            of_step["ends"] = True
            of_step["seconds"] = piece.step.seconds
        told.append(of_step)
    return {"pieces": told}


def shares_of(outputs: list[CompletionOutput], include_steps: bool = False) -> dict[str, Any]:
    """What each model has written of these sequences, and in which time; with include_steps, step by step."""
    steps = [step for each in outputs for step in each.steps]
    num_tokens = sum(step.num_tokens for step in steps)
    told: dict[str, Any] = {}
    for model in Model:
        own = [step for step in steps if step.model is model]
        num_own = sum(step.num_tokens for step in own)
        told[str(model)] = {
            "steps": len(own),
            "tokens": num_own,
            "share": num_own / num_tokens if num_tokens else 0.0,
            "seconds": sum(step.seconds for step in own),
            "proposed_tokens": sum(step.num_proposed_tokens for step in own),
            "accepted_tokens": sum(step.num_accepted_tokens for step in own),
        }
    if include_steps:
        told["steps"] = [
            {**step_of(step), "text": each.text[step.text_start : step.text_end], "num_tokens": step.num_tokens}
            for each in outputs
            for step in each.steps
        ]
    return told


# Log-probabilities.


def bounded(logprob: float) -> float:
    return max(logprob, LEAST_LOGPROB)


def token_logprob(token_id: int, logprobs: dict[int, Logprob] | None) -> float:
    """That of a token; a token that no model chose, as a forced `</think>`, is certain."""
    entry = (logprobs or {}).get(token_id)
    return 0.0 if entry is None else bounded(entry.logprob)


def ranked(logprobs: dict[int, Logprob] | None) -> list[tuple[int, float]]:
    """The likeliest tokens, descending; without the one that was written if it's not among them."""
    known = [(each.rank, token_id, each.logprob) for token_id, each in (logprobs or {}).items() if each.rank]
    return [(token_id, bounded(logprob)) for _, token_id, logprob in sorted(known)]


def chat_logprobs(
    token_ids: list[int], logprobs: Sequence[dict[int, Logprob] | None], text: Text
) -> list[dict[str, Any]]:
    """`content` of a chat's logprobs."""

    def told(token_id: int, logprob: float) -> dict[str, Any]:
        written = text.bytes_of(token_id)
        return {"token": written.decode(errors="replace"), "logprob": logprob, "bytes": list(written)}

    return [
        {
            **told(token_id, token_logprob(token_id, own)),
            "top_logprobs": [told(other, logprob) for other, logprob in ranked(own)],
        }
        for token_id, own in zip(token_ids, logprobs, strict=True)
    ]


def completion_logprobs(
    token_ids: list[int],
    logprobs: Sequence[dict[int, Logprob] | None],
    text: Text,
    offset: int,
    is_start: bool = False,
) -> dict[str, list[Any]]:
    """`logprobs` of a completion, whose text begins at an offset. With is_start the first token has none."""
    tokens = [text.bytes_of(token_id).decode(errors="replace") for token_id in token_ids]
    values: list[float | None] = [token_logprob(*each) for each in zip(token_ids, logprobs, strict=True)]
    tops: list[dict[str, float] | None] = []
    for token_id, own in zip(token_ids, logprobs, strict=True):
        best = {text.bytes_of(other).decode(errors="replace"): logprob for other, logprob in ranked(own)}
        best.setdefault(text.bytes_of(token_id).decode(errors="replace"), token_logprob(token_id, own))
        tops.append(best)
    if is_start and tokens:
        values[0], tops[0] = None, None
    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token)
    return {"tokens": tokens, "token_logprobs": values, "top_logprobs": tops, "text_offset": offsets}
