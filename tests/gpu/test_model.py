"""The decoder on Triton's ops against transformers', in float32, however a text is cut."""

import pytest
import torch
from models import Growing, make_checkpoint, random_ids
from on_gpu import DEVICE, make_triton_ops
from transformers import AutoModelForCausalLM

from glimp_engine.checkpoints.checkpoint import load_checkpoint
from glimp_engine.models.decoder import Decoder


@pytest.mark.parametrize("batch_invariant", [False, True])
@pytest.mark.parametrize("case", ["llama-biases", "qwen2-yarn", "qwen3"])
def test_logits_equal_those_of_transformers(tmp_path, case, batch_invariant):
    """Prefill, catch-ups and decoding of texts that grow side by side on shuffled pages."""
    path, texts = make_checkpoint(tmp_path, case), [random_ids(length, seed=length) for length in (22, 6)]
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    with torch.inference_mode():
        expected = [model(torch.tensor([ids])).logits[0] for ids in texts]
    config, weights = load_checkpoint(path, torch.float32, DEVICE)
    decoder = Decoder(config, weights, make_triton_ops(batch_invariant))
    torch.manual_seed(0)
    growing = Growing(decoder, texts, page_size=4)
    growing.forward([14, 1])
    growing.run_in_pieces(longest=5)
    for rows, expected_rows in zip(growing.logits, expected, strict=True):
        torch.testing.assert_close(torch.stack(rows), expected_rows, rtol=2e-4, atol=2e-4)
