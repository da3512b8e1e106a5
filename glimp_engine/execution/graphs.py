"""A model's ticks as CUDA graphs: a bucket's launches are recorded once and replayed for each batch.

What changes from tick to tick lies at fixed places (`StaticBatch`). A graph runs the forward, samples, and copies the
samples back; the host fills in the batch, launches the graph and waits for its end. Decoding can run ahead of the host
besides (`run_ahead`).
"""

from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from glimp_engine.execution.batch import Batch
from glimp_engine.execution.run_ahead import Body, CudaLoop, DecodeLoop, Launch, PlainLoop, loop_inputs
from glimp_engine.execution.runner import Forward, ModelRunner, OneTick, Ticks
from glimp_engine.execution.static_batch import Bucket, StaticBatch, bucket_of
from glimp_engine.kernels import Ops, Samples, Sampling
from glimp_engine.models import KVStore
from glimp_engine.sequences import SampledToken
from glimp_engine.text import BoundaryTable

__all__ = ["CudaGraphs", "GraphRunner", "PlainTicks", "Recorder"]


class Recorder(Protocol):
    """Makes of a tick's body, which the device is to run again and again, something that does the same faster."""

    def capture(self, body: Body) -> Body:
        """What runs it once."""

    def make_launch(self, loop: DecodeLoop, inputs: StaticBatch, page_size: int, body: Body) -> Launch:
        """What runs it in a loop."""


class CudaGraphs:
    """CUDA graphs of all ticks of an engine. One runs at a time, so all have their memory from one pool."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def capture(self, body: Body) -> Body:
        return record(body, self._pool).replay

    def make_launch(self, loop: DecodeLoop, inputs: StaticBatch, page_size: int, body: Body) -> Launch:
        return CudaLoop(loop, inputs, page_size, record(body, self._pool)).launch


class PlainTicks:
    """Nothing is recorded: for a device without graphs."""

    def capture(self, body: Body) -> Body:
        return body

    def make_launch(self, loop: DecodeLoop, inputs: StaticBatch, page_size: int, body: Body) -> Launch:
        return PlainLoop(loop, inputs, page_size, body).launch


def record(body: Body, pool: Any) -> torch.cuda.CUDAGraph:
    """A graph of what the body launches, after one run for what is compiled or set up on the way."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        body()
    stream.synchronize()
    graph = torch.cuda.CUDAGraph(keep_graph=True)
    with torch.cuda.graph(graph, pool=pool, stream=stream):
        body()
    return graph


class Tick:
    """One bucket's forward and sampling, from the host's inputs to the host's samples."""

    def __init__(self, runner: "GraphRunner", bucket: Bucket) -> None:
        self.inputs = runner.make_inputs(bucket)
        self._runner = runner
        self._sampling = self.inputs.sampling()
        num_rows, is_cuda = bucket.num_rows, runner.model.device.type == "cuda"
        # token and class beside entropy and log-probability, in two tensors that are read back
        self._integers = torch.zeros(2, num_rows, dtype=torch.int64, pin_memory=is_cuda)
        self._floats = torch.zeros(2, num_rows, dtype=torch.float32, pin_memory=is_cuda)
        self._replay = runner.recorder.capture(self._body)

    def start(self, batch: Batch) -> None:
        """Launch it; nothing else may be running, as the inputs are being read until it's over."""
        self.inputs.fill(batch, {})
        self._replay()

    def finish(self, batch: Batch) -> list[SampledToken]:
        """The batch's samples, once they are there."""
        if self._runner.model.device.type == "cuda":
            torch.cuda.current_stream().synchronize()  # the one wait of a tick: the host needs the tokens
        (tokens, classes), (entropies, logprobs) = self._integers.tolist(), self._floats.tolist()
        rows = zip(tokens, entropies, logprobs, classes, strict=True)
        return [SampledToken(*row, []) for row, _ in zip(rows, batch.rows, strict=False)]

    def _body(self) -> None:
        self.inputs.copy_to_device()
        samples = self._runner.forward_and_sample(self.inputs, self._sampling)
        self._integers.copy_(torch.stack([samples.token, samples.token_class.long()]), non_blocking=True)
        self._floats.copy_(torch.stack([samples.entropy, samples.logprob]), non_blocking=True)


class Loop:
    """One bucket's decoding loop."""

    def __init__(self, runner: "GraphRunner", bucket: Bucket) -> None:
        self.ticks = DecodeLoop(bucket.num_sequences, runner.boundaries, runner.max_ticks, runner.model.device)
        self._inputs = runner.make_inputs(bucket)
        self._runner, self._sampling = runner, self._inputs.sampling()
        self._launch = runner.recorder.make_launch(self.ticks, self._inputs, runner.kv.page_size, self._body)

    def start(self, batch: Batch, max_ticks: int) -> DecodeLoop:
        """Launch it with the batch as its first tick."""
        self.ticks.finish()  # what runs reads the inputs
        self._inputs.fill(batch, loop_inputs(batch.rows, max_ticks))
        self.ticks.begin(len(batch.rows), self._launch)
        return self.ticks

    def _body(self) -> None:
        samples = self._runner.forward_and_sample(self._inputs, self._sampling)
        for name in ("token", "entropy", "logprob", "token_class"):
            getattr(self.ticks, name).copy_(getattr(samples, name))


class GraphRunner(ModelRunner):
    """A runner that replays one graph a tick, or lets decoding run ahead.

    Batches with biases, masks, penalties or top log-probabilities run without one, as do those in which forks are born.
    """

    def __init__(
        self,
        model: Forward,
        ops: Ops,
        kv: KVStore,
        token_class: Tensor,
        forbidden_ids: Tensor,
        max_pages: int,
        recorder: Recorder,
        boundaries: BoundaryTable,
        max_ticks: int,
    ) -> None:
        """kv has a page more than the page pool knows of: the padding's. max_pages is the longest page table.

        max_ticks: of a launch; with 1 no decoding runs ahead.
        """
        super().__init__(model, ops, kv, token_class, forbidden_ids)
        self.recorder, self.boundaries, self.max_ticks = recorder, boundaries, max_ticks
        self._max_pages = max_pages
        self._ticks: dict[Bucket, Tick] = {}
        self._loops: dict[Bucket, Loop] = {}

    @torch.inference_mode()
    def start(self, batch: Batch, max_ticks: int) -> Ticks:
        """As ModelRunner.start; a bucket's first batch takes as long as recording it."""
        bucket = bucket_of(len(batch.token_ids), len(batch.attention.kv_len), len(batch.rows))
        if not batch.is_plain or bucket.num_rows > bucket.num_tokens:
            return OneTick(partial(self.run, batch))
        if max_ticks > 1 and batch.can_run_ahead:
            if bucket not in self._loops:
                self._loops[bucket] = Loop(self, bucket)
            return self._loops[bucket].start(batch, max_ticks)
        if bucket not in self._ticks:
            self._ticks[bucket] = Tick(self, bucket)
        self._ticks[bucket].start(batch)
        return OneTick(partial(self._ticks[bucket].finish, batch))

    def make_inputs(self, bucket: Bucket) -> StaticBatch:
        """The bucket's inputs, with nothing in them."""
        scrap_slot = (self.kv.num_pages - 1) * self.kv.page_size
        return StaticBatch(bucket, self._max_pages, scrap_slot, self.model.device)

    def forward_and_sample(self, inputs: StaticBatch, sampling: Sampling) -> Samples:
        """What a graph records."""
        logits = self.model.forward(inputs.token_ids, inputs.attention, inputs.logit_rows, self.kv)
        return self.sample(logits, sampling)
