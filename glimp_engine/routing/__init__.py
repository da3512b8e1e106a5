"""Which model writes a step: routers, their names, their parameters and their files. Pure: no torch, no clock.

It may import only `errors`. `routers.py` is the paper's algorithm.
"""

from glimp_engine.routing.files import RoutingFile
from glimp_engine.routing.needs import RouterNeeds
from glimp_engine.routing.params import RoutingParams
from glimp_engine.routing.post_hoc import NumberEntropyRouter, SpecReason, StepEntropyRouter, StepPerplexityRouter
from glimp_engine.routing.routers import (
    SIGNALS,
    Draft,
    GlimpRouter,
    Glimpse,
    LargeOnly,
    LateRouter,
    Model,
    RandomRouter,
    RouteContext,
    Router,
    SmallOnly,
    Verdict,
)
from glimp_engine.routing.specs import ROUTER_SPECS, parse_router

__all__ = [
    "ROUTER_SPECS",
    "SIGNALS",
    "Draft",
    "GlimpRouter",
    "Glimpse",
    "LargeOnly",
    "LateRouter",
    "Model",
    "NumberEntropyRouter",
    "RandomRouter",
    "RouteContext",
    "Router",
    "RouterNeeds",
    "RoutingFile",
    "RoutingParams",
    "SmallOnly",
    "SpecReason",
    "StepEntropyRouter",
    "StepPerplexityRouter",
    "Verdict",
    "parse_router",
]
