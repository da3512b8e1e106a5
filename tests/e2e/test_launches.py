"""Decoding that runs ahead of the host gives what the host's own ticks give, and every request is still its own."""

from dataclasses import replace

import pytest
from proposers import Whims
from tiny_requests import GREEDY, PROMPTS, SAMPLED, check_pages, routing

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
    StepEnd,
    StepStart,
)
from glimp_engine.models import NativeDecoder
from glimp_engine.sequences import Proposing
from glimp_engine.sequences.proposing import Prices

MARGIN = GlimpRouter(0.1, signal="margin")  # which looks at the largest log-probabilities
ROUTERS = [SmallOnly(), LargeOnly(), GlimpRouter(2.2), RandomRouter(0.5), SpecReason(5), MARGIN]
SAMPLINGS = {
    "greedy": replace(GREEDY, seed=0),  # which a random router follows too
    "sampled": SAMPLED,
    "biased": replace(SAMPLED, logit_bias={40: 3.0, 41: -2.0}),
    "stopped": replace(SAMPLED, stop=["w2"], max_tokens=30),
    "penalised": replace(SAMPLED, presence_penalty=0.4),
    "in two": replace(SAMPLED, n=2),
}


@pytest.fixture
def launches(monkeypatch):
    """The number of ticks of each launch."""
    decode, nums = NativeDecoder.decode, []

    def counted(self, batch, logit_rows, kv, sampling, token_class, forbidden_ids, loop, num_logits=None):
        before = batch.positions.clone()
        decode(self, batch, logit_rows, kv, sampling, token_class, forbidden_ids, loop, num_logits)
        nums.append(int((batch.positions - before)[0]))

    monkeypatch.setattr(NativeDecoder, "decode", counted)
    monkeypatch.setattr("glimp_engine.config.MAX_LAUNCH_SECONDS", 10.0)
    return nums


def events_of(engine, prompts, sampling, asked):
    """All events in their order, without what differs from run to run."""
    for index, prompt in enumerate(prompts):
        engine.add_request(str(index), prompt, sampling, asked)
    events = []
    while engine.has_unfinished():
        events += engine.advance()
    # a fork that takes a draft back asks for logits which its sibling's forward gave
    assert engine.stats().recomputed_tokens == 0 or (sampling.n > 1 and asked.needs.reviews)
    check_pages(engine)
    return [told(event) for event in events]


def told(event):
    if isinstance(event, (StepStart, StepEnd)):
        step = replace(event.step, seconds=0.0, num_proposed_tokens=0, num_accepted_tokens=0)
        return replace(event, step=step)
    if isinstance(event, Finish):
        return replace(event, output=None)  # which comes with whichever of a request's sequences ends last
    return replace(event, proposer=None, refused=())


def by_request(events):
    """Each sequence's own events."""
    own = {}
    for event in events:
        own.setdefault((event.request_id, event.sequence_index), []).append(event)
    return own


@pytest.mark.parametrize("sampling", SAMPLINGS.values(), ids=SAMPLINGS)
@pytest.mark.parametrize("router", ROUTERS, ids=str)
def test_events_are_those_of_the_hosts_loop(small_path, large_path, launches, router, sampling):
    asked = RoutingParams(router=router, stop_repeated_steps=False)
    for page_size, prompts in ((3, PROMPTS[:1]), (16, PROMPTS)):
        expected, ours = (
            events_of(
                Engine(
                    small_path, large_path, loop=loop, page_size=page_size, speculation="off", kv_cache_bytes=1 << 22
                ),
                prompts,
                sampling,
                asked,
            )
            for loop in ("host", "device")
        )
        assert by_request(ours) == by_request(expected)
        if len(prompts) == 1 and sampling.n == 1:
            assert ours == expected
    follows_text = sampling.presence_penalty or router == MARGIN
    assert follows_text or max(launches) > 3


def test_one_models_events_come_in_the_same_order(small_path, launches):
    expected, ours = (
        events_of(Engine(small_path, loop=loop, speculation="off"), PROMPTS, SAMPLED, routing(SmallOnly()))
        for loop in ("host", "device")
    )
    assert ours == expected
    assert sum(launches) > 20


