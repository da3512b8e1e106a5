"""A request's fault is its own: routers, prompts and invariants that fail end what they concern, and no more."""

import pytest
import torch
from tiny_requests import GREEDY, check_pages, routing, token_ids

from glimp_engine import (
    ConfigError,
    Engine,
    Finish,
    GlimpRouter,
    LargeOnly,
    Model,
    RequestError,
    RoutingParams,
    SamplingParams,
    SmallOnly,
    SpecReason,
    StepEntropyRouter,
    Verdict,
)
from glimp_engine.sequences import page_table, pages
from glimp_engine.sequences.sequence import Sequence

OPTIONS = {"kv_cache_bytes": 1 << 20, "device": "cpu"}
PROMPT = "How many?"


class Plain:
    """No more than a router must have."""

    def decide(self, glimpse, context):
        return Model.LARGE if glimpse.entropy > 2.6 else Model.SMALL


class Reviewing(Plain):
    def review(self, draft):
        return Verdict.REDO if draft.num_tokens % 2 else Verdict.ACCEPT


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


# Logits of one's own.


@pytest.mark.parametrize("router", [Reviewing(), SpecReason(9), StepEntropyRouter(2.0)], ids=["plain", "asks", "steps"])
@pytest.mark.parametrize("length", [8, 16])
def test_sequences_that_share_their_last_page_get_logits_each(small_path, large_path, router, length):
    """A truncation at a page's border leaves the page before it shared: one mark, and two that need its logits."""
    engine = Engine(small_path, large_path, page_size=4, **OPTIONS)
    sampling = SamplingParams(temperature=1.0, seed=3, n=3, max_tokens=24)
    (together,) = alone(engine, router, "w" * length, sampling)
    assert together.error is None
    assert len({tuple(completion.token_ids) for completion in together.outputs}) == 3
    check_pages(engine)


def test_identical_requests_get_logits_each_when_pages_run_out(small_path, large_path):
    room = 96 * 2 * 2 * 3 * 2 * 16 * 4
    engine = Engine(small_path, large_path, page_size=4, max_model_len=64, kv_cache_bytes=room, device="cpu")
    prompts = ["w" * 16] * 6
    expected = token_ids(alone(Engine(small_path, large_path, **OPTIONS), Reviewing(), prompts[0]))
    outputs = engine.generate(prompts, GREEDY, routing(Reviewing()), use_tqdm=False)
    assert token_ids(outputs) == expected * 6
    check_pages(engine)


# Whatever is raised.


class Failing(Plain):
    def __init__(self, error):
        self.error = error

    def decide(self, glimpse, context):
        raise self.error


@pytest.mark.parametrize(
    "error", [ValueError("no"), AssertionError("no"), RuntimeError("no"), MemoryError("no"), StopIteration("no")]
)
def test_a_router_may_raise_anything(engine, error):
    expected = alone(engine)
    engine.add_request("bad", PROMPT, GREEDY, routing(Failing(error)))
    engine.add_request("good", PROMPT, GREEDY, routing(GlimpRouter(2.6)))
    bad, good = finish(engine, "bad", "good")
    assert f"{type(error).__name__}: no" in bad.error
    assert token_ids([good]) == token_ids(expected)
    check_pages(engine)


@pytest.mark.parametrize("where", [(Sequence, "write"), (Sequence, "follow"), (page_table.PageTable, "fill")])
def test_an_invariant_of_ours_ends_one_sequence(engine, monkeypatch, where):
    expected = alone(engine)
    owner, name = where
    sound, calls = getattr(owner, name), []

    def broken(self, *args):
        calls.append(self)
        assert len(calls) != 3, "an invariant"
        return sound(self, *args)

    for request in ("a", "b", "c"):
        engine.add_request(request, PROMPT + request, GREEDY, routing(GlimpRouter(2.6)))
    monkeypatch.setattr(owner, name, broken)
    outputs = finish(engine, "a", "b", "c")
    assert sorted(output.error is None for output in outputs) == [False, True, True]
    (error,) = [output.error for output in outputs if output.error]
    assert "an invariant" in error
    monkeypatch.undo()
    assert token_ids(alone(engine)) == token_ids(expected)
    check_pages(engine)


