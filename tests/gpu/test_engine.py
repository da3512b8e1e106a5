"""The engine on Triton's ops, against the same engine on the reference ops; ticks as graphs, against plain ticks."""

import pytest
from on_gpu import DEVICE
from proposers import Whims

from glimp_engine import (
    Engine,
    Finish,
    GlimpRouter,
    LargeOnly,
    Model,
    Proposer,
    RandomRouter,
    RoutingParams,
    SamplingParams,
    SmallOnly,
    SpecReason,
    StepEntropyRouter,
)
from glimp_engine.config import EngineConfig
from glimp_engine.execution import ModelRunner, graphs, run_ahead, static_batch
from glimp_engine.sequences import Use

PROMPTS = ["How many apples", "A baker sells loaves.\n\nw", "w1 w2 w3"]
SAMPLING = [
    SamplingParams(temperature=0, seed=0, max_tokens=10),
    SamplingParams(temperature=0.8, top_k=40, top_p=0.9, seed=1, max_tokens=9),
    SamplingParams(temperature=1.1, seed=2, max_tokens=12, presence_penalty=0.5),
]

ROUTERS = [
    SmallOnly(),
    LargeOnly(),
    GlimpRouter(2.6),
    RandomRouter(0.5),
    StepEntropyRouter(2.4),
    SpecReason(10),
]


def outputs(*paths, router, **options):
    """(token ids, entropies of the steps, who wrote them) of each prompt."""
    engine = Engine(*paths, device=str(DEVICE), dtype="float32", kv_cache_bytes=1 << 20, **options)
    finished = engine.generate(PROMPTS, SAMPLING, RoutingParams(router=router), use_tqdm=False)
    assert [output.error for output in finished] == [None] * len(PROMPTS)
    assert engine.stats().recomputed_tokens == 0
    completions = [output.outputs[0] for output in finished]
    return [(c.token_ids, [s.entropy for s in c.steps], [s.model for s in c.steps]) for c in completions]


def agree(ours, theirs):
    """The same tokens and routes, and entropies to float32's rounding."""
    for (tokens, entropies, models), (other_tokens, other_entropies, other_models) in zip(ours, theirs, strict=True):
        assert tokens == other_tokens
        assert models == other_models
        for ours_nats, theirs_nats in zip(entropies, other_entropies, strict=True):
            assert ours_nats == pytest.approx(theirs_nats, abs=1e-4)


@pytest.mark.parametrize("batch_invariant", [False, True])
def test_a_routed_pair_on_triton_ops(small_path, large_path, batch_invariant):
    router = GlimpRouter(2.6)
    ours = outputs(
        small_path,
        large_path,
        router=router,
        ops="triton",
        batch_invariant=batch_invariant,
        enforce_eager=True,
        speculation="off",
    )
    theirs = outputs(small_path, large_path, router=router, ops="reference")
    assert {model for *_, models in theirs for model in models} == set(Model)
    agree(ours, theirs)


@pytest.fixture
def graphed(monkeypatch):
    """Makes an engine tick in graphs, and run ahead or not. Where there is no GPU nothing is recorded, but run."""

    def make(runs_ahead):
        if DEVICE.type == "cuda":
            return {"ops": "triton", "loop": "device" if runs_ahead else "host"}
        monkeypatch.setattr(EngineConfig, "has_graphs", True)
        monkeypatch.setattr(EngineConfig, "runs_ahead", runs_ahead)
        return {"ops": "reference"}

    return make


@pytest.mark.parametrize("runs_ahead", [False, True], ids=["a graph a tick", "running ahead"])
@pytest.mark.parametrize("page_size", [3, 16])
@pytest.mark.parametrize("router", ROUTERS, ids=str)
def test_ticks_as_graphs(small_path, large_path, graphed, router, page_size, runs_ahead):
    """Padding, static inputs and tokens that the device has drawn itself change nothing."""
    options = {"max_batch_tokens": 64, "page_size": page_size}
    plain = outputs(small_path, large_path, router=router, ops="reference", **options)
    agree(outputs(small_path, large_path, router=router, **options, **graphed(runs_ahead)), plain)


