"""The decoder against transformers' on tiny random checkpoints of every architecture, however a text is cut."""

import json
import shutil

import pytest
import torch
from models import BY_LENGTH, CASES, LENGTH, SIZES, YARN, Growing, make_checkpoint, random_ids, whole
from transformers import AutoModelForCausalLM

from glimp_engine.checkpoints.checkpoint import load_checkpoint
from glimp_engine.kernels.reference import ReferenceOps
from glimp_engine.models.decoder import Decoder


def load(path, dtype=torch.float64):
    config, weights = load_checkpoint(path, dtype, torch.device("cpu"))
    return Decoder(config, weights, ReferenceOps())


def hf_logits(path, ids):
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float64)
    with torch.inference_mode():
        return model(torch.tensor([ids])).logits[0]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Paths by case, each made once."""
    made = {}

    def make(case):
        if case not in made:
            made[case] = make_checkpoint(tmp_path_factory.mktemp(case), case)
        return made[case]

    return make


def close(ours, theirs):
    """Weights are float64, but transformers' norms and softmax, and everybody's rotation angles, are float32."""
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("case", CASES)
def test_logits_equal_those_of_transformers(checkpoints, case):
    ids = random_ids(LENGTH, seed=1)
    expected = hf_logits(checkpoints(case), ids)
    assert expected.std() > 0.3
    close(whole(load(checkpoints(case)), ids), expected)


@pytest.mark.parametrize("length", [20, 32, 33, LENGTH])
@pytest.mark.parametrize("case", BY_LENGTH)
def test_a_rotation_that_depends_on_the_length_is_the_longest_sequences(checkpoints, case, length):
    """Of a text as long as max_model_len they are transformers' own; a shorter one has the same rows as in it."""
    ids = random_ids(length, seed=1)
    expected = hf_logits(checkpoints(case), ids)
    decoder = load(checkpoints(case))
    close(whole(decoder, ids, max_model_len=length), expected)
    torch.testing.assert_close(whole(decoder, ids[:9], max_model_len=length), expected[:9], rtol=1e-4, atol=1e-4)
    if length > 32:  # the original context
        short = whole(decoder, ids[:9], max_model_len=32)
        close(short, hf_logits(checkpoints(case), ids[:9]))
        assert (short - expected[:9]).abs().max() > 0.01


def test_a_window_limits_the_context_and_nothing_else(tmp_path):
    """Up to the window's size logits are transformers' own; behind it they would not be."""
    window, ids = 40, random_ids(LENGTH, seed=1)
    path = make_checkpoint(tmp_path, "mistral", {**SIZES, "num_hidden_layers": 1})
    config = json.loads((path / "config.json").read_text())
    plain = hf_logits(path, ids)
    (path / "config.json").write_text(json.dumps({**config, "sliding_window": window}))
    expected, decoder = hf_logits(path, ids), load(path)
    assert decoder.config.max_positions == window
    close(whole(decoder, ids[:window]), expected[:window])
    close(plain[:window], expected[:window])
    assert (plain[window] - expected[window]).abs().max() > 0.01


def test_lines_of_a_model_card_beside_what_transformers_has_saved(checkpoints, tmp_path):
    ids = random_ids(LENGTH, seed=1)
    path = shutil.copytree(checkpoints("qwen2"), tmp_path / "model")
    config = json.loads((path / "config.json").read_text())
    assert config["rope_parameters"] == {"rope_theta": 10000.0, "rope_type": "default"}
    (path / "config.json").write_text(json.dumps({**config, "rope_scaling": YARN}))
    expected = hf_logits(path, ids)
    assert (expected - hf_logits(checkpoints("qwen2"), ids)).abs().max() > 0.01
    close(whole(load(path), ids), expected)


@pytest.mark.parametrize("page_size", [1, 3, 16])
@pytest.mark.parametrize("case", ["llama-biases", "qwen2-yarn", "qwen3"])
@pytest.mark.slow
def test_however_a_text_is_cut_the_rows_are_the_same(checkpoints, case, page_size):
    decoder = load(checkpoints(case))
    texts = [random_ids(length, seed=length) for length in (LENGTH, 17, 1, 32)]
    expected = [whole(decoder, ids, page_size) for ids in texts]
    torch.manual_seed(page_size)
    for longest in (1, 5, 23):  # one token a forward; small chunks; large ones, as of catch-ups
        growing = Growing(decoder, texts, page_size)
        growing.run_in_pieces(longest)
        for rows, expected_rows in zip(growing.logits, expected, strict=True):
            torch.testing.assert_close(torch.stack(rows), expected_rows, rtol=1e-9, atol=1e-9)


def test_asked_rows_only(checkpoints):
    decoder, ids = load(checkpoints("qwen3")), random_ids(20, seed=4)
    expected = whole(decoder, ids)
    rows, forward = torch.tensor([19, 3]), decoder.forward
    decoder.forward = lambda token_ids, batch, _, kv, num_logits=None: forward(token_ids, batch, rows, kv).repeat(10, 1)
    torch.testing.assert_close(whole(decoder, ids)[:2], expected[rows])


@pytest.mark.parametrize("case", ["llama-tied", "qwen3"])
def test_shards_are_one_checkpoint(tmp_path, checkpoints, case):
    make_checkpoint(tmp_path, case, max_shard_size="20KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    _, single = load_checkpoint(checkpoints(case), None, torch.device("cpu"))
    _, sharded = load_checkpoint(tmp_path, None, torch.device("cpu"))
    assert single.keys() == sharded.keys()
    assert all(torch.equal(single[name], sharded[name]) for name in single)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_narrower_weights_come_near(checkpoints, dtype):
    ids = random_ids(LENGTH, seed=2)
    expected = hf_logits(checkpoints("qwen3"), ids)
    ours = whole(load(checkpoints("qwen3"), dtype), ids)
    assert ours.dtype == torch.float32
    error = (ours - expected).norm() / expected.norm()
    assert error < (1e-5 if dtype == torch.float32 else 0.1)
