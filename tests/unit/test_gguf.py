"""GGUF files written here by the gguf package: types, names, metadata, tokenizer, and what broken ones are told."""

import json
import struct

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Type
from gguf.quants import dequantize, quantize
from tiny import CHAT_TEMPLATE
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from transformers.convert_slow_tokenizer import bytes_to_unicode

from glimp_engine import CheckpointError
from glimp_engine.checkpoints.checkpoint import load_checkpoint
from glimp_engine.checkpoints.gguf import LAYER_NAMES, NAMES, open_gguf
from glimp_engine.checkpoints.gguf_header import read_gguf_header
from glimp_engine.text.messages import Chat
from glimp_engine.text.tokenizer import Text

CPU = torch.device("cpu")
FAMILIES = {
    "llama": (LlamaConfig, LlamaForCausalLM, {}),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM, {}),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM, {"head_dim": 32}),
}
QUERY = "blk.1.attn_q.weight"
TOKENS = [*bytes_to_unicode().values(), "ab", "<|im_start|>", "<|im_end|>", "[unused]"]


def make_model(family, **options):
    config_class, model_class, own = FAMILIES[family]
    torch.manual_seed(3)
    config = config_class(
        vocab_size=len(TOKENS),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        **{"tie_word_embeddings": False, **own, **options},
    )
    return model_class(config)


def to_gguf_name(name):
    *parts, last, kind = name.split(".")
    if parts[:2] != ["model", "layers"]:
        return f"{ {v: k for k, v in NAMES.items()}['.'.join([*parts, last])] }.{kind}"
    inner = ".".join([*parts[3:], last])
    return f"blk.{parts[2]}.{ {v: k for k, v in LAYER_NAMES.items()}[inner] }.{kind}"


def permuted(tensor, num_heads):
    """As llama.cpp's converter orders a Llama's Q and K: the halves of a head interleaved."""
    return tensor.view(num_heads, 2, -1, *tensor.shape[1:]).transpose(1, 2).reshape(tensor.shape)


def tensors_of(model, family):
    tensors = {}
    for name, tensor in model.state_dict().items():
        config = model.config
        heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
        if family == "llama" and ("q_proj" in name or "k_proj" in name):
            tensor = permuted(tensor, heads)
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        tensors[to_gguf_name(name)] = tensor.contiguous().numpy()
    return tensors


def metadata_of(model, family):
    config = model.config
    types = [3 if token.startswith("<|") else 5 if token == "[unused]" else 1 for token in TOKENS]
    return {
        f"{family}.block_count": 2,
        f"{family}.context_length": 128,
        f"{family}.embedding_length": 64,
        f"{family}.feed_forward_length": 96,
        f"{family}.attention.head_count": 4,
        f"{family}.attention.head_count_kv": 2,
        f"{family}.attention.key_length": getattr(config, "head_dim", None) or 16,
        f"{family}.attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        f"{family}.rope.freq_base": config.rope_parameters["rope_theta"],
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.tokens": TOKENS,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": ["a b"],
        "tokenizer.ggml.eos_token_id": TOKENS.index("<|im_end|>"),
        "tokenizer.chat_template": CHAT_TEMPLATE,
    }


