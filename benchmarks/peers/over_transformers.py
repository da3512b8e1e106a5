"""transformers as a contestant: the GGUF file dequantised to float32 or bfloat16, one sequence, greedy.

over_transformers.py [float32 | bfloat16]
"""

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from serve import serve
from transformers import AutoModelForCausalLM, DynamicCache


class Transformers:
    """The contestant."""

    def __init__(self, dtype: str) -> None:
        self.dtype = dtype

    def open(self, models: list[str], num_threads: int, num_tokens: int) -> dict[str, Any]:
        torch.set_num_threads(num_threads)
        path, began = Path(models[0]), time.perf_counter()
        dtype = getattr(torch, self.dtype)
        self.model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=dtype).eval()
        version = f"transformers {transformers.__version__}, torch {torch.__version__}, {self.dtype}"
        return {"seconds": time.perf_counter() - began, "version": version}

    @torch.inference_mode()
    def _forward(self, token_ids: list[int], cache: DynamicCache, num_logits: int = 1) -> torch.Tensor:
        """Logits [num_logits, V] of the last tokens."""
        ids = torch.tensor([token_ids])
        return self.model(ids, past_key_values=cache, use_cache=True, logits_to_keep=num_logits).logits[0]

    def prefill(self, token_ids: list[int]) -> dict[str, Any]:
        began = time.perf_counter()
        int(self._forward(token_ids, DynamicCache()).argmax())
        return {"seconds": time.perf_counter() - began}

    def extend(self, token_ids: list[int], new_ids: list[int]) -> dict[str, Any]:
        cache = DynamicCache()
        self._forward(token_ids, cache)
        began = time.perf_counter()
        int(self._forward(new_ids, cache).argmax())
        return {"seconds": time.perf_counter() - began}

    def decode(self, token_ids: list[int], num_tokens: int) -> dict[str, Any]:
        cache = DynamicCache()
        written = [int(self._forward(token_ids, cache).argmax())]
        began = time.perf_counter()
        for _ in range(num_tokens):
            written.append(int(self._forward(written[-1:], cache).argmax()))
        return {"seconds": time.perf_counter() - began, "token_ids": [written]}

    def logits(self, token_ids: list[int], path: str) -> dict[str, Any]:
        np.save(path, self._forward(token_ids, DynamicCache(), len(token_ids)).float().numpy())
        return {}


if __name__ == "__main__":
    serve(Transformers(sys.argv[1] if len(sys.argv) > 1 else "float32"))
