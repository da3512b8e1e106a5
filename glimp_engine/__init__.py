"""Step-routed decoding: two co-resident models write one answer (GlimpRouter, arXiv 2601.05110)."""

from glimp_engine.engine import Engine
from glimp_engine.errors import CapacityError, CheckpointError, ConfigError, GlimpError, RequestError
from glimp_engine.load import LoadedModel
from glimp_engine.outputs import (
    CompletionOutput,
    Event,
    Finish,
    FinishReason,
    Logprob,
    Phase,
    RequestOutput,
    Stats,
    Step,
    StepEnd,
    StepStart,
    Token,
)
from glimp_engine.post_hoc import SpecReason, StepEntropyRouter, StepPerplexityRouter
from glimp_engine.routers import (
    Draft,
    GlimpRouter,
    Glimpse,
    LargeOnly,
    Model,
    RandomRouter,
    RouteContext,
    Router,
    SmallOnly,
    Verdict,
)
from glimp_engine.sampling import RoutingParams, SamplingParams

__all__ = [
    "CapacityError",
    "CheckpointError",
    "CompletionOutput",
    "ConfigError",
    "Draft",
    "Engine",
    "Event",
    "Finish",
    "FinishReason",
    "GlimpError",
    "GlimpRouter",
    "Glimpse",
    "LargeOnly",
    "LoadedModel",
    "Logprob",
    "Model",
    "Phase",
    "RandomRouter",
    "RequestError",
    "RequestOutput",
    "RouteContext",
    "Router",
    "RoutingParams",
    "SamplingParams",
    "SmallOnly",
    "SpecReason",
    "Stats",
    "Step",
    "StepEnd",
    "StepEntropyRouter",
    "StepPerplexityRouter",
    "StepStart",
    "Token",
    "Verdict",
]
