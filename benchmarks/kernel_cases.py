"""The cases of bench_kernels.py: each op's arguments, what it must give, and the least that it must read and compute.

A function gives makers by name, as the weights and K/V of all the cases together are too much to be held at a time.
"""

import ctypes
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import gguf
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from glimp_engine.checkpoints.stored_tensor import FLOAT_TYPES, QUANTIZED_TYPES, dequantize_rows
from glimp_engine.kernels import Attention, Sampling
from glimp_engine.kernels.abi import CKV, TYPES, CWeight
from glimp_engine.kernels.native import NativeOps, attention_of, sampling_of
from glimp_engine.kernels.reference import ReferenceOps

HIDDEN, INTERMEDIATE, HEADS, KV_HEADS, HEAD_DIM = 1536, 8960, 12, 2, 128  # Qwen2.5 1.5B
VOCAB_SIZES = (49152, 151936)  # SmolLM2, Qwen2.5
TOKENS = (1, 8, 32, 512)
PAGE_SIZE = 16
ROTATED_BYTES = 256 << 20  # many times the caches
MAX_COPIES = 64
FLOAT32_ERROR = 1e-5  # of sums of thousands of products in float32, in another order
INT8_ERROR = 0.01  # of activations rounded to int8 in blocks of 32
HALF_ERROR = 1e-3  # of activations or scores in 16 bits, at most
SCALE_AT = {"Q6_K": 208}  # where a block's scale is, in bytes; 0 in the others
WITH_MIN = ("Q4_1", "Q5_1", "Q4_K", "Q5_K")

Makers = dict[str, Callable[[], Iterator["KernelCase"]]]


@dataclass(frozen=True)
class KernelCase:
    """One op at one size."""

    name: str
    runs: list[Callable[[], int]]  # the same on copies of what rotates; each returns an error code
    out: Tensor  # where the first run puts its result
    expected: Tensor
    tolerance: float  # of ||out - expected|| / ||expected||
    num_bytes: int
    num_ops: int
    unit: str  # whose rate is the ceiling: int8, bf16, fp32; "" where a forward has the bytes in a cache: no floor
    torch: Callable[[], object] | None = None  # the same in PyTorch


