"""Compiles every Triton kernel as the ops launch it, for each architecture, without a GPU; prints what each one takes.

    compile_kernels.py [ARCHITECTURE ...]     80, 90 and 100 by default

The ops run on CPU tensors of the models' shapes, with a driver that compiles instead of launching: so what is compiled
is what a GPU would be given, alignment and all. Registers that spill into memory are a fault; it exits with 1 then.
"""

import os

os.environ.pop("TRITON_INTERPRET", None)

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

from glimp_engine.kernels import Attention, Sampling
from glimp_engine.kernels.gpu.ops import TritonOps

ARCHITECTURES = (80, 90, 100)
PAGE_SIZE, NUM_PROCESSORS, CONTEXT = 16, 132, 1024
CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"


@dataclass(frozen=True)
class Shape:
    """What of a model the kernels depend on."""

    name: str
    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int


SHAPES = [
    Shape("Qwen3-4B", 2560, 32, 8, 128, 9728, 151936),
    Shape("Qwen3-32B", 5120, 64, 8, 128, 25600, 151936),
    Shape("Qwen2.5-0.5B", 896, 14, 2, 64, 4864, 151936),
]


class CompileOnly:
    """As much of a driver as compiling asks for; a device's number is its architecture."""

    def __init__(self) -> None:
        self.architecture = 0

    def get_current_device(self) -> int:
        return self.architecture

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.architecture, 32)


