"""The decoder: Llama, Qwen2 and Qwen3 as one ragged forward over an op set."""

from dataclasses import dataclass

import torch
from torch import Tensor

from glimp_engine.checkpoints import FREQ_FACTORS, ModelConfig
from glimp_engine.kernels import Attention, Ops
from glimp_engine.models.kv_store import KVLayout, KVStore

__all__ = ["Decoder"]


@dataclass(frozen=True)
class Linear:
    """A weight [n, k] and its bias [n], if any."""

    weight: Tensor
    bias: Tensor | None

    @classmethod
    def take(cls, weights: dict[str, Tensor], *names: str) -> "Linear":
        """The named linears as one, stacked along n, taken out of `weights`."""
        parts = [weights.pop(f"{name}.weight") for name in names]
        biases = [weights.pop(f"{name}.bias") for name in names if f"{name}.bias" in weights]
        if len(parts) == 1:
            return cls(parts[0], biases[0] if biases else None)
        return cls(torch.cat(parts), torch.cat(biases) if biases else None)


@dataclass(frozen=True)
class Layer:
    """The weights of one decoder layer."""

    input_norm: Tensor  # [d]
    qkv: Linear  # [(H + 2 Hk) D, d]
    q_norm: Tensor | None  # [D]
    k_norm: Tensor | None
    output: Linear  # [d, H D]
    mlp_norm: Tensor  # [d]
    gate_up: Linear  # [2 f, d]
    down: Linear  # [d, f]

    @classmethod
    def take(cls, weights: dict[str, Tensor], i: int) -> "Layer":
        """Layer i out of a checkpoint's tensors."""
        layer = f"model.layers.{i}."
        return cls(
            input_norm=weights.pop(f"{layer}input_layernorm.weight"),
            qkv=Linear.take(weights, *(f"{layer}self_attn.{x}_proj" for x in "qkv")),
            q_norm=weights.pop(f"{layer}self_attn.q_norm.weight", None),
            k_norm=weights.pop(f"{layer}self_attn.k_norm.weight", None),
            output=Linear.take(weights, f"{layer}self_attn.o_proj"),
            mlp_norm=weights.pop(f"{layer}post_attention_layernorm.weight"),
            gate_up=Linear.take(weights, f"{layer}mlp.gate_proj", f"{layer}mlp.up_proj"),
            down=Linear.take(weights, f"{layer}mlp.down_proj"),
        )


class Decoder:
    """A decoder on one device, in one dtype. It keeps no state between forwards: the K/V is passed in.

    `weights` (see `expected_tensors`) is emptied, so that memory isn't held twice.
    """

    def __init__(self, config: ModelConfig, weights: dict[str, Tensor], ops: Ops) -> None:
        self.config = config
        self.ops = ops
        self.weight_bytes = sum(tensor.nbytes for tensor in weights.values())
        self.embedding = weights.pop("model.embed_tokens.weight")  # [V, d]
        self.dtype, self.device = self.embedding.dtype, self.embedding.device
        self.kv_layout = KVLayout(self.dtype, freq_factors=weights.pop(FREQ_FACTORS, None))
        self.layers = [Layer.take(weights, i) for i in range(config.num_layers)]
        self.norm = weights.pop("model.norm.weight")
        self.head = self.embedding if config.tied_embeddings else weights.pop("lm_head.weight")  # [V, d]

    def forward(
        self, token_ids: Tensor, batch: Attention, logit_rows: Tensor, kv: KVStore, num_logits: int | None = None
    ) -> Tensor:
        """Logits of the asked rows; the K/V of all tokens is stored.

        Shapes: token_ids [T] int64; logit_rows [R] int64, indices into T; result [R, V] in float32 or better, or
                [R, num_logits], of the vocabulary's first tokens.
        Cost:   reads every weight once, whatever T is.
        """
        ops, config = self.ops, self.config
        x, residual = ops.embed(token_ids, self.embedding), None
        for layer, caches in zip(self.layers, kv.layers, strict=True):
            normed, residual = ops.rms_norm(x, layer.input_norm, config.rms_norm_eps, residual)
            x = self.attend(layer, normed, batch, kv.cos_sin, *caches)
            normed, residual = ops.rms_norm(x, layer.mlp_norm, config.rms_norm_eps, residual)
            activated = ops.linear_silu_mul(normed, layer.gate_up.weight, layer.gate_up.bias)
            x = ops.linear(activated, layer.down.weight, layer.down.bias)
        residual = None if residual is None else residual[logit_rows]
        normed, _ = ops.rms_norm(x[logit_rows], self.norm, config.rms_norm_eps, residual)
        logits = ops.linear(normed, self.head[:num_logits])
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    def attend(
        self, layer: Layer, x: Tensor, batch: Attention, cos_sin: Tensor, k_cache: Tensor, v_cache: Tensor
    ) -> Tensor:
        """The attention block: [T, d] -> [T, d]."""
        config = self.config
        qkv = self.ops.linear(x, layer.qkv.weight, layer.qkv.bias)
        heads = qkv.view(len(x), config.num_heads + 2 * config.num_kv_heads, config.head_dim)
        q, k, v = torch.split(heads, [config.num_heads, config.num_kv_heads, config.num_kv_heads], dim=1)
        q = self.ops.rope_and_store(
            q, k, v, cos_sin, batch, k_cache, v_cache, layer.q_norm, layer.k_norm, config.rms_norm_eps
        )
        attended = self.ops.paged_attention(q, k_cache, v_cache, batch, config.head_dim**-0.5)
        return self.ops.linear(attended.flatten(1), layer.output.weight, layer.output.bias)