@pytest.mark.parametrize("runs_ahead", [False, True], ids=["a graph a tick", "running ahead"])
def test_requests_come_and_go_while_a_tick_is_under_way(small_path, large_path, graphed, runs_ahead):
    """A tick is started before its predecessor's events are taken: an abort then, or a new request, does no harm."""
    options = {"device": str(DEVICE), "dtype": "float32", "kv_cache_bytes": 1 << 20, **graphed(runs_ahead)}
    alone = Engine(small_path, large_path, **options)
    sampling, routing = SamplingParams(temperature=0, max_tokens=30), RoutingParams(router=GlimpRouter(2.6))
    expected = alone.generate(PROMPTS[1], sampling, routing, use_tqdm=False)[0].outputs[0].token_ids
    engine = Engine(small_path, large_path, **options)
    engine.add_request("goes", PROMPTS[0], sampling, routing)
    for _ in range(5):
        engine.advance()
    assert engine._loop._started is not None
    engine.add_request("stays", PROMPTS[1], sampling, routing)
    engine.advance()
    engine.abort("goes")
    finished = {}
    while engine.has_unfinished():
        for event in engine.advance():
            if isinstance(event, Finish):
                assert event.request_id not in finished
                finished[event.request_id] = event.output
    assert finished["goes"].outputs[0].finish_reason == "abort"
    assert finished["stays"].outputs[0].token_ids == expected
    assert engine.generate(PROMPTS[1], sampling, routing, use_tqdm=False)[0].outputs[0].token_ids == expected
    stats = engine.stats()
    assert stats.num_free_pages + stats.num_cached_pages == stats.num_pages
    assert stats.recomputed_tokens == 0


def test_a_failed_tick_ends_its_requests_alone(small_path, graphed, monkeypatch):
    options = {"device": str(DEVICE), "dtype": "float32", "kv_cache_bytes": 1 << 20, **graphed(runs_ahead=False)}
    engine = Engine(small_path, **options)
    start, calls = graphs.GraphRunner.start, []

    def fail_at_the_third(self, batch, max_ticks):
        calls.append(batch)
        if len(calls) == 3:
            raise RuntimeError("the device said no")
        return start(self, batch, max_ticks)

    monkeypatch.setattr(graphs.GraphRunner, "start", fail_at_the_third)
    routing = RoutingParams(router=SmallOnly())
    failed = engine.generate(PROMPTS[0], SamplingParams(temperature=0, max_tokens=9), routing, use_tqdm=False)[0]
    assert "the device said no" in failed.error
    assert failed.outputs[0].finish_reason == "error"
    again = engine.generate(PROMPTS[0], SamplingParams(temperature=0, max_tokens=9), routing, use_tqdm=False)[0]
    assert again.error is None
    assert len(again.outputs[0].token_ids) == 9


def test_a_loop_ends_where_the_host_decides(small_path, large_path, graphed, monkeypatch):
    """Few launches for many tokens, and hardly a tick whose samples nobody takes."""
    if DEVICE.type == "cuda":
        pytest.skip("PlainLoop's ticks are counted, which a GPU doesn't run")
    counts = dict.fromkeys(("begin", "next", "_advance"), 0)

    def count(owner, name):
        call = getattr(owner, name)

        def counted(*args):
            result = call(*args)
            counts[name] += name != "next" or result is not None
            return result

        monkeypatch.setattr(owner, name, counted)

    count(run_ahead.DecodeLoop, "begin")
    count(run_ahead.DecodeLoop, "next")
    count(run_ahead.PlainLoop, "_advance")
    engine = Engine(small_path, large_path, device="cpu", kv_cache_bytes=1 << 20, page_size=16, **graphed(True))
    sampling = SamplingParams(temperature=0, max_tokens=90)
    routing = RoutingParams(router=GlimpRouter(2.6), stop_repeated_steps=False)
    output = engine.generate("w1 w2 w3", sampling, routing, use_tqdm=False)[0].outputs[0]
    assert {step.model for step in output.steps} == set(Model)
    assert len(output.steps) > 5
    assert counts["begin"] < len(output.token_ids) / 3
    assert counts["_advance"] - counts["next"] < 16  # what ran on after the last token


