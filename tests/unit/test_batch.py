"""Sampling parameters that are kept from tick to tick are those that would be made anew."""

from dataclasses import fields
from itertools import pairwise

import pytest
import torch

from glimp_engine import Engine, RoutingParams, SamplingParams, SmallOnly
from glimp_engine.execution import batch


@pytest.mark.parametrize("penalty", [0.0, 0.5], ids=["plain", "with penalties"])
def test_kept_parameters_are_those_made_anew(small_path, monkeypatch, penalty):
    made = []
    of = batch.SamplingColumns.of

    def checked(self, rows, model):
        sampling, fresh = of(self, rows, model), batch.build_sampling(rows, model)
        for field in fields(fresh):
            assert torch.equal(getattr(sampling, field.name), getattr(fresh, field.name)), field.name
        made.append(sampling)
        return sampling

    monkeypatch.setattr(batch.SamplingColumns, "of", checked)
    params = [
        SamplingParams(temperature=0.7, seed=seed, max_tokens=max_tokens, n=n, presence_penalty=penalty)
        for seed, max_tokens, n in ((1, 9, 1), (2, 5, 2), (3, 12, 1))
    ]
    prompts = ["How many apples", "A baker sells loaves.", "w"]
    Engine(small_path).generate(prompts, params, RoutingParams(router=SmallOnly()), use_tqdm=False)
    is_kept = [a is b for a, b in pairwise(made)]
    assert any(is_kept) == (penalty == 0.0)
    assert not all(is_kept)
