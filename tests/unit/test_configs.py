"""What config.json says: keys that change the output, rotations, windows, families."""

import json

import pytest
from transformers import LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

from glimp_engine import CheckpointError
from glimp_engine.checkpoints.config import ModelConfig

PLAIN = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
}
QWEN2 = {**PLAIN, "architectures": ["Qwen2ForCausalLM"]}
QWEN3 = {**PLAIN, "architectures": ["Qwen3ForCausalLM"]}
MISTRAL = {**PLAIN, "architectures": ["MistralForCausalLM"]}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}


def read(config=PLAIN, **values):
    """Through a file, as it would be read."""
    kept = {key: value for key, value in {**config, **values}.items() if value != "absent"}
    return ModelConfig.from_json(json.loads(json.dumps(kept)), "config.json")


def refused(message, config=PLAIN, **values):
    with pytest.raises(CheckpointError) as caught:
        read(config, **values)
    assert str(caught.value).startswith("config.json: " + message), str(caught.value)


# Keys that nothing reads.

CHANGES = [
    ("attn_logit_softcapping", 50.0),
    ("final_logit_softcapping", 30.0),
    ("logit_scale", 0.0625),
    ("logits_scaling", 8.0),
    ("residual_multiplier", 0.22),
    ("embedding_multiplier", 12.0),
    ("lm_head_multiplier", 0.04),
    ("attention_multiplier", 0.0078125),
    ("attention_multiplier", 1.0),  # which takes the division by the root of head_dim away
    ("query_pre_attn_scalar", 256),
    ("scale_emb", 12),
    ("scale_depth", 1.4),
    ("mup_enabled", True),
    ("qk_layernorm", True),
    ("use_qk_norm", True),
    ("clip_qkv", 8.0),
    ("partial_rotary_factor", 0.5),
    ("rotary_pct", 0.25),
    ("rotary_dim", 4),
    ("rope_ratio", 500),
    ("rope_interleaved", True),
    ("rope_local_base_freq", 10000.0),
    ("use_mrope", True),
    ("no_rope_layers", [1, 1, 1, 0]),
    ("no_rope_layer_interval", 4),
    ("alibi", True),
    ("position_embedding_type", "alibi"),
    ("attention_chunk_size", 8192),
    ("attn_temperature_tuning", 4),
    ("use_attention_sinks", True),
    ("scale_attn_by_inverse_layer_idx", True),
    ("scale_attn_weights", False),
    ("num_local_experts", 8),
    ("quantization_config", {"bits": 4}),
    ("quantization", {"group_size": 64, "bits": 4}),
    ("compression_config", {"format": "dense"}),
    ("hidden_act", "gelu"),
    ("hidden_activation", "gelu_pytorch_tanh"),
    ("norm_type", "layer_norm"),
    ("is_causal", False),
    ("use_bidirectional_attention", True),
    ("parallel_attn", True),
    ("block_configs", [{}]),
    ("some_output_scale_of_tomorrow", 0.5),
    ("a_softcap_nobody_knows", 15),
]


@pytest.mark.parametrize(("key", "value"), CHANGES)
def test_a_key_that_changes_the_output_is_refused_by_name(key, value):
    with pytest.raises(CheckpointError, match=rf"^config\.json: (rope: )?{key} is .*supported: "):
        read(**{key: value})


NEUTRAL = {
    **dict.fromkeys(key for key, _ in CHANGES),
    "attention_multiplier": 8**-0.5,
    "query_pre_attn_scalar": 8,
    "logit_scale": 1.0,
    "residual_multiplier": 1,
    "attn_logit_softcapping": 0.0,
    "clip_qkv": False,
    "rotary_dim": 8,
    "rotary_pct": 1.0,
    "no_rope_layers": [1, 1, 1, 1],
    "num_local_experts": 0,
    "hidden_act": "swish",
    "quantization_config": {},
}


@pytest.mark.parametrize("key", NEUTRAL)
def test_with_a_value_that_changes_nothing_it_is_let_be(key):
    assert read(**{key: NEUTRAL[key]}) == read()


def test_what_qwen3_has_anyway_is_let_be():
    assert read(QWEN3, use_qk_norm=True) == read(QWEN3)


def test_keys_of_other_sorts_are_let_be():
    others = {
        "_name_or_path": "x",
        "transformers_version": "4.40.1",
        "use_cache": True,
        "pretraining_tp": 4,
        "attention_dropout": 0.1,
        "initializer_range": 0.02,
        "init_scale": 0.5,
        "loss_scale": 128,
        "max_grad_clip": 1.0,
        "temperature": 0.6,
        "top_k": 50,
        "unsloth_fixed": True,
        "is_llama_config": True,
        "rope_interleaved": False,
        "transformers.js_config": {"dtype": "q4"},
        "router_aux_loss_coef": 0.001,
        "eos_token_id": [1, 2],
        "layer_norm_eps": 1e-5,
    }
    assert read(**others) == read()