def write(path, family, metadata, tensors, types=None, **how):
    writer = gguf.GGUFWriter(path, family, **how)
    for key, value in metadata.items():
        if isinstance(value, list):
            writer.add_array(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        elif isinstance(value, bool):
            writer.add_bool(key, value)
        else:
            (writer.add_uint32 if isinstance(value, int) else writer.add_float32)(key, value)
    for name, tensor in tensors.items():
        kind = (types or {}).get(name)
        writer.add_tensor(name, tensor, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_model(path, model, family, metadata=(), tensors=(), types=None):
    """The model as a file; metadata and tensors are changed as given, None takes one away."""
    pairs = {**metadata_of(model, family), **dict(metadata)}
    contents = {**tensors_of(model, family), **dict(tensors)}
    pairs, contents = ({k: v for k, v in entries.items() if v is not None} for entries in (pairs, contents))
    return write(path / "tiny.gguf", family, pairs, contents, types)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tied", [False, True])
def test_a_file_has_the_weights_it_was_made_of(tmp_path, family, tied):
    model = make_model(family, tie_word_embeddings=tied, rope_theta=500.0, rms_norm_eps=0.5)
    model.save_pretrained(tmp_path)
    config, weights = load_checkpoint(write_model(tmp_path, model, family), torch.float32, CPU)
    expected_config, expected = load_checkpoint(tmp_path, torch.float32, CPU)
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in weights)
    assert vars(config) == {**vars(expected_config), "dtype": None}


@pytest.mark.parametrize("biased", ["attention_bias", "mlp_bias"])
def test_biases_are_seen_by_their_presence(tmp_path, biased):
    model = make_model("llama", **{biased: True})
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    model.save_pretrained(tmp_path)
    config, weights = load_checkpoint(write_model(tmp_path, model, "llama"), torch.float32, CPU)
    _, expected = load_checkpoint(tmp_path, torch.float32, CPU)
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    assert config.qkv_bias == config.output_bias == (biased == "attention_bias") != config.mlp_bias


def random_blocks(kind, num_rows, num_columns):
    """Bytes of a type that the package can't quantise to: any bits, but for the scales, which are small halves."""
    block_size, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    blocks = np.random.default_rng(kind).integers(0, 256, (num_rows * num_columns // block_size, block_bytes), np.uint8)
    scales = {Type.Q4_K: (0, 2), Type.Q5_K: (0, 2), Type.Q6_K: (208,)}[kind]
    for at in scales:
        blocks[:, at : at + 2] = np.frombuffer(np.float16(0.01).tobytes(), np.uint8)
    return blocks.reshape(num_rows, -1)


@pytest.mark.parametrize("name", ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K"])
def test_types(tmp_path, name):
    kind, columns = Type[name], 512
    x = np.random.default_rng(1).standard_normal((6, columns)).astype(np.float32)
    data = random_blocks(kind, 6, columns) if name.endswith("_K") else quantize(x, kind)
    expected = dequantize(data, kind)
    assert np.isfinite(expected).all()
    assert expected.std() > 0.1
    model = make_model("qwen2")
    path = write_model(tmp_path, model, "qwen2", tensors={"a.b": data}, types={"a.b": kind})
    tensor = open_gguf(path)[1]["a.b"]
    assert tensor.shape == (6, columns)
    assert torch.equal(tensor.read().float(), torch.from_numpy(np.ascontiguousarray(expected, np.float32)))


def test_stretched_rotations(tmp_path):
    metadata = {"type": "yarn", "factor": 4.0, "original_context_length": 32}
    metadata = {f"qwen2.rope.scaling.{key}": value for key, value in metadata.items()}
    rope = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "rope_theta": 10000.0}
    model = make_model("qwen2", rope_parameters=rope)
    model.save_pretrained(tmp_path)
    config, _ = open_gguf(write_model(tmp_path, model, "qwen2", metadata))
    expected, _ = load_checkpoint(tmp_path, None, CPU)
    assert config.rope_scaling == expected.rope_scaling


def test_llama3_frequencies_come_as_a_tensor(tmp_path):
    factors = np.array([1, 1, 2, 4, 8, 8, 8, 8], np.float32)
    path = write_model(tmp_path, make_model("llama"), "llama", tensors={"rope_freqs.weight": factors})
    _, weights = load_checkpoint(path, torch.bfloat16, CPU)
    assert weights["rope_freqs.weight"].dtype == torch.float32
    assert weights["rope_freqs.weight"].tolist() == factors.tolist()


def test_the_tokenizer_and_the_chat_template(tmp_path):
    text = Text.load(write_model(tmp_path, make_model("qwen2"), "qwen2"), len(TOKENS))
    end, merged = TOKENS.index("<|im_end|>"), TOKENS.index("ab")
    assert text.encode("ab<|im_end|>", allow_special=True) == [merged, end]
    assert text.decode(text.encode("a é語 <|im_end|>\n\n", allow_special=False)) == "a é語 <|im_end|>\n\n"
    assert text.end_token_ids == {end}
    chat = text.encode_chat(Chat([{"role": "user", "content": "ab"}]))
    assert b"".join(text.bytes_of(i) for i in chat) == b"<|im_start|>user\nab<|im_end|>\n<|im_start|>assistant\n"


def test_the_begin_token_is_put_before_prompts_if_the_file_says_so(tmp_path):
    begin = TOKENS.index("<|im_start|>")
    metadata = {"tokenizer.ggml.bos_token_id": begin}
    for add, expected in ((1, [begin, TOKENS.index("ab")]), (0, [TOKENS.index("ab")])):
        path = write_model(tmp_path, make_model("qwen2"), "qwen2", {**metadata, "tokenizer.ggml.add_bos_token": add})
        text = Text.load(path, len(TOKENS))
        assert text.encode("ab", allow_special=True) == expected
        assert text.encode("ab", allow_special=False) == [TOKENS.index("ab")]


def test_the_header_is_what_the_gguf_package_reads(tmp_path):
    path = write_model(tmp_path, make_model("qwen3"), "qwen3")
    header, reader = read_gguf_header(path), gguf.GGUFReader(path)
    theirs = {key: field.contents() for key, field in reader.fields.items() if not key.startswith("GGUF.")}
    assert header.metadata == theirs
    assert [(t.name, t.shape, t.ggml_type, t.offset) for t in header.tensors] == [
        (t.name, tuple(reversed(t.shape.tolist())), t.tensor_type, t.data_offset) for t in reader.tensors
    ]


@pytest.mark.parametrize(
    ("metadata", "tensors", "message"),
    [
        ({}, {QUERY: None}, "tensor model.layers.1.self_attn.q_proj.weight: expected shape (64, 64), found none"),
        ({}, {"token_embd.weight": None}, "tensor token_embd.weight: expected, found none"),
        ({}, {QUERY: np.ones((64, 60), np.float32)}, "q_proj.weight: expected shape (64, 64), found (64, 60)"),
        ({}, {"blk.2.attn_q.weight": np.ones(3, np.float32)}, "model.layers.2.self_attn.q_proj.weight: expected none"),
        ({}, {"strange": np.ones(3, np.float32)}, "tensor strange: expected none of this name, found shape (3,)"),
        ({}, {QUERY: np.ones((64, 64), np.float64)}, f"tensor {QUERY}: type is F64; supported: F32, F16"),
        (
            {"qwen2.context_length": None},
            {},
            "qwen2.context_length: expected an integer from 1 to 1099511627776, found none",
        ),
        ({"qwen2.attention.head_count_kv": 3}, {}, "num_key_value_heads is 3; expected a divisor of 4"),
        ({"qwen2.rope.dimension_count": 8}, {}, "qwen2.rope.dimension_count is 8; supported: 16"),
        ({"qwen2.rope.scaling.type": "longrope"}, {}, "rope.scaling.type is 'longrope'; expected none, linear or yarn"),
    ],
)
def test_what_would_give_wrong_tokens_is_refused(tmp_path, metadata, tensors, message):
    path = write_model(tmp_path, make_model("qwen2"), "qwen2", metadata, tensors)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path, None, CPU)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"tokenizer.ggml.tokens": None}, "tokenizer.ggml.tokens: expected a list of strings, found none"),
        ({"tokenizer.ggml.merges": None}, "tokenizer.ggml.merges: expected a list of strings, found none"),
        ({"tokenizer.ggml.model": "rwkv"}, "tokenizer.ggml.model is 'rwkv'; expected gpt2, llama or gemma4"),
    ],
)
def test_a_tokenizer_that_cannot_be_built_is_named(tmp_path, metadata, message):
    path = write_model(tmp_path, make_model("qwen2"), "qwen2", metadata)
    with pytest.raises(CheckpointError, match=message):
        Text.load(path, len(TOKENS))


