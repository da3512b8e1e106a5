"""The lives of sequences, on models that are scripts: steps, routes, budgets, endings; and requests that fail."""

import math

import pytest
import torch

from glimp_engine import (
    CapacityError,
    ConfigError,
    Engine,
    Finish,
    GlimpRouter,
    LargeOnly,
    Model,
    Phase,
    RequestError,
    RoutingParams,
    SamplingParams,
    SmallOnly,
    Token,
)
from glimp_engine.text.messages import Chat

PROMPT = "Go"
GREEDY = SamplingParams(temperature=0)
STEPS = [" w1", " w2.\n\n", " w3", "\n\n", " w4"]  # three steps, then the end token


def run(engine, routing=None, sampling=GREEDY, prompt=PROMPT):
    return engine.generate(prompt, sampling, routing, use_tqdm=False)[0].outputs[0]


def routes(completion):
    return [str(step.model) for step in completion.steps]


def glimp(threshold=1.0, **options):
    return RoutingParams(router=GlimpRouter(threshold), **options)


@pytest.fixture
def scripted(script):
    """An engine whose models say the same pieces; num_equal: {place: how many choices the small model sees}."""

    def make(pieces=tuple(STEPS), num_equal=None, **options):
        small = script.model(len(PROMPT), pieces, num_equal)
        return Engine(small, script.model(len(PROMPT), pieces), kv_cache_bytes=1 << 20, **options)

    return make


def test_steps_end_with_blank_lines(scripted):
    completion = run(scripted())
    assert completion.text == " w1 w2.\n\n w3\n\n w4"
    assert [completion.text[step.text_start : step.text_end] for step in completion.steps] == [
        " w1 w2.\n\n",
        " w3\n\n",
        " w4",
    ]
    assert [step.num_tokens for step in completion.steps] == [2, 2, 2]  # the last one with its end token
    assert [step.phase for step in completion.steps] == [Phase.ANSWER] * 3
    assert (completion.finish_reason, completion.stop_reason) == ("stop", None)


@pytest.mark.parametrize(
    ("threshold", "route"),
    [(math.log(4) + 1e-6, "small"), (math.log(4) - 1e-6, "large"), (math.inf, "small"), (0.0, "large")],
)
def test_the_route_below_and_above_the_threshold(scripted, threshold, route):
    completion = run(scripted(num_equal={2: 4}), glimp(threshold))
    assert completion.steps[1].entropy == pytest.approx(math.log(4), rel=1e-6)
    assert routes(completion)[1] == route


def test_the_route_exactly_at_the_threshold(scripted):
    observed = run(scripted(num_equal={2: 4})).steps[1].entropy
    assert routes(run(scripted(num_equal={2: 4}), glimp(observed)))[1] == "large"
    assert routes(run(scripted(num_equal={2: 4}), glimp(math.nextafter(observed, 9))))[1] == "small"


def test_each_step_is_routed_by_its_own_glimpse(scripted):
    completion = run(scripted(num_equal={0: 8, 4: 8}), glimp(1.0))
    assert routes(completion) == ["large", "small", "large"]
    assert completion.text == " w1 w2.\n\n w3\n\n w4"


def test_a_model_runs_over_exactly_what_it_has_not_seen(scripted, script):
    engine = scripted(num_equal={2: 8}, speculation="off")
    run(engine, glimp(1.0))
    prompt = script.text.encode(PROMPT, allow_special=True)
    ids = [script.id_of(piece) for piece in STEPS]
    # the prompt, one token at a time to the boundary; then a catch-up over the large step
    assert engine._loop.runners[Model.SMALL].model.forwards == [prompt, [ids[0]], [ids[1]], [ids[2], ids[3]], [ids[4]]]
    # the whole of the prompt and of the first step in one forward that samples too
    assert engine._loop.runners[Model.LARGE].model.forwards == [[*prompt, ids[0], ids[1]], [ids[2]]]
    assert engine.stats().large.catch_up_tokens == 2
    assert engine.stats().small.catch_up_tokens == 2


def test_a_large_only_request_never_runs_the_small_model(scripted):
    engine = scripted()
    completion = run(engine, RoutingParams(router=LargeOnly()))
    assert engine._loop.runners[Model.SMALL].model.forwards == []
    assert [step.entropy for step in completion.steps] == [None] * 3


