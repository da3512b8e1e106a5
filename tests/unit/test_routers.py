"""Routers below, at and above their thresholds; and what they measure, against the definitions."""

import dataclasses
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glimp_engine import (
    ConfigError,
    Draft,
    GlimpRouter,
    LargeOnly,
    LateRouter,
    Model,
    NumberEntropyRouter,
    RandomRouter,
    SmallOnly,
    SpecReason,
    StepEntropyRouter,
    StepPerplexityRouter,
    Verdict,
)
from glimp_engine.routing.routers import SIGNALS, Glimpse, RouteContext
from glimp_engine.routing.specs import parse_router

CONTEXT = RouteContext(seed=3, sequence_index=0, step_index=5)
INF = math.inf


def glimpse(probabilities):
    """What the engine would tell of a distribution, with as many of its largest as any signal asks for."""
    logprobs = sorted((math.log(p) if p else -INF for p in probabilities), reverse=True)
    entropy = -math.fsum(p * math.log(p) for p in probabilities if p)
    return Glimpse(entropy, token=0, logprob=logprobs[0], top_logprobs=tuple(logprobs[:20]))


@pytest.mark.parametrize("signal", SIGNALS)
@given(st.lists(st.floats(0.001, 1), min_size=1, max_size=30))
def test_large_from_the_threshold_on(signal, weights):
    total = sum(weights)
    seen = glimpse([w / total for w in weights])
    measured = max(SIGNALS[signal].measure(seen), 0.0)
    assert GlimpRouter(measured, signal).decide(seen, CONTEXT) is Model.LARGE
    assert GlimpRouter(math.nextafter(measured, INF), signal).decide(seen, CONTEXT) is Model.SMALL
    if measured > 0:
        assert GlimpRouter(math.nextafter(measured, 0), signal).decide(seen, CONTEXT) is Model.LARGE
    assert GlimpRouter(INF, signal).decide(seen, CONTEXT) is Model.SMALL


@pytest.mark.parametrize(
    ("signal", "probabilities", "expected"),
    [
        ("entropy", [1.0], 0.0),
        ("entropy", [0.25] * 4, math.log(4)),
        ("entropy", [1 / 50] * 50, math.log(50)),
        ("top20_entropy", [1 / 50] * 50, math.log(20)),  # renormalised
        ("top20_entropy", [0.5, 0.5, 0.0, 0.0], math.log(2)),
        ("max_probability", [0.7, 0.2, 0.1], 0.3),
        ("margin", [0.7, 0.2, 0.1], 0.5),
        ("margin", [1.0], 0.0),
        ("margin", [0.5, 0.5], 1.0),
    ],
)
def test_signals(signal, probabilities, expected):
    assert SIGNALS[signal].measure(glimpse(probabilities)) == pytest.approx(expected)


@pytest.mark.parametrize("signal", SIGNALS)
@pytest.mark.parametrize("logprob", [0.0, -1e-9, 1e-7])  # in float32 the logarithm of 1 may round to above 0
def test_threshold_0_is_always_large(signal, logprob):
    sure = Glimpse(entropy=-1e-9, token=0, logprob=logprob, top_logprobs=(logprob, -INF))
    assert GlimpRouter(0.0, signal).decide(sure, CONTEXT) is Model.LARGE


def test_a_router_asks_for_what_its_signal_looks_at():
    asked = {signal: GlimpRouter(1.0, signal).num_top_logprobs for signal in SIGNALS}
    assert asked == {"entropy": 0, "top20_entropy": 20, "max_probability": 1, "margin": 2}


