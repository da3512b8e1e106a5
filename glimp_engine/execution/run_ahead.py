"""Decoding that runs ahead of the host: a launch goes on with its own tokens until something has to be decided.

The host takes the ticks one by one, and asks for each with the batch that it would have run. As long as that's what
the loop has run, with the tokens it has drawn itself, the samples are there already, or will be in a moment; else the
loop is stopped, and what it did too much is forgotten: K/V beyond a sequence's tokens counts for nothing.

A loop ends by itself at the end of a page, at an end token, and where a glimpse is not below the entropy that settles
it: there the router, on the host, has the word; and where it has proposed as many tokens as are wanted, or one that is
too unlikely for another behind it. On a GPU the loop is csrc/cuda/step_loop.cu; `PlainLoop` is the same
program on the host.
"""

import time
from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from glimp_engine.execution.batch import Batch
from glimp_engine.execution.static_batch import StaticBatch
from glimp_engine.routing import Model
from glimp_engine.sequences import Row, SampledToken, Use
from glimp_engine.text import Boundary, BoundaryTable

__all__ = ["Ahead", "Body", "CudaLoop", "DecodeLoop", "Launch", "PlainLoop"]

Body = Callable[[], None]  # all that the device does in a tick

SAMPLE = np.dtype([("token", "<i8"), ("entropy", "<f4"), ("logprob", "<f4"), ("token_class", "<i4"), ("unused", "<i4")])
NUM_DONE, IS_OVER, STOP = range(3)  # of `flags`


class Launch(Protocol):
    """What runs a DecodeLoop's ticks."""

    def start(self) -> None:
        """Begin with the inputs as they are; come back at once."""

    def wait(self, tick: int) -> bool:
        """Whether that tick's samples are there; False if the loop has ended before it."""

    def finish(self) -> None:
        """Come back when nothing is running any more."""


class DecodeLoop:
    """One bucket's decoding ticks: inputs, samples, and how far host and device have come."""

    def __init__(self, inputs: StaticBatch, boundaries: BoundaryTable, max_ticks: int, device: torch.device) -> None:
        """max_ticks of one launch: no more than a page holds, as a launch knows no page but each row's last."""
        self.inputs, self.max_ticks = inputs, max_ticks
        num_rows, is_cuda = inputs.bucket.num_sequences, device.type == "cuda"
        self.token = torch.zeros(num_rows, dtype=torch.int64, device=device)
        self.entropy, self.logprob = (torch.zeros(num_rows, dtype=torch.float32, device=device) for _ in range(2))
        self.token_class = torch.zeros(num_rows, dtype=torch.uint8, device=device)
        self.next_state = torch.tensor(boundaries.next_state, dtype=torch.uint8, device=device)
        self.completes = torch.tensor(boundaries.completes, dtype=torch.uint8, device=device)
        size = max_ticks * num_rows * SAMPLE.itemsize
        self.samples = torch.zeros(size, dtype=torch.uint8, pin_memory=is_cuda)
        self.flags = torch.zeros(3, dtype=torch.int32, pin_memory=is_cuda)
        self.flag_values = self.flags.numpy()
        self._sample_values = self.samples.numpy().view(SAMPLE).reshape(max_ticks, num_rows)
        self._rows: list[Row] = []
        self._next_tick = 0

    def begin(self, batch: Batch, page_size: int, max_positions: int, launch: Launch) -> None:
        """Launch, with this batch as the first tick."""
        positions = batch.attention.positions
        room = torch.minimum(page_size - positions % page_size, max_positions - positions)
        self._rows, self._next_tick = batch.rows, 0
        self._first = (positions.clone(), batch.attention.slots.clone())
        self.flag_values[:] = 0
        num_wanted = min((row.sequence.proposals.wanted.num_tokens for row in batch.rows), default=self.max_ticks)
        self.inputs.fill(batch, loop_inputs(batch.rows, max(min(int(room.min()), self.max_ticks, num_wanted), 1)))
        self._launch = launch
        launch.start()

    def is_at(self, batch: Batch) -> bool:
        """Whether the batch is the next tick of a launch that goes on: the same rows, each with the token it drew."""
        tick = self._next_tick
        if batch.rows != self._rows or tick >= self.max_ticks or len(batch.token_ids) != len(self._rows):
            return False
        if not batch.is_plain:  # a word may have come to the place where its last token is banned
            return False
        if self.flag_values[IS_OVER] and self.flag_values[NUM_DONE] <= tick:
            return False
        positions, slots = self._first
        drawn = self._sample_values["token"][tick - 1, : len(batch.rows)]
        return (
            batch.token_ids.tolist() == drawn.tolist()
            and torch.equal(batch.attention.positions, positions + tick)
            and torch.equal(batch.attention.slots, slots + tick)
        )

    def finish(self, batch: Batch) -> list[SampledToken] | None:
        """The samples of the next tick, which is the batch's; None if the loop has ended before it."""
        tick = self._next_tick
        if not self._launch.wait(tick):
            return None
        self._next_tick += 1
        samples = self._sample_values[tick, : len(batch.rows)].tolist()
        return [
            SampledToken(token, entropy, logprob, token_class, [])
            for token, entropy, logprob, token_class, _ in samples
        ]

    def stop(self) -> None:
        """End the loop; nothing runs any more when this comes back."""
        self.flag_values[STOP] = 1
        self._launch.finish()

    def __del__(self) -> None:
        if hasattr(self, "_launch"):
            self.stop()  # what runs writes into memory that is about to go