@pytest.mark.parametrize("router", [LargeOnly(), GlimpRouter(2.2), SpecReason(5)], ids=str)
def test_no_token_changes_with_proposals(small_path, large_path, launches, router):
    for page_size in (3, 16):
        answers = []
        for seed, loop in ((None, "host"), (1, "device"), (2, "device")):
            engine = Engine(small_path, large_path, loop=loop, page_size=page_size, kv_cache_bytes=1 << 22)
            if seed is not None:
                engine._loop.scheduler.proposing = Whims(seed, depth=6)
            asked = routing(router, speculation="auto" if seed else "off")
            answers.append(by_request(events_of(engine, PROMPTS[:2], SAMPLED, asked)))
        assert answers[0] == answers[1] == answers[2]
    assert launches


def test_few_launches_for_many_tokens(small_path, launches, monkeypatch):
    """As long as a launch may be, whatever the pages' size; 8 where what is written may stand elsewhere too."""
    monkeypatch.setattr(Prices, "row", lambda prices, num_proposals: 0.0)
    for page_size, speculation, most in ((5, "off", 16), (16, "off", 16), (16, "ngram", 8)):
        launches.clear()
        engine = Engine(small_path, page_size=page_size, speculation=speculation)
        sampling = SamplingParams(temperature=0.9, seed=3, max_tokens=100, ignore_eos=True)
        (output,) = engine.generate("How many", sampling, routing(SmallOnly()), use_tqdm=False)
        assert len(output.outputs[0].token_ids) == 100
        assert max(launches) == most
        assert len(launches) < 3 * 100 / most


def test_who_cannot_be_proposed_to_with_profit_decodes_on(small_path, large_path, launches, monkeypatch):
    """A large model that costs ten times as much as a proposal is asked for proposals, one that costs less isn't."""
    sampling = SamplingParams(temperature=0.9, seed=3, max_tokens=60, ignore_eos=True)
    nums = {}
    for seconds in (0.1, 10.0):
        launches.clear()
        prices = Prices([1.0] * 20, seconds)
        monkeypatch.setattr(Proposing, "_prices_of", lambda policy, model, *others, prices=prices: prices)
        engine = Engine(small_path, large_path, speculation="small")
        engine.generate("How many", sampling, routing(LargeOnly()), use_tqdm=False)
        nums[seconds] = engine.stats().proposers[Proposer.SMALL].proposed_tokens, max(launches)
    assert nums[0.1][0] > 20
    assert nums[10.0] == (0, 8)


def test_launches_take_no_page_that_is_not_there(small_path, launches):
    """Three sequences that don't fit together: a launch is as long as its pages, and no request fails."""
    sampling = SamplingParams(temperature=0.9, seed=3, max_tokens=40, ignore_eos=True)
    answers = []
    for loop in ("host", "device"):
        engine = Engine(small_path, loop=loop, kv_cache_bytes=7 * 4096, max_model_len=64, speculation="off")
        assert engine.stats().num_pages == 7
        outputs = engine.generate(["w1 w2"] * 3, sampling, routing(SmallOnly()), use_tqdm=False)
        answers.append([(output.error, output.outputs[0].token_ids) for output in outputs])
        check_pages(engine)
    assert answers[0] == answers[1]
    assert launches


def test_requests_come_and_go_within_a_launch(small_path, large_path, launches):
    sampling, asked = SamplingParams(temperature=0, max_tokens=30, ignore_eos=True), routing(SmallOnly())
    expected = by_request(events_of(Engine(small_path, large_path, loop="host"), PROMPTS[:1], sampling, asked))
    engine = Engine(small_path, large_path)
    engine.add_request("goes", PROMPTS[1], sampling, asked)
    engine.add_request("stays", PROMPTS[2], sampling, asked)
    while not launches:
        engine.advance()
    engine.add_request("0", PROMPTS[0], sampling, asked)
    engine.abort("goes")
    events = []
    while engine.has_unfinished():
        events += engine.advance()
    reasons = {event.request_id: event.finish_reason for event in events if isinstance(event, Finish)}
    assert reasons == {"goes": "abort", "stays": "length", "0": "length"}
    assert by_request([told(event) for event in events])["0", 0] == expected["0", 0]
    assert engine.stats().recomputed_tokens == 0
    check_pages(engine)


def test_what_a_plain_tick_takes_in_a_launch_is_found_out(small_path, large_path):
    """Or else proposals are priced against ticks that are each planned, and go on though they don't pay."""
    engine = Engine(small_path, large_path, device="cpu", kv_cache_bytes=1 << 20)
    times = engine._loop.times
    sampling = SamplingParams(temperature=0, max_tokens=20, ignore_eos=True)
    engine.generate("How many?", sampling, RoutingParams(router=LargeOnly()), use_tqdm=False)
    assert times.in_launch(Model.LARGE, 1) is not None
