"""What the engine gives back: the events of a tick, the finished outputs, and its counters."""

from dataclasses import dataclass, field
from enum import StrEnum

from glimp_engine.routing import Model

__all__ = [
    "CompletionOutput",
    "Event",
    "Finish",
    "FinishReason",
    "Logprob",
    "ModelStats",
    "Phase",
    "Proposer",
    "ProposerStats",
    "RequestOutput",
    "Stats",
    "Step",
    "StepEnd",
    "StepStart",
    "Tick",
    "TickTokens",
    "Token",
]


class Phase(StrEnum):
    """Thinking is what stands before `</think>`; a model without thinking only answers."""

    THINKING = "thinking"
    ANSWER = "answer"


class Proposer(StrEnum):
    """Who says, before the model that writes does, which token may come next."""

    SMALL = "small"  # the small model, to the large one
    NGRAM = "ngram"  # what stood behind the same tokens elsewhere in the sequence


class FinishReason(StrEnum):
    """Why the thinking or the sequence ended."""

    STOP = "stop"  # an end token, a stop string; for the thinking: its end mark, as </think>
    UNCLOSED = "unclosed"  # the thinking only: the output ended, by an end token or a stop string, without that mark
    LENGTH = "length"  # max_tokens, the answer's budget, or the context
    THINKING_BUDGET = "thinking_budget"
    REPEATED_STEP = "repeated_step"
    ABORT = "abort"
    ERROR = "error"


@dataclass(frozen=True)
class Logprob:
    """Log-probability of a token under its writer's raw distribution (temperature 1, no penalties)."""

    logprob: float  # nats
    rank: int | None = None  # 1 is the most likely; None outside the reported ones


@dataclass
class Step:
    """A span of generated tokens that ends with a boundary."""

    index: int
    phase: Phase
    model: Model
    entropy: float | None  # nats, of the glimpse; None where no glimpse was taken
    token_start: int  # the step is token_ids[token_start:token_end] of its output
    text_start: int  # ... and text[text_start:text_end]
    token_end: int = 0
    text_end: int = 0
    seconds: float = 0.0  # wall clock since the end of the step before, so with glimpse, catch-up and waiting
    first_tokens: list[tuple[int, float]] = field(default_factory=list)  # the glimpse's (id, logprob), descending
    mean_entropy: float = 0.0  # nats, of the distributions that its writer drew it from
    mean_logprob: float = 0.0  # nats, of its tokens under these
    number_entropy: float | None = None  # nats, mean over its tokens with a digit in them; None if it has none
    num_redone_tokens: int = 0  # of the small model's draft that was taken back before
    score: float | None = None  # of the draft, 0 to 9, by the large model
    num_proposed_tokens: int = 0  # that its writer was shown to confirm
    num_accepted_tokens: int = 0  # of these: written

    @property
    def num_tokens(self) -> int:
        return self.token_end - self.token_start


@dataclass
class CompletionOutput:
    """One sequence of a request."""

    index: int
    text: str
    token_ids: list[int]  # in the vocabulary of the model that wrote them
    cumulative_logprob: float
    logprobs: list[dict[int, Logprob]] | None
    finish_reason: FinishReason | None
    stop_reason: str | int | None  # the stop string, or the stop token's id, that ended it; None for an end token
    thinking_finish_reason: FinishReason | None  # None: there was no thinking, or it has not ended
    steps: list[Step]


@dataclass
class RequestOutput:
    """A finished request; names as in vLLM."""

    request_id: str
    prompt: str | None  # None for a prompt of token ids or of messages
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]
    error: str | None = None  # why, where a finish_reason is `error`
    # one entry a token of the prompt, the first one None; None if they weren't asked for, or the prompt wasn't finished
    prompt_logprobs: list[dict[int, Logprob] | None] | None = None
    num_cached_tokens: int = 0  # of the prompt, that the model that read it first found in the prefix cache

    @classmethod
    def failed(cls, request_id: str, prompt: object, error: Exception) -> "RequestOutput":
        """The output of a request that could not be run at all."""
        return cls(request_id, prompt if isinstance(prompt, str) else None, [], [], error=str(error))


