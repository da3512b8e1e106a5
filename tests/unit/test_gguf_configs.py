"""What GGUF metadata says: keys that change the output, rotations, windows."""

import pytest
from unit.test_gguf import make_model, write_model

from glimp_engine import CheckpointError
from glimp_engine.checkpoints.gguf import open_gguf


def read_gguf(tmp_path, metadata, family="qwen2"):
    pairs = {f"{family}.{key}": value for key, value in metadata.items()}
    return open_gguf(write_model(tmp_path, make_model(family), family, pairs))[0]


@pytest.mark.parametrize(
    ("metadata", "rope_type", "factor", "attention_factor"),
    [
        ({"rope.scaling.factor": 4.0}, "linear", 4.0, 1.0),
        ({"rope.scale_linear": 4.0}, "linear", 4.0, 1.0),
        ({"rope.scale_linear": 4.0, "rope.scaling.factor": 4.0}, "linear", 4.0, 1.0),
        ({"rope.scale_linear": 2.0, "rope.scaling.factor": 0.0}, "linear", 2.0, 1.0),
        ({"rope.scaling.type": "linear", "rope.scaling.factor": 4.0}, "linear", 4.0, 1.0),
        ({"rope.scaling.attn_factor": 1.25}, "linear", 1.0, 1.25),
        ({"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0}, "yarn", 4.0, 1.1386294),
        (
            {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0, "rope.scaling.yarn_attn_factor": 2.0},
            "yarn",
            4.0,
            2.2772589,
        ),
    ],
)
def test_how_a_gguf_file_is_stretched(tmp_path, metadata, rope_type, factor, attention_factor):
    scaling = read_gguf(tmp_path, metadata).rope_scaling
    assert (scaling.rope_type, scaling.factor) == (rope_type, factor)
    assert scaling.attention_factor == pytest.approx(attention_factor)


@pytest.mark.parametrize(
    "metadata",
    [
        {"rope.scaling.type": "none"},
        {"rope.scaling.type": "none", "rope.scaling.factor": 1.0},
        {"rope.scaling.factor": 0.0},
        {"rope.scale_linear": 1.0},
        {"attention.scale": 0.25, "logit_scale": 1.0, "residual_scale": 0.0, "use_parallel_residual": False},
        {"attention.scale": 0.0, "final_logit_softcapping": 0.0, "attention.value_length": 16, "vocab_size": 260},
        {"attention.sliding_window": 0, "expert_count": 0, "expert_used_count": 0},
        {"attention.sliding_window": 128, "rope.scaling.finetuned": False, "attention.causal": True},
    ],
)
def test_what_changes_nothing_in_a_gguf_file(tmp_path, metadata):
    assert read_gguf(tmp_path, metadata) == read_gguf(tmp_path, {})


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"attention.scale": 0.125}, "qwen2.attention.scale is 0.125, which may change the output"),
        ({"logit_scale": 0.0625}, "qwen2.logit_scale is 0.0625, which"),
        ({"residual_scale": 0.25}, "qwen2.residual_scale is 0.25, which"),
        ({"embedding_scale": 12.0}, "qwen2.embedding_scale is 12.0, which"),
        ({"attn_logit_softcapping": 50.0}, "qwen2.attn_logit_softcapping is 50.0, which"),
        ({"final_logit_softcapping": 30.0}, "qwen2.final_logit_softcapping is 30.0, which"),
        ({"attention.clamp_kqv": 8.0}, "qwen2.attention.clamp_kqv is 8.0, which"),
        ({"attention.max_alibi_bias": 8.0}, "qwen2.attention.max_alibi_bias is 8.0, which"),
        ({"attention.causal": False}, "qwen2.attention.causal is False, which"),
        ({"pooling_type": 3}, "qwen2.pooling_type is 3, which"),
        ({"something.of.tomorrow": 7}, "qwen2.something.of.tomorrow is 7, which"),
        ({"attention.value_length": 32}, "qwen2.attention.value_length is 32; supported: 16"),
        ({"rope.scaling.yarn_log_multiplier": 0.1}, "qwen2.rope.scaling.yarn_log_multiplier is 0.1"),
        ({"rope.scaling.yarn_ext_factor": 0.5}, "qwen2.rope.scaling.yarn_ext_factor is 0.5; expected 1.0"),
        (
            {"rope.scaling.type": "none", "rope.scaling.factor": 4.0},
            "qwen2.rope.scaling.type is 'none'; expected linear",
        ),
        ({"rope.scaling.type": "longrope"}, "qwen2.rope.scaling.type is 'longrope'; expected none, linear or yarn"),
        ({"rope.scaling.factor": 4.0, "rope.scale_linear": 2.0}, "qwen2.rope.scale_linear is 2.0; expected the same"),
        ({"rope.dimension_sections": [16, 24, 24, 0]}, "qwen2.rope.dimension_sections is [16, 24, 24, 0], which"),
    ],
)
def test_what_would_change_the_output_of_a_gguf_file_is_refused(tmp_path, metadata, message):
    with pytest.raises(CheckpointError) as caught:
        read_gguf(tmp_path, metadata)
    assert message in str(caught.value), str(caught.value)


def test_a_window_limits_a_gguf_file_too(tmp_path):
    assert read_gguf(tmp_path, {"attention.sliding_window": 100}).max_positions == 100


def test_a_context_that_no_memory_holds_is_no_reason_to_refuse(tmp_path):
    assert read_gguf(tmp_path, {"context_length": 2**31}).max_positions == 2**24