@pytest.mark.parametrize("config_class", [LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config])
def test_all_that_transformers_itself_writes_is_let_be(config_class):
    config = config_class().to_dict()
    architecture = f"{config_class.__name__.removesuffix('Config')}ForCausalLM"
    read({**config, "architectures": [architecture], "sliding_window": None})


# Families.


def test_the_model_type_tells_where_no_architecture_is_named():
    for config in (PLAIN, QWEN2, QWEN3, MISTRAL):
        family = config["architectures"][0].removesuffix("ForCausalLM").lower()
        for architectures in ("absent", None, []):
            assert read(config, architectures=architectures, model_type=family, sliding_window=None) == read(
                config, sliding_window=None
            )
    refused("architectures is None; supported: LlamaForCausalLM", architectures="absent")
    refused("architectures is None; supported:", architectures="absent", model_type="gpt2")
    refused("architectures is ['Qwen3Model']; supported:", architectures=["Qwen3Model"], model_type="qwen3")
    refused("model_type is 'qwen2' and architectures has LlamaForCausalLM; expected 'llama'", model_type="qwen2")


def test_mistral_is_a_llama_without_biases():
    ours, llama = read(MISTRAL, sliding_window=None, head_dim=16), read(head_dim=16)
    assert ours == llama


# Windows: none that bites.


@pytest.mark.parametrize(
    ("config", "values", "max_positions"),
    [
        (MISTRAL, {}, 128),  # transformers' own default is 4096
        (MISTRAL, {"max_position_embeddings": 8192}, 4096),
        (MISTRAL, {"sliding_window": None, "max_position_embeddings": 8192}, 8192),
        (MISTRAL, {"sliding_window": 100}, 100),
        (MISTRAL, {"sliding_window": 128}, 128),
        (MISTRAL, {"sliding_window": 100, "layer_types": ["full_attention"] * 4}, 100),  # which Mistral doesn't read
        (PLAIN, {"sliding_window": 100}, 100),
        (PLAIN, {"sliding_window": 100, "use_sliding_window": False}, 128),
        (PLAIN, {"sliding_window": 100, "layer_types": ["full_attention"] * 4}, 128),
        (QWEN2, {"sliding_window": 100}, 128),
        (QWEN2, {"sliding_window": None, "use_sliding_window": True, "max_window_layers": 0}, 128),
        (QWEN2, {"sliding_window": 100, "use_sliding_window": True, "max_window_layers": 4}, 128),
        (QWEN2, {"sliding_window": 100, "use_sliding_window": True, "max_window_layers": 28}, 128),
        (QWEN2, {"sliding_window": 100, "use_sliding_window": True}, 128),
        (QWEN2, {"sliding_window": 100, "use_sliding_window": True, "max_window_layers": 3}, 100),
        (QWEN2, {"sliding_window": 200, "use_sliding_window": True, "max_window_layers": 0}, 128),
        (QWEN3, {"sliding_window": 9, "use_sliding_window": True, "layer_types": ["full_attention"] * 4}, 128),
        (QWEN3, {"sliding_window": 9, "use_sliding_window": True, "layer_types": ["sliding_attention"] * 4}, 9),
        (QWEN2, {"dual_chunk_attention_config": {"chunk_size": 100, "local_size": 30}}, 70),
        (QWEN2, {"dual_chunk_attention_config": {"chunk_size": 1000, "local_size": 30}}, 128),
    ],
)
def test_a_window_that_would_leave_something_out_limits_the_context(config, values, max_positions, caplog):
    model = read(config, **values)
    assert model.max_positions == max_positions
    stated = values.get("max_position_embeddings", 128)
    assert (model.window is not None) == (max_positions < stated) == bool(caplog.records)
    if caplog.records:
        assert f"is {max_positions}, which isn't supported: sequences have at most so many" in caplog.text


def test_layers_of_other_kinds_are_refused():
    refused("layer_types has ['chunked_attention']; supported: full_attention", layer_types=["chunked_attention"] * 4)
    refused("layer_types has 'full_attention'; supported", layer_types="full_attention")
    sliding = ["full_attention", "sliding_attention"] * 2
    refused("layer_types has 'sliding_attention' and sliding_window is None", layer_types=sliding, sliding_window=None)
    refused("layer_types has 'sliding_attention' and sliding_window is not used", QWEN2, layer_types=sliding)
    refused("sliding_window is [4, 8]; expected an integer", MISTRAL, sliding_window=[4, 8])


# Rotations.


@pytest.mark.parametrize(
    ("values", "max_positions", "default_len"),
    [
        ({"rope_scaling": YARN}, 512, 512),  # as Qwen2.5's card says, with max_position_embeddings as it was
        ({"rope_scaling": YARN, "max_position_embeddings": 160}, 512, 512),  # as Qwen3's
        ({"rope_scaling": YARN, "max_position_embeddings": 512}, 512, 512),  # as DeepSeek's: it has been multiplied
        ({"rope_scaling": {**YARN, "original_max_position_embeddings": None}}, 512, 512),
        ({"rope_scaling": {"type": "linear", "factor": 4.0}}, 128, 128),  # as deepseek-coder, trained for what it says
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, 256, 128),
        ({"max_position_embeddings": 2**31}, 2**24, 2**24),
    ],
)
def test_the_context_is_what_model_cards_say(values, max_positions, default_len):
    model = read(**values)
    assert (model.max_positions, model.default_len) == (max_positions, default_len)


