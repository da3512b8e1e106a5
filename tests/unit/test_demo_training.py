"""examples/demo_pair/train.py: a training that was stopped goes on as if it had not been."""

import dataclasses
import sys
from pathlib import Path

import pytest
import torch

EXAMPLE = Path(__file__).parents[2] / "examples" / "demo_pair"


@pytest.fixture
def train(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(EXAMPLE))
    import train

    monkeypatch.setattr(train, "BUILD", tmp_path)
    monkeypatch.setattr(train, "CHECKPOINT_EVERY", 2)
    yield train
    for name in ("train", "problems"):
        sys.modules.pop(name)


def test_a_training_that_was_stopped_goes_on(train, monkeypatch):
    tiny = {"hidden_size": 16, "intermediate_size": 16, "num_layers": 1, "num_steps": 6, "batch_size": 4}
    recipe = dataclasses.replace(train.RECIPES["small"], **tiny)
    roads = train.RoadMap()
    tokenizer = train.make_tokenizer(roads)
    whole = train.train("whole", recipe, tokenizer, roads).state_dict()
    make_batch, calls = train.make_batch, []

    def stopped_at_the_fifth(*arguments):
        calls.append(arguments)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return make_batch(*arguments)

    monkeypatch.setattr(train, "make_batch", stopped_at_the_fifth)
    with pytest.raises(KeyboardInterrupt):
        train.train("stopped", recipe, tokenizer, roads)
    resumed = train.train("stopped", recipe, tokenizer, roads).state_dict()
    assert len(calls) == 5 + 2  # from the checkpoint behind the fourth step on
    assert all(torch.equal(resumed[name], tensor) for name, tensor in whole.items())