@pytest.mark.parametrize("when", ["before", "after"])
def test_an_interrupt_loses_nothing(engine, when):
    """K/V that was never written counts for nothing, and the request goes on where it was."""
    fresh = token_ids(alone(engine, prompt="How many apples?"))
    model = engine._loop.runners[Model.SMALL].model
    forward, calls = model.forward, []

    def interrupted(*args):
        calls.append(args)
        if len(calls) == 2:
            if when == "after":
                forward(*args)
            raise KeyboardInterrupt
        return forward(*args)

    engine.add_request("a", "How many apples? ", GREEDY, routing(GlimpRouter(2.6)))
    engine.add_request("b", "How many pears?", GREEDY, routing(GlimpRouter(2.6)))
    model.forward = interrupted
    with pytest.raises(KeyboardInterrupt):
        finish(engine, "a", "b")
    del model.forward
    outputs = finish(engine, "a", "b")
    assert [output.error for output in outputs] == [None, None]
    again = [token_ids(alone(engine, prompt=prompt))[0] for prompt in ("How many apples? ", "How many pears?")]
    assert token_ids(outputs) == again
    assert token_ids(alone(engine, prompt="How many apples?")) == fresh
    check_pages(engine)


# A prompt's fault.


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("\ud83d", "text has U+D83D at character 0, half of a character"),
        ("ab\udc00", "text has U+DC00 at character 2"),
        ([{"role": "user", "content": "x\ud83d"}], "half of a character"),
        ([0, 10**9], r"prompt\[1\] is 1000000000; allowed: a token id from 0"),
        ("far too long " * 9000, "prompt has more than"),
    ],
)
def test_a_bad_prompt_is_refused_alone(engine, prompt, message):
    with pytest.raises(RequestError, match=message.replace("+", r"\+")):
        engine.add_request("bad", prompt)
    good, bad = engine.generate([PROMPT, prompt], GREEDY, use_tqdm=False)
    assert good.error is None
    assert bad.error is not None
    check_pages(engine)


class Panic(BaseException):
    pass


def test_a_tokenizer_may_panic(engine, monkeypatch):
    text = engine._dictionary.texts[Model.SMALL]

    class Panicking:
        encode_special_tokens = False

        def encode(self, *args, **options):
            raise Panic("index out of bounds")

    monkeypatch.setattr(text, "_backend", Panicking())
    with pytest.raises(RequestError, match="the tokenizer can't read the text: Panic: index out of bounds"):
        engine.add_request("bad", PROMPT)


def test_ids_that_an_embedding_lacks_are_refused(small_path, large_path, monkeypatch):
    engine = Engine(small_path, large_path, **OPTIONS)
    sizes = engine._dictionary.vocab_sizes
    monkeypatch.setattr(engine._dictionary, "vocab_sizes", (sizes[0], 60))
    with pytest.raises(RequestError, match="beyond the large model's embedding, which has 60 rows"):
        engine.add_request("bad", PROMPT)
    check_pages(engine)


def test_a_prompt_far_too_long_is_not_read_whole(engine, monkeypatch):
    text, read = engine._dictionary.texts[Model.SMALL], []
    ids = text._ids
    monkeypatch.setattr(text, "_ids", lambda piece, **how: read.append(len(piece)) or ids(piece, **how))
    with pytest.raises(RequestError, match="allowed: fewer than max_model_len, 512"):
        engine.add_request("bad", "a b " * 1_000_000)
    assert sum(read) <= 8 * 512


def test_a_router_needs_no_more_than_decide(engine):
    (output,) = alone(engine, Plain())
    assert output.error is None
    assert token_ids([output]) == token_ids(alone(engine, GlimpRouter(2.6)))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("only", "small"),
        ("only", 7),
        ("num_top_logprobs", -1),
        ("num_top_logprobs", "many"),
        ("num_top_logprobs", 10**9),
        ("small_below", float("nan")),
        ("question", 3),
        ("question", ""),
        ("question", "?" * 10_000),
        ("review", "no"),
        ("decide", None),
    ],
)
def test_what_a_router_has_is_checked_before_any_batch_is_built_from_it(name, value):
    router = Plain()
    setattr(router, name, value)
    with pytest.raises(ConfigError, match="router"):
        RoutingParams(router=router)


