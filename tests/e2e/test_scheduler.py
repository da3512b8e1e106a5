"""The policy: fair shares for both models, first come first served, chunks, and that nothing is lost."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glimp_engine import Engine, Finish, GlimpRouter, LargeOnly, Model, RoutingParams, SamplingParams, SmallOnly

PROMPT = "Go"
GREEDY = SamplingParams(temperature=0)
WORDS = [f" w{i}" for i in range(40)]


@pytest.fixture
def make_engine(script):
    def make(pieces=tuple(WORDS), weight_bytes=(100, 100), num_equal=None, **options):
        models = [script.model(len(PROMPT), pieces, num_equal if model is Model.SMALL else None) for model in Model]
        for loaded, num_bytes in zip(models, weight_bytes, strict=True):
            loaded.model.weight_bytes = num_bytes
        return Engine(*models, **{"kv_cache_bytes": 1 << 20, **options})

    return make


def drain(engine):
    finished = {}
    while engine.has_unfinished():
        for event in engine.advance():
            if isinstance(event, Finish) and event.output is not None:
                finished[event.request_id] = event.output
    return finished


@pytest.mark.parametrize(("weight_bytes", "share"), [((100, 100), 1), ((100, 400), 4), ((300, 100), 1 / 3)])
def test_both_models_get_equal_shares_of_the_bytes(make_engine, weight_bytes, share):
    engine = make_engine(weight_bytes=weight_bytes, speculation="off")
    for i in range(3):
        engine.add_request(f"small {i}", PROMPT, GREEDY, RoutingParams(router=SmallOnly()))
        engine.add_request(f"large {i}", PROMPT, GREEDY, RoutingParams(router=LargeOnly()))
    for _ in range(40):
        engine.advance()
    stats = engine.stats()
    assert stats.small.num_forwards / stats.large.num_forwards == pytest.approx(share, rel=0.2)


def test_a_model_that_had_nothing_to_do_saves_nothing_up(make_engine):
    engine = make_engine()
    engine.add_request("small", PROMPT, GREEDY, RoutingParams(router=SmallOnly()))
    for _ in range(20):
        engine.advance()
    engine.add_request("large", PROMPT, GREEDY, RoutingParams(router=LargeOnly()))
    before = engine.stats()
    for _ in range(10):
        engine.advance()
    after = engine.stats()
    assert after.large.num_forwards - before.large.num_forwards == 5
    assert after.small.num_forwards - before.small.num_forwards == 5


def test_single_tokens_go_before_a_long_prompt_that_is_cut(make_engine):
    engine = make_engine(max_batch_size=4, max_batch_tokens=10)
    router = RoutingParams(router=SmallOnly())
    engine.add_request("short", PROMPT, GREEDY, router)
    engine.advance()
    engine.add_request("long", "x" * 30, GREEDY, router)
    forwards = engine._loop.runners[Model.SMALL].model.forwards
    for _ in range(4):
        engine.advance()
    assert [len(token_ids) for token_ids in forwards[1:]] == [10, 10, 10, 4]  # one decode and 9, 9, 9, 3 of the prompt
    assert len(drain(engine)) == 2


def test_first_come_first_served(make_engine):
    engine = make_engine(max_batch_size=2, max_batch_tokens=8)
    for i in range(5):
        engine.add_request(str(i), PROMPT, SamplingParams(temperature=0, max_tokens=3))
    assert list(drain(engine)) == ["0", "1", "2", "3", "4"]


def test_the_newest_is_preempted_and_the_output_unchanged(make_engine):
    expected = drain_all(make_engine(), 6)
    tight = make_engine(kv_cache_bytes=6 * 512, max_model_len=60)
    assert drain_all(tight, 6) == expected
    stats = tight.stats()
    assert stats.num_pages == 6
    assert stats.preemptions > 0
    assert stats.num_free_pages + stats.num_cached_pages == 6


def drain_all(engine, num_requests):
    for i in range(num_requests):
        engine.add_request(str(i), PROMPT + "abcdef"[i] * 9, GREEDY, RoutingParams(max_answer_tokens=30))
    return {name: output.outputs[0].token_ids for name, output in drain(engine).items()}


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.text("ab", min_size=1, max_size=40), st.integers(1, 3), st.integers(1, 30)),
        st.tuples(st.just("advance"), st.integers(1, 12)),
        st.tuples(st.just("abort"), st.integers(0, 12)),
    ),
    max_size=20,
)


@settings(max_examples=120, deadline=None)
@given(
    actions=ACTIONS, num_pages=st.integers(6, 14), page_size=st.sampled_from([8, 16]), max_batch_size=st.integers(1, 5)
)
@pytest.mark.slow
def test_all_pages_come_back_whatever_happens(script, actions, num_pages, page_size, max_batch_size):
    pieces = [" w1", " w2.\n\n", " w3.\n\n", " w4", "\n\n"] * 8
    models = [script.model(len(PROMPT), pieces, dict.fromkeys(range(0, 40, 3), 8)) for _ in Model]
    engine = Engine(
        *models,
        kv_cache_bytes=num_pages * page_size * 16 * 2,
        page_size=page_size,
        max_batch_size=max_batch_size,
        max_batch_tokens=24,
    )
    num_added, finished = 0, []
    routing = RoutingParams(router=GlimpRouter(1.0), max_step_tokens=6)
    for name, *values in actions:
        if name == "add":
            prompt, n, max_tokens = values
            if len(prompt) < engine.max_model_len:
                sampling = SamplingParams(temperature=0.7, seed=1, n=n, max_tokens=max_tokens)
                engine.add_request(str(num_added), prompt, sampling, routing)
                num_added += 1
        elif name == "abort":
            engine.abort(str(values[0]))
        else:
            for _ in range(values[0]):
                finished += [event for event in engine.advance() if isinstance(event, Finish) and event.output]
        engine._loop.pool.check()
    finished += drain(engine).values()
    assert len(finished) == num_added
    stats = engine.stats()
    assert stats.num_running == stats.num_waiting == 0
    assert stats.num_free_pages + stats.num_cached_pages == stats.num_pages
