"""The op set on a GPU: Triton kernels, and PyTorch's library where that is as fast."""

import torch
import torch.nn.functional as F
from torch import Tensor

from glimp_engine.kernels import Attention, Samples, Sampling
from glimp_engine.kernels.gpu import activation, flash, linear, norm, rope, sample
from glimp_engine.kernels.gpu.attention import choose_tiling, paged_attention
from glimp_engine.kernels.reference import ReferenceOps

__all__ = ["TritonOps"]

INTERPRETED_PROCESSORS = 4  # of the chip that is played where there is none, so that work is split there too


class TritonOps(ReferenceOps):
    """Contiguous tensors of one device in bf16, fp16 or fp32; under TRITON_INTERPRET=1 also a CPU's.

    Long prefills are flash-attn's where it's installed and takes pages of page_size tokens.
    With `batch_invariant` a row's result doesn't depend on the other rows of its batch: sums are cut alike for one
    token and for hundreds, and no library chooses an order by the size of the batch.
    """

    name = "triton"

    def __init__(self, device: torch.device, batch_invariant: bool = False, page_size: int = 16) -> None:
        self.batch_invariant = batch_invariant
        is_cuda = device.type == "cuda"
        self._flash = flash.find_flash_attention(page_size) if is_cuda and not batch_invariant else None
        self.has_pdl = is_cuda and torch.cuda.get_device_capability(device) >= (9, 0)
        self._num_processors = (
            torch.cuda.get_device_properties(device).multi_processor_count if is_cuda else INTERPRETED_PROCESSORS
        )

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float, residual: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return norm.rms_norm(x, weight, eps, residual, self.has_pdl)

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        if len(x) > linear.MAX_ROWS and not self.batch_invariant:
            return F.linear(x, weight, bias)
        block_t = linear.MAX_ROWS if self.batch_invariant else linear.rows_at_a_time(len(x))
        return linear.linear(x, weight, bias, self._num_processors, block_t, self.has_pdl)

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
        return rope.rope_and_store(q, k, v, cos_sin, batch, k_cache, v_cache, q_norm, k_norm, eps, self.has_pdl)

    def paged_attention(self, q: Tensor, k_cache: Tensor, v_cache: Tensor, batch: Attention, scale: float) -> Tensor:
        num_tokens, num_heads, _ = q.shape
        num_kv_heads, page_size = k_cache.shape[1:3]
        max_kv_len = batch.page_table.shape[1] * page_size  # kv_len itself is on the device
        if self._flash is not None and flash.suits(q, len(batch.kv_len)):
            return self._flash(q, k_cache, v_cache, batch, scale, max_kv_len)
        tiling = choose_tiling(
            num_tokens, len(batch.kv_len), max_kv_len, num_heads // num_kv_heads, num_kv_heads,
            self._num_processors, self.batch_invariant,
        )  # fmt: skip
        return paged_attention(q, k_cache, v_cache, batch, scale, tiling, self.has_pdl)

    def silu_mul(self, x: Tensor) -> Tensor:
        return activation.silu_mul(x, self.has_pdl)

    def linear_silu_mul(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        if self.batch_invariant or bias is not None or not 0 < len(x) <= linear.MAX_ROWS:
            return self.silu_mul(self.linear(x, weight, bias))
        return linear.linear_silu_mul(x, weight, linear.rows_at_a_time(len(x)), self.has_pdl)

    def sample(self, logits: Tensor, params: Sampling, token_class: Tensor) -> Samples:
        return sample.sample(logits, params, token_class, self.has_pdl)