def test_a_fraction_of_the_largest_so_far_is_large():
    router, generator = GlimpRouter(large_fraction=0.25), random.Random(1)
    glimpses = [Glimpse(generator.random() ** 3, 0, 0.0) for _ in range(400)]
    routes = [router.decide(g, RouteContext(0, 0, i, glimpses[:i])) for i, g in enumerate(glimpses)]
    assert sum(routes) / 400 == pytest.approx(0.25, abs=0.03)
    large = [g.entropy for g, route in zip(glimpses[200:], routes[200:], strict=True) if route is Model.LARGE]
    small = [g.entropy for g, route in zip(glimpses[200:], routes[200:], strict=True) if route is Model.SMALL]
    assert min(large) == pytest.approx(max(small), abs=0.05)  # by then the threshold has settled


@pytest.mark.parametrize(("fraction", "route"), [(0.0, Model.SMALL), (1.0, Model.LARGE)])
def test_no_fraction_and_all_of_it(fraction, route):
    glimpses = [Glimpse(entropy, 0, 0.0) for entropy in (0.0, 2.0, 0.0, 1.0, 1.0)]
    router = GlimpRouter(large_fraction=fraction)
    assert {router.decide(g, RouteContext(0, 0, i, glimpses[:i])) for i, g in enumerate(glimpses)} == {route}
    assert router.small_below == 0.0  # no entropy settles the route beforehand


def test_a_draft_is_judged_by_its_numbers_where_it_has_any():
    draft = Draft(num_tokens=5, mean_entropy=0.1, mean_logprob=0.0, score=None, number_entropy=0.5)
    wordy = dataclasses.replace(draft, mean_entropy=9.0, number_entropy=None)
    for threshold, verdict in ((0.5, Verdict.REDO), (0.51, Verdict.ACCEPT), (math.inf, Verdict.ACCEPT)):
        assert NumberEntropyRouter(threshold).review(draft) is verdict
        assert NumberEntropyRouter(threshold).review(wordy) is Verdict.ACCEPT
    for rounded in (0.0, -1e-7):
        assert NumberEntropyRouter(0).review(dataclasses.replace(draft, number_entropy=rounded)) is Verdict.REDO
    assert NumberEntropyRouter(0).review(wordy) is Verdict.ACCEPT
    assert NumberEntropyRouter(0).decide(glimpse([0.5, 0.5]), CONTEXT) is Model.SMALL


def test_late_is_large_from_a_place_on():
    for p in ([1.0], [0.5] * 2):
        routes = [LateRouter(7).decide(glimpse(p), dataclasses.replace(CONTEXT, num_tokens=n)) for n in (0, 6, 7, 8)]
        assert routes == [Model.SMALL, Model.SMALL, Model.LARGE, Model.LARGE]
    assert LateRouter(0).decide(glimpse([1.0]), RouteContext(0, 0, 0)) is Model.LARGE


def test_a_draft_is_kept_below_the_threshold():
    draft = Draft(num_tokens=5, mean_entropy=0.5, mean_logprob=-math.log(2), score=7.0)
    for router, verdict in (
        (StepEntropyRouter(0.5), Verdict.REDO),
        (StepEntropyRouter(0.51), Verdict.ACCEPT),
        (StepPerplexityRouter(2.0), Verdict.REDO),
        (StepPerplexityRouter(2.01), Verdict.ACCEPT),
        (SpecReason(7), Verdict.ACCEPT),
        (SpecReason(7.5), Verdict.REDO),
    ):
        assert router.review(draft) is verdict
        assert router.decide(glimpse([0.5, 0.5]), CONTEXT) is Model.SMALL
    assert SpecReason(0).review(dataclasses.replace(draft, score=None)) is Verdict.REDO


@pytest.mark.parametrize(
    ("spec", "router"),
    [
        ("small", SmallOnly()),
        ("large", LargeOnly()),
        ("random:0.3", RandomRouter(0.3, seed=5)),
        ("glimp:1.0", GlimpRouter(1.0)),
        ("glimp:inf", GlimpRouter(math.inf)),
        ("glimp:0.4:margin", GlimpRouter(0.4, "margin")),
        ("glimp:25%", GlimpRouter(large_fraction=0.25)),
        ("specreason:7", SpecReason(7)),
        ("step_entropy:0.8", StepEntropyRouter(0.8)),
        ("step_perplexity:1.5", StepPerplexityRouter(1.5)),
        ("number_entropy:0.3", NumberEntropyRouter(0.3)),
        ("number_entropy:inf", NumberEntropyRouter(math.inf)),
        ("late:120", LateRouter(120)),
    ],
)
def test_a_spec_names_a_router(spec, router):
    assert parse_router(spec, seed=5) == router