def loop_inputs(rows: list[Row], max_ticks: int) -> dict[str, Tensor]:
    """What the loop has to know of its rows, and of this launch."""
    sequences = [row.sequence for row in rows]
    return {
        "state": torch.tensor([s.transcript.boundary_state for s in sequences], dtype=torch.int32),
        "awaits_glimpse": torch.tensor([s.awaited.use is Use.GLIMPSE for s in sequences], dtype=torch.int32),
        "small_below": torch.tensor([s.small_below for s in sequences], dtype=torch.float32),
        "ends_at_step": torch.tensor(
            [s.model is Model.LARGE and s.is_glimpsed_next for s in sequences], dtype=torch.int32
        ),
        "min_logprob": torch.tensor([s.proposals.wanted.min_logprob for s in sequences], dtype=torch.float32),
        "control": torch.tensor([len(rows), max_ticks, 0], dtype=torch.int32),
    }


class PlainLoop:
    """The loop on the host, run to its end when it's started: as far ahead as a device could ever be."""

    def __init__(self, loop: DecodeLoop, body: Body) -> None:
        self._loop, self._body = loop, body

    def start(self) -> None:
        self._loop.inputs.copy_to_device()
        while not self._loop.flag_values[IS_OVER]:
            self._body()
            self._advance()

    def wait(self, tick: int) -> bool:
        return bool(self._loop.flag_values[NUM_DONE] > tick)

    def finish(self) -> None:
        pass

    def _advance(self) -> None:
        """As advance_kernel of step_loop.cu."""
        loop, inputs = self._loop, self._loop.inputs.device
        num_rows, max_ticks, tick = inputs["control"].tolist()
        must_stop = False
        for row in range(num_rows):
            token, entropy = int(loop.token[row]), float(loop.entropy[row])
            token_class = int(loop.token_class[row])
            loop._sample_values[tick, row] = (token, entropy, float(loop.logprob[row]), token_class, 0)
            inputs["token_ids"][row] = token
            for name in ("positions", "slots", "position", "kv_len"):
                inputs[name][row] += 1
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

    def __init__(self, loop: DecodeLoop, tick: torch.cuda.CUDAGraph) -> None:
        from glimp_engine.kernels.gpu.step_loop import LoopState, StepLoop

        self._loop, self._tick = loop, tick
        inputs = loop.inputs.device
        state = LoopState.of(
            num_classes=loop.completes.shape[1],
            sample_positions=inputs["position"],
            **{name: inputs[name] for name in ("token_ids", "positions", "slots", "kv_len", "state", "control")},
            **{name: inputs[name] for name in ("awaits_glimpse", "small_below", "ends_at_step", "min_logprob")},
            **{name: getattr(loop, name) for name in ("token", "entropy", "logprob", "token_class", "samples")},
            next_state=loop.next_state,
            completes=loop.completes,
            num_done=loop.flags[NUM_DONE:],
            is_over=loop.flags[IS_OVER:],
            stop=loop.flags[STOP:],
        )
        self._step_loop = StepLoop(tick.raw_cuda_graph(), state, loop.inputs.bucket.num_sequences)

    def start(self) -> None:
        self._loop.inputs.copy_to_device()
        self._step_loop.launch(torch.cuda.current_stream().cuda_stream)

    def wait(self, tick: int) -> bool:
        flags, stream = self._loop.flag_values, torch.cuda.current_stream()
        while flags[NUM_DONE] <= tick:
            if flags[IS_OVER] or stream.query():  # which also raises what has gone wrong there
                self.finish()  # the last number is written after the flag
                return bool(flags[NUM_DONE] > tick)
            time.sleep(0)
        return True

    def finish(self) -> None:
        torch.cuda.current_stream().synchronize()


class Ahead:
    """The one launch that may be running; both models' runners share it, as they share the GPU."""

    def __init__(self) -> None:
        self._loop: DecodeLoop | None = None

    def is_at(self, batch: Batch, own_loops: set[int]) -> bool:
        """Whether one of the runner's own loops runs this batch; whatever runs otherwise is stopped."""
        if self._loop is None:
            return False
        if id(self._loop) in own_loops and self._loop.is_at(batch):
            return True
        self._stop()
        return False

    def begin(self, loop: DecodeLoop, launch: Launch, batch: Batch, page_size: int, max_positions: int) -> None:
        """Launch a loop with this batch; nothing else may be running."""
        loop.begin(batch, page_size, max_positions, launch)
        self._loop = loop

    def finish(self, batch: Batch) -> list[SampledToken] | None:
        """The samples of the batch that the loop is at; None if the loop has ended before it."""
        assert self._loop is not None
        samples = self._loop.finish(batch)
        if samples is None:
            self._stop()
        return samples

    def _stop(self) -> None:
        assert self._loop is not None
        self._loop.stop()
        self._loop = None
