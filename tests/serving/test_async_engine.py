"""AsyncEngine: many tasks, slow readers, readers that leave, a full queue, an engine that fails, its end."""

import asyncio
import gc
import random
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_requests import check_pages, routing

from glimp_engine import (
    Engine,
    EngineError,
    Finish,
    GlimpRouter,
    RequestError,
    SamplingParams,
    StepEnd,
    StepStart,
    Token,
)
from glimp_engine.outputs import FinishReason, Phase, Step
from glimp_engine.routing import Model
from glimp_engine.serving import AsyncEngine, QueueFullError
from glimp_engine.serving.deltas import Mailbox

OPTIONS = {"kv_cache_bytes": 1 << 20, "device": "cpu", "num_threads": 1}
PROMPTS = [f"How many w{i}?" for i in range(12)]
SAMPLED = [SamplingParams(temperature=0.8, seed=i, max_tokens=40, logprobs=2) for i in range(12)]
MIDDLE = routing(GlimpRouter(2.6))
ENDLESS = SamplingParams(temperature=0.8, seed=1, ignore_eos=True, max_tokens=900)


@pytest.fixture
def engine(small_path, large_path):
    return Engine(small_path, large_path, **OPTIONS)


@pytest.fixture
def expected(small_path, large_path):
    outputs = Engine(small_path, large_path, **OPTIONS).generate(PROMPTS, SAMPLED, MIDDLE, use_tqdm=False)
    return [output.outputs[0] for output in outputs]


def run(engine, work, **options):
    """What `work(async_engine)` returns; then all pages have come back."""

    async def whole():
        async with AsyncEngine(engine, **options) as door:
            result = await work(door)
            await door.drain()
            return result

    result = asyncio.run(whole())
    check_pages(engine)
    return result


async def read(stream, pause=lambda: 0.0):
    """All of a stream: its text, ids, log-probabilities, and how many deltas it took."""
    text, ids, logprobs, num_deltas = "", [], [], 0
    async for delta in stream:
        await asyncio.sleep(pause())
        text += delta.text
        ids += delta.token_ids
        logprobs += [each for piece in delta.pieces for each in piece.logprobs]
        num_deltas += 1
    return text, ids, logprobs, num_deltas


def test_tasks_get_what_the_engine_alone_gives(engine, expected):
    async def work(door):
        return await asyncio.gather(*[read(door.stream(p, s, MIDDLE)) for p, s in zip(PROMPTS, SAMPLED, strict=True)])

    for (text, ids, logprobs, _), own in zip(run(engine, work), expected, strict=True):
        assert (text, ids, logprobs) == (own.text, own.token_ids, own.logprobs)


def test_generate_gives_whole_outputs(engine, expected):
    async def work(door):
        return await asyncio.gather(*[door.generate(p, s, MIDDLE) for p, s in zip(PROMPTS, SAMPLED, strict=True)])

    assert [output.outputs[0].token_ids for output in run(engine, work)] == [each.token_ids for each in expected]


def test_a_slow_reader_loses_nothing_and_holds_one_delta_a_sequence(engine):
    sampling = SamplingParams(temperature=0.8, seed=3, n=3, ignore_eos=True, max_tokens=200)

    async def work(door):
        stream = await door.add_request("slow", PROMPTS[0], sampling, MIDDLE)
        while door.num_unfinished:
            await asyncio.sleep(0.001)
            assert len(stream._mailbox) <= 3
        texts = {}
        num_deltas = 0
        async for delta in stream:
            texts[delta.sequence_index] = texts.get(delta.sequence_index, "") + delta.text
            num_deltas += 1
        assert num_deltas == 3
        return texts, stream.output

    texts, output = run(engine, work)
    assert texts == {each.index: each.text for each in output.outputs}


def test_slow_and_leaving_readers_harm_no_other(engine, expected):
    chance = random.Random(5)

    async def leave(door, prompt, sampling):
        async for _ in door.stream(prompt, ENDLESS, MIDDLE):
            if chance.random() < 0.2:
                return

    async def work(door):
        readers = [
            read(door.stream(p, s, MIDDLE), pause=lambda: chance.random() * 0.01)
            for p, s in zip(PROMPTS, SAMPLED, strict=True)
        ]
        leavers = [leave(door, p, s) for p, s in zip(PROMPTS, SAMPLED, strict=True)]
        return (await asyncio.gather(*readers, *leavers))[: len(readers)]

    for (text, ids, _, _), own in zip(run(engine, work), expected, strict=True):
        assert (text, ids) == (own.text, own.token_ids)


