"""A model's tick as a CUDA graph: batches are padded to buckets, and a bucket's launches are recorded once.

What changes from tick to tick lies at fixed places in one block of pinned memory. A graph copies it to the GPU, runs
the forward, samples, and copies the samples back; the host fills the block, launches the graph and waits for its end.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from glimp_engine.batch import Batch
from glimp_engine.kernels import Attention, Ops, Sampling
from glimp_engine.kv_store import KVStore
from glimp_engine.runner import Forward, ModelRunner
from glimp_engine.transcript import SampledToken

__all__ = ["Bucket", "GraphRunner", "bucket_of", "capture_cuda_graph"]

ALIGNMENT = 16  # bytes; a kernel that is compiled for aligned addresses needs as much
MIN_TOKENS = 16  # of a bucket with more tokens than sequences
INT64_FIELDS = ("token_ids", "positions", "slots", "logit_rows", "seed", "position")
FLOAT_FIELDS = ("temperature", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty")
NEUTRAL = {"top_p": 1.0, "repetition_penalty": 1.0}  # of a row that nobody asked for; it's greedy

# A body is run for each batch of a bucket; what `capture` makes of it does the same, faster.
Body = Callable[[], None]
Capture = Callable[[Body], Body]


@dataclass(frozen=True)
class Bucket:
    """What batches are padded to; there are as many logit rows as sequences."""

    num_tokens: int
    num_sequences: int


def bucket_of(num_tokens: int, num_sequences: int) -> Bucket:
    """The least bucket that holds the batch: powers of two, of one token each if no sequence has more."""
    padded_sequences = 1 << max(num_sequences - 1, 0).bit_length()
    if num_tokens == num_sequences:
        return Bucket(padded_sequences, padded_sequences)
    return Bucket(max(1 << (num_tokens - 1).bit_length(), MIN_TOKENS), padded_sequences)


def capture_cuda_graph(body: Body) -> Body:
    """Record what the body launches, with one run before that for what is compiled or set up on the way."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    with torch.cuda.stream(stream):
        body()
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        body()
    return graph.replay


