"""The inputs of a tick at addresses that stay: batches are padded to buckets, and copied in one piece."""

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from glimp_engine.execution.batch import Batch
from glimp_engine.kernels import Attention, Sampling

__all__ = ["LOOP_FIELDS", "Bucket", "StaticBatch", "bucket_of"]

ALIGNMENT = 16  # bytes; a kernel that is compiled for aligned addresses needs as much
MIN_TOKENS = 16  # of a bucket with more tokens than sequences
INT64_FIELDS = ("token_ids", "positions", "slots", "logit_rows", "seed", "position")
FLOAT_FIELDS = (
    *("temperature", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty"),
    "small_below",
    "min_logprob",
)
# of a loop's rows; see run_ahead.py
LOOP_FIELDS = ("state", "awaits_glimpse", "small_below", "ends_at_step", "min_logprob")
NEUTRAL = {"top_p": 1.0, "repetition_penalty": 1.0}  # of a row that nobody asked for; it's greedy


@dataclass(frozen=True)
class Bucket:
    """What batches are padded to. There are as many logit rows as sequences, or more where proposals are verified."""

    num_tokens: int
    num_sequences: int
    num_rows: int


def bucket_of(num_tokens: int, num_sequences: int, num_rows: int) -> Bucket:
    """The least bucket that holds the batch: powers of two, of one token each if no sequence has more."""
    padded_sequences, padded_rows = (1 << max(num - 1, 0).bit_length() for num in (num_sequences, num_rows))
    padded_rows = max(padded_rows, padded_sequences)
    if num_tokens == num_sequences:
        return Bucket(padded_sequences, padded_sequences, padded_rows)
    return Bucket(max(1 << (num_tokens - 1).bit_length(), MIN_TOKENS), padded_sequences, padded_rows)


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
        self.device = carve(self._device_block, shapes)
        self._scrap_slot = scrap_slot
        self._host["slots"].fill_(scrap_slot)  # a tick may be recorded before there's a batch
        self.copy_to_device()

    def fill(self, batch: Batch, more: dict[str, Tensor]) -> None:
        """Put a batch into the host's block, padded, and `more` by name; nothing may be under way that reads it."""
        inputs = {"token_ids": batch.token_ids, "logit_rows": batch.logit_rows, **more}
        for part in (batch.attention, batch.sampling):
            inputs |= {field.name: getattr(part, field.name) for field in fields(part)}
        padding = {"slots": self._scrap_slot, "query_start": len(batch.token_ids), **NEUTRAL}
        for name, source in inputs.items():
            target = self._host.get(name)
            if target is None:
                continue
            if name == "page_table":
                width = min(source.shape[1], target.shape[1])
                target[: len(source), :width] = source[:, :width]
            else:
                target[: len(source)] = source
                target[len(source) :] = padding.get(name, 0)

    def copy_to_device(self) -> None:
        """Ask for the copy of the whole block."""
        self._device_block.copy_(self._host_block, non_blocking=True)

    @property
    def token_ids(self) -> Tensor:
        """[T] int64."""
        return self.device["token_ids"]

    @property
    def logit_rows(self) -> Tensor:
        """[R] int64."""
        return self.device["logit_rows"]

    @property
    def attention(self) -> Attention:
        """The padded sequences have no query and no key."""
        return Attention(**{field.name: self.device[field.name] for field in fields(Attention)})

    def sampling(self) -> Sampling:
        """Without biases, penalties and masks: how many tokens have them is not a bucket's to say."""
        device = self._device_block.device
        columns = {
            **self.device,
            "seen_start": torch.zeros(self.bucket.num_rows + 1, dtype=torch.int32, device=device),
            "seen_ids": torch.empty(0, dtype=torch.int64, device=device),
            "seen_counts": torch.empty(0, dtype=torch.int32, device=device),
            "bias_start": torch.zeros(self.bucket.num_rows + 1, dtype=torch.int32, device=device),
            "bias_ids": torch.empty(0, dtype=torch.int64, device=device),
            "bias_values": torch.empty(0, dtype=torch.float32, device=device),
            "token_mask": torch.empty(0, 0, dtype=torch.int32, device=device),
        }
        return Sampling(**{field.name: columns[field.name] for field in fields(Sampling)})


def input_shapes(bucket: Bucket, num_pages: int) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Shape and dtype of every input that changes from batch to batch."""
    num_tokens, num_sequences = bucket.num_tokens, bucket.num_sequences
    names = ["logit_rows", *(f.name for f in fields(Sampling) if not f.name.startswith(("seen_", "bias_", "token_")))]
    shapes: dict[str, tuple[int, ...]] = dict.fromkeys(names, (bucket.num_rows,))
    shapes |= dict.fromkeys(("token_ids", "positions", "slots"), (num_tokens,))
    shapes |= {"query_start": (num_sequences + 1,), "page_table": (num_sequences, num_pages)}
    shapes |= {"kv_len": (num_sequences,)}
    shapes |= {**dict.fromkeys(LOOP_FIELDS, (num_sequences,)), "control": (3,)}
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
