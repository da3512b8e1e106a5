"""Which tensors a model has."""

from glimp_engine.checkpoints.config import ModelConfig

__all__ = ["FREQ_FACTORS", "expected_tensors"]

FREQ_FACTORS = "rope_freqs.weight"  # the one tensor that has no name in transformers


def expected_tensors(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Name (transformers') and shape of every tensor of the model."""
    d, f, head_dim = config.hidden_size, config.intermediate_size, config.head_dim
    q, kv = config.num_heads * head_dim, config.num_kv_heads * head_dim
    linears = {
        "self_attn.q_proj": (q, d, config.qkv_bias),
        "self_attn.k_proj": (kv, d, config.qkv_bias),
        "self_attn.v_proj": (kv, d, config.qkv_bias),
        "self_attn.o_proj": (d, q, config.output_bias),
        "mlp.gate_proj": (f, d, config.mlp_bias),
        "mlp.up_proj": (f, d, config.mlp_bias),
        "mlp.down_proj": (d, f, config.mlp_bias),
    }
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (config.vocab_size, d)}
    for i in range(config.num_layers):
        layer = f"model.layers.{i}."
        for name, (n, k, has_bias) in linears.items():
            shapes[f"{layer}{name}.weight"] = (n, k)
            if has_bias:
                shapes[f"{layer}{name}.bias"] = (n,)
        if config.qk_norm:
            shapes |= {f"{layer}self_attn.{x}_norm.weight": (head_dim,) for x in "qk"}
        shapes |= {f"{layer}{x}_layernorm.weight": (d,) for x in ("input", "post_attention")}
    shapes["model.norm.weight"] = (d,)
    if not config.tied_embeddings:
        shapes["lm_head.weight"] = (config.vocab_size, d)
    return shapes
