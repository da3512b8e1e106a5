"""The ops in C++ for CPUs, behind the C ABI of csrc/glimp.h."""

import ctypes
import os
import weakref
from collections.abc import Sequence

import torch
from torch import Tensor

from glimp_engine.errors import ConfigError
from glimp_engine.kernels import Attention, Samples, Sampling
from glimp_engine.kernels.abi import (
    ABI_VERSION,
    CKV,
    LIBRARY,
    PATHS,
    TYPES,
    CAttention,
    CSampling,
    CWeight,
    check_error,
    load_library,
)
from glimp_engine.kernels.reference import ReferenceOps

__all__ = ["ABI_VERSION", "LIBRARY", "NativeOps", "load_library"]

UNSUPPORTED_PATH = 6
KV_TYPES = {torch.float32: TYPES["F32"], torch.float16: TYPES["F16"]}
WEIGHT_TYPES = {**KV_TYPES, torch.bfloat16: TYPES["BF16"]}
SAMPLING_DTYPES = {
    "temperature": torch.float32,
    "top_k": torch.int32,
    "top_p": torch.float32,
    "min_p": torch.float32,
    "repetition_penalty": torch.float32,
    "presence_penalty": torch.float32,
    "frequency_penalty": torch.float32,
    "seed": torch.int64,
    "sequence_index": torch.int32,
    "position": torch.int64,
    "seen_start": torch.int32,
    "seen_ids": torch.int64,
    "seen_counts": torch.int32,
    "bias_start": torch.int32,
    "bias_ids": torch.int64,
    "bias_values": torch.float32,
    "listed_only": torch.int32,
}


