"""The decoder against transformers' on tiny random checkpoints of every architecture, however a text is cut."""

import pytest
import torch
from models import CASES, LENGTH, Growing, make_checkpoint, random_ids, whole
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
    decoder.forward = lambda token_ids, batch, _, kv: forward(token_ids, batch, rows, kv).repeat(10, 1)
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
