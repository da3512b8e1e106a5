"""Decoding that runs ahead of the host: a launch goes on with its own tokens until something has to be decided.

The host takes the ticks one by one, as if it had run each: it tells every sequence what was drawn for it. One that goes
another way, as a stop string has come, leaves the launch, and what was run for it too much is forgotten: K/V beyond a
sequence's tokens counts for nothing. The others' draws hold, as no row depends on another.

A loop ends by itself at an end token, and where a glimpse is not below the entropy that settles it: there the router,
on the host, has the word; and where it has proposed as many tokens as are wanted, or one that is too unlikely for
another behind it. On a CPU the loop is csrc/cpu/loop.cpp, on a GPU csrc/cuda/step_loop.cu, and both follow the rule of
csrc/glimp_loop.h; `PlainLoop` is the same program in Python.
"""

import math
import time
from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from glimp_engine.execution.batch import column
from glimp_engine.execution.static_batch import LOOP_FIELDS, StaticBatch
from glimp_engine.kernels.abi import CLoopState
from glimp_engine.routing import Model
from glimp_engine.sequences import Row, SampledToken, Sequence, Use
from glimp_engine.text import Boundary, BoundaryTable

__all__ = ["Body", "CudaLoop", "DecodeLoop", "Launch", "PlainLoop", "Running", "loop_inputs", "loop_state"]

Body = Callable[[], None]  # all that the device does in a tick

SAMPLE = np.dtype([("token", "<i8"), ("entropy", "<f4"), ("logprob", "<f4"), ("token_class", "<i4"), ("unused", "<i4")])
NUM_DONE, IS_OVER, STOP = range(3)  # of `flags`


class Running(Protocol):
    """A launch that goes on beside the host."""

    def wait(self, tick: int) -> bool:
        """Whether that tick's samples are there; False if the loop has ended before it."""

    def finish(self) -> None:
        """Come back when nothing is running any more."""


Launch = Callable[[], Running | None]  # begins with the inputs as they are; what goes on then, None if it's over


class DecodeLoop:
    """The ticks of one launch at a time: samples, the boundary automaton, and how far host and device have come."""

    def __init__(self, num_rows: int, boundaries: BoundaryTable, max_ticks: int, device: torch.device) -> None:
        """num_rows: that there is room for; max_ticks: of a launch."""
        is_cuda = device.type == "cuda"
        self.token = torch.zeros(num_rows, dtype=torch.int64, device=device)
        self.entropy, self.logprob = (torch.zeros(num_rows, dtype=torch.float32, device=device) for _ in range(2))
        self.token_class = torch.zeros(num_rows, dtype=torch.uint8, device=device)
        self.next_state = torch.tensor(boundaries.next_state, dtype=torch.uint8, device=device)
        self.completes = torch.tensor(boundaries.completes, dtype=torch.uint8, device=device)
        self.samples = torch.zeros(max_ticks * num_rows * SAMPLE.itemsize, dtype=torch.uint8, pin_memory=is_cuda)
        self.flags = torch.zeros(3, dtype=torch.int32, pin_memory=is_cuda)
        self.flag_values = self.flags.numpy()
        self.sample_values = self.samples.numpy().view(SAMPLE).reshape(max_ticks, num_rows)
        self._num_rows, self._next_tick = 0, 0
        self._running: Running | None = None

    def begin(self, num_rows: int, launch: Launch) -> None:
        """Launch so many rows; what was launched before must be over."""
        self._num_rows, self._next_tick = num_rows, 0
        self.flag_values[:] = 0
        self._running = launch()

    @property
    def is_over(self) -> bool:
        """Whether `next` has nothing more to give, as far as is known."""
        return bool(self.flag_values[IS_OVER]) and self.num_done <= self._next_tick

    @property
    def num_done(self) -> int:
        """How many ticks' samples are there."""
        return int(self.flag_values[NUM_DONE])

    def next(self) -> list[SampledToken] | None:
        """The next tick's samples, once they are there; None if the loop has ended before it."""
        tick = self._next_tick
        if self.num_done <= tick and (self._running is None or not self._running.wait(tick)):
            return None
        self._next_tick += 1
        rows = self.sample_values[tick, : self._num_rows].tolist()
        return [
            SampledToken(token, entropy, logprob, token_class, []) for token, entropy, logprob, token_class, _ in rows
        ]

    def stop(self) -> None:
        """Begin no further tick; those that are done can still be taken."""
        self.flag_values[STOP] = 1

    def finish(self) -> None:
        """End it; nothing runs any more when this comes back."""
        self.stop()
        if self._running is not None:
            self._running.finish()
            self._running = None

    def __del__(self) -> None:
        if hasattr(self, "_running"):
            self.finish()  # what runs writes into memory that is about to go


def loop_inputs(rows: list[Row], max_ticks: int) -> dict[str, Tensor]:
    """What the loop has to know of its rows, and of this launch."""
    sequences = [row.sequence for row in rows]
    least = [s.proposals.wanted.min_logprob if s.awaited.use is Use.PROPOSAL else -math.inf for s in sequences]
    return {
        "state": column([s.transcript.boundary_state for s in sequences], np.int32),
        "awaits_glimpse": column([s.awaited.use is Use.GLIMPSE for s in sequences], np.int32),
        "small_below": column([s.small_below for s in sequences], np.float32),
        "ends_at_step": column([ends_at_step(s) for s in sequences], np.int32),
        "min_logprob": column(least, np.float32),
        "control": column([len(rows), max_ticks, 0], np.int32),
    }


