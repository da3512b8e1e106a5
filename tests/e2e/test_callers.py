"""Who calls the engine: streams that nobody reads, events of one's own, threads, forks, engines that are dropped."""

import gc
import os
import subprocess
import sys
import threading
import weakref

import pytest
from tiny_requests import GREEDY, check_pages, routing, token_ids

from glimp_engine import (
    Engine,
    EngineError,
    Finish,
    GlimpRouter,
    Model,
    RandomRouter,
    RoutingParams,
    SamplingParams,
    SmallOnly,
)

OPTIONS = {"kv_cache_bytes": 1 << 20, "device": "cpu"}
PROMPT = "How many?"


class Plain:
    """No more than a router must have."""

    def decide(self, glimpse, context):
        return Model.LARGE if glimpse.entropy > 2.6 else Model.SMALL


@pytest.fixture
def engine(small_path, large_path):
    return Engine(small_path, large_path, **OPTIONS)


def finish(engine, *names):
    """The outputs of these requests, once they are all there."""
    outputs = {}
    while set(outputs) < set(names):
        for event in engine.advance():
            if isinstance(event, Finish) and event.output is not None:
                outputs[event.request_id] = event.output
    return [outputs[name] for name in names]


def alone(engine, router=GlimpRouter(2.6), prompt=PROMPT, sampling=GREEDY):  # noqa: B008  it keeps no state
    return engine.generate(prompt, sampling, routing(router), use_tqdm=False)


# Events belong to their request; streams that nobody reads.


def test_a_stream_that_is_closed_or_lost_before_its_first_event_is_aborted(engine):
    stream = engine.stream(PROMPT, GREEDY)
    assert engine.stats().num_waiting == 1
    stream.close()
    assert engine.stats().num_waiting == 0
    stream = engine.stream(PROMPT, GREEDY)
    del stream
    assert engine.stats().num_waiting == 0
    assert engine.advance() == []
    check_pages(engine)


def test_a_stream_that_is_lost_within_a_tick_is_aborted_by_the_next(engine):
    streams = [engine.stream(PROMPT, GREEDY)]

    class Careless(Plain):
        def decide(self, glimpse, context):
            streams.clear()
            return Model.SMALL

    alone(engine, Careless())
    engine.advance()
    check_pages(engine)


def test_advance_takes_no_events_of_a_stream(engine):
    expected = token_ids(alone(engine, SmallOnly()))
    stream = engine.stream(PROMPT, GREEDY, routing(SmallOnly()))
    engine.add_request("other", "x", GREEDY, routing(SmallOnly()))
    mine = [next(stream)]
    others = [event for _ in range(60) for event in engine.advance()]
    mine += list(stream)
    assert {event.request_id for event in others} == {"other"}
    assert token_ids([mine[-1].output]) == expected
    assert len({event.request_id for event in mine}) == 1
    check_pages(engine)


def test_generate_leaves_other_requests_their_events(engine):
    engine.add_request("other", "x", GREEDY, routing(SmallOnly()))
    alone(engine)
    events = []
    while engine.has_unfinished():
        events += engine.advance()
    assert {event.request_id for event in events} == {"other"}
    assert sum(isinstance(event, Finish) for event in events) == 1


# Threads, processes, memory.


def test_two_threads_at_once_are_told(engine):
    expected, errors, inside, go_on = token_ids(alone(engine)), [], threading.Event(), threading.Event()

    class Waiting(Plain):
        def decide(self, glimpse, context):
            inside.set()
            go_on.wait(10)
            return Model.SMALL

    engine.add_request("a", PROMPT, GREEDY, routing(Waiting()))
    ticking = threading.Thread(target=engine.advance)
    ticking.start()
    inside.wait(10)
    for call in (engine.advance, lambda: engine.add_request("b", PROMPT), lambda: engine.abort("a")):
        with pytest.raises(EngineError, match="the engine is used from two threads at once"):
            call()
    go_on.set()
    ticking.join()
    assert not errors
    engine.abort("a")
    engine.advance()
    assert token_ids(alone(engine)) == expected
    check_pages(engine)


def test_a_router_that_calls_the_engine_ends_its_request(engine):
    class Meddling(Plain):
        def decide(self, glimpse, context):
            engine.add_request("mine", "x")

    (output,) = alone(engine, Meddling())
    assert "the engine is used from its own tick, by a router" in output.error
    check_pages(engine)


FORKED = """
import os, sys
from glimp_engine import Engine, EngineError, SamplingParams
engine = Engine(*sys.argv[1:3], kv_cache_bytes=1 << 20, device="cpu", num_threads=2)
generate = lambda: engine.generate("How many?", SamplingParams(temperature=0, max_tokens=5), use_tqdm=False)
generate()
child = os.fork()
try:
    generate()
    print("done in the parent" if child else "done in the child", flush=True)
except EngineError as error:
    print(error, flush=True)
if child:
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_process_is_told_and_ends(small_path, large_path):
    command = [sys.executable, "-c", FORKED, str(small_path), str(large_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "done in the parent" in done.stdout
    assert "allowed: an engine made there" in done.stdout
    assert "done in the child" not in done.stdout


def test_an_engine_is_given_back_without_the_garbage_collector(small_path, large_path):
    engine = Engine(small_path, large_path, **OPTIONS)
    alone(engine)
    list(engine.stream(PROMPT, GREEDY))
    dropped = weakref.ref(engine), weakref.ref(engine._loop.runners[0].kv)
    gc.collect()
    gc.disable()
    try:
        del engine
        assert [each() for each in dropped] == [None, None]
    finally:
        gc.enable()


@pytest.mark.parametrize("other", ["large_path", "foreign_path"])
def test_an_output_is_the_same_whether_its_tokens_are_told_or_not(request, small_path, other):
    """Where nobody is told of each token its text is read later, all at once."""
    router = RoutingParams(router=RandomRouter(0.5), max_step_tokens=7)
    for options in ({}, {"skip_special_tokens": False, "n": 2}, {"stop_token_ids": [*range(0, 256, 5)]}):
        sampling = SamplingParams(temperature=0.9, seed=4, max_tokens=40, **options)
        engine = Engine(small_path, request.getfixturevalue(other), kv_cache_bytes=1 << 22)
        (untold,) = engine.generate(["How many?"], sampling, router, use_tqdm=False)
        events = list(engine.stream("How many?", sampling, router))
        told = next(event.output for event in events if isinstance(event, Finish) and event.output is not None)
        for ours, theirs in zip(untold.outputs, told.outputs, strict=True):
            assert (ours.text, ours.token_ids) == (theirs.text, theirs.token_ids)
            assert ours.finish_reason == theirs.finish_reason
            spans = [[(step.text_start, step.text_end) for step in each.steps] for each in (ours, theirs)]
            assert spans[0] == spans[1]
        written = engine.stats().small.tokens_written + engine.stats().large.tokens_written
        assert written == 2 * sum(len(each.token_ids) for each in untold.outputs)
