"""Files from strangers: each kind by its name, limits before memory, whatever is raised is a CheckpointError."""

import json
import os
import shutil
import struct

import gguf
import numpy as np
import pytest
import torch
from unit.test_gguf import TOKENS, make_model, write_model

from glimp_engine import CheckpointError
from glimp_engine.checkpoints.checkpoint import load_checkpoint
from glimp_engine.checkpoints.fields import Fields
from glimp_engine.checkpoints.files import reading
from glimp_engine.checkpoints.fingerprint import fingerprint
from glimp_engine.checkpoints.gguf import open_gguf
from glimp_engine.checkpoints.gguf_header import read_gguf_header
from glimp_engine.text.tokenizer import Text
from glimp_engine.text.tokenizer_json import check_regex

CPU = torch.device("cpu")


@pytest.fixture
def path(small_path, tmp_path):
    """A copy of a sound directory, which a test may break."""
    return shutil.copytree(small_path, tmp_path / "model")


@pytest.fixture
def file(tmp_path):
    """A sound GGUF file, which a test may break."""
    return write_model(tmp_path, make_model("qwen2"), "qwen2")


def edit(file, **values):
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def refused(load, *parts):
    with pytest.raises(CheckpointError) as caught:
        load()
    for part in parts:
        assert part in str(caught.value), str(caught.value)


# The reader and the guard.


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (lambda f: f.integer("a", 1, 9), "here: p.a: expected an integer from 1 to 9, found none"),
        (lambda f: f.integer("true", 1, 9), "here: p.true is True; expected an integer from 1 to 9"),
        (lambda f: f.integer("float", 1, 9), "here: p.float is 2.5; expected an integer"),
        (lambda f: f.number("nan", 0, 1), "here: p.nan is nan; expected a number from 0 to 1"),
        (lambda f: f.number("text", 0, 1), "here: p.text is 'xxx"),
        (lambda f: f.flag("float", False), "here: p.float is 2.5; expected true or false"),
        (lambda f: f.texts("list"), "here: p.list[1] is 1; expected string"),
        (lambda f: f.texts("float"), "here: p.float is 2.5; expected a list of strings"),
        (lambda f: f.one_or_more_integers("list"), "here: p.list[0] is 'a'; expected integer"),
    ],
)
def test_a_value_is_named_with_what_was_expected(read, message):
    values = {"true": True, "float": 2.5, "nan": float("nan"), "text": "x" * 999, "list": ["a", 1]}
    with pytest.raises(CheckpointError) as caught:
        read(Fields({f"p.{key}": value for key, value in values.items()}, "here", "p."))
    assert str(caught.value).startswith(message)
    assert len(str(caught.value)) < 200


def test_whatever_is_raised_names_the_file_and_interrupts_pass(tmp_path):
    class Panic(BaseException):
        """As tokenizers raises it."""

    for error in (Panic("lost"), MemoryError(), RecursionError(), KeyError("k")):
        found = f"model: expected a thing, found: {type(error).__name__}"
        with pytest.raises(CheckpointError, match=found), reading(tmp_path / "model", "a thing"):
            raise error
    for interrupt in (KeyboardInterrupt, SystemExit):
        with pytest.raises(interrupt), reading(tmp_path, "a thing"):
            raise interrupt


# What is no model at all.


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"])
def test_a_pipe_in_a_files_place_is_not_waited_for(path, name):
    (path / name).unlink(missing_ok=True)
    os.mkfifo(path / name)
    load = Text.load if name.startswith(("tokenizer", "chat")) else lambda path, _: load_checkpoint(path, None, CPU)
    refused(lambda: load(path, 10), f"{path / name}: expected a file, found a named pipe")
    if name in ("config.json", "model.safetensors"):
        refused(lambda: fingerprint(path), "found a named pipe")


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "found a Git LFS pointer"),
        (b"\n <!DOCTYPE html><html></html>", "found an HTML page"),
        (b"PK\x03\x04" + bytes(99), "found a zip archive"),
    ],
)
def test_what_lies_in_a_models_place_is_named(path, file, contents, message):
    for broken, load in (
        (path / "model.safetensors", lambda: load_checkpoint(path, None, CPU)),
        (path / "tokenizer.json", lambda: Text.load(path, 10)),
        (file, lambda: open_gguf(file)),
    ):
        broken.write_bytes(contents)
        refused(load, f"{broken}: {message}")


def test_kinds_of_gguf_files_are_named(file):
    sound = file.read_bytes()
    file.write_bytes(sound[:4] + struct.pack(">I", 3) + sound[8:])
    refused(lambda: open_gguf(file), "found 3, in a file for big-endian machines")
    file.write_bytes(sound[:-1000])
    refused(lambda: open_gguf(file), "the file is cut short")
    kind = gguf.GGMLQuantizationType.IQ4_NL
    blocks = np.zeros((64, 2 * gguf.GGML_QUANT_SIZES[kind][1]), np.uint8)
    name = "blk.0.attn_q.weight"
    write_model(file.parent, make_model("qwen2"), "qwen2", (), {name: blocks}, {name: kind})
    refused(lambda: open_gguf(file), f"tensor {name}: type is IQ4_NL, an i-quant; supported: F32")


