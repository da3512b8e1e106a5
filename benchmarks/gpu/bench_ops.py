"""The Triton ops alone: time, floor by the chip's own bandwidth, and PyTorch's way as the peer. One JSON line."""

import json
import math
import sys

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from models import SHAPES, make_attention, make_sampling
from timing import DEVICE, IS_REHEARSAL, ceilings, describe_device, measure, measure_host, num_copies

from glimp_engine.kernels.gpu.noise import gumbel
from glimp_engine.kernels.gpu.ops import TritonOps
from glimp_engine.kernels.gpu.sample import SPLIT
from glimp_engine.kernels.reference import ReferenceOps

DTYPE = torch.float16 if IS_REHEARSAL else torch.bfloat16
SHAPE = SHAPES["tiny"] if IS_REHEARSAL else SHAPES["Qwen3-4B"]
LARGE = SHAPES["tiny"] if IS_REHEARSAL else SHAPES["Qwen3-32B"]
MODES = {
    "greedy": {"temperature": 0.0},
    "temperature": {"temperature": 0.8},
    "top-k 20, top-p 0.95": {"temperature": 0.6, "top_k": 20, "top_p": 0.95},
    "top-p 0.95": {"temperature": 1.0, "top_p": 0.95},
}


def torch_sample(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """PyTorch's way: softmax, entropy, top-p by a sort, multinomial."""
    logprobs = logits.log_softmax(-1)
    entropy = -(logprobs.exp() * logprobs).sum(-1)
    probs, ids = logprobs.exp().sort(dim=-1, descending=True)
    kept = probs.where(probs.cumsum(-1) - probs < 0.95, 0.0)
    return ids.gather(1, torch.multinomial(kept, 1))[:, 0], entropy


def realistic_logits(num_rows: int, vocab_size: int) -> torch.Tensor:
    """A few likely tokens above a broad rest, as models have them: entropy about 1 nat."""
    logits = torch.randn(num_rows, vocab_size, device=DEVICE) * 2
    likely = torch.randint(0, vocab_size, (num_rows, 20), device=DEVICE)
    return logits.scatter_(1, likely, torch.linspace(14, 18, 20, device=DEVICE).expand(num_rows, 20).contiguous())


def case(
    name: str, time: dict[str, float], num_bytes: float, ops: float, chip: dict[str, float], **more: object
) -> dict:
    """A row of the result; the floor is what the chip's own ceilings allow."""
    floor_us = 1e6 * max(num_bytes / chip["read_bytes_per_s"], ops / chip["bf16_ops_per_s"])
    share = floor_us / time["median_us"]
    return {"case": name, **time, "bytes": num_bytes, "ops": ops, "floor_us": floor_us, "share_of_floor": share, **more}


def bench_sample(ops: TritonOps, chip: dict[str, float]) -> list[dict]:
    """Each way to sample, of one row and of 64."""
    cases = []
    token_class = torch.zeros(SHAPE.vocab_size, dtype=torch.uint8, device=DEVICE)
    for num_rows in (1, 2) if IS_REHEARSAL else (1, 8, 64):
        num_bytes = 4 * num_rows * SHAPE.vocab_size
        inputs = [realistic_logits(num_rows, SHAPE.vocab_size) for _ in range(num_copies(num_bytes))]
        peer = measure_host(lambda i, inputs=inputs: torch_sample(inputs[i % len(inputs)]))
        for mode, values in MODES.items():
            params = make_sampling(num_rows, **values)
            oracle = ReferenceOps().sample(inputs[0].double(), params, token_class)
            ours = ops.sample(inputs[0], params, token_class)
            time = measure(
                lambda i, inputs=inputs, params=params: ops.sample(inputs[i], params, token_class), len(inputs)
            )
            correct = {
                "same_tokens": float((ours.token == oracle.token).float().mean()),
                "entropy_error_nats": float((ours.entropy - oracle.entropy).abs().max()),
            }
            more = {"peer": "torch", "peer_us": peer["median_us"], "times_peer": peer["median_us"] / time["median_us"]}
            cases.append(
                case(f"sample {num_rows} x {SHAPE.vocab_size}, {mode}", time, num_bytes, 0, chip, **more, **correct)
            )
    return cases


@triton.jit
def _draw_kernel(
    logits_ptr, best_ptr, best_id_ptr, seed_ptr, position_ptr, vocab_size, temperature, SPLIT: tl.constexpr
):
    """The first launch of `sample` without what entropy and log-probability need."""
    row, split = tl.program_id(0), tl.program_id(1)
    at = split * SPLIT + tl.arange(0, SPLIT)
    x = tl.load(logits_ptr + row.to(tl.int64) * vocab_size + at, mask=at < vocab_size, other=float("-inf"))
    block = split * (SPLIT // 4) + tl.arange(0, SPLIT // 4)
    x = tl.div_rn(x, temperature)
    x += gumbel(block.to(tl.uint32), tl.load(position_ptr + row), row, tl.load(seed_ptr + row))
    best, best_at = tl.max(x, 0, return_indices=True)
    tl.store(best_ptr + row * tl.num_programs(1) + split, best)
    tl.store(best_id_ptr + row * tl.num_programs(1) + split, split * SPLIT + best_at)


def bench_entropy(ops: TritonOps, chip: dict[str, float]) -> list[dict]:
    """What the entropy adds: `sample` at a temperature beside its first launch without entropy and an argmax of it."""
    num_rows = 2 if IS_REHEARSAL else 64
    num_bytes, num_splits = 4 * num_rows * SHAPE.vocab_size, triton.cdiv(SHAPE.vocab_size, SPLIT)
    inputs = [realistic_logits(num_rows, SHAPE.vocab_size) for _ in range(num_copies(num_bytes))]
    params, token_class = make_sampling(num_rows, temperature=0.8), torch.zeros(SHAPE.vocab_size, device=DEVICE).byte()
    best = torch.empty(num_rows, num_splits, device=DEVICE)
    best_id = torch.empty(num_rows, num_splits, device=DEVICE, dtype=torch.int32)

    def draw(i: int) -> torch.Tensor:
        _draw_kernel[(num_rows, num_splits)](
            inputs[i], best, best_id, params.seed, params.position, SHAPE.vocab_size, 0.8, SPLIT=SPLIT, num_warps=4
        )
        return best_id.gather(1, best.argmax(1, keepdim=True))

    without = measure(draw, len(inputs))["median_us"]
    time = measure(lambda i: ops.sample(inputs[i], params, token_class), len(inputs))
    more = {"without_entropy_us": without, "times_without_entropy": time["median_us"] / without}
    return [case(f"sample {num_rows} x {SHAPE.vocab_size}, with entropy", time, num_bytes, 0, chip, **more)]


def bench_linear(ops: TritonOps, chip: dict[str, float]) -> list[dict]:
    """The matrices of both models, of few rows, beside PyTorch's."""
    cases = []
    for shape in dict.fromkeys((SHAPE, LARGE)):
        d, f = shape.hidden_size, shape.intermediate_size
        qkv = (shape.num_heads + 2 * shape.num_kv_heads) * shape.head_dim
        for n, k in ((qkv, d), (d, shape.num_heads * shape.head_dim), (2 * f, d), (d, f)):
            weights = [torch.randn(n, k, device=DEVICE, dtype=DTYPE) for _ in range(num_copies(2 * n * k))]
            for num_rows in (1, 4) if IS_REHEARSAL else (1, 4, 16, 64):
                x = torch.randn(num_rows, k, device=DEVICE, dtype=DTYPE)
                exact = x.double() @ weights[0].double().T
                error = float((ops.linear(x, weights[0]).double() - exact).norm() / exact.norm())
                time = measure(lambda i, x=x, w=weights: ops.linear(x, w[i]), len(weights))
                peer = measure(lambda i, x=x, w=weights: F.linear(x, w[i]), len(weights))
                more = {
                    "peer": "torch",
                    "peer_us": peer["median_us"],
                    "times_peer": peer["median_us"] / time["median_us"],
                }
                num_ops = 2 * num_rows * n * k
                name = f"linear {num_rows} x {k} -> {n}"
                cases.append(case(name, time, 2 * n * k, num_ops, chip, relative_error=error, **more))
    return cases


def bench_attention(ops: TritonOps, chip: dict[str, float]) -> list[dict]:
    """Decode at short and long contexts, a catch-up, a prefill."""
    cases, shape = [], SHAPE
    heads, kv_heads, head_dim = shape.num_heads, shape.num_kv_heads, shape.head_dim
    works = [(1, 1, 40), (2, 3, 40)] if IS_REHEARSAL else [
        *((1, 1, n) for n in (1024, 4096, 32768)), (8, 1, 4096), (8, 1, 32768), (1, 64, 1024), (1, 512, 4096),
    ]  # fmt: skip
    for num_sequences, new_tokens, context in works:
        kv_bytes = 2 * 2 * num_sequences * context * kv_heads * head_dim
        copies = min(num_copies(kv_bytes), 16)
        batch, num_pages = make_attention(num_sequences, new_tokens, context)
        caches = [
            [torch.randn(num_pages, kv_heads, 16, head_dim, device=DEVICE, dtype=DTYPE) for _ in "kv"]
            for _ in range(copies)
        ]
        q = torch.randn(num_sequences * new_tokens, heads, head_dim, device=DEVICE, dtype=DTYPE)
        scale = head_dim**-0.5
        time = measure(lambda i, q=q, c=caches, b=batch, scale=scale: ops.paged_attention(q, *c[i], b, scale), copies)
        exact = ReferenceOps().paged_attention(q.double(), *(c.double() for c in caches[0]), batch, scale)
        out = ops.paged_attention(q, *caches[0], batch, scale)
        error = float((out.double() - exact).norm() / exact.norm())
        num_ops = 4 * num_sequences * new_tokens * heads * head_dim * (context - new_tokens / 2)
        name = f"attention {num_sequences} x {new_tokens} at {context}"
        cases.append(case(name, time, kv_bytes, num_ops, chip, relative_error=error))
    return cases


def bench_small(ops: TritonOps, chip: dict[str, float]) -> list[dict]:
    """The ops between the products, of one token: their floor is a launch."""
    d, f, head_dim = SHAPE.hidden_size, SHAPE.intermediate_size, SHAPE.head_dim
    x, weight = torch.randn(1, d, device=DEVICE, dtype=DTYPE), torch.randn(d, device=DEVICE, dtype=DTYPE)
    qkv = torch.randn(1, SHAPE.num_heads + 2 * SHAPE.num_kv_heads, head_dim, device=DEVICE, dtype=DTYPE)
    q, k, v = qkv.split([SHAPE.num_heads, SHAPE.num_kv_heads, SHAPE.num_kv_heads], dim=1)
    batch, num_pages = make_attention(1, 1, 64)
    cache = torch.zeros(num_pages, SHAPE.num_kv_heads, 16, head_dim, device=DEVICE, dtype=DTYPE)
    table, norm = torch.randn(64, 2, head_dim // 2, device=DEVICE), torch.ones(head_dim, device=DEVICE, dtype=DTYPE)
    gate_up, empty = torch.randn(1, 2 * f, device=DEVICE, dtype=DTYPE), torch.zeros(1, device=DEVICE)
    calls = {
        "nothing but a launch": lambda _: empty.zero_(),
        "rms_norm": lambda _: ops.rms_norm(x, weight, 1e-6, x),
        "rope_and_store": lambda _: ops.rope_and_store(q, k, v, table, batch, cache, cache, norm, norm, 1e-6),
        "silu_mul": lambda _: ops.silu_mul(gate_up),
    }
    return [case(name, measure(call), 0, 0, chip) for name, call in calls.items()]


def main() -> None:
    """The parts named in the arguments, or all."""
    parts = {
        "sample": bench_sample,
        "entropy": bench_entropy,
        "linear": bench_linear,
        "attention": bench_attention,
        "small": bench_small,
    }
    ops, chip, cases = TritonOps(DEVICE), ceilings(), []
    for name in sys.argv[1:] or parts:
        for row in parts[name](ops, chip):
            share = row["share_of_floor"]
            print(f"{row['case']:48} {row['median_us']:10.1f} us  {share:6.1%} of the floor", file=sys.stderr)
            cases.append({key: None if isinstance(x, float) and math.isnan(x) else x for key, x in row.items()})
    print(json.dumps({"device": describe_device(), "ceilings": chip, "cases": cases}))


if __name__ == "__main__":
    main()