class StaticBatch:
    """A bucket's inputs at addresses that stay, on the host and on the device."""

    def __init__(self, bucket: Bucket, num_pages: int, scrap_slot: int, device: torch.device) -> None:
        """num_pages is the page table's width; padding tokens write their K/V to the scrap slot."""
        self.bucket = bucket
        shapes = input_shapes(bucket, num_pages)
        sizes = {name: math.prod(shape) * dtype.itemsize for name, (shape, dtype) in shapes.items()}
        num_bytes = sum(-(-size // ALIGNMENT) * ALIGNMENT for size in sizes.values())
        self._host_block = torch.zeros(num_bytes, dtype=torch.uint8, pin_memory=device.type == "cuda")
        self._device_block = torch.zeros(num_bytes, dtype=torch.uint8, device=device)
        self._host = carve(self._host_block, shapes)
        self._device = carve(self._device_block, shapes)
        self._scrap_slot = scrap_slot

    def fill(self, batch: Batch) -> None:
        """Put a batch into the host's block, padded; nothing may be under way that reads it."""
        inputs = {"token_ids": batch.token_ids, "logit_rows": batch.logit_rows}
        for part in (batch.attention, batch.sampling):
            inputs |= {field.name: getattr(part, field.name) for field in fields(part)}
        padding = {"slots": self._scrap_slot, "query_start": len(batch.token_ids), **NEUTRAL}
        for name, target in self._host.items():
            source = inputs[name]
            if name == "page_table":
                target[: len(source), : source.shape[1]] = source
            else:
                target[: len(source)] = source
                target[len(source) :] = padding.get(name, 0)

    def copy_to_device(self) -> None:
        """Ask for the copy of the whole block."""
        self._device_block.copy_(self._host_block, non_blocking=True)

    @property
    def token_ids(self) -> Tensor:
        """[T] int64."""
        return self._device["token_ids"]

    @property
    def logit_rows(self) -> Tensor:
        """[B] int64."""
        return self._device["logit_rows"]

    @property
    def attention(self) -> Attention:
        """The padded sequences have no query and no key."""
        return Attention(**{field.name: self._device[field.name] for field in fields(Attention)})

    def sampling(self) -> Sampling:
        """Without penalties: how many tokens have been seen is not a bucket's to say."""
        device = self._device_block.device
        columns = {
            **self._device,
            "seen_start": torch.zeros(self.bucket.num_sequences + 1, dtype=torch.int32, device=device),
            "seen_ids": torch.empty(0, dtype=torch.int64, device=device),
            "seen_counts": torch.empty(0, dtype=torch.int32, device=device),
        }
        return Sampling(**{field.name: columns[field.name] for field in fields(Sampling)})


def input_shapes(bucket: Bucket, num_pages: int) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Shape and dtype of every input that changes from batch to batch."""
    num_tokens, num_sequences = bucket.num_tokens, bucket.num_sequences
    names = ["token_ids", "logit_rows", *(f.name for f in fields(Attention)), *(f.name for f in fields(Sampling))]
    shapes: dict[str, tuple[int, ...]] = {name: (num_sequences,) for name in names if not name.startswith("seen_")}
    shapes |= dict.fromkeys(("token_ids", "positions", "slots"), (num_tokens,))
    shapes |= {"query_start": (num_sequences + 1,), "page_table": (num_sequences, num_pages)}
    dtypes = {**dict.fromkeys(INT64_FIELDS, torch.int64), **dict.fromkeys(FLOAT_FIELDS, torch.float32)}
    return {name: (shape, dtypes.get(name, torch.int32)) for name, shape in shapes.items()}


def carve(block: Tensor, shapes: dict[str, tuple[tuple[int, ...], torch.dtype]]) -> dict[str, Tensor]:
    """Views of a block of bytes, one after the other."""
    views, start = {}, 0
    for name, (shape, dtype) in shapes.items():
        num_bytes = math.prod(shape) * dtype.itemsize
        views[name] = block[start : start + num_bytes].view(dtype).view(shape)
        start += -(-num_bytes // ALIGNMENT) * ALIGNMENT
    return views


class Tick:
    """One bucket's forward and sampling, from the host's inputs to the host's samples."""

    def __init__(self, runner: "GraphRunner", bucket: Bucket) -> None:
        device, num_rows = runner.model.device, bucket.num_sequences
        self.inputs = StaticBatch(bucket, runner.max_pages, runner.scrap_slot, device)
        self._runner = runner
        self._sampling = self.inputs.sampling()
        is_cuda = device.type == "cuda"
        # token and class beside entropy and log-probability, in two tensors that are read back
        self._integers = torch.zeros(2, num_rows, dtype=torch.int64, pin_memory=is_cuda)
        self._floats = torch.zeros(2, num_rows, dtype=torch.float32, pin_memory=is_cuda)
        self._replay: Body | None = None

    def body(self) -> None:
        """All that the device does in this tick."""
        self.inputs.copy_to_device()
        model, kv = self._runner.model, self._runner.kv
        logits = model.forward(self.inputs.token_ids, self.inputs.attention, self.inputs.logit_rows, kv)
        samples = self._runner.sample(logits, self._sampling)
        self._integers.copy_(torch.stack([samples.token, samples.token_class.long()]), non_blocking=True)
        self._floats.copy_(torch.stack([samples.entropy, samples.logprob]), non_blocking=True)

    def run(self, batch: Batch) -> list[SampledToken]:
        """The batch's samples."""
        self.inputs.fill(batch)
        if self._replay is None:
            self._replay = self._runner.capture(self.body)
        self._replay()
        if self._runner.model.device.type == "cuda":
            torch.cuda.current_stream().synchronize()  # the one wait of a tick: the host needs the tokens
        (tokens, classes), (entropies, logprobs) = self._integers.tolist(), self._floats.tolist()
        rows = zip(tokens, entropies, logprobs, classes, strict=True)
        return [SampledToken(*row, []) for row, _ in zip(rows, batch.rows, strict=False)]


class GraphRunner(ModelRunner):
    """A runner that replays one graph a tick. Batches with penalties or top log-probabilities run without."""

    def __init__(
        self, model: Forward, ops: Ops, kv: KVStore, token_class: Tensor, forbidden_ids: Tensor, max_pages: int,
        capture: Capture,
    ) -> None:  # fmt: skip
        """kv has a page more than the page pool knows of: the padding's. max_pages is the longest page table."""
        super().__init__(model, ops, kv, token_class, forbidden_ids)
        self.max_pages = max_pages
        self.scrap_slot = (kv.num_pages - 1) * kv.page_size
        self.capture = capture
        self._ticks: dict[Bucket, Tick] = {}

    @torch.inference_mode()
    def run(self, batch: Batch) -> list[SampledToken]:
        """As ModelRunner.run; a bucket's first batch takes as long as recording it."""
        if batch.num_top_logprobs or len(batch.sampling.seen_ids):
            return super().run(batch)
        bucket = bucket_of(len(batch.token_ids), len(batch.attention.kv_len))
        if len(batch.rows) > bucket.num_sequences:  # forks are about to be born
            return super().run(batch)
        if bucket not in self._ticks:
            self._ticks[bucket] = Tick(self, bucket)
        return self._ticks[bucket].run(batch)
