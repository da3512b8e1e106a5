"""One engine's life by its seed: requests of every kind that come, fail, are aborted and interrupted."""

import math
import random
import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path

import torch

import glimp_engine
from glimp_engine import (
    Finish,
    FinishReason,
    GlimpRouter,
    LargeOnly,
    LateRouter,
    Model,
    NumberEntropyRouter,
    RandomRouter,
    RequestError,
    RoutingParams,
    SamplingParams,
    SmallOnly,
    SpecReason,
    StepEntropyRouter,
    StepPerplexityRouter,
    Verdict,
)

PACKAGE = str(Path(glimp_engine.__file__).parent)
MAX_PLANS = 50_000  # of one life, which has a few thousand
MAX_MODEL_LEN = 96
MOST_TICKS = 20_000  # of one life: more is one that doesn't end
PROMPTS = ["How many?", "How many apples are there in all", "x", "Tell me: " + "a b c " * 6, "w" * 16, "w" * 31]
CHATS = [[{"role": "user", "content": text}] for text in ("Hi", "How many apples?")]
BAD_PROMPTS = [
    "",
    "\ud83d",
    "half \udc00 of it",
    "too long " * 60,
    "far too long " * 9000,
    [],
    [0, 10**9],
    [-1],
    [True],
    ["w"],
    [{"role": "user"}],
    [{"role": 3, "content": "x"}],
    [{"role": "user", "content": "\ud83d"}],
]


class BrokenError(Exception):
    """What a user's own code may raise."""


@dataclass(frozen=True)
class FailingRouter:
    """Routes by entropy, and fails at the step of that index: it raises, or answers what is no answer."""

    at: int
    what: str = "raises"

    def decide(self, glimpse, context):
        if context.step_index < self.at:
            return Model.LARGE if glimpse.entropy > 2.5 else Model.SMALL
        if self.what == "raises":
            raise BrokenError("decide")
        return {"nonsense": 7, "nothing": None}[self.what]


class ReviewingRouter:
    """Reviews drafts by their length, and may fail at that."""

    question = None

    def __init__(self, modulus, fails_at=None, question=None):
        self.modulus, self.fails_at, self.question = modulus, fails_at, question

    def __repr__(self):
        return f"ReviewingRouter({self.modulus}, {self.fails_at}, {self.question!r})"

    def decide(self, glimpse, context):
        return Model.SMALL

    def review(self, draft):
        if draft.num_tokens == self.fails_at:
            raise BrokenError("review")
        return Verdict.REDO if draft.num_tokens % self.modulus == 0 else Verdict.ACCEPT


def random_router(rng):
    kind = rng.randrange(10)
    if kind < 3:
        return GlimpRouter(rng.choice([0.0, 1.5, 2.6, 3.0, float("inf")]))
    return [
        lambda: SmallOnly(),
        lambda: LargeOnly(),
        lambda: rng.choice([RandomRouter(0.5), LateRouter(rng.choice([0, 9, 30]))]),
        lambda: SpecReason(rng.choice([0, 5, 10])),
        lambda: rng.choice([StepEntropyRouter(rng.choice([0.0, 2.0, 2.6])), NumberEntropyRouter(2.0)]),
        lambda: rng.choice([StepPerplexityRouter(9.0), GlimpRouter(large_fraction=0.4)]),
        lambda: ReviewingRouter(rng.randint(1, 3), question=rng.choice([None, "Is it good?"])),
    ][kind - 3]()


def failing_router(rng):
    if rng.random() < 0.5:
        return FailingRouter(rng.randint(0, 3), rng.choice(["raises", "nonsense", "nothing"]))
    return ReviewingRouter(rng.randint(1, 3), fails_at=rng.randint(1, 4), question=rng.choice([None, "Is it good?"]))


def random_sampling(rng):
    greedy, n = rng.random() < 0.5, rng.choice([1, 1, 1, 2, 3, 7])
    penalties = {"presence_penalty": 0.5, "repetition_penalty": 1.3} if rng.random() < 0.2 else {}
    return SamplingParams(
        temperature=0 if greedy else rng.choice([1e-30, 0.7, 1.0, 1.4]),
        n=1 if greedy else n,
        seed=rng.randrange(3),
        top_p=rng.choice([1.0, 0.9]),
        top_k=rng.choice([0, 0, 20]),
        max_tokens=rng.randint(1, 30),
        stop=rng.choice([(), (), ("w7",), (".\n\n w1", "5")]),
        logprobs=rng.choice([None, None, 0, 3]),
        **penalties,
        **random_wishes(rng),
    )


def random_wishes(rng):
    """What is rarely asked for; at most of it at once, and never so much that nothing is left to write."""
    wishes = {
        "ignore_eos": True,
        "min_tokens": 1,
        "stop_token_ids": [*range(20, 30)],  # bytes, which all vocabularies have
        "include_stop_str_in_output": True,
        "logit_bias": {40: 3.0, 50: -math.inf, 21: 2.5, 60: -1.0},
        "bad_words": ["w1", "a", " w3.\n\n", "b c"],
        "skip_special_tokens": False,
        "prompt_logprobs": rng.choice([0, 2]),
        "truncate_prompt_tokens": rng.choice([-1, 3, 9]),
    }
    return {name: value for name, value in wishes.items() if rng.random() < 0.12}


