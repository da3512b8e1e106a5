"""One engine's life by its seed: requests of every kind that come, fail, are aborted and interrupted."""

import random
import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path

import torch
from random_requests import (
    BAD_PROMPTS,
    CHATS,
    PROMPTS,
    failing_router,
    random_router,
    random_routing,
    random_sampling,
)

import glimp_engine
from glimp_engine import (
    Finish,
    FinishReason,
    RequestError,
    RoutingParams,
    SamplingParams,
)

PACKAGE = str(Path(glimp_engine.__file__).parent)
MAX_PLANS = 50_000  # of one life, which has a few thousand


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