def test_rope_scaling_beside_rope_parameters_is_used():
    saved = {"rope_type": "default", "rope_theta": 5e5}
    model = read(rope_parameters=saved, rope_scaling=YARN)
    assert (model.rope_theta, model.rope_scaling) == (5e5, read(rope_scaling=YARN).rope_scaling)
    assert model.rope_scaling.factor == 4.0
    assert read(rope_parameters={**saved, **YARN}, rope_scaling=YARN) == model  # twice the same
    assert read(rope_theta=5e5, rope_parameters=YARN) == model
    old = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}
    assert read(rope_theta=5e5, rope_scaling=old) == model
    assert read(rope_theta=5e5, rope_scaling={**YARN, "finetuned": True}) == model


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"rope_parameters": YARN, "rope_scaling": {**YARN, "factor": 2.0}},
            "factor is 4.0 in rope_parameters and 2.0 in rope_scaling; expected one of them",
        ),
        (
            {"rope_parameters": YARN, "rope_scaling": {"rope_type": "linear", "factor": 4.0}},
            "rope_type is 'yarn' in rope_parameters and 'linear' in rope_scaling",
        ),
        (
            {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}, "rope_theta": 1e4},
            "rope_theta is 500000.0 in rope_parameters and 10000.0 in config.json",
        ),
        (
            {"rope_scaling": YARN, "original_max_position_embeddings": 64},
            "original_max_position_embeddings is 128 in rope_scaling and 64 in config.json",
        ),
        ({"rope_scaling": {**YARN, "type": "linear"}}, "rope_type is 'yarn' and type is 'linear'"),
        ({"rope_scaling": {"factor": 4.0}}, "rope: rope_type: expected one of default, linear,"),
        ({"rope_scaling": {"rope_type": "linear"}}, "rope: factor: expected a number"),
        ({"rope_scaling": {"rope_type": "dynamic"}}, "rope: factor: expected a number"),
        ({"rope_scaling": {"rope_type": "mrope", "mrope_section": [16, 24, 24]}}, "rope: rope_type is 'mrope'"),
        ({"rope_scaling": {"rope_type": "proportional", "factor": 2.0}}, "rope: rope_type is 'proportional'"),
        ({"rope_parameters": {"rope_type": "default", "factor": 4.0}}, "rope: factor is 4.0; with rope_type 'default'"),
        ({"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "rope: full_attention is {'rope_type'"),
        ({"rope_scaling": {**YARN, "extrapolation_factor": 0.5}}, "rope: extrapolation_factor is 0.5; with rope_type"),
        ({"rope_scaling": {**YARN, "attn_factor": 0.9, "attention_factor": 1.0}}, "rope: attn_factor is 0.9; expected"),
        ({"rope_scaling": {**YARN, "alpha": 1000}}, "rope: alpha is 1000; with rope_type 'yarn' supported"),
        ({"rope_scaling": {**YARN, "low_freq_factor": 1.0}}, "rope: low_freq_factor is 1.0; with rope_type 'yarn'"),
        ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "partial_rotary_factor is 0.5"),
        (
            {"rope_scaling": {"type": "dynamic", "factor": 2.0, "original_max_position_embeddings": 64}},
            "rope: original_max_position_embeddings is 64; expected max_position_embeddings, 128",
        ),
        (
            {"rope_scaling": {"type": "su", "short_factor": [1.0] * 3, "long_factor": [1.0] * 4}},
            "rope: short_factor is [1.0, 1.0, 1.0]; expected a list of 4 numbers",
        ),
        (
            {"rope_scaling": {"type": "longrope", "short_factor": [1.0] * 4, "long_factor": [1.0, 0, 1, 1]}},
            "rope: long_factor[1] is 0; expected a number",
        ),
    ],
)
def test_a_rotation_that_contradicts_itself_or_is_not_understood_is_refused(values, message):
    refused(message, **values)


def test_the_old_names_of_longrope():
    lists = {"short_factor": [1.0] * 4, "long_factor": [2] * 4}
    models = [
        read(original_max_position_embeddings=32, rope_scaling={"type": name, **lists}) for name in ("su", "longrope")
    ]
    assert models[0] == models[1]
    assert models[0].rope_scaling.original_max_positions == 32
    assert models[0].rope_scaling.long_factors == (2.0,) * 4


def test_an_attn_factor_multiplies_as_in_vllm():
    """DeepSeek-R1-0528-Qwen3-8B's: its 0.878 takes YaRN's own magnitude away, which transformers doesn't see."""
    model = read(rope_scaling={**YARN, "attn_factor": 0.8782488562869419})
    assert model.rope_scaling.attention_factor == pytest.approx(1.0)