def ends_at_step(sequence: Sequence) -> bool:
    """Whether more is asked at the open step's end than the entropy of a glimpse can say."""
    request = sequence.request
    return sequence.is_glimpsed_next and (
        sequence.model is Model.LARGE or request.needs.reviews or request.looks_at_top
    )


def loop_state(loop: DecodeLoop, inputs: dict[str, Tensor], page_size: int) -> CLoopState:
    """The addresses of the loop and of its inputs, by their names; both must outlive it."""
    tensors = {
        **{name: getattr(loop, name) for name in ("token", "entropy", "logprob", "token_class")},
        **{name: getattr(loop, name) for name in ("next_state", "completes", "samples")},
        **{name: inputs[name] for name in ("token_ids", "positions", "slots", "kv_len", "page_table", *LOOP_FIELDS)},
        "control": inputs["control"],
        "sample_positions": inputs["position"],
        "num_done": loop.flags[NUM_DONE:],
        "is_over": loop.flags[IS_OVER:],
        "stop": loop.flags[STOP:],
    }
    num_states, num_classes = loop.completes.shape
    sizes = {
        "max_pages": inputs["page_table"].shape[1],
        "page_size": page_size,
        "num_states": num_states,
        "num_classes": num_classes,
        "most_ticks": len(loop.sample_values),
    }
    return CLoopState(**{name: tensor.data_ptr() for name, tensor in tensors.items()}, **sizes)


class PlainLoop:
    """The loop in Python, run to its end when it's started: as far ahead as a device could ever be."""

    def __init__(self, loop: DecodeLoop, inputs: StaticBatch, page_size: int, body: Body) -> None:
        self._loop, self._inputs, self._page_size, self._body = loop, inputs, page_size, body

    def launch(self) -> None:
        self._inputs.copy_to_device()
        while not self._loop.flag_values[IS_OVER]:
            self._body()
            self._advance()

    def _advance(self) -> None:
        """As glimp_advance_row of glimp_loop.h, for all rows."""
        loop, inputs, size = self._loop, self._inputs.device, self._page_size
        num_rows, max_ticks, tick = inputs["control"].tolist()
        must_stop = False
        for row in range(num_rows):
            token, entropy = int(loop.token[row]), float(loop.entropy[row])
            token_class = int(loop.token_class[row])
            loop.sample_values[tick, row] = (token, entropy, float(loop.logprob[row]), token_class, 0)
            inputs["token_ids"][row] = token
            for name in ("positions", "position", "kv_len"):
                inputs[name][row] += 1
            page, offset = divmod(int(inputs["positions"][row]), size)
            if page < inputs["page_table"].shape[1]:
                inputs["slots"][row] = inputs["page_table"][row, page] * size + offset
            is_unsure = bool(inputs["awaits_glimpse"][row]) and not entropy < float(inputs["small_below"][row])
            state = int(inputs["state"][row])
            completes = int(loop.completes[state, token_class])
            inputs["state"][row] = loop.next_state[state, token_class]
            inputs["awaits_glimpse"][row] = completes == Boundary.BLANK_LINE
            is_step_end = completes == Boundary.BLANK_LINE and bool(inputs["ends_at_step"][row])
            is_unlikely = float(loop.logprob[row]) < float(inputs["min_logprob"][row])
            must_stop |= is_unsure or is_step_end or is_unlikely
            must_stop |= completes > Boundary.BLANK_LINE or entropy != entropy
        inputs["control"][2] = tick + 1
        loop.flag_values[IS_OVER] = must_stop or tick + 1 >= max_ticks or loop.flag_values[STOP]
        loop.flag_values[NUM_DONE] = tick + 1


class CudaLoop:
    """The loop on the GPU: the recorded tick inside a conditional graph."""

    def __init__(self, loop: DecodeLoop, inputs: StaticBatch, page_size: int, tick: torch.cuda.CUDAGraph) -> None:
        from glimp_engine.kernels.gpu.step_loop import StepLoop

        self._loop, self._inputs, self._tick = loop, inputs, tick
        state = loop_state(loop, inputs.device, page_size)
        self._step_loop = StepLoop(tick.raw_cuda_graph(), state, inputs.bucket.num_sequences)

    def launch(self) -> Running:
        self._inputs.copy_to_device()
        self._step_loop.launch(torch.cuda.current_stream().cuda_stream)
        return self

    def wait(self, tick: int) -> bool:
        loop, stream = self._loop, torch.cuda.current_stream()
        while loop.num_done <= tick:
            if loop.flag_values[IS_OVER] or stream.query():  # which also raises what has gone wrong there
                self.finish()  # the last number is written after the flag
                return loop.num_done > tick
            time.sleep(0)
        return True

    def finish(self) -> None:
        torch.cuda.current_stream().synchronize()
