"""Prometheus metrics: vLLM's names where one exists, `glimp:` for what only routing has."""

import time
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from glimp_engine.outputs import FinishReason, RequestOutput, Stats
from glimp_engine.routing import Model

__all__ = ["Metrics", "RequestTimes"]

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
NATS = (0.001, 0.01, 0.03, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.4, 2.0, 3.0, 5.0)
TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000)


class Metrics:
    """What is counted of one server; a registry of its own, so that several may live in one process."""

    def __init__(self, model_name: str) -> None:
        self.registry = CollectorRegistry()
        self._labels = {"model_name": model_name}
        self.ttft = self._histogram("vllm:time_to_first_token_seconds", "Until the first token", SECONDS)
        self.gap = self._histogram("vllm:inter_token_latency_seconds", "Between two tokens", SECONDS)
        self.whole = self._histogram("vllm:e2e_request_latency_seconds", "Until a request has ended", SECONDS)
        self.prompt = self._histogram("vllm:request_prompt_tokens", "Tokens of a prompt", TOKENS)
        self.written = self._histogram("vllm:request_generation_tokens", "Tokens that a request has written", TOKENS)
        self.entropy = self._histogram(
            "glimp:glimpse_entropy_nats", "The small model's entropy at a step's start", NATS
        )
        self.finished: dict[str, int] = {}
        self._stats = StatsCollector(model_name)
        self.registry.register(self._stats)

    def _histogram(self, name: str, documentation: str, buckets: tuple[float, ...]) -> Histogram:
        histogram = Histogram(name, documentation, ["model_name"], buckets=buckets, registry=self.registry)
        return histogram.labels(**self._labels)

    def text(self, stats: Stats) -> bytes:
        """All of it in Prometheus's text format."""
        self._stats.stats, self._stats.finished = stats, dict(self.finished)
        return generate_latest(self.registry)

    def count_output(self, output: RequestOutput) -> None:
        """A request has ended."""
        self.prompt.observe(len(output.prompt_token_ids))
        self.written.observe(sum(len(each.token_ids) for each in output.outputs))
        for each in output.outputs:
            self.count_end(each.finish_reason)
            for step in each.steps:
                if step.entropy is not None:
                    self.entropy.observe(step.entropy)

    def count_end(self, reason: FinishReason | None) -> None:
        """A sequence has ended."""
        self.finished[str(reason)] = self.finished.get(str(reason), 0) + 1


class RequestTimes:
    """When a request's tokens came."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._began = time.perf_counter()
        self._last: float | None = None

    @property
    def seconds(self) -> float:
        """Since it came."""
        return time.perf_counter() - self._began

    def count(self, num_tokens: int) -> None:
        """So many tokens have come together."""
        now = time.perf_counter()
        if num_tokens and self._last is None:
            self._metrics.ttft.observe(now - self._began)
        elif num_tokens and self._last is not None:
            for _ in range(num_tokens):
                self._metrics.gap.observe((now - self._last) / num_tokens)
        if num_tokens:
            self._last = now

    def end(self) -> None:
        """It has ended."""
        self._metrics.whole.observe(self.seconds)


class StatsCollector(Collector):
    """The engine's own counters, as they are when somebody asks."""

    def __init__(self, model_name: str) -> None:
        self.stats = Stats()
        self.finished: dict[str, int] = {}
        self._model_name = model_name

    def collect(self) -> Iterable[Metric]:
        """Every counter and gauge."""
        stats = self.stats
        yield self._gauge("vllm:num_requests_running", "Sequences that run", stats.num_running)
        yield self._gauge("vllm:num_requests_waiting", "Sequences that wait", stats.num_waiting)
        yield self._gauge("vllm:kv_cache_usage_perc", "Share of the pages in use", stats.kv_cache_usage)
        small, large = stats.small, stats.large
        num_cached = stats.cached_prompt_tokens
        num_run = small.prompt_tokens + large.prompt_tokens
        yield self._counter("vllm:prefix_cache_queries", "Prompt tokens looked up", num_cached + num_run)
        yield self._counter("vllm:prefix_cache_hits", "Prompt tokens found in the prefix cache", num_cached)
        yield self._counter("vllm:num_preemptions", "Sequences that had to give their pages back", stats.preemptions)
        yield self._counter("vllm:prompt_tokens", "Prompt tokens that were run", num_run)
        yield self._counter("vllm:generation_tokens", "Tokens written", small.tokens_written + large.tokens_written)
        proposers = stats.proposers.values()
        proposed = sum(each.proposed_tokens for each in proposers)
        accepted = sum(each.accepted_tokens for each in proposers)
        yield self._counter("vllm:spec_decode_num_draft_tokens", "Tokens proposed", proposed)
        yield self._counter("vllm:spec_decode_num_accepted_tokens", "Proposals that were written", accepted)
        family = CounterMetricFamily(
            "vllm:request_success", "Sequences that have ended", labels=["model_name", "finished_reason"]
        )
        for reason, count in sorted(self.finished.items()):
            family.add_metric([self._model_name, reason], count)
        yield family
        yield self._counter("glimp:hand_overs", "Changes of the model that writes", stats.hand_overs)
        yield self._counter("glimp:glimpse_forwards", "Glimpses that cost a forward", stats.glimpse_forwards)
        yield self._counter("glimp:recomputed_tokens", "Tokens run again", stats.recomputed_tokens)
        yield from self._by_model()

    def _by_model(self) -> Iterable[Metric]:
        told = {
            "steps": ("Steps written", "steps_written"),
            "tokens": ("Tokens written", "tokens_written"),
            "catch_up_tokens": ("Tokens run over what the other model wrote", "catch_up_tokens"),
            "forwards": ("Forwards", "num_forwards"),
            "seconds": ("Seconds in forwards", "seconds"),
        }
        for name, (documentation, attribute) in told.items():
            family = CounterMetricFamily(f"glimp:{name}", documentation, labels=["model_name", "model"])
            for model, own in ((Model.SMALL, self.stats.small), (Model.LARGE, self.stats.large)):
                family.add_metric([self._model_name, str(model)], getattr(own, attribute))
            yield family

    def _gauge(self, name: str, documentation: str, value: float) -> Metric:
        family = GaugeMetricFamily(name, documentation, labels=["model_name"])
        family.add_metric([self._model_name], value)
        return family

    def _counter(self, name: str, documentation: str, value: float) -> Metric:
        family = CounterMetricFamily(name, documentation, labels=["model_name"])
        family.add_metric([self._model_name], value)
        return family