@dataclass(frozen=True)
class StepStart:
    """A route has been decided."""

    request_id: str
    sequence_index: int
    step: Step  # its tokens are yet to come
    is_hand_over: bool  # whether the other model wrote the token before


@dataclass(slots=True)
class Token:
    """A token has been written."""

    request_id: str
    sequence_index: int
    step_index: int
    model: Model | None  # None for a forced token, as </think> when the thinking budget is spent
    token_id: int
    text: str  # what this token completes: whole characters, without what a stop string may yet take back
    logprob: float | None
    proposer: Proposer | None = None  # whose proposal it confirmed; None: nobody's
    refused: tuple[int, ...] = ()  # proposals, in its model's ids, that it took the place of, and those behind them
    logprobs: dict[int, Logprob] | None = None  # as in the output; None where they weren't asked for


@dataclass(frozen=True)
class StepEnd:
    """A step is complete."""

    request_id: str
    sequence_index: int
    step: Step


@dataclass(frozen=True)
class Finish:
    """A sequence is complete; the last one of its request carries the request's output."""

    request_id: str
    sequence_index: int
    finish_reason: FinishReason
    text: str  # what was held back until it was known that no stop string comes
    output: RequestOutput | None
    stop_reason: str | int | None = None  # as in the output


Event = StepStart | Token | StepEnd | Finish


@dataclass(slots=True)
class TickTokens:
    """What a tick ran for one sequence, in tokens."""

    request_id: str
    sequence_index: int
    prompt: int
    catch_up: int
    question: int
    decode: int
    proposal: int


@dataclass(frozen=True)
class Tick:
    """One forward of one model, and the pages after it."""

    model: Model
    began: float  # seconds of time.perf_counter
    ended: float
    tokens: list[TickTokens]
    num_used_pages: int
    num_cached_pages: int
    num_free_pages: int


@dataclass
class ModelStats:
    """What one model has done since the engine began."""

    num_forwards: int = 0
    seconds: float = 0.0
    prompt_tokens: int = 0  # run as part of a prompt
    catch_up_tokens: int = 0  # run over what the other model wrote
    question_tokens: int = 0  # run over questions about a draft
    decode_tokens: int = 0  # run over what it wrote itself, one at a time
    proposal_tokens: int = 0  # run over proposals: to verify them, or to make the next
    recomputed_tokens: int = 0  # of all these: run again after a preemption
    tokens_written: int = 0
    redone_tokens: int = 0  # written as a draft and taken back
    steps_written: int = 0


@dataclass
class ProposerStats:
    """What has become of one proposer's tokens; lists are by how many proposals stood before it."""

    proposed_tokens: int = 0
    accepted_tokens: int = 0
    proposed_at: list[int] = field(default_factory=list)
    accepted_at: list[int] = field(default_factory=list)


@dataclass
class Stats:
    """The engine's counters and the state of its pages."""

    small: ModelStats = field(default_factory=ModelStats)
    large: ModelStats = field(default_factory=ModelStats)
    proposers: dict[Proposer, ProposerStats] = field(
        default_factory=lambda: {proposer: ProposerStats() for proposer in Proposer}
    )
    proposing_seconds: float = 0.0  # of ticks in which the small model did nothing else
    verifying_seconds: float = 0.0  # of ticks in which there were proposals to verify
    glimpse_forwards: int = 0  # glimpses that cost a forward: of a prompt, or after a large step
    hand_overs: int = 0
    cached_prompt_tokens: int = 0  # prompt tokens found in the prefix cache
    preemptions: int = 0
    num_running: int = 0
    num_waiting: int = 0
    num_finished: int = 0
    num_pages: int = 0
    num_free_pages: int = 0
    num_cached_pages: int = 0

    @property
    def kv_cache_usage(self) -> float:
        """Share of the pages that sequences hold."""
        return (self.num_pages - self.num_free_pages - self.num_cached_pages) / max(self.num_pages, 1)

    @property
    def recomputed_tokens(self) -> int:
        return self.small.recomputed_tokens + self.large.recomputed_tokens
