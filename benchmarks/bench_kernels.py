"""Native ops against torch's and against the memory's floor."""

import os

import torch
from ceilings import measure_ceilings
from harness import measure, report

from glimp_engine.kernels import Sampling
from glimp_engine.kernels.native import NativeOps
from glimp_engine.kernels.reference import ReferenceOps

VOCAB_SIZES = (49152, 151936)


def sampling(temperature: float, top_p: float) -> Sampling:
    """Parameters of one row."""

    def one(value: float, dtype: torch.dtype = torch.float32) -> torch.Tensor:
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
    )


def torch_way(logits: torch.Tensor, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Token and entropy as one would write them in torch, without filters."""
    logprobs = logits.log_softmax(-1)
    entropy = -(logprobs.exp() * logprobs).sum(-1)
    if temperature == 0:
        return logits.argmax(-1), entropy
    return torch.multinomial((logits / temperature).softmax(-1), 1), entropy


def main() -> None:
    """`sample` of one row: native, the reference, torch; correctness first."""
    ceilings = measure_ceilings(os.cpu_count() or 1)
    bandwidth = ceilings["read_bytes_per_s"]
    native, reference, cases = NativeOps(), ReferenceOps(), []
    for vocab_size in VOCAB_SIZES:
        logits = torch.randn(1, vocab_size, generator=torch.Generator().manual_seed(0)) * 4
        token_class = torch.zeros(vocab_size, dtype=torch.uint8)
        for temperature, top_p in ((0.0, 1.0), (0.6, 1.0), (0.6, 0.95)):
            params = sampling(temperature, top_p)
            ours, exact = (
                native.sample(logits, params, token_class),
                reference.sample(logits.double(), params, token_class),
            )
            is_correct = ours.token.equal(exact.token) and abs(float(ours.entropy - exact.entropy)) < 1e-5
            timing = measure(lambda: native.sample(logits, params, token_class))  # noqa: B023 (called at once)
            floor = logits.nbytes / bandwidth * 1e6
            peer = measure(lambda: torch_way(logits, temperature))["median_us"]  # noqa: B023
            slow = measure(lambda: reference.sample(logits, params, token_class))["median_us"]  # noqa: B023
            cases.append(
                {
                    "case": f"sample V={vocab_size} temperature={temperature} top_p={top_p}",
                    **timing,
                    "bytes": logits.nbytes,
                    "floor_us": floor,
                    "ratio_to_floor": timing["median_us"] / floor,
                    "torch_us": peer,
                    "reference_us": slow,
                    "speed_over_torch": peer / timing["median_us"],
                    "is_correct": is_correct,
                }
            )
    report("kernels", cases, ceilings)


if __name__ == "__main__":
    main()