@pytest.mark.parametrize("how", ["stream", "generate", "add_request"])
def test_a_task_that_is_cancelled_aborts_its_request(engine, how):
    async def ask(door):
        if how == "generate":
            return await door.generate(PROMPTS[0], ENDLESS, MIDDLE)
        if how == "stream":
            return await read(door.stream(PROMPTS[0], ENDLESS, MIDDLE))
        stream = await door.add_request(None, PROMPTS[0], ENDLESS, MIDDLE)
        try:
            return await read(stream)
        finally:
            stream.close()

    async def work(door):
        task = asyncio.ensure_future(ask(door))
        while (await door.stats()).num_running == 0:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(door.drain(), 10)
        return (await door.stats()).num_finished

    assert run(engine, work) == 1
    assert engine.stats().small.tokens_written + engine.stats().large.tokens_written < 900


def test_a_stream_that_is_lost_aborts_its_request(engine):
    async def work(door):
        await door.add_request(None, PROMPTS[0], ENDLESS, MIDDLE)
        gc.collect()
        await asyncio.wait_for(door.drain(), 10)

    run(engine, work)


def test_a_full_queue_refuses_and_says_so(engine):
    async def work(door):
        streams = [await door.add_request(None, PROMPTS[0], ENDLESS, MIDDLE) for _ in range(3)]
        with pytest.raises(QueueFullError, match="3 requests are unfinished; allowed: 3"):
            await door.add_request(None, PROMPTS[0])
        for stream in streams:
            stream.close()
        while door.num_unfinished:
            await asyncio.sleep(0.001)
        return await door.generate(PROMPTS[0], SAMPLED[0], MIDDLE)

    assert run(engine, work, max_unfinished=3).error is None


def test_a_bad_prompt_is_its_own_fault(engine):
    async def work(door):
        good = asyncio.ensure_future(door.generate(PROMPTS[0], SAMPLED[0], MIDDLE))
        with pytest.raises(RequestError, match="prompt is"):
            await door.generate("", SAMPLED[0])
        with pytest.raises(RequestError, match="fewer than max_model_len"):
            await door.generate([5] * 5000, SAMPLED[0])
        first = await door.add_request("same", PROMPTS[0], ENDLESS)
        with pytest.raises(RequestError, match="no unfinished request has"):
            async for _ in await door.add_request("same", PROMPTS[0], ENDLESS):
                pass
        first.close()
        return await good

    assert run(engine, work).outputs[0].finish_reason is not FinishReason.ERROR


def test_draining_ends_what_there_is_and_takes_no_more(engine, expected):
    async def work(door):
        reading = [
            asyncio.ensure_future(read(door.stream(p, s, MIDDLE))) for p, s in zip(PROMPTS, SAMPLED, strict=True)
        ]
        while door.num_unfinished < len(PROMPTS):
            await asyncio.sleep(0)
        draining = asyncio.ensure_future(door.drain())
        await asyncio.sleep(0)
        with pytest.raises(EngineError, match="takes no more requests"):
            await door.generate(PROMPTS[0])
        await draining
        return await asyncio.gather(*reading)

    assert [ids for _, ids, _, _ in run(engine, work)] == [each.token_ids for each in expected]


def test_shutting_down_ends_what_is_open(engine):
    async def whole():
        door = AsyncEngine(engine)
        stream = await door.add_request(None, PROMPTS[0], ENDLESS, MIDDLE)
        await door.shutdown()
        await door.shutdown()
        with pytest.raises(EngineError, match="shut down"):
            await read(stream)
        with pytest.raises(EngineError, match="takes no more requests"):
            await door.generate(PROMPTS[0])

    asyncio.run(whole())


def test_an_engine_that_fails_fails_its_requests(engine, monkeypatch):
    async def whole():
        door = AsyncEngine(engine)
        stream = await door.add_request(None, PROMPTS[0], ENDLESS, MIDDLE)
        await anext(stream)
        monkeypatch.setattr(engine, "advance", lambda: 1 / 0)
        with pytest.raises(EngineError, match="the engine has failed: ZeroDivisionError"):
            await read(stream)
        with pytest.raises(EngineError, match="the engine has failed"):
            await door.generate(PROMPTS[0])
        with pytest.raises(EngineError, match="the engine has failed"):
            await door.stats()
        assert isinstance(door.error, ZeroDivisionError)
        await door.shutdown()

    asyncio.run(whole())