@pytest.mark.parametrize(
    ("sampling", "text", "stop_reason"),
    [
        (SamplingParams(temperature=0, stop="w3"), " w1 w2.\n\n ", "w3"),
        (SamplingParams(temperature=0, stop=["zzz", "2.\n\n w"]), " w1 w", "2.\n\n w"),
    ],
)
def test_stop_strings_end_the_text_before_them(scripted, sampling, text, stop_reason):
    engine = scripted()
    events = list(engine.stream(PROMPT, sampling))
    completion = events[-1].output.outputs[0]
    assert (completion.text, completion.finish_reason, completion.stop_reason) == (text, "stop", stop_reason)
    assert "".join(event.text for event in events if isinstance(event, (Token, Finish))) == text
    assert completion.steps[-1].text_end == len(text)


def test_text_that_might_have_become_a_stop_string_is_shown_in_the_end(scripted):
    events = list(scripted().stream(PROMPT, SamplingParams(temperature=0, stop=" w4!")))
    assert events[-1].text == " w4"
    assert events[-1].output.outputs[0].text == " w1 w2.\n\n w3\n\n w4"


def test_limits_of_tokens(scripted):
    many = [f" w{i}" for i in range(30)]
    assert len(run(scripted(many), sampling=SamplingParams(temperature=0, max_tokens=7)).token_ids) == 7
    completion = run(scripted(many), glimp(max_answer_tokens=5))
    assert (len(completion.token_ids), completion.finish_reason) == (5, "length")
    completion = run(scripted(many), glimp(max_step_tokens=4))
    assert {step.num_tokens for step in completion.steps[:-1]} == {4}
    assert "\n" not in completion.text  # nothing is glued in where a step is cut


def test_the_context_is_never_overrun(scripted):
    completion = run(scripted([" w1"] * 60, max_model_len=20), glimp(stop_repeated_steps=False, max_step_tokens=3))
    assert (len(completion.token_ids), completion.finish_reason) == (18, "length")


@pytest.mark.parametrize(
    ("pieces", "num_steps"),
    [
        ([" w1.\n\n", " w2.\n\n", " w2.\n\n", " w3.\n\n"], 3),
        ([" w1.\n\n", " w2.\n\n", " w1.\n\n", " w2.\n\n", " w5.\n\n"], 4),
        ([" w1.\n\n", " w2.\n\n", " w3.\n\n", " w2.\n\n"], 5),
    ],
)
def test_repeated_and_alternating_steps_end_the_sequence(scripted, pieces, num_steps):
    completion = run(scripted(pieces))
    assert len(completion.steps) == num_steps
    assert completion.finish_reason == ("repeated_step" if num_steps < 5 else "stop")


# Thinking. The prompt opens it, so that step 0 is glimpsed.

THOUGHTS = [" w1.\n\n", " w2.\n\n", "</think>", "\n\n", " w3", "\n\n", " w4"]


@pytest.fixture
def thinking(thinking_script):
    messages = [{"role": "user", "content": "Go"}]
    prompt_len = len(thinking_script.text.encode_chat(Chat(messages)))

    def make(pieces, routing, **options):
        models = [thinking_script.model(prompt_len, pieces) for _ in Model]
        engine = Engine(*models, kv_cache_bytes=1 << 20, **options)
        return engine.generate(messages, GREEDY, routing, use_tqdm=False)[0].outputs[0]

    return make


def test_thinking_then_an_answer_by_the_large_model(thinking):
    completion = thinking(THOUGHTS, glimp())
    assert [step.phase for step in completion.steps] == ["thinking"] * 3 + ["answer"]
    assert routes(completion) == ["small"] * 3 + ["large"]
    assert completion.steps[-1].entropy is None  # no glimpse: the answer's writer is given
    assert completion.text == " w1.\n\n w2.\n\n</think>\n\n w3\n\n w4"
    assert (completion.thinking_finish_reason, completion.finish_reason) == ("stop", "stop")


def test_the_answer_may_be_small_or_routed(thinking):
    assert routes(thinking(THOUGHTS, glimp(answer_model="small"))) == ["small"] * 4
    routed = thinking(THOUGHTS, glimp(answer_model="routed"))
    assert [step.phase for step in routed.steps] == ["thinking"] * 3 + ["answer"] * 2
    assert all(step.entropy is not None for step in routed.steps)
    assert routes(thinking(THOUGHTS, RoutingParams(router=SmallOnly()))) == ["small"] * 5


