"""Directories of safetensors: what is read, and what each broken one is told."""

import json
import shutil
from fnmatch import fnmatch

import pytest
import torch
from safetensors.torch import load_file, save_file

from glimp_engine import CheckpointError, ConfigError
from glimp_engine.checkpoints.checkpoint import load_checkpoint, locate, open_checkpoint
from glimp_engine.checkpoints.tensors import FREQ_FACTORS
from glimp_engine.kernels.native import NativeOps
from glimp_engine.models.native_weights import read_weights

CPU = torch.device("cpu")
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
QUERY = "model.layers.1.self_attn.q_proj.weight"


@pytest.fixture
def path(small_path, tmp_path):
    """A copy that a test may break."""
    return shutil.copytree(small_path, tmp_path / "model")


def load(path, dtype=None):
    return load_checkpoint(path, dtype, CPU)


def edit_config(path, **values):
    file = path / "config.json"
    config = {**json.loads(file.read_text()), **values}
    file.write_text(json.dumps({key: value for key, value in config.items() if value != "absent"}))


def edit_tensors(path, edit):
    file = path / "model.safetensors"
    tensors = load_file(file)
    edit(tensors)
    save_file(tensors, file)


def refused(path, *parts):
    """The checkpoint is refused with a message that holds all parts."""
    with pytest.raises(CheckpointError) as caught:
        load(path)
    for part in parts:
        assert part in str(caught.value), str(caught.value)


def shard(path, *shards):
    """Split the tensors by name over files; the index names them."""
    tensors = load_file(path / "model.safetensors")
    (path / "model.safetensors").unlink()
    weight_map = {name: shards[i % len(shards)] for i, name in enumerate(sorted(tensors))}
    for file in shards:
        save_file({name: tensors[name] for name, home in weight_map.items() if home == file}, path / file)
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def test_tensors_are_read_as_they_are(path):
    config, weights = load(path)
    stored = load_file(path / "model.safetensors")
    assert weights.keys() == stored.keys()
    assert all(torch.equal(weights[name], stored[name]) for name in stored)
    assert config.dtype == torch.float32
    assert {weight.dtype for weight in load(path, torch.bfloat16)[1].values()} == {torch.bfloat16}


def test_the_dtype_is_the_checkpoints_own(path):
    edit_tensors(path, lambda tensors: tensors.update({name: t.bfloat16() for name, t in tensors.items()}))
    for key in ("dtype", "torch_dtype"):  # of transformers 5, and of 4
        edit_config(path, dtype="absent", torch_dtype="absent")
        edit_config(path, **{key: "bfloat16"})
        assert {weight.dtype for weight in load(path)[1].values()} == {torch.bfloat16}
    edit_config(path, dtype="absent", torch_dtype="absent")
    assert {weight.dtype for weight in load(path)[1].values()} == {torch.float32}


def test_shards_are_one_checkpoint(path):
    expected = load(path)[1]
    shard(path, "a.safetensors", "b.safetensors", "c.safetensors")
    weights = load(path)[1]
    assert list(weights) == list(expected)
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


def test_a_tied_head_may_be_stored_twice(path, caplog):
    edit_config(path, tie_word_embeddings=True)
    for dtype in (torch.float32, torch.float64):
        edit_tensors(path, lambda t, dtype=dtype: t.update({HEAD: t[EMBEDDING].to(dtype, copy=True)}))
        config, weights = load(path)
        assert config.tied_embeddings
        assert HEAD not in weights
    edit_tensors(path, lambda tensors: tensors.pop(HEAD))
    assert HEAD not in load(path)[1]
    assert not caplog.records


def test_a_head_that_is_stored_is_used_whatever_the_configuration_says(path, caplog):
    """By both readers: transformers ties it, and writes other tokens than the checkpoint's maker has seen."""
    edit_config(path, tie_word_embeddings=True)
    stored = load_file(path / "model.safetensors")[HEAD]
    config, weights = load(path)
    assert not config.tied_embeddings
    assert torch.equal(weights[HEAD], stored)
    assert f"{path}: tie_word_embeddings is true, and {HEAD} isn't the embedding" in caplog.text
    config, tensors = open_checkpoint(path)
    native = read_weights(path, tensors, NativeOps(1), None, None)
    assert not config.tied_embeddings
    assert torch.equal(native.by_name[HEAD].data, stored)

    def change_last(tensors):
        tensors[HEAD] = tensors[EMBEDDING].clone()
        tensors[HEAD][-1, -1] += 1

    edit_tensors(path, change_last)
    assert not load(path)[0].tied_embeddings


def test_a_head_of_another_shape_is_not_taken_for_the_embeddings_copy(path):
    edit_config(path, tie_word_embeddings=True)
    edit_tensors(path, lambda t: t.update({HEAD: t[EMBEDDING][:-1].clone()}))
    refused(path, f"tensor {HEAD}: expected shape")


def test_frequencies_that_repeat_the_configuration_are_let_be(path):
    edit_tensors(path, lambda t: t.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}))
    assert FREQ_FACTORS not in load(path)[1]