def num_copies(num_bytes: int) -> int:
    """How many copies of an input rotate."""
    return min(-(-ROTATED_BYTES // num_bytes), MAX_COPIES)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# linear


def linear_cases(ops: NativeOps) -> Makers:
    """One matrix of the MLP in every type, for each number of rows."""
    quantised = {f"linear {kind}": partial(quantised_linear, ops, kind) for kind in QUANTIZED_TYPES}
    floats = {f"linear {kind}": partial(float_linear, ops, kind) for kind in FLOAT_TYPES}
    return {**quantised, **floats}


def quantised_linear(ops: NativeOps, kind: str) -> Iterator[KernelCase]:
    n, k = INTERMEDIATE, HIDDEN
    blocks = random_blocks(kind, n, k)
    exact, packed_bytes = dequantize_rows(blocks, kind), ops.library.glimp_packed_bytes(TYPES[kind], n, k)
    step = -(-packed_bytes // 64) * 64
    copies = torch.zeros(num_copies(step) * step + 64, dtype=torch.uint8)
    first = -(-copies.data_ptr() // 64) * 64
    addresses = range(first, first + num_copies(step) * step, step)
    for address in addresses:
        assert ops.library.glimp_pack(ops.cpu, TYPES[kind], blocks.data_ptr(), n, k, address) == 0
    half = exact.bfloat16()
    for num_tokens in TOKENS:
        x, out = randn(num_tokens, k), torch.zeros(num_tokens, n)
        weights = [CWeight(address, None, n, k, TYPES[kind]) for address in addresses]
        yield KernelCase(
            name=f"linear {kind} {num_tokens} x {k} -> {n}",
            runs=[run_linear(ops, x, weight, out) for weight in weights],
            out=out,
            expected=F.linear(x, exact),
            tolerance=INT8_ERROR,
            num_bytes=packed_bytes + x.nbytes + out.nbytes,
            num_ops=2 * num_tokens * n * k,
            unit="int8",
            torch=partial(F.linear, x.bfloat16(), half),
        )
    del copies


def float_linear(ops: NativeOps, kind: str) -> Iterator[KernelCase]:
    n, k, dtype = INTERMEDIATE, HIDDEN, FLOAT_TYPES[kind]
    exact = randn(n, k).to(dtype)
    copies = [exact.clone() for _ in range(num_copies(exact.nbytes))]
    for num_tokens in TOKENS:
        x, out = randn(num_tokens, k, seed=1), torch.zeros(num_tokens, n)
        weights = [CWeight(copy.data_ptr(), None, n, k, TYPES[kind]) for copy in copies]
        yield KernelCase(
            name=f"linear {kind} {num_tokens} x {k} -> {n}",
            runs=[run_linear(ops, x, weight, out) for weight in weights],
            out=out,
            expected=F.linear(x, exact.float()),
            tolerance=FLOAT32_ERROR,
            num_bytes=exact.nbytes + x.nbytes + out.nbytes,
            num_ops=2 * num_tokens * n * k,
            unit="bf16" if kind == "BF16" else "fp32",
            torch=partial(F.linear, x.to(dtype), exact),
        )


def run_linear(ops: NativeOps, x: Tensor, weight: CWeight, out: Tensor) -> Callable[[], int]:
    address, rows = out.data_ptr(), len(x)
    return partial(ops.library.glimp_linear, ops.cpu, x.data_ptr(), rows, ctypes.byref(weight), address, weight.n, 0)


def random_blocks(kind: str, n: int, k: int) -> Tensor:
    """Rows of random blocks in GGUF's layout, whose scales are of a usual size: [n, bytes] uint8."""
    block_size, block_bytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    generator = np.random.default_rng(0)
    blocks = generator.integers(0, 256, (n, k // block_size, block_bytes), dtype=np.uint8)

    def halves(low: float, high: float) -> np.ndarray:
        return generator.uniform(low, high, (n, k // block_size, 1)).astype(np.float16).view(np.uint8)

    at = SCALE_AT.get(kind, 0)
    blocks[..., at : at + 2] = halves(0.001, 0.01)
    if kind in WITH_MIN:
        blocks[..., 2:4] = halves(-0.05, 0.05)
    return torch.from_numpy(blocks.reshape(n, -1))


# attention


def attention_cases(ops: NativeOps) -> Makers:
    """Decoding, catching up and reading a prompt: sequences, new tokens of each, keys of each."""
    sizes = ((1, 1, 256), (1, 1, 4096), (16, 1, 256), (1, 32, 288), (1, 512, 512), (1, 512, 4096))
    return {f"attention {b} x {new} over {keys}": partial(attention_case, ops, b, new, keys) for b, new, keys in sizes}


def attention_case(ops: NativeOps, num_sequences: int, new: int, kv_len: int) -> Iterator[KernelCase]:
    num_pages, batch = num_sequences * (kv_len // PAGE_SIZE), attention_batch(num_sequences, new, kv_len)
    keys, values = (randn(num_pages, KV_HEADS, PAGE_SIZE, HEAD_DIM, seed=i).half() for i in (1, 2))
    num_tokens, scale = num_sequences * new, HEAD_DIM**-0.5
    q, out = randn(num_tokens, HEADS, HEAD_DIM), torch.zeros(num_tokens, HEADS, HEAD_DIM)
    stored = [(keys.transpose(2, 3).contiguous(), values.clone()) for _ in range(num_copies(2 * keys.nbytes))]
    given = attention_of(batch, num_tokens)
    row = HEADS * HEAD_DIM
    runs = [
        partial(
            ops.library.glimp_paged_attention,
            *(ops.cpu, q.data_ptr(), row, HEADS, KV_HEADS, HEAD_DIM, scale),
            *(ctypes.byref(given), ctypes.byref(CKV(k.data_ptr(), v.data_ptr(), num_pages, PAGE_SIZE, TYPES["F16"]))),
            out.data_ptr(),
        )
        for k, v in stored
    ]
    pairs = num_sequences * sum(range(kv_len - new + 1, kv_len + 1))  # of a query and a key that it sees
    dense = [
        x.view(num_sequences, -1, KV_HEADS, PAGE_SIZE, HEAD_DIM).transpose(1, 2).flatten(2, 3) for x in (keys, values)
    ]
    queries = q.half().view(num_sequences, new, HEADS, HEAD_DIM).transpose(1, 2)
    mask = torch.ones(new, kv_len, dtype=torch.bool).tril(kv_len - new)
    yield KernelCase(
        name=f"attention, {num_sequences} sequences x {new} tokens over {kv_len}",
        runs=runs,
        out=out,
        expected=ReferenceOps().paged_attention(q, keys.float(), values.float(), batch, scale),
        tolerance=HALF_ERROR,
        num_bytes=2 * keys.nbytes + q.nbytes + out.nbytes,
        num_ops=4 * pairs * HEADS * HEAD_DIM,
        unit="fp32",
        torch=partial(F.scaled_dot_product_attention, queries, *dense, attn_mask=mask, enable_gqa=True),
    )
    del stored


def attention_batch(num_sequences: int, new: int, kv_len: int) -> Attention:
    """The last `new` of kv_len positions of each sequence, whose pages follow each other."""
    pages = torch.arange(num_sequences * (kv_len // PAGE_SIZE), dtype=torch.int32).view(num_sequences, -1)
    positions = torch.arange(kv_len - new, kv_len)
    slots = pages[:, positions // PAGE_SIZE].long() * PAGE_SIZE + positions % PAGE_SIZE
    return Attention(
        positions=positions.repeat(num_sequences),
        slots=slots.flatten(),
        query_start=torch.arange(num_sequences + 1, dtype=torch.int32) * new,
        page_table=pages,
        kv_len=torch.full((num_sequences,), kv_len, dtype=torch.int32),
    )


# elementwise


def elementwise_cases(ops: NativeOps) -> Makers:
    """The norm and the activation for each number of rows."""
    return {"rms_norm": partial(rms_norm_cases, ops), "silu_mul": partial(silu_mul_cases, ops)}


def rms_norm_cases(ops: NativeOps) -> Iterator[KernelCase]:
    weight, eps = randn(HIDDEN, seed=1), 1e-6
    for num_tokens in TOKENS:
        x, out = randn(num_tokens, HIDDEN), torch.zeros(num_tokens, HIDDEN)
        given = (ops.cpu, x.data_ptr(), num_tokens, HIDDEN, weight.data_ptr(), eps, out.data_ptr())
        yield KernelCase(
            name=f"rms_norm {num_tokens} x {HIDDEN}",
            runs=[partial(ops.library.glimp_rms_norm, *given)],
            out=out,
            expected=ReferenceOps().rms_norm(x.double(), weight.double(), eps)[0],
            tolerance=FLOAT32_ERROR,
            num_bytes=x.nbytes + out.nbytes,
            num_ops=4 * x.numel(),
            unit="",
            torch=partial(F.rms_norm, x, (HIDDEN,), weight, eps),
        )


def silu_mul_cases(ops: NativeOps) -> Iterator[KernelCase]:
    for num_tokens in TOKENS:
        x, out = randn(num_tokens, 2 * INTERMEDIATE), torch.zeros(num_tokens, INTERMEDIATE)
        given = (ops.cpu, x.data_ptr(), num_tokens, INTERMEDIATE, out.data_ptr())
        yield KernelCase(
            name=f"silu_mul {num_tokens} x 2 * {INTERMEDIATE}",
            runs=[partial(ops.library.glimp_silu_mul, *given)],
            out=out,
            expected=ReferenceOps().silu_mul(x.double()),
            tolerance=FLOAT32_ERROR,
            num_bytes=x.nbytes + out.nbytes,
            num_ops=8 * out.numel(),
            unit="",
            torch=partial(ReferenceOps().silu_mul, x),
        )


# sample


def sample_cases(ops: NativeOps) -> Makers:
    """One row of logits: greedy, at a temperature, and with top_p; each vocabulary."""
    settings = ((0.0, 1.0), (0.6, 1.0), (0.6, 0.95))
    return {
        f"sample V={v} temperature={t} top_p={p}": partial(sample_case, ops, v, t, p)
        for v in VOCAB_SIZES
        for t, p in settings
    }


def sample_case(ops: NativeOps, vocab_size: int, temperature: float, top_p: float) -> Iterator[KernelCase]:
    logits, params = randn(1, vocab_size) * 4, sampling(temperature, top_p)
    token_class = torch.zeros(vocab_size, dtype=torch.uint8)
    exact = ReferenceOps().sample(logits.double(), params, token_class)
    outs = [torch.zeros(1, dtype=dtype) for dtype in (torch.int64, torch.float32, torch.float32, torch.uint8)]
    given, addresses = sampling_of(params, 1, vocab_size), [out.data_ptr() for out in outs]
    run = partial(
        ops.library.glimp_sample,
        *(ops.cpu, logits.data_ptr(), 1, vocab_size, vocab_size, ctypes.byref(given), token_class.data_ptr()),
        *addresses,
    )
    assert run() == 0
    assert outs[0].equal(exact.token), "the token is another one"
    yield KernelCase(
        name=f"sample V={vocab_size} temperature={temperature} top_p={top_p}",
        runs=[run],
        out=outs[1],
        expected=exact.entropy,
        tolerance=FLOAT32_ERROR,
        num_bytes=logits.nbytes,
        num_ops=0,
        unit="fp32",
        torch=partial(sample_in_torch, logits, temperature),
    )


def sampling(temperature: float, top_p: float) -> Sampling:
    """Parameters of one row."""

    def one(value: float, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.tensor([value], dtype=dtype)

    return Sampling(
        temperature=one(temperature),
        top_k=one(0, torch.int32),
        top_p=one(top_p),
        min_p=one(0),
        repetition_penalty=one(1),
        presence_penalty=one(0),
        frequency_penalty=one(0),
        seed=one(1, torch.int64),
        sequence_index=one(0, torch.int32),
        position=one(100, torch.int64),
        seen_start=torch.zeros(2, dtype=torch.int32),
        seen_ids=torch.empty(0, dtype=torch.int64),
        seen_counts=torch.empty(0, dtype=torch.int32),
        bias_start=torch.zeros(2, dtype=torch.int32),
        bias_ids=torch.empty(0, dtype=torch.int64),
        bias_values=torch.empty(0),
        listed_only=one(0, torch.int32),
        token_mask=torch.empty(0, 0, dtype=torch.int32),
    )


def sample_in_torch(logits: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Token and entropy as one would write them in torch, without filters."""
    logprobs = logits.log_softmax(-1)
    entropy = -(logprobs.exp() * logprobs).sum(-1)
    if temperature == 0:
        return logits.argmax(-1), entropy
    return torch.multinomial((logits / temperature).softmax(-1), 1), entropy
