"""Requests to tiny models, and what must hold after any of them."""

from glimp_engine import RoutingParams, SamplingParams

PROMPTS = ["How many?", "How many apples are there in all", "x", "Tell me: " + "a b c " * 9, "How many?!"]
GREEDY = SamplingParams(temperature=0, max_tokens=40)
SAMPLED = SamplingParams(temperature=0.9, top_p=0.95, seed=11, max_tokens=40)


def routing(router, **options):
    return RoutingParams(router=router, stop_repeated_steps=False, max_step_tokens=9, **options)


def token_ids(outputs):
    return [completion.token_ids for output in outputs for completion in output.outputs]


def check_pages(engine):
    stats = engine.stats()
    engine._loop.pool.check()
    assert stats.num_free_pages + stats.num_cached_pages == stats.num_pages
    assert not engine.has_unfinished()