def random_routing(rng, router):
    return RoutingParams(
        router=router,
        max_step_tokens=rng.choice([1, 3, 9, 512]),
        answer_model=rng.choice(["small", "large", "routed"]),
        max_thinking_tokens=rng.choice([1, 6, 8192]),
        stop_repeated_steps=rng.random() < 0.5,
        glimpse_logprobs=rng.choice([0, 0, 5]),
    )


def random_options(rng, num_streams, bytes_per_token):
    """An engine's options, its pages only just enough at times."""
    page_size, max_batch_size = rng.choice([1, 2, 3, 4, 16]), rng.randint(1, 8)
    num_pages = -(-MAX_MODEL_LEN // page_size) * num_streams
    num_pages = int(num_pages * rng.choice([1.0, 1.0, 1.3, 2.0, 4.0]))
    return {
        "page_size": page_size,
        "max_model_len": MAX_MODEL_LEN,
        "max_batch_size": max_batch_size,
        "max_batch_tokens": rng.randint(max_batch_size, 48),
        "kv_cache_bytes": num_pages * page_size * bytes_per_token,
        "num_threads": 1,
        "device": "cpu",
    }


@dataclass
class Asked:
    """A request, and what has come of it."""

    prompt: object
    sampling: SamplingParams
    routing: RoutingParams
    may_fail: bool = False
    is_aborted: bool = False
    outputs: list = field(default_factory=list)
    finished: set = field(default_factory=set)  # indices of sequences


class Life:
    """`engine` must have been made with the options of `random_options`; `alone` has room for one request at a time."""

    def __init__(self, seed, engine, alone, is_exact):
        self.rng, self.engine, self.alone = random.Random(seed), engine, alone
        self.is_exact = is_exact  # whether a row's logits are the same to the last bit in any batch
        self.asked, self.streams, self.num_ticks, self.num_events = {}, {}, 0, 0
        self.trouble = None  # what the next forward does
        self.num_ticks_at_fault = -10
        self.plan, self.num_plans = None, 0  # the last one
        self.watch_plans()
        for runner in engine._loop.runners:
            self.make_fallible(runner.model)

    def watch_plans(self):
        make_plan = self.engine._loop.scheduler.plan

        def plan():
            self.num_plans += 1
            if self.num_plans > MAX_PLANS:
                raise AssertionError("no end")  # which ends what is planned for, so that the life ends and says so
            self.plan = make_plan()
            return self.plan

        self.engine._loop.scheduler.plan = plan

    def note_fault(self):
        """A forward fails: it may end what is in it, and nothing else."""
        self.num_ticks_at_fault = self.num_ticks
        for work in self.plan.work:
            self.asked[work.sequence.request.request_id].may_fail = True

    def make_fallible(self, model):
        if "forward" in vars(model):  # both runners may have the same
            return
        forward = model.forward

        def fallible(*args):
            trouble, self.trouble = self.trouble, None
            if trouble is not None:
                self.note_fault()
            if trouble == "before":
                raise RuntimeError("the device said no")
            logits = forward(*args)
            if trouble == "after":
                raise MemoryError("too late")
            if trouble == "interrupt":
                raise KeyboardInterrupt
            if trouble == "nan" and len(logits):
                logits[self.rng.randrange(len(logits))] = torch.nan
            return logits

        model.forward = fallible

    def restore(self):
        for runner in self.engine._loop.runners:
            vars(runner.model).pop("forward", None)

    def run(self, num_actions):
        """Live, then come to an end; everything is checked on the way."""
        for _ in range(num_actions):
            self.rng.choices([self.add, self.tick, self.abort, self.disturb, self.stream, self.pull], WEIGHTS)[0]()
            self.check_pages()
        self.trouble = None
        for name in list(self.streams):
            while name in self.streams:
                self.pull()
        while self.engine.has_unfinished():
            self.tick()
            self.check_pages()
        assert self.num_plans <= MAX_PLANS
        self.check_end()

    def add(self):
        name = f"r{len(self.asked)}"
        may_fail = self.rng.random() < 0.2
        router = failing_router(self.rng) if may_fail else random_router(self.rng)
        prompt = self.rng.choice([*PROMPTS, *PROMPTS, *CHATS])
        if self.rng.random() < 0.1:
            self.add_bad(name)
            return
        asked = Asked(prompt, random_sampling(self.rng), random_routing(self.rng, router), may_fail)
        self.engine.add_request(name, asked.prompt, asked.sampling, asked.routing)
        self.asked[name] = asked

    def add_bad(self, name):
        try:
            self.engine.add_request(name, self.rng.choice(BAD_PROMPTS))
        except RequestError:
            return
        raise AssertionError("a bad prompt was taken")

    def tick(self):
        self.num_ticks += 1
        assert self.num_ticks < MOST_TICKS, "it doesn't end"
        try:
            events = self.engine.advance()
        except KeyboardInterrupt:
            assert self.num_ticks_at_fault == self.num_ticks
            return
        self.take(events)

    def take(self, events):
        for event in events:
            self.num_events += 1
            asked = self.asked[event.request_id]
            assert not asked.outputs, "an event after the last"
            assert event.sequence_index not in asked.finished, "an event after a sequence's last"
            if isinstance(event, Finish):
                asked.finished.add(event.sequence_index)
                if event.output is not None:
                    asked.outputs.append(event.output)

    def unfinished(self):
        return [name for name, asked in self.asked.items() if not asked.outputs]

    def abort(self):
        names = [name for name in self.unfinished() if name not in self.streams]
        if names and self.rng.random() < 0.5:
            name = self.rng.choice(names)
            self.asked[name].is_aborted = True
            self.engine.abort(name)
        else:
            self.engine.abort("nobody")

    def disturb(self):
        """The next forward fails, or the whole tick is interrupted."""
        kind = self.rng.choice(["before", "after", "nan", "interrupt", "signal", "signal"])
        if kind != "signal":
            self.trouble = kind
        else:
            self.interrupt()

    def interrupt(self):
        """A Ctrl-C at some line within the next ticks: it's raised once, after its tick, and nothing else happens."""
        self.trouble, lines_left, guard = None, self.rng.randint(1, 4000), self.engine._guard

        def trace(frame, what, argument):
            nonlocal lines_left
            if what == "line" and guard._lock.locked():
                lines_left -= 1
                if lines_left == 0:
                    signal.raise_signal(signal.SIGINT)
            return trace if frame.f_code.co_filename.startswith(PACKAGE) else None

        traced = sys.gettrace()
        while lines_left > 0 and self.engine.has_unfinished():
            self.num_ticks += 1
            sys.settrace(trace)
            try:
                events = self.engine.advance()
            except KeyboardInterrupt:
                assert lines_left <= 0, "an interrupt from nowhere"
                return
            finally:
                sys.settrace(traced)
            assert lines_left > 0, "the interrupt was lost"
            self.take(events)

    def stream(self):
        """Open a stream; it may be closed, or lost, before its first event."""
        router = random_router(self.rng)
        asked = Asked(self.rng.choice(PROMPTS), random_sampling(self.rng), random_routing(self.rng, router))
        before = set(self.engine._loop.live)
        stream = self.engine.stream(asked.prompt, asked.sampling, asked.routing)
        (name,) = set(self.engine._loop.live) - before
        if self.rng.random() < 0.3:
            if self.rng.random() < 0.5:
                stream.close()
            return  # or lost
        self.asked[name], self.streams[name] = asked, stream

    def pull(self):
        """The next event of a stream."""
        if not self.streams:
            return
        name = self.rng.choice(list(self.streams))
        self.num_ticks += 1
        try:
            event = next(self.streams[name])
        except KeyboardInterrupt:
            assert self.num_ticks_at_fault == self.num_ticks
            return
        except StopIteration:
            raise AssertionError("a stream without a last event") from None
        asked = self.asked[name]
        if isinstance(event, Finish):
            asked.finished.add(event.sequence_index)
            if event.output is not None:
                asked.outputs.append(event.output)
                assert next(self.streams.pop(name), None) is None

    def check_pages(self):
        self.engine._loop.pool.check()

    def check_end(self):
        stats = self.engine.stats()
        assert stats.num_free_pages + stats.num_cached_pages == stats.num_pages
        assert (stats.num_running, stats.num_waiting) == (0, 0)
        for name, asked in self.asked.items():
            assert len(asked.outputs) == 1, f"{name}: {len(asked.outputs)} outputs"
            (output,) = asked.outputs
            reasons = {completion.finish_reason for completion in output.outputs}
            assert None not in reasons
            if FinishReason.ERROR in reasons:
                assert asked.may_fail or asked.is_aborted, f"{name}: {output.error}"
            elif FinishReason.ABORT in reasons:
                assert asked.is_aborted
            else:
                self.check_alone(name, asked, output)

    def check_alone(self, name, asked, output):
        """A survivor has written what it writes alone."""
        (alone,) = self.alone.generate([asked.prompt], asked.sampling, asked.routing, use_tqdm=False)
        assert (output.prompt_logprobs is None) == (asked.sampling.prompt_logprobs is None)
        if self.is_exact:
            assert output.prompt_logprobs == alone.prompt_logprobs
        for ours, theirs in zip(output.outputs, alone.outputs, strict=True):
            assert ours.token_ids == theirs.token_ids, f"{name}: {asked}"
            assert ours.finish_reason == theirs.finish_reason
            assert ours.text == theirs.text
            assert [step.model for step in ours.steps] == [step.model for step in theirs.steps]
            if self.is_exact:
                assert ours.logprobs == theirs.logprobs


WEIGHTS = [3, 12, 1, 0.7, 0.7, 3]