@pytest.mark.parametrize(
    "spec",
    [
        "",
        "glimp",
        "glimp:",
        "glimp:x",
        "glimp:1:margin:2",
        "small:1",
        "best",
        "random:a%",
        "late:1.5",
        "late:",
        "late",
        "number_entropy",
        "number_entropy:x",
    ],
)
def test_a_spec_that_names_none_is_refused(spec):
    with pytest.raises(ConfigError, match=f"router is '{spec}'; allowed: small, large, random:RATE, .*glimp:SHARE%,"):
        parse_router(spec)


def test_one_model_only():
    for router, model in ((SmallOnly(), Model.SMALL), (LargeOnly(), Model.LARGE)):
        assert router.only is router.decide(glimpse([0.5, 0.5]), CONTEXT) is model


def contexts(count=2000):
    return [
        RouteContext(seed, sequence, step) for seed in range(count // 20) for sequence in (0, 1) for step in range(10)
    ]


@pytest.mark.parametrize("rate", [0.0, 0.25, 1.0])
def test_random_at_a_rate(rate):
    router = RandomRouter(rate)
    share = sum(router.decide(glimpse([1.0]), context) is Model.LARGE for context in contexts()) / 2000
    assert share == pytest.approx(rate, abs=0.04)


def test_random_depends_on_place_and_seeds_alone():
    routes = [
        [RandomRouter(0.5, seed).decide(glimpse(p), c) for c in contexts()]
        for seed in (0, 1)
        for p in ([1.0], [0.5] * 2)
    ]
    assert routes[0] == routes[1] != routes[2] == routes[3]
    by_seed, by_sequence, by_step = (
        [RandomRouter(0.5).decide(glimpse([1.0]), RouteContext(*place)) for place in places]
        for places in ([(i, 0, 0) for i in range(64)], [(0, i, 0) for i in range(64)], [(0, 0, i) for i in range(64)])
    )
    assert all(set(routes) == set(Model) for routes in (by_seed, by_sequence, by_step))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GlimpRouter(-0.1), r"threshold is -0.1; allowed: .*0"),
        (lambda: GlimpRouter(math.nan), "threshold is nan"),
        (lambda: GlimpRouter("1"), "threshold is '1'"),
        (lambda: GlimpRouter(True), "threshold is True"),
        (lambda: GlimpRouter(1.0, "surprise"), "signal is 'surprise'; allowed: entropy, top20_entropy"),
        (lambda: GlimpRouter(large_fraction=1.5), "large_fraction is 1.5; allowed: a number from 0 to 1"),
        (lambda: SpecReason(-1), "threshold is -1; allowed: a number from 0 to 10"),
        (lambda: StepEntropyRouter(-1), "threshold is -1"),
        (lambda: StepPerplexityRouter(math.nan), "threshold is nan"),
        (lambda: NumberEntropyRouter(-1), "threshold is -1"),
        (lambda: NumberEntropyRouter(math.nan), "threshold is nan"),
        (lambda: LateRouter(-1), "num_tokens is -1; allowed: an integer from 0 on"),
        (lambda: LateRouter(1.5), r"num_tokens is 1\.5; allowed: an integer from 0 on"),
        (lambda: LateRouter(True), "num_tokens is True"),
        (lambda: RandomRouter(1.5), "rate is 1.5"),
        (lambda: RandomRouter(-1), "rate is -1"),
        (lambda: RandomRouter(math.nan), "rate is nan"),
    ],
)
def test_bad_routers_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