@pytest.mark.parametrize(
    ("edit", "parts"),
    [
        (lambda t: t.pop(QUERY), (f"tensor {QUERY}: expected shape (32, 32), found none",)),
        (lambda t: t.pop("lm_head.weight"), ("tensor lm_head.weight: expected shape", "found none")),
        (
            lambda t: t.update({QUERY: torch.ones(32, 31)}),
            ("model.safetensors", f"tensor {QUERY}: expected shape (32, 32), found (32, 31)"),
        ),
        (
            lambda t: t.update({"model.layers.2.mlp.up_proj.weight": torch.ones(2)}),
            ("model.safetensors", "model.layers.2.mlp.up_proj.weight: expected none of this name, found shape (2,)"),
        ),
        (lambda t: t.update({"model.layers.0.self_attn.o_proj.bias": torch.ones(32)}), ("o_proj.bias: expected none",)),
    ],
    ids=["missing", "missing-head", "wrong-shape", "left-over", "unexpected-bias"],
)  # fmt: skip
def test_every_tensor_by_exact_name_and_shape(path, edit, parts):
    edit_tensors(path, edit)
    refused(path, *parts)


def cut_short(path):
    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def store_twice(path):
    shard(path, "a.safetensors", "b.safetensors")
    both = {**load_file(path / "a.safetensors"), **load_file(path / "b.safetensors")}
    save_file({QUERY: both[QUERY]} | load_file(path / "a.safetensors"), path / "a.safetensors")
    save_file({QUERY: both[QUERY]} | load_file(path / "b.safetensors"), path / "b.safetensors")


def lose_shard(path):
    shard(path, "a.safetensors", "b.safetensors")
    (path / "b.safetensors").unlink()


def lead_outside(path):
    shard(path, "a.safetensors")
    outside = path.parent / "a.safetensors"
    shutil.move(path / "a.safetensors", outside)
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {QUERY: "../a.safetensors"}}))


def pickle_only(path):
    (path / "model.safetensors").rename(path / "pytorch_model.bin")


def write(name, text):
    return lambda path: (path / name).write_text(text)


@pytest.mark.parametrize(
    ("damage", "parts"),
    [
        (cut_short, ("model.safetensors: expected a safetensors file, found:",)),
        (write("model.safetensors", "no weights"), ("model.safetensors: expected a safetensors file, found:",)),
        (store_twice, (f"b.safetensors: tensor {QUERY}: expected once, found in", "a.safetensors")),
        (lose_shard, ("index.json: expected the shard b.safetensors beside it, found none",)),
        (lead_outside, ("index.json: expected the shard a.safetensors beside it, found none",)),
        (pickle_only, ("expected model.safetensors or model.safetensors.index.json, found pytorch_model.bin",)),
        (lambda path: (path / "model.safetensors").unlink(), ("found no weights",)),
        (lambda path: (path / "config.json").unlink(), ("config.json: expected this file, found none",)),
        (write("config.json", "{"), ("config.json: expected JSON, found:",)),
        (write("config.json", "[]"), ("config.json: expected an object, found list",)),
        (write("model.safetensors.index.json", "{}"), ("index.json: expected a weight_map, found None",)),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_broken_files_are_named(path, damage, parts):
    damage(path)
    refused(path, *parts)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"architectures": ["GPT2LMHeadModel"]}, "architectures is ['GPT2LMHeadModel']; supported: LlamaForCausalLM"),
        ({"hidden_size": "absent"}, "hidden_size: expected an integer from 1 to"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0; expected"),
        ({"num_attention_heads": "4"}, "num_attention_heads is '4'; expected"),
        ({"vocab_size": True}, "vocab_size is True; expected"),
        ({"num_key_value_heads": 3}, "num_key_value_heads is 3; expected a divisor of 4"),
        ({"head_dim": 7}, "head_dim is 7; expected an even"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'; supported: 'silu'"),
    ],
)  # fmt: skip
def test_what_would_give_wrong_tokens_is_refused(path, values, message):
    edit_config(path, **values)
    refused(path, "config.json: " + message)


@pytest.mark.parametrize(
    "make",
    [
        lambda path: path / "absent" / "deep" / "er",
        lambda path: path / "model.safetensors",
        lambda path: "no model",
        lambda path: path / "absent.gguf",
    ],
)
def test_what_is_no_model_at_all_is_refused(path, make):
    with pytest.raises(ConfigError, match=r"model is '.*'; allowed: a directory, a \.gguf file, or a hub id"):
        locate(make(path))


def test_a_hub_id_that_cannot_be_had_is_a_checkpoint_error(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match="nobody/nothing: no such directory here, and the hub gave"):
        locate("nobody/nothing")


def test_a_hub_id_is_fetched_without_pickles_or_code(path, monkeypatch):
    fetched = {}
    monkeypatch.setattr(
        "glimp_engine.checkpoints.checkpoint.snapshot_download", lambda name, **o: fetched.update({name: o}) or path
    )
    assert locate("owner/some-model.v1") == path
    patterns = fetched["owner/some-model.v1"]["allow_patterns"]
    names = [
        "model-00001-of-00002.safetensors",
        "config.json",
        "chat_template.jinja",
        "pytorch_model.bin",
        "modeling.py",
    ]
    assert [any(fnmatch(name, pattern) for pattern in patterns) for name in names] == [True, True, True, False, False]


def test_paths_are_taken_as_they_are(path, monkeypatch):
    assert locate(path) == locate(str(path)) == path
    monkeypatch.setenv("HOME", str(path.parent))
    assert locate("~/model") == path