def test_proposals_are_one_launch_and_their_verification_is_a_graph(small_path, graphed, monkeypatch):
    """Both models are the same one, so that each proposal is right."""
    if DEVICE.type == "cuda":
        pytest.skip("the twin's launches are counted")
    launched, replayed, eager = [], [], []

    def watch(owner, name, calls, what):
        call = getattr(owner, name)

        def watched(self, *args):
            calls.append(what(self, *args))
            return call(self, *args)

        monkeypatch.setattr(owner, name, watched)

    watch(graphs.Loop, "start", launched, lambda loop, batch, max_ticks: batch.rows[0].sequence.awaited.use)
    watch(graphs.Tick, "start", replayed, lambda tick, batch: len(batch.rows))
    watch(ModelRunner, "run", eager, lambda runner, batch: len(batch.rows))
    engine = Engine(small_path, small_path, device="cpu", kv_cache_bytes=1 << 20, page_size=16, **graphed(True))
    engine._loop.scheduler.proposing = Whims(0, depth=4, is_random=False, share_small=1.0)
    sampling = SamplingParams(temperature=0, max_tokens=60)
    routing = RoutingParams(router=LargeOnly(), stop_repeated_steps=False)
    output = engine.generate("w1 w2 w3", sampling, routing, use_tqdm=False)[0].outputs[0]
    num_verified = sum(num_rows > 1 for num_rows in replayed)
    assert num_verified >= len(output.token_ids) / 5 - 1
    assert not eager
    # a page's end, and the host's own wish to hear of a token, may end a launch before four tokens
    num_proposed = engine.stats().proposers[Proposer.SMALL].proposed_tokens
    assert launched.count(Use.PROPOSAL) <= num_proposed / 4 + len(output.token_ids) / 16 + 2


@pytest.mark.parametrize("runs_ahead", [False, True])
def test_no_token_changes_with_proposals(small_path, large_path, graphed, runs_ahead):
    options = {"device": str(DEVICE), "dtype": "float32", "kv_cache_bytes": 1 << 20, **graphed(runs_ahead)}
    for router in (LargeOnly(), GlimpRouter(2.6), SpecReason(10)):
        asked = RoutingParams(router=router, stop_repeated_steps=False)
        answers = []
        for policy in (None, Whims(1, depth=6), Whims(2, depth=3, share_small=0.9)):
            engine = Engine(small_path, large_path, speculation="off", **options)
            engine._loop.scheduler.proposing = policy or engine._loop.scheduler.proposing
            finished = engine.generate(PROMPTS, SAMPLING, asked, use_tqdm=False)
            answers.append([output.outputs[0].token_ids for output in finished])
        assert answers[0] == answers[1] == answers[2]


@pytest.mark.parametrize(
    ("batch", "bucket"),
    [
        ((1, 1, 1), (1, 1, 1)),
        ((3, 3, 3), (4, 4, 4)),
        ((2, 1, 1), (16, 1, 1)),
        ((17, 1, 1), (32, 1, 1)),
        ((40, 5, 5), (64, 8, 8)),
        ((5, 1, 5), (16, 1, 8)),
        ((20, 4, 18), (32, 4, 32)),
        ((3, 3, 0), (4, 4, 4)),
    ],
)
def test_buckets(batch, bucket):
    assert static_batch.bucket_of(*batch) == static_batch.Bucket(*bucket)
