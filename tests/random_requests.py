"""Requests of every kind, and engines to run them on, drawn from a seed's numbers."""

import math
from dataclasses import dataclass

from glimp_engine import (
    GlimpRouter,
    LargeOnly,
    LateRouter,
    Model,
    NumberEntropyRouter,
    RandomRouter,
    RoutingParams,
    SamplingParams,
    SmallOnly,
    SpecReason,
    StepEntropyRouter,
    StepPerplexityRouter,
    StructuredOutputs,
    Verdict,
)

MAX_MODEL_LEN = 96
PROMPTS = ["How many?", "How many apples are there in all", "x", "Tell me: " + "a b c " * 6, "w" * 16, "w" * 31]
# what the bytes of any vocabulary can write, whatever else is banned
GRAMMARS = [
    {"regex": r"([b-y]| w[0-9]+|[.\n ]|é)*"},
    {"json": {"type": "array", "items": {"anyOf": [{"type": "integer"}, {"type": "string", "maxLength": 3}]}}},
    {"choice": ["yes", "nope", "w7 w7"]},
    {"grammar": 'root ::= (" w" [0-9]+ ".\\n\\n")+ "!"'},
]
CHATS = [[{"role": "user", "content": text}] for text in ("Hi", "How many apples?")]
BAD_PROMPTS = [
    "",
    "\ud83d",
    "half \udc00 of it",
    "too long " * 60,
    "far too long " * 9000,
    [],
    [0, 10**9],
    [-1],
    [True],
    ["w"],
    [{"role": "user"}],
    [{"role": 3, "content": "x"}],
    [{"role": "user", "content": "\ud83d"}],
]


class BrokenError(Exception):
    """What a user's own code may raise."""


@dataclass(frozen=True)
class FailingRouter:
    """Routes by entropy, and fails at the step of that index: it raises, or answers what is no answer."""

    at: int
    what: str = "raises"

    def decide(self, glimpse, context):
        if context.step_index < self.at:
            return Model.LARGE if glimpse.entropy > 2.5 else Model.SMALL
        if self.what == "raises":
            raise BrokenError("decide")
        return {"nonsense": 7, "nothing": None}[self.what]


class ReviewingRouter:
    """Reviews drafts by their length, and may fail at that."""

    question = None

    def __init__(self, modulus, fails_at=None, question=None):
        self.modulus, self.fails_at, self.question = modulus, fails_at, question

    def __repr__(self):
        return f"ReviewingRouter({self.modulus}, {self.fails_at}, {self.question!r})"

    def decide(self, glimpse, context):
        return Model.SMALL

    def review(self, draft):
        if draft.num_tokens == self.fails_at:
            raise BrokenError("review")
        return Verdict.REDO if draft.num_tokens % self.modulus == 0 else Verdict.ACCEPT


def random_router(rng):
    kind = rng.randrange(10)
    if kind < 3:
        return GlimpRouter(rng.choice([0.0, 1.5, 2.6, 3.0, float("inf")]))
    return [
        lambda: SmallOnly(),
        lambda: LargeOnly(),
        lambda: rng.choice([RandomRouter(0.5), LateRouter(rng.choice([0, 9, 30]))]),
        lambda: SpecReason(rng.choice([0, 5, 10])),
        lambda: rng.choice([StepEntropyRouter(rng.choice([0.0, 2.0, 2.6])), NumberEntropyRouter(2.0)]),
        lambda: rng.choice([StepPerplexityRouter(9.0), GlimpRouter(large_fraction=0.4)]),
        lambda: ReviewingRouter(rng.randint(1, 3), question=rng.choice([None, "Is it good?"])),
    ][kind - 3]()


def failing_router(rng):
    if rng.random() < 0.5:
        return FailingRouter(rng.randint(0, 3), rng.choice(["raises", "nonsense", "nothing"]))
    return ReviewingRouter(rng.randint(1, 3), fails_at=rng.randint(1, 4), question=rng.choice([None, "Is it good?"]))


def random_sampling(rng):
    greedy, n = rng.random() < 0.5, rng.choice([1, 1, 1, 2, 3, 7])
    penalties = {"presence_penalty": 0.5, "repetition_penalty": 1.3} if rng.random() < 0.2 else {}
    return SamplingParams(
        temperature=0 if greedy else rng.choice([1e-30, 0.7, 1.0, 1.4]),
        n=1 if greedy else n,
        seed=rng.randrange(3),
        top_p=rng.choice([1.0, 0.9]),
        top_k=rng.choice([0, 0, 20]),
        max_tokens=rng.randint(1, 30),
        stop=rng.choice([(), (), ("w7",), (".\n\n w1", "5")]),
        logprobs=rng.choice([None, None, 0, 3]),
        **penalties,
        **random_wishes(rng),
    )


def random_wishes(rng):
    """What is rarely asked for; at most of it at once, and never so much that nothing is left to write."""
    wishes = {
        "ignore_eos": True,
        "min_tokens": 1,
        "stop_token_ids": [*range(20, 30)],  # bytes, which all vocabularies have
        "include_stop_str_in_output": True,
        "logit_bias": {40: 3.0, 50: -math.inf, 21: 2.5, 60: -1.0},
        "bad_words": ["w1", "a", " w3.\n\n", "b c"],
        "skip_special_tokens": False,
        "prompt_logprobs": rng.choice([0, 2]),
        "truncate_prompt_tokens": rng.choice([-1, 3, 9]),
        "structured_outputs": StructuredOutputs(**rng.choice(GRAMMARS)),
    }
    return {name: value for name, value in wishes.items() if rng.random() < 0.12}


def random_routing(rng, router):
    return RoutingParams(
        router=router,
        max_step_tokens=rng.choice([1, 3, 9, 512]),
        answer_model=rng.choice(["small", "large", "routed"]),
        max_thinking_tokens=rng.choice([1, 6, 8192]),
        stop_repeated_steps=rng.random() < 0.5,
        glimpse_logprobs=rng.choice([0, 0, 5]),
    )


def random_options(rng, num_streams, bytes_per_token):
    """An engine's options, its pages only just enough at times."""
    page_size, max_batch_size = rng.choice([1, 2, 3, 4, 16]), rng.randint(1, 8)
    num_pages = -(-MAX_MODEL_LEN // page_size) * num_streams
    num_pages = int(num_pages * rng.choice([1.0, 1.0, 1.3, 2.0, 4.0]))
    return {
        "page_size": page_size,
        "max_model_len": MAX_MODEL_LEN,
        "max_batch_size": max_batch_size,
        "max_batch_tokens": rng.randint(max_batch_size, 48),
        "kv_cache_bytes": num_pages * page_size * bytes_per_token,
        "num_threads": 1,
        "device": "cpu",
    }