def test_an_unknown_architecture_is_named(tmp_path):
    path = write(tmp_path / "x.gguf", "mamba", {}, {"a": np.ones(1, np.float32)})
    with pytest.raises(CheckpointError, match=r"general.architecture is 'mamba'; supported: llama, qwen2, qwen3"):
        open_gguf(path)


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("sound"), make_model("qwen2"), "qwen2").read_bytes()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda blob: b"", "expected a GGUF file"),
        (lambda blob: b"GGML" + blob[4:], "expected a GGUF file"),
        (lambda blob: b"GGUF" + struct.pack("<I", 1) + blob[8:], "expected GGUF version 2 or 3, found 1"),
        (lambda blob: blob[:10], "the GGUF header is damaged or cut short"),
        (lambda blob: blob[:1000], "the GGUF header is damaged or cut short"),
        (lambda blob: blob[:-100], r"expected \d+ bytes at \d+, found a file of \d+"),
        (lambda blob: blob[:16] + b"\xff" * 8 + blob[24:], "damaged or cut short"),
        (lambda blob: blob[:24] + b"\xff" * 8 + blob[32:], "damaged or cut short"),
    ],
)
def test_broken_files_are_named(tmp_path, sound, damage, message):
    path = tmp_path / "broken.gguf"
    path.write_bytes(damage(sound))
    with pytest.raises(CheckpointError, match=message) as caught:
        open_gguf(path)
    assert str(path) in str(caught.value)


def test_cut_anywhere_in_its_header_a_file_is_refused(tmp_path, sound):
    path = tmp_path / "cut.gguf"
    end_of_header = read_gguf_header(tmp_path_with(tmp_path, sound)).tensors[0].offset
    for length in range(0, end_of_header, 97):
        path.write_bytes(sound[:length])
        with pytest.raises(CheckpointError, match=json.dumps(str(path))[1:-1]):
            open_gguf(path)


def tmp_path_with(tmp_path, blob):
    (tmp_path / "sound.gguf").write_bytes(blob)
    return tmp_path / "sound.gguf"
