"""Names of GGUF files, and split ones as the gguf package, which is llama.cpp's own, writes them."""

import shutil
import struct

import pytest
import torch
from unit.test_gguf import TOKENS, make_model, metadata_of, tensors_of, write, write_model

from glimp_engine import CheckpointError
from glimp_engine.checkpoints.checkpoint import load_checkpoint, locate
from glimp_engine.checkpoints.fingerprint import fingerprint
from glimp_engine.checkpoints.gguf import open_gguf
from glimp_engine.checkpoints.gguf_header import read_gguf_header
from glimp_engine.text.tokenizer import Text

CPU = torch.device("cpu")


@pytest.fixture
def whole(tmp_path):
    return write_model(tmp_path, make_model("llama"), "llama")


@pytest.fixture
def parts(tmp_path):
    """The same model in several files."""
    (tmp_path / "split").mkdir()
    model = make_model("llama")
    write(
        tmp_path / "split" / "m.gguf", "llama", metadata_of(model, "llama"), tensors_of(model, "llama"),
        split_max_tensors=8,
    )  # fmt: skip
    found = sorted((tmp_path / "split").iterdir())
    assert [file.name for file in found] == [f"m-0000{i}-of-00003.gguf" for i in (1, 2, 3)]
    return found


def refused(path, *messages):
    with pytest.raises(CheckpointError) as caught:
        open_gguf(path)
    for message in messages:
        assert message in str(caught.value), str(caught.value)


def same_weights(one, other):
    (config, weights), (expected_config, expected) = (load_checkpoint(path, None, CPU) for path in (one, other))
    assert config == expected_config
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


def test_the_first_part_loads_all(whole, parts):
    same_weights(parts[0], whole)
    assert Text.load(parts[0], len(TOKENS)).end_token_ids == Text.load(whole, len(TOKENS)).end_token_ids


def test_a_first_part_without_tensors(whole, tmp_path):
    model = make_model("llama")
    how = {"split_max_tensors": 20, "small_first_shard": True}
    write(tmp_path / "s.gguf", "llama", metadata_of(model, "llama"), tensors_of(model, "llama"), **how)
    same_weights(tmp_path / "s-00001-of-00003.gguf", whole)


def test_a_part_that_is_missing_or_another_is_named(parts):
    names = [file.name for file in parts]
    refused(parts[1], f"expected the first part of a split GGUF, found part 2 of 3: give {names[0]}")
    aside = parts[1].rename(parts[1].with_name("aside"))
    refused(parts[0], f"{parts[0]}: expected part 2 of 3 beside it, {names[1]}, found none")
    shutil.copy(parts[2], parts[1])
    refused(parts[0], f"{parts[1]}: expected part 2 of 3, found part 3 of 3")
    aside.rename(parts[1])
    other = parts[0].rename(parts[0].with_name("renamed.gguf"))
    refused(other, f"{other}: expected a name that ends with -00001-of-00003.gguf")


def test_parts_hold_as_many_tensors_as_the_first_one_says(parts):
    blob = parts[0].read_bytes()
    key = b"split.tensors.count"
    at = blob.index(key) + len(key) + 4
    (count,) = struct.unpack_from("<i", blob, at)
    parts[0].write_bytes(blob[:at] + struct.pack("<i", count + 1) + blob[at + 4 :])
    refused(parts[0], f"split.tensors.count is {count + 1}; found {count} in all 3 parts")


def test_a_part_that_is_cut_short_is_named(parts):
    parts[2].write_bytes(parts[2].read_bytes()[:-500])
    refused(parts[0], f"{parts[2]}: tensor ", "the file is cut short")


def test_a_tensor_in_two_parts_is_named(parts):
    holders = {t.name: file for file in parts for t in read_gguf_header(file).tensors}
    old, new = next((a, b) for a in holders for b in holders if len(a) == len(b) and holders[a] != holders[b])
    file = holders[old]
    file.write_bytes(file.read_bytes().replace(old.encode(), new.encode()))
    refused(parts[0], f"tensor {new}: expected once, found")


def test_every_part_counts_for_what_checkpoint_it_is(parts):
    before = fingerprint(parts[0])
    blob = bytearray(parts[2].read_bytes())
    blob[-1] ^= 1
    parts[2].write_bytes(blob)
    assert fingerprint(parts[0]) != before


@pytest.mark.parametrize("name", ["tiny.GGUF", "tiny.Gguf", "sha256-0123abcd", "tiny-00001-of-00001.gguf"])
def test_a_file_is_known_by_its_name_in_any_case_or_by_how_it_begins(whole, tmp_path, name):
    path = whole.rename(tmp_path / name)
    expected = write_model(tmp_path, make_model("llama"), "llama")
    assert locate(str(path)) == path
    same_weights(path, expected)
    assert Text.load(path, len(TOKENS)).encode("ab", allow_special=False) == [TOKENS.index("ab")]


def test_parts_in_capitals(parts):
    for file in parts:
        file.rename(file.with_name(file.name.upper()))
    assert open_gguf(parts[0].with_name(parts[0].name.upper()))[0].num_layers == 2