def test_when_the_thinking_budget_is_spent_thinking_is_closed(thinking):
    pieces = [" w1", " w2", " w3", *[" w9"] * 4, " w4"]  # four are forced: newline, </think>, and two newlines
    completion = thinking(pieces, glimp(max_thinking_tokens=3))
    assert completion.text == " w1 w2 w3\n</think>\n\n w4"
    assert completion.thinking_finish_reason == "thinking_budget"
    assert completion.finish_reason == "stop"
    assert [str(step.phase) for step in completion.steps] == ["thinking", "answer"]


def test_a_repeated_step_closes_the_thinking(thinking):
    pieces = [" w1.\n\n", " w1.\n\n", *[" w9"] * 3, " w4"]
    completion = thinking(pieces, glimp())
    assert completion.text == " w1.\n\n w1.\n\n</think>\n\n w4"
    assert (completion.thinking_finish_reason, completion.finish_reason) == ("repeated_step", "stop")
    assert len(thinking([" w1.\n\n", " w1.\n\n", *THOUGHTS[2:]], glimp(stop_repeated_steps=False)).steps) == 4


def test_an_end_token_ends_the_thinking_too(thinking):
    completion = thinking([" w1"], glimp())
    assert (completion.thinking_finish_reason, completion.finish_reason) == ("unclosed", "stop")
    assert completion.text == " w1"


# Requests that fail, and others beside them that don't.


def test_logits_that_are_no_numbers_end_one_request(script):
    model = script.model(len(PROMPT), STEPS)
    inner = model.model.logits_at
    model.model.logits_at = lambda position, token: (
        inner(position, token) * (torch.nan if token == script.id_of(" w39") else 1.0)
    )
    engine = Engine(model, script.model(len(PROMPT), STEPS), kv_cache_bytes=1 << 20)
    bad = [script.id_of(" w0"), script.id_of(" w39")]
    outputs = engine.generate([PROMPT, bad, PROMPT], GREEDY, use_tqdm=False)
    assert [output.outputs[0].finish_reason for output in outputs] == ["stop", "error", "stop"]
    assert "small model's logits" in outputs[1].error
    assert outputs[0].outputs[0].text == outputs[2].outputs[0].text == " w1 w2.\n\n w3\n\n w4"
    engine._loop.pool.check()


def test_a_forward_that_raises_ends_the_requests_in_it(script):
    small, large = script.model(len(PROMPT), STEPS), script.model(len(PROMPT), STEPS)
    forward = large.model.forward

    def fails_once(*arguments):
        large.model.forward = forward
        raise MemoryError("out of memory")

    large.model.forward = fails_once
    engine = Engine(small, large, kv_cache_bytes=1 << 20)
    engine.add_request("large", PROMPT, GREEDY, RoutingParams(router=LargeOnly()))
    engine.add_request("small", PROMPT, GREEDY, RoutingParams(router=SmallOnly()))
    outputs = finish(engine)
    assert outputs["large"].error == "MemoryError: out of memory"
    assert outputs["small"].outputs[0].finish_reason == "stop"
    again = run(engine, RoutingParams(router=LargeOnly()))  # nothing of the failed forward is taken for done
    assert again.text == " w1 w2.\n\n w3\n\n w4"
    assert len(large.model.forwards[0]) == len(PROMPT)


def finish(engine):
    outputs = {}
    while engine.has_unfinished():
        for event in engine.advance():
            if isinstance(event, Finish) and event.output is not None:
                outputs[event.request_id] = event.output
    return outputs


def test_a_router_that_raises_ends_its_request(scripted):
    class Broken:
        only = None
        num_top_logprobs = 0

        def decide(self, glimpse, context):
            raise KeyError("no such route")

    engine = scripted()
    engine.add_request("broken", PROMPT, GREEDY, RoutingParams(router=Broken()))
    engine.add_request("sound", PROMPT, GREEDY)
    outputs = finish(engine)
    assert outputs["broken"].outputs[0].finish_reason == "error"
    assert "no such route" in outputs["broken"].error
    assert outputs["sound"].outputs[0].finish_reason == "stop"


def test_abort_keeps_what_has_been_written(scripted):
    engine = scripted([f" w{i}" for i in range(30)])
    for name in ("first", "second"):
        engine.add_request(name, PROMPT, GREEDY)
    for _ in range(5):
        engine.advance()
    engine.abort("first")
    engine.abort("nobody")
    outputs = finish(engine)
    assert outputs["first"].outputs[0].finish_reason == "abort"
    assert outputs["first"].outputs[0].text == " w0 w1 w2 w3 w4"
    assert len(outputs["second"].outputs[0].token_ids) == 31
    stats = engine.stats()
    assert stats.num_free_pages + stats.num_cached_pages == stats.num_pages