@contextmanager
def launches_recorded() -> Iterator[list[tuple[str, Any]]]:
    """Kernels are compiled and collected where they would be launched."""
    compiled: list[tuple[str, Any]] = []
    run = JITFunction.run

    def compile_only(self: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        compiled.append((self.__name__, run(self, *args, grid=grid, warmup=True, **options)))
        return compiled[-1][1]

    JITFunction.run = compile_only
    try:
        yield compiled
    finally:
        JITFunction.run = run


def attention_batch(new_tokens: int, num_sequences: int) -> Attention:
    """num_sequences with new_tokens each, at the end of CONTEXT."""
    num_tokens, num_pages = new_tokens * num_sequences, CONTEXT // PAGE_SIZE
    return Attention(
        positions=torch.zeros(num_tokens, dtype=torch.int64),
        slots=torch.zeros(num_tokens, dtype=torch.int64),
        query_start=torch.arange(num_sequences + 1, dtype=torch.int32) * new_tokens,
        page_table=torch.zeros(num_sequences, num_pages, dtype=torch.int32),
        kv_len=torch.full((num_sequences,), CONTEXT, dtype=torch.int32),
    )


def sampling(num_rows: int, num_listed: int, vocab_size: int) -> Sampling:
    """Parameters of num_rows, with a mask if there are lists; only their types matter."""
    wide = {"seed": torch.int64, "position": torch.int64, "seen_ids": torch.int64, "bias_ids": torch.int64}
    names = ("top_k", "sequence_index", "seen_start", "seen_counts", "bias_start", "listed_only", "token_mask")
    narrow = dict.fromkeys(names, torch.int32)
    sizes = dict.fromkeys(("seen_start", "bias_start"), num_rows + 1)
    sizes |= dict.fromkeys(("seen_ids", "seen_counts", "bias_ids", "bias_values"), num_listed)
    shapes: dict[str, tuple[int, ...]] = {"token_mask": (num_rows, -(-vocab_size // 32)) if num_listed else (0, 0)}
    dtypes = {**wide, **narrow}
    return Sampling(
        **{
            name: torch.zeros(shapes.get(name, (sizes.get(name, num_rows),)), dtype=dtypes.get(name, torch.float32))
            for name in Sampling.__dataclass_fields__
        }
    )


def launch_all(shape: Shape, ops: TritonOps, dtype: torch.dtype) -> None:
    """Every op in every way that the engine calls it, with this model's shapes."""
    d, f, heads, kv_heads = shape.hidden_size, shape.intermediate_size, shape.num_heads, shape.num_kv_heads
    qkv_width = (heads + 2 * kv_heads) * shape.head_dim
    cache = torch.empty(CONTEXT // PAGE_SIZE, kv_heads, PAGE_SIZE, shape.head_dim, dtype=dtype)
    cos_sin, norm = torch.empty(CONTEXT, 2, shape.head_dim // 2), torch.empty(shape.head_dim, dtype=dtype)
    weight, bias = torch.empty(qkv_width, d, dtype=dtype), torch.empty(qkv_width, dtype=dtype)
    for new_tokens, num_sequences in ((1, 1), (1, 8), (64, 1)):
        batch = attention_batch(new_tokens, num_sequences)
        x = torch.empty(new_tokens * num_sequences, d, dtype=dtype)
        ops.rms_norm(x, torch.empty(d, dtype=dtype), 1e-6)
        ops.rms_norm(x, torch.empty(d, dtype=dtype), 1e-6, x)
        ops.linear(x, weight)
        ops.linear(x, weight, bias)
        ops.linear(torch.empty(len(x), f, dtype=dtype), torch.empty(d, f, dtype=dtype))
        ops.linear_silu_mul(x, torch.empty(2 * f, d, dtype=dtype))
        qkv = torch.empty(len(x), heads + 2 * kv_heads, shape.head_dim, dtype=dtype)
        q, k, v = qkv.split([heads, kv_heads, kv_heads], dim=1)
        for norms in ((None, None), (norm, norm)):
            q = ops.rope_and_store(q, k, v, cos_sin, batch, cache, cache, *norms, eps=1e-6)
        ops.paged_attention(q, cache, cache, batch, 1.0)
        logits, token_class = (
            torch.empty(num_sequences, shape.vocab_size),
            torch.empty(shape.vocab_size, dtype=torch.uint8),
        )
        for num_seen in (0, 100):
            ops.sample(logits, sampling(num_sequences, num_seen, shape.vocab_size), token_class)


def resources(kernel: Any) -> dict[str, int]:
    """Registers, bytes of local memory for those that have no room (spills), bytes of shared memory."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        usage = subprocess.run([CUOBJDUMP, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    registers, stack = map(int, re.findall(r"REG:(\d+) STACK:(\d+)", usage)[-1])
    return {
        "REG": registers,
        "SPILLS": stack,  # a kernel's stack holds nothing else
        "SHARED": kernel.metadata.shared,
        "WARPS": kernel.metadata.num_warps,
    }


def main() -> int:
    """A line for each kernel and architecture; 1 if one spills."""
    architectures = [int(each) for each in sys.argv[1:]] or ARCHITECTURES
    compile_only = CompileOnly()
    driver.set_active(compile_only)
    print(f"{'kernel':28} {'arch':6} {'REG':>4} {'SPILLS':>7} {'SHARED':>7} {'WARPS':>6}")
    num_spilling, seen = 0, set()
    for architecture in architectures:
        compile_only.architecture = architecture
        with launches_recorded() as compiled:
            for shape in SHAPES:
                for batch_invariant in (False, True):
                    ops = TritonOps(torch.device("cpu"), batch_invariant)
                    ops._num_processors, ops.has_pdl = NUM_PROCESSORS, architecture >= 90
                    launch_all(shape, ops, torch.bfloat16)
        for name, kernel in compiled:
            if kernel.hash in seen:
                continue
            seen.add(kernel.hash)
            taken = resources(kernel)
            num_spilling += taken["SPILLS"] > 0
            print(
                f"{name:28} sm_{architecture:<3} {taken['REG']:4} {taken['SPILLS']:7}"
                f" {taken['SHARED']:7} {taken['WARPS']:6}"
            )
    print(f"{len(seen)} kernels, {num_spilling} spill")
    return 1 if num_spilling else 0


if __name__ == "__main__":
    sys.exit(main())
