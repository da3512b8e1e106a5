"""What is kept from tick to tick is what would be made anew."""

from dataclasses import fields
from itertools import pairwise

import pytest
import torch
from proposers import Whims
from tiny_requests import GREEDY, PROMPTS, SAMPLED, routing

from glimp_engine import Engine, GlimpRouter, RoutingParams, SamplingParams, SmallOnly, SpecReason
from glimp_engine.execution import batch
from glimp_engine.execution.batches import Batches


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
    Engine(small_path, loop="host").generate(prompts, params, RoutingParams(router=SmallOnly()), use_tqdm=False)
    is_kept = [a is b for a, b in pairwise(made)]
    assert any(is_kept) == (penalty == 0.0)
    assert not all(is_kept)


@pytest.mark.parametrize("kv_cache_bytes", [1 << 22, 100 * 1024], ids=["enough pages", "too few"])
@pytest.mark.parametrize(
    "sampling",
    [GREEDY, SAMPLED, SamplingParams(n=3, seed=1, logprobs=2, max_tokens=20)],
    ids=lambda s: f"n {s.n}, T {s.temperature}",
)
def test_a_batch_that_is_moved_on_is_the_one_made_anew(small_path, large_path, monkeypatch, sampling, kv_cache_bytes):
    num_moved, of, size = [0], Batches.of, 16 if kv_cache_bytes > 1 << 20 else 3

    def checked(self, plan):
        last = self._last[plan.model]
        made, fresh = of(self, plan), batch.build_batch(plan, self._page_size, batch.SamplingColumns())
        num_moved[0] += last is not None and made is last.batch
        for part in ("attention", "sampling"):
            for field in fields(getattr(fresh, part)):
                a, b = (getattr(getattr(each, part), field.name) for each in (made, fresh))
                assert torch.equal(a[:, : b.shape[1]] if field.name == "page_table" else a, b), field.name
        assert torch.equal(made.token_ids, fresh.token_ids)
        assert torch.equal(made.logit_rows, fresh.logit_rows)
        assert [(row.sequence, row.sequence_index, row.place) for row in made.rows] == [
            (row.sequence, row.sequence_index, row.place) for row in fresh.rows
        ]
        assert (made.num_top_logprobs, made.num_logits) == (fresh.num_top_logprobs, fresh.num_logits)
        return made

    monkeypatch.setattr(Batches, "of", checked)
    for router in (SmallOnly(), GlimpRouter(2.2), SpecReason(5)):
        for policy in (None, Whims(1, depth=5)):
            engine = Engine(small_path, large_path, kv_cache_bytes=kv_cache_bytes, max_model_len=128, page_size=size)
            engine._loop.scheduler.proposing = policy or engine._loop.scheduler.proposing
            outputs = engine.generate(PROMPTS, sampling, routing(router), use_tqdm=False)
            assert not any(output.error for output in outputs)
    assert num_moved[0] > 5