def test_who_comes_while_the_engine_fails_is_told(engine, monkeypatch):
    """Whatever is in its queue when its thread ends has an answer, and what comes later too."""

    async def whole():
        door = AsyncEngine(engine)
        may_fail = threading.Event()

        def fail():
            may_fail.wait()
            raise ZeroDivisionError

        monkeypatch.setattr(engine, "advance", fail)
        waiting = [asyncio.ensure_future(door.generate(prompt, ENDLESS, MIDDLE)) for prompt in PROMPTS[:3]]
        while door.num_unfinished < 3 or door._num_read:
            await asyncio.sleep(0.001)
        waiting += [asyncio.ensure_future(door.stats()) for _ in range(3)]
        await asyncio.sleep(0.01)
        door.abort("nobody")
        may_fail.set()
        for task in waiting:
            with pytest.raises(EngineError, match="the engine has failed: ZeroDivisionError"):
                await asyncio.wait_for(task, 10)
        door.abort("nobody")
        await asyncio.wait_for(door.drain(), 10)
        await door.shutdown()

    asyncio.run(whole())


def test_an_idle_engine_sleeps(engine, monkeypatch):
    ticks, advance = [], engine.advance
    monkeypatch.setattr(engine, "advance", lambda: ticks.append(0) or advance())

    async def work(door):
        await door.generate(PROMPTS[0], SAMPLED[0], MIDDLE)
        await asyncio.sleep(0.05)
        num_ticks, used = len(ticks), time.process_time()
        await asyncio.sleep(0.3)
        return len(ticks) - num_ticks, time.process_time() - used

    num_ticks, used = run(engine, work)
    assert num_ticks == 0
    assert used < 0.15


def test_event_loops_in_several_threads_share_an_engine(engine, expected):
    door, found = AsyncEngine(engine), {}

    def work(i):
        found[i] = asyncio.run(read(door.stream(PROMPTS[i], SAMPLED[i], MIDDLE)))[1]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    asyncio.run(door.shutdown())
    assert [found[i] for i in range(4)] == [each.token_ids for each in expected[:4]]


def test_a_loop_that_is_closed_loses_only_its_own_requests(engine):
    door = AsyncEngine(engine)

    async def leave():
        await door.add_request(None, PROMPTS[0], ENDLESS, MIDDLE)

    asyncio.run(leave())
    output = asyncio.run(door.generate(PROMPTS[1], SAMPLED[1], MIDDLE))
    assert output.error is None
    asyncio.run(door.shutdown())


# The mailbox alone.


@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from("stfe"), st.booleans())))
def test_a_mailbox_gives_all_that_was_put_into_it_whenever_somebody_looks(acts):
    """acts: (sequence, what comes, whether somebody looks then)."""
    mailbox, told, found, begun, num_steps = Mailbox(), {}, {}, set(), 0
    for index, kind, looks in acts:
        if kind == "s":
            step = Step(num_steps, Phase.ANSWER, Model.SMALL, None, 0, 0)
            num_steps += 1
            begun.add(index)
            told.setdefault(index, []).append(("start", step.index))
            mailbox.put(StepStart("r", index, step, False))
        elif index in begun and kind == "t":
            told[index].append(("token", len(told[index])))
            mailbox.put(Token("r", index, 0, Model.SMALL, len(told[index]) - 1, f"<{len(told[index]) - 1}>", 0.0))
        elif index in begun and kind == "e":
            told[index].append(("end", None))
            mailbox.put(StepEnd("r", index, step))
        if looks:
            drain(mailbox, found)
    drain(mailbox, found)
    expected = {
        index: "".join("" if kind != "token" else f"<{number}>" for kind, number in each)
        for index, each in told.items()
    }
    starts = {index: [number for kind, number in each if kind == "start"] for index, each in told.items()}
    assert {index: each["text"] for index, each in found.items()} == expected
    assert {index: each["starts"] for index, each in found.items()} == starts


def drain(mailbox, found):
    while mailbox:
        delta = mailbox.take()
        own = found.setdefault(delta.sequence_index, {"text": "", "starts": []})
        own["text"] += delta.text
        own["starts"] += [piece.step.index for piece in delta.pieces if piece.begins]


def test_a_finish_brings_the_text_that_was_held_back():
    mailbox, step = Mailbox(), Step(0, Phase.ANSWER, Model.SMALL, None, 0, 0)
    for event in (StepStart("r", 0, step, False), Token("r", 0, 0, Model.SMALL, 1, "a", 0.0)):
        mailbox.put(event)
    mailbox.take()
    mailbox.put(Finish("r", 0, FinishReason.STOP, "b", None))
    assert mailbox.take().text == "b"
