"""The engine on Triton's ops, against the same engine on the reference ops; ticks as graphs, against plain ticks."""

import pytest
import torch
from on_gpu import DEVICE

from glimp_engine import Engine, GlimpRouter, LargeOnly, RoutingParams, SamplingParams, SmallOnly, graphs, load

PROMPTS = ["How many apples", "A baker sells loaves.\n\nw", "w1 w2 w3"]
SAMPLING = [
    SamplingParams(temperature=0, max_tokens=20),
    SamplingParams(temperature=0.8, top_k=40, top_p=0.9, seed=1, max_tokens=16),
    SamplingParams(temperature=1.1, seed=2, max_tokens=24, presence_penalty=0.5),
]


def outputs(*paths, router, **options):
    """(token ids, entropies of the steps, who wrote them) of each prompt."""
    engine = Engine(*paths, device=str(DEVICE), dtype="float32", kv_cache_bytes=1 << 20, **options)
    finished = engine.generate(PROMPTS, SAMPLING, RoutingParams(router=router), use_tqdm=False)
    assert [output.error for output in finished] == [None] * len(PROMPTS)
    assert engine.stats().recomputed_tokens == 0
    completions = [output.outputs[0] for output in finished]
    return [(c.token_ids, [s.entropy for s in c.steps], [s.model for s in c.steps]) for c in completions]


def agree(ours, theirs):
    """The same tokens and routes, and entropies to float32's rounding."""
    for (tokens, entropies, models), (other_tokens, other_entropies, other_models) in zip(ours, theirs, strict=True):
        assert tokens == other_tokens
        assert models == other_models
        for ours_nats, theirs_nats in zip(entropies, other_entropies, strict=True):
            assert ours_nats == pytest.approx(theirs_nats, abs=1e-4)


@pytest.mark.parametrize("batch_invariant", [False, True])
def test_a_routed_pair_on_triton_ops(small_path, large_path, batch_invariant):
    router = GlimpRouter(2.0)
    ours = outputs(
        small_path, large_path, router=router, ops="triton", batch_invariant=batch_invariant, enforce_eager=True
    )
    theirs = outputs(small_path, large_path, router=router, ops="reference")
    assert {model for *_, models in theirs for model in models} == set(theirs[0][2][0].__class__)
    agree(ours, theirs)


@pytest.mark.parametrize("router", [SmallOnly(), LargeOnly(), GlimpRouter(2.0)], ids=["small", "large", "routed"])
def test_ticks_as_graphs(small_path, large_path, monkeypatch, router):
    """Where there is no GPU, bodies are run instead of being recorded; padding and static inputs are the same."""
    plain = outputs(small_path, large_path, router=router, ops="reference", max_batch_tokens=64)

    def make_graph_runner(loaded, voice, forbidden_ids, memory, config, ops):
        model, size = loaded.model, config.page_size
        kv = load.KVStore(model.config, memory.num_pages + 1, size, model.kv_layout, model.device)
        for layer in kv.layers:
            for cache in layer:
                cache[:-1].fill_(torch.nan)
        token_class = torch.from_numpy(voice.boundaries.token_class).to(model.device)
        forbidden = torch.tensor(forbidden_ids, dtype=torch.int64, device=model.device)
        max_pages = -(-memory.max_model_len // size)
        return graphs.GraphRunner(model, ops, kv, token_class, forbidden, max_pages, capture=lambda body: body)

    if DEVICE.type == "cpu":
        monkeypatch.setattr("glimp_engine.engine.make_runner", make_graph_runner)
    options = {"ops": "triton"} if DEVICE.type == "cuda" else {"ops": "reference"}
    agree(outputs(small_path, large_path, router=router, max_batch_tokens=64, **options), plain)


@pytest.mark.parametrize(
    ("batch", "bucket"), [((1, 1), (1, 1)), ((3, 3), (4, 4)), ((2, 1), (16, 1)), ((17, 1), (32, 1)), ((40, 5), (64, 8))]
)
def test_buckets(batch, bucket):
    assert graphs.bucket_of(*batch) == graphs.Bucket(*bucket)