def test_a_waiting_request_can_be_aborted(scripted):
    engine = scripted(max_batch_size=1, max_batch_tokens=64)
    for name in ("running", "waiting"):
        engine.add_request(name, PROMPT, GREEDY)
    engine.advance()
    assert (engine.stats().num_running, engine.stats().num_waiting) == (1, 1)
    engine.abort("waiting")
    outputs = finish(engine)
    assert outputs["waiting"].outputs[0].token_ids == []
    assert outputs["running"].outputs[0].finish_reason == "stop"


def test_closing_a_stream_aborts_its_request(scripted):
    engine = scripted()
    stream = engine.stream(PROMPT, GREEDY)
    next(stream)
    stream.close()
    assert not engine.has_unfinished()
    assert engine.stats().num_running == 0


def test_streams_and_other_requests_do_not_take_each_others_events(scripted):
    engine = scripted()
    engine.add_request("mine", PROMPT, GREEDY)
    first, second = engine.stream(PROMPT, GREEDY), engine.stream(PROMPT, GREEDY)
    events = [next(first), next(second), *first, *second]
    assert len([event for event in events if isinstance(event, Finish)]) == 2
    mine = finish(engine)
    assert list(mine) == ["mine"]


def test_one_bad_prompt_among_good_ones(scripted):
    engine = scripted(max_model_len=40)
    outputs = engine.generate([PROMPT, "", "x" * 40, [1, 10**6], PROMPT], GREEDY, use_tqdm=False)
    assert [len(output.outputs) for output in outputs] == [1, 0, 0, 0, 1]
    assert "not empty" in outputs[1].error
    assert "40 tokens" in outputs[2].error
    assert "prompt[1] is 1000000" in outputs[3].error


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"prompt": "x" * 600}, RequestError, "fewer than max_model_len, 512"),
        ({"prompt": [{"content": "no role"}]}, RequestError, "role"),
        ({"sampling": {"temperature": 0}}, ConfigError, "sampling is"),
        ({"routing": GlimpRouter()}, ConfigError, "routing is"),
        ({"request_id": "taken"}, RequestError, "'taken'"),
        ({"request_id": 7}, RequestError, "request_id is 7"),
    ],
)
def test_bad_requests_are_refused(scripted, arguments, error, message):
    engine = scripted()
    engine.add_request("taken", PROMPT, GREEDY)
    with pytest.raises(error, match=message):
        engine.add_request(**{"request_id": "new", "prompt": PROMPT, **arguments})
    assert list(finish(engine)) == ["taken"]


def test_a_one_model_engine_routes_to_the_small_model_only(script):
    engine = Engine(script.model(len(PROMPT), STEPS), kv_cache_bytes=1 << 20)
    assert routes(run(engine)) == ["small"] * 3
    with pytest.raises(ConfigError, match=r"allowed: SmallOnly\(\)"):
        engine.add_request("x", PROMPT, GREEDY, glimp())


def test_parameters_are_one_for_all_or_one_for_each(scripted):
    engine = scripted()
    limits = [SamplingParams(temperature=0, max_tokens=n) for n in (1, 3)]
    outputs = engine.generate([PROMPT, PROMPT], limits, use_tqdm=False)
    assert [len(output.outputs[0].token_ids) for output in outputs] == [1, 3]
    with pytest.raises(ConfigError, match="sampling has 2 entries"):
        engine.generate([PROMPT] * 3, limits, use_tqdm=False)


def test_what_cannot_fit_is_refused_at_the_start(script):
    model = script.model(len(PROMPT), STEPS)
    with pytest.raises(ConfigError, match="context allows 512"):
        Engine(model, max_model_len=1000)
    with pytest.raises(CapacityError, match=r"max_model_len is 500 tokens; .* hold 80"):
        Engine(model, max_model_len=500, kv_cache_bytes=80 * 16)
    with pytest.raises(CapacityError, match="one page of both models takes 256"):
        Engine(model, kv_cache_bytes=100)
    with pytest.raises(ConfigError, match="small is"):
        Engine(None)


def test_fences_are_no_boundaries_if_asked(script):
    pieces = [" w1", "\n", "`", "`", "`", "\n", " w2.\n\n", " w3", "\n", "`", "`", "`", "\n\n", " w4"]
    for skip, num_steps in ((False, 3), (True, 2)):
        models = [script.model(len(PROMPT), pieces) for _ in Model]
        engine = Engine(*models, kv_cache_bytes=1 << 20, skip_code_fences=skip)
        assert len(run(engine).steps) == num_steps