# Limits that hold before memory is taken.


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_position_embeddings": 2**63}, f"max_position_embeddings is {2**63}; expected an integer from 1 to"),
        ({"num_hidden_layers": 2**20}, "num_hidden_layers is 1048576; expected an integer from 1 to 4096"),
        ({"num_hidden_layers": 4000}, "expected 4000 layers, found"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps is nan; expected a number"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 0}}, "rope: factor is 0; expected a number"),
        ({"rope_parameters": []}, "rope_parameters is []; expected an object"),
        ({"architectures": [{}]}, "architectures is [{}]; supported"),
        ({"dtype": "load"}, "dtype is 'load'; supported: float32"),
    ],
)
def test_a_configuration_has_limits(path, values, message):
    edit(path / "config.json", **values)
    refused(lambda: load_checkpoint(path, None, CPU), str(path), message)


@pytest.mark.parametrize(
    ("at", "count", "message"),
    [(8, 2**62, "tensors, found"), (16, 2**40, "pairs, found"), (16, 2**64 - 1, "pairs, found")],
)
def test_counts_in_a_gguf_header_are_held_against_its_size(file, at, count, message):
    blob = bytearray(file.read_bytes())
    blob[at : at + 8] = struct.pack("<Q", count)
    file.write_bytes(blob)
    refused(lambda: read_gguf_header(file), f"expected {count} {message}", "bytes left for them")


def test_an_array_is_held_against_the_files_size(file):
    blob = bytearray(file.read_bytes())
    at = blob.index(b"tokenizer.ggml.token_type") + len("tokenizer.ggml.token_type") + 4 + 4
    blob[at : at + 8] = struct.pack("<Q", 2**61)
    file.write_bytes(blob)
    refused(lambda: read_gguf_header(file), f"expected {2**61} values of tokenizer.ggml.token_type")


def test_what_is_not_utf8_is_refused_in_the_vocabulary_alone(tmp_path):
    file = write_model(tmp_path, make_model("qwen2"), "qwen2", {"general.name": "nobody's"})
    sound = file.read_bytes()
    file.write_bytes(sound.replace(b"nobody's", b"nobody\xff\xfe"))
    assert read_gguf_header(file).metadata["general.name"] == "nobody\ufffd\ufffd"
    assert Text.load(file, len(TOKENS)).num_tokens
    file.write_bytes(sound.replace(b"[unused]", b"[unuse\xff]"))
    refused(lambda: read_gguf_header(file), f"tokenizer.ggml.tokens[{TOKENS.index('[unused]')}] is b'[unuse\\xff]'")


# Tokenizers.

DOUBLING = {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"normalizer": {"type": "Sequence", "normalizers": [DOUBLING] * 7}}, "expected text to grow 64 times at most"),
        ({"normalizer": {"type": "Sequence", "normalizers": [DOUBLING] * 99}}, "expected at most 64 parts, found 100"),
        ({"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "(a+)+"}}}, "repeats a repetition"),
        ({"added_tokens": [{"content": f"<{i}>"} for i in range(131073)]}, "added_tokens: expected at most 131072"),
        ({"added_tokens": [{"content": "x" * 5000}]}, "expected content of at most 4096 characters"),
        ({"model": {"type": "Unigram", "vocab": [], "unk_id": 5}}, "expected a tokenizer, found: "),
    ],
)
def test_a_tokenizer_that_would_harm_the_process_is_refused(path, sections, message):
    edit(path / "tokenizer.json", **sections)
    refused(lambda: Text.load(path, 500), str(path), message)


def test_padding_is_dropped(path):
    before = Text.load(path, 500).encode("a b", allow_special=True)
    padding = {"strategy": {"Fixed": 2**40}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0}
    edit(path / "tokenizer.json", padding={**padding, "pad_type_id": 0, "pad_token": "a"})
    assert Text.load(path, 500).encode("a b", allow_special=True) == before


@pytest.mark.parametrize(
    "pattern",
    [
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s+(?!\S)|\s+",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{M}]*[\p{Ll}\p{M}]+(?i:'s|'t)?|\s*[\r\n/]+|\s+(?!\S)",
        r"[^\r\n\p{L}\p{N}]?((?=[\p{L}])([^a-z]))*((?=[\p{L}])([^A-Z]))+(?:'[sS])?",  # Kimi
        r" ?[^(\s|[.,!?…。，、।۔،])]+",  # noqa: RUF001  Bloom
        r"[()+*]+|(\(\+\))+",
    ],
)
def test_patterns_of_known_models_are_taken(pattern):
    check_regex(pattern, "here")


@pytest.mark.parametrize("pattern", ["(a+)+", "(?:(a|b*)c)*", "(x{2,}y)+", "((a+))*", "(?<n>a\\g<n>?b)", "a" * 5000, 3])
def test_patterns_that_may_never_end_are_not(pattern):
    refused(lambda: check_regex(pattern, "here"), "here: the pattern")