class NativeOps(ReferenceOps):
    """The CPU's op set: float32 in and out, on threads of its own.

    A layer's keys are [P, Hk, D, S] here, values [P, Hk, S, D]; both float32 or both float16. One call at a time uses
    the threads, others wait.
    """

    name = "native"

    def __init__(self, num_threads: int | None = None, path: str = "best") -> None:
        """num_threads: torch's by default. path: a code path of `abi.PATHS`; the variable GLIMP_CPU_PATH says which
        one "best" is.

        Raises: ConfigError when the library is missing, or this processor can't run the code path.
        """
        self.library = load_library()
        self.cpu = create_cpu(self.library, num_threads or torch.get_num_threads(), path)
        self._sampling: tuple[Sampling, tuple[int, int], CSampling] | None = None  # the last one's addresses
        weakref.finalize(self, self.library.glimp_cpu_destroy, self.cpu)

    @property
    def path(self) -> str:
        """The code path in use, by its name in `abi.PATHS`."""
        number: int = self.library.glimp_cpu_path(self.cpu)
        return next(name for name, value in PATHS.items() if value == number)

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float, residual: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """See `Ops.rms_norm`.

        Raises: ValueError, as all ops here do, on a shape, dtype or device that doesn't fit, naming the argument.
        """
        num_tokens, d = expect_dims("x", x, 2)
        summed = x if residual is None else x + expect("residual", residual, (num_tokens, d))
        out = torch.empty_like(x)
        code = self.library.glimp_rms_norm(
            self.cpu,
            expect("x", summed, (num_tokens, d)).data_ptr(),
            num_tokens,
            d,
            expect("weight", weight, (d,)).data_ptr(),
            eps,
            out.data_ptr(),
        )
        check_error(self.library, "rms_norm", code)
        return out, summed

    def rope_and_store(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        cos_sin: Tensor,
        batch: Attention,
        k_cache: Tensor,
        v_cache: Tensor,
        q_norm: Tensor | None = None,
        k_norm: Tensor | None = None,
        eps: float = 0.0,
    ) -> Tensor:
        """See `Ops.rope_and_store`; k_cache [P, Hk, D, S]."""
        num_tokens, num_heads, head_dim = expect_dims("q", q, 3)
        num_kv_heads = expect_dims("k", k, 3)[1]
        if (q_norm is None) != (k_norm is None):
            raise ValueError("q_norm and k_norm: one is None; allowed: both or neither")
        heads = ((q, num_heads), (k, num_kv_heads), (v, num_kv_heads))
        for name, (x, num) in zip(("q", "k", "v"), heads, strict=True):
            expect(name, x, (num_tokens, num, head_dim), is_contiguous=False)
        qkv = torch.cat([q, k, v], dim=1)
        code = self.library.glimp_rope_and_store(
            self.cpu,
            qkv.data_ptr(),
            num_heads,
            num_kv_heads,
            head_dim,
            expect("cos_sin", cos_sin, (cos_sin.shape[0], 2, head_dim // 2)).data_ptr(),
            cos_sin.shape[0],
            None if q_norm is None else expect("q_norm", q_norm, (head_dim,)).data_ptr(),
            None if k_norm is None else expect("k_norm", k_norm, (head_dim,)).data_ptr(),
            eps,
            attention_of(batch, num_tokens),
            kv_of(k_cache, v_cache, num_kv_heads, head_dim),
        )
        check_error(self.library, "rope_and_store", code)
        return qkv[:, :num_heads]

    def paged_attention(self, q: Tensor, k_cache: Tensor, v_cache: Tensor, batch: Attention, scale: float) -> Tensor:
        """See `Ops.paged_attention`; k_cache [P, Hk, D, S]. Of q only a token's heads must be contiguous."""
        num_tokens, num_heads, head_dim = expect_dims("q", q, 3)
        expect("q", q, tuple(q.shape), is_contiguous=False)
        if q.numel() and (q.stride(2) != 1 or q.stride(1) != head_dim):
            raise ValueError(f"q has strides {q.stride()}; allowed: a token's heads contiguous")
        num_kv_heads = expect_dims("k_cache", k_cache, 4)[1]
        out = torch.empty(num_tokens, num_heads, head_dim)
        code = self.library.glimp_paged_attention(
            self.cpu,
            q.data_ptr(),
            max(q.stride(0), num_heads * head_dim),
            num_heads,
            num_kv_heads,
            head_dim,
            scale,
            attention_of(batch, num_tokens),
            kv_of(k_cache, v_cache, num_kv_heads, head_dim),
            out.data_ptr(),
        )
        check_error(self.library, "paged_attention", code)
        return out

    def linear(self, x: Tensor, weight: Tensor | CWeight, bias: Tensor | None = None) -> Tensor:
        """See `Ops.linear`; a weight is float32, float16 or bfloat16, or what `pack` gave, as a struct with its bias.

        Cost: reads the weight once for up to 8 rows; with quantised weights x is rounded to int8 in blocks of 32.
        """
        if isinstance(weight, Tensor):
            weight = weight_of(weight, bias)
        num_tokens, _ = expect_dims("x", x, 2)
        out = torch.empty(num_tokens, weight.n)
        address = expect("x", x, (num_tokens, weight.k)).data_ptr()
        code = self.library.glimp_linear(self.cpu, address, num_tokens, weight, out.data_ptr(), weight.n, False)
        check_error(self.library, "linear", code)
        return out

    def embed(self, token_ids: Tensor, weight: Tensor | CWeight) -> Tensor:
        """See `Ops.embed`; weights as in `linear`."""
        if isinstance(weight, Tensor):
            weight = weight_of(weight, None)
        (num_tokens,) = expect_dims("token_ids", token_ids, 1)
        out = torch.empty(num_tokens, weight.k)
        address = expect("token_ids", token_ids, (num_tokens,), torch.int64).data_ptr()
        check_error(
            self.library, "embed", self.library.glimp_embed(self.cpu, address, num_tokens, weight, out.data_ptr())
        )
        return out

    def silu_mul(self, x: Tensor) -> Tensor:
        """See `Ops.silu_mul`."""
        num_tokens, width = expect_dims("x", x, 2)
        if width % 2:
            raise ValueError(f"x has {width} columns; allowed: an even number")
        out = torch.empty(num_tokens, width // 2)
        address = expect("x", x, (num_tokens, width)).data_ptr()
        code = self.library.glimp_silu_mul(self.cpu, address, num_tokens, width // 2, out.data_ptr())
        check_error(self.library, "silu_mul", code)
        return out

    def sampling_struct(self, params: Sampling, num_rows: int, vocab_size: int) -> CSampling:
        """`sampling_of`; of the same parameters as last time, which a decoding engine gives again, what it was."""
        shape = num_rows, vocab_size
        if self._sampling is None or self._sampling[0] is not params or self._sampling[1] != shape:
            self._sampling = (params, shape, sampling_of(params, *shape))
        return self._sampling[2]

    def sample(self, logits: Tensor, params: Sampling, token_class: Tensor) -> Samples:
        """One token a row, see `Ops.sample`. Of the logits only a row must be contiguous."""
        num_rows, vocab_size = expect_dims("logits", logits, 2)
        expect("logits", logits, (num_rows, vocab_size), is_contiguous=False)
        if logits.stride(1) != 1 and vocab_size > 1:
            raise ValueError(f"logits has strides {logits.stride()}; allowed: the last dim contiguous")
        samples = Samples(
            token=torch.empty(num_rows, dtype=torch.int64),
            entropy=torch.empty(num_rows, dtype=torch.float32),
            logprob=torch.empty(num_rows, dtype=torch.float32),
            token_class=torch.empty(num_rows, dtype=torch.uint8),
        )
        code = self.library.glimp_sample(
            self.cpu,
            logits.data_ptr(),
            num_rows,
            vocab_size,
            max(logits.stride(0), vocab_size),
            self.sampling_struct(params, num_rows, vocab_size),
            expect("token_class", token_class, (vocab_size,), torch.uint8).data_ptr(),
            *(out.data_ptr() for out in (samples.token, samples.entropy, samples.logprob, samples.token_class)),
        )
        check_error(self.library, "sample", code)
        return samples


def create_cpu(library: ctypes.CDLL, num_threads: int, path: str) -> ctypes.c_void_p:
    """A glimp_cpu; whoever calls destroys it."""
    if path == "best":
        path = os.environ.get("GLIMP_CPU_PATH", path)
    if path not in PATHS:
        raise ConfigError(f"path is {path!r}; allowed: {', '.join(PATHS)}")
    cpu = ctypes.c_void_p()
    code = library.glimp_cpu_create(num_threads, PATHS[path], ctypes.byref(cpu))
    if code:
        text = library.glimp_error_string(code).decode()
        what = f"path is {path!r}" if code == UNSUPPORTED_PATH else f"num_threads is {num_threads}"
        raise ConfigError(f"{what}: {text}")
    return cpu


def weight_of(weight: Tensor, bias: Tensor | None) -> CWeight:
    """A float matrix [n, k] with its bias [n]; valid as long as they are."""
    n, k = expect_dims("weight", weight, 2)
    if weight.dtype not in WEIGHT_TYPES:
        raise ValueError(f"weight is {weight.dtype}; allowed: {', '.join(map(str, WEIGHT_TYPES))}")
    address = expect("weight", weight, (n, k), weight.dtype).data_ptr()
    bias_address = None if bias is None else expect("bias", bias, (n,)).data_ptr()
    return CWeight(address, bias_address, n, k, WEIGHT_TYPES[weight.dtype])


def attention_of(batch: Attention, num_tokens: int) -> CAttention:
    """The batch's addresses; valid as long as its tensors are."""
    num_sequences, max_pages = expect_dims("batch.page_table", batch.page_table, 2)
    return CAttention(
        num_tokens,
        num_sequences,
        max_pages,
        expect("batch.positions", batch.positions, (num_tokens,), torch.int64).data_ptr(),
        expect("batch.slots", batch.slots, (num_tokens,), torch.int64).data_ptr(),
        expect("batch.query_start", batch.query_start, (num_sequences + 1,), torch.int32).data_ptr(),
        expect("batch.page_table", batch.page_table, (num_sequences, max_pages), torch.int32).data_ptr(),
        expect("batch.kv_len", batch.kv_len, (num_sequences,), torch.int32).data_ptr(),
    )


def kv_of(k_cache: Tensor, v_cache: Tensor, num_kv_heads: int, head_dim: int) -> CKV:
    """One layer's K/V: k_cache [P, Hk, D, S], v_cache [P, Hk, S, D]."""
    num_pages, _, _, page_size = expect_dims("k_cache", k_cache, 4)
    if k_cache.dtype not in KV_TYPES:
        raise ValueError(f"k_cache is {k_cache.dtype}; allowed: {', '.join(map(str, KV_TYPES))}")
    expect("k_cache", k_cache, (num_pages, num_kv_heads, head_dim, page_size), k_cache.dtype)
    expect("v_cache", v_cache, (num_pages, num_kv_heads, page_size, head_dim), k_cache.dtype)
    return CKV(k_cache.data_ptr(), v_cache.data_ptr(), num_pages, page_size, KV_TYPES[k_cache.dtype])


def sampling_of(params: Sampling, num_rows: int, vocab_size: int) -> CSampling:
    """The parameters' addresses; valid as long as they are."""
    lengths = dict.fromkeys(("seen_start", "bias_start"), num_rows + 1)
    for name, columns in (("seen_start", ("seen_ids", "seen_counts")), ("bias_start", ("bias_ids", "bias_values"))):
        starts = expect(f"params.{name}", getattr(params, name), (num_rows + 1,), torch.int32)
        lengths |= dict.fromkeys(columns, starts.tolist()[-1])
    mask, shape = params.token_mask, (num_rows, -(-vocab_size // 32)) if len(params.token_mask) else (0, 0)
    return CSampling(
        *(
            expect(f"params.{name}", getattr(params, name), (lengths.get(name, num_rows),), dtype).data_ptr()
            for name, dtype in SAMPLING_DTYPES.items()
        ),
        expect("params.token_mask", mask, shape, torch.int32).data_ptr() or None,
    )


def expect_dims(name: str, tensor: Tensor, num_dims: int) -> Sequence[int]:
    """The tensor's shape."""
    if tensor.ndim != num_dims:
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}; allowed: {num_dims} dims")
    return tensor.shape


def expect(
    name: str, tensor: Tensor, shape: tuple[int, ...], dtype: torch.dtype = torch.float32, is_contiguous: bool = True
) -> Tensor:
    """The tensor, if it's what a kernel can read."""
    if tensor.dtype != dtype or tensor.shape != shape or not tensor.is_cpu:
        found = (tensor.dtype, tuple(tensor.shape), tensor.device.type)
        raise ValueError(f"{name} is {found}; allowed: {(dtype, shape, 'cpu')}")
    if is_contiguous and not tensor.is_contiguous():
        raise ValueError(f"{name} has strides {tensor.stride()}; allowed: contiguous")
    return tensor