def test_a_property_of_a_router_may_raise(engine):
    class Broken(Plain):
        @property
        def question(self):
            raise OSError("no such file")

    with pytest.raises(ConfigError, match=r"router.question can't be read: OSError: no such file"):
        RoutingParams(router=Broken())


# Rows, and what a token is compared with, have a budget.


@pytest.mark.parametrize("stop", [["x"] * 65, ["x" * 1025]])
def test_stop_strings_have_limits(stop):
    with pytest.raises(ConfigError, match="allowed: 64 of up to 1024"):
        SamplingParams(stop=stop)


def test_forks_are_born_over_several_ticks(small_path, large_path):
    sampling = SamplingParams(temperature=1.0, seed=2, n=40, max_tokens=5)
    wide = Engine(small_path, large_path, **OPTIONS)
    expected = alone(wide, sampling=sampling)
    narrow = Engine(small_path, large_path, max_batch_size=4, max_batch_tokens=9, **OPTIONS)
    rows = []
    for runner in narrow._loop.runners:
        run = runner.start
        runner.start = lambda batch, max_ticks, run=run: rows.append(len(batch.rows)) or run(batch, max_ticks)
    outputs = alone(narrow, sampling=sampling)
    assert max(rows) <= 9
    assert token_ids(outputs) == token_ids(expected)
    assert [completion.index for completion in outputs[0].outputs] == list(range(40))
    check_pages(narrow)


@pytest.mark.parametrize("router", [LargeOnly(), SmallOnly(), GlimpRouter(2.6), StepEntropyRouter(2.0)], ids=str)
@pytest.mark.parametrize(("max_batch_size", "max_batch_tokens"), [(1, 1), (2, 2), (2, 3)])
def test_each_tick_brings_a_birth_however_few_rows_there_are(
    small_path, large_path, router, max_batch_size, max_batch_tokens
):
    """With others that decode, and take the budget at every tick."""
    sampling = SamplingParams(temperature=1.0, seed=2, n=5, max_tokens=4)
    long = SamplingParams(temperature=0, max_tokens=24)
    expected = alone(Engine(small_path, large_path, **OPTIONS), router, sampling=sampling)
    limits = {"max_batch_size": max_batch_size, "max_batch_tokens": max_batch_tokens}
    engine = Engine(small_path, large_path, **limits, **OPTIONS)
    engine.add_request("other", "Go", long, routing(router))
    engine.add_request("forks", PROMPT, sampling, routing(router))
    ticks, outputs = 0, {}
    while engine.has_unfinished() and ticks < 500:
        ticks += 1
        outputs |= {e.request_id: e.output for e in engine.advance() if isinstance(e, Finish) and e.output is not None}
    assert token_ids([outputs["forks"]]) == token_ids(expected)
    check_pages(engine)


# Time that grows.


def test_a_prompt_is_compared_with_few_of_the_cached_pages_behind_its_beginning(monkeypatch):
    pool, system, compared = pages.PagePool(4000, 8, 2), list(range(16)), []
    for i in range(1000):
        table = page_table.PageTable(pool, b"small")
        tokens = [*system, 7, i, i + 1]
        table.attach(tokens)
        table.fill(0, *table.next_run(0, len(tokens)))
        table.release(tokens)
    common = pages.common_prefix_len
    monkeypatch.setattr(pages, "common_prefix_len", lambda a, b: compared.append(a) or common(a, b))
    table = page_table.PageTable(pool, b"small")
    table.attach([*system, 7, 500, 501, 3])
    assert pool.collect_copies()[-1].target == table.pages[2]
    assert table.next_run(0, 20) == (19, 20)
    assert len(compared) <= 4
    pool.check()


@pytest.mark.parametrize("value", [torch.inf, -torch.inf])
def test_logits_that_are_no_numbers_end_their_request(engine, value):
    model = engine._loop.runners[Model.SMALL].model
    forward = model.forward
    model.forward = lambda *args: forward(*args).fill_(value)
    (output,) = alone(engine, SmallOnly())
    assert output.error == "the small model's logits are not numbers"
    del model.forward
    assert alone(engine, SmallOnly())[0].error is None
    check_pages(engine)
