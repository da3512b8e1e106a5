"""GlimpRouter written over two models that only know `catch_up`: what a user would put together around a library.

Greedy. A step ends with the token that completes a blank line; at each step's start the entropy of the small model's
full distribution decides: at or above the threshold the large model writes the step. Each model keeps its own K/V and
is caught up on what it has not seen, so no token is run twice.
"""

import math
import time
from typing import Any, Protocol

import numpy as np


class Writer(Protocol):
    """One model with its K/V."""

    def catch_up(self, token_ids: list[int]) -> np.ndarray:
        """Logits [V] of the last of these tokens; what the K/V already holds of them is not run again."""

    def piece(self, token_id: int) -> bytes:
        """What the token reads."""

    def is_end(self, token_id: int) -> bool:
        """Whether it ends the answer."""


class Reader:
    """A model at work on one answer: counts what it's run for, as the engine's own counters do."""

    def __init__(self, name: str, writer: Writer, num_prompt_tokens: int) -> None:
        self.name = name
        self.writer = writer
        self.num_prompt_tokens = num_prompt_tokens
        self.num_seen = num_prompt_tokens
        self.prompt_tokens = 0
        self.catch_up_tokens = 0

    def read(self, token_ids: list[int], last: "Reader | None") -> np.ndarray:
        """Logits of the next token; all that's new but its own last token is catch-up."""
        new = len(token_ids) - self.num_seen
        self.catch_up_tokens += new - (last is self and new > 0)
        self.num_seen, self.prompt_tokens = len(token_ids), self.num_prompt_tokens
        return self.writer.catch_up(token_ids)


def entropy(logits: np.ndarray) -> float:
    """Nats, of softmax(logits), logits [V]."""
    z = logits.astype(np.float64)
    z -= z.max()
    e = np.exp(z)
    return math.log(e.sum()) - float((e * z).sum() / e.sum())


def write_routed(
    small_writer: Writer, large_writer: Writer, prompt: list[int], router: str, max_tokens: int
) -> dict[str, Any]:
    """An answer with its steps and counts; router is "small", "large" or a threshold in nats."""
    small, large = Reader("small", small_writer, len(prompt)), Reader("large", large_writer, len(prompt))
    only = {"small": small, "large": large}.get(router)
    token_ids, steps, text, finish, hand_overs = list(prompt), [], b"", "length", 0
    last, first_token_seconds = None, None
    began = time.perf_counter()
    while finish == "length" and len(token_ids) - len(prompt) < max_tokens:
        h = None if only else entropy(small.read(token_ids, last))
        model = only or (large if h is not None and h >= float(router) else small)
        hand_overs += last not in (None, model)
        step, num_tokens = b"", 0
        while len(token_ids) - len(prompt) < max_tokens and not step.endswith(b"\n\n"):
            token_id = int(model.read(token_ids, last).argmax())
            first_token_seconds = first_token_seconds or time.perf_counter() - began
            token_ids.append(token_id)
            last, num_tokens = model, num_tokens + 1
            if model.writer.is_end(token_id):
                finish = "stop"
                break
            step += model.writer.piece(token_id)
        text += step
        steps.append({"model": model.name, "entropy": h, "num_tokens": num_tokens})
    return {
        "seconds": time.perf_counter() - began,
        "first_token_seconds": first_token_seconds,
        "num_tokens": len(token_ids) - len(prompt),
        "prompt_tokens": {model.name: model.prompt_tokens for model in (small, large)},
        "catch_up_tokens": {model.name: model.catch_up_tokens for model in (small, large)},
        "hand_overs": hand_overs,
        "finish": finish,
        "steps": steps,
        "text": text.decode(errors="replace"),
    }
