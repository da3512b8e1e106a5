"""The engine: requests in, typed events out, one tick at a time. It owns no thread and no loop."""

import logging
import secrets
import time
from collections import deque
from collections.abc import Iterator
from collections.abc import Sequence as Sized
from dataclasses import replace
from functools import partial
from itertools import count
from os import PathLike

from tqdm import tqdm

from glimp_engine.config import EngineConfig
from glimp_engine.decoding_loop import DecodingLoop
from glimp_engine.delivery import Delivery, EventStream
from glimp_engine.errors import ConfigError, EngineError, RequestError
from glimp_engine.execution import ModelRunner
from glimp_engine.guard import Guard
from glimp_engine.load import (
    LoadedModel,
    ModelSource,
    load_models,
    load_router,
    make_dictionary,
    make_runners,
    make_voice,
    plan_memory,
)
from glimp_engine.meter import Meter
from glimp_engine.outputs import Event, Finish, RequestOutput, Stats, Tick
from glimp_engine.routing import GlimpRouter, Model, RoutingParams, SmallOnly
from glimp_engine.sampling import SamplingParams
from glimp_engine.sequences import (
    Acceptance,
    Launches,
    PagePool,
    PreparedRequest,
    Prompt,
    Proposing,
    Scheduler,
    Sequence,
    TickTimes,
    check_type,
    list_prompts,
    make_request,
    make_streams,
    one_for_each,
    read_prompt,
)
from glimp_engine.speculation import Speculation, read_speculation
from glimp_engine.text import Text

__all__ = ["Engine"]

log = logging.getLogger(__name__)


class Engine:
    """Decodes with two co-resident models, step by step, each step by the model that its router chooses.

    `small` and `large` are directories of safetensors, `.gguf` files, hub ids, or models loaded before; without a
    `large` the small model writes everything. `small_tokenizer` and `large_tokenizer` are directories with a
    tokenizer.json, each read in place of what that model's checkpoint has.

    With native ops (on a CPU) dtype `auto` keeps each matrix as it's stored; `quantization`, int8 or int4, rounds those
    of a checkpoint that isn't quantised, when it's loaded. `num_threads` is theirs, PyTorch's number by default.
    With Triton's ops (on a GPU) ticks are CUDA graphs, unless `enforce_eager`. With `loop` device, or auto where that
    was built, a model decodes on without the host, on a CPU some ticks at a time. With `batch_invariant` a request's
    tokens don't depend on what else is in the batch, which native ops promise anyway.
    `speculation` is auto, off, a spec as small+ngram:4, or a Speculation: who proposes tokens to the model that writes;
    none changes with it.

    Units:  kv_cache_bytes for both models' K/V together (2 GiB on a CPU, else 90% of what the weights leave free);
            page_size, max_model_len and max_batch_tokens in tokens. With skip_code_fences a blank line inside a code
            fence doesn't end a step.
    Raises: ConfigError, CheckpointError, CapacityError.
    """

    def __init__(
        self,
        small: ModelSource,
        large: ModelSource | None = None,
        *,
        device: str = "auto",
        dtype: str = "auto",
        ops: str = "auto",
        quantization: str | None = None,
        num_threads: int | None = None,
        kv_cache_bytes: int | None = None,
        page_size: int = 16,
        max_model_len: int | None = None,
        max_batch_size: int = 64,
        max_batch_tokens: int = 512,
        batch_invariant: bool = False,
        enforce_eager: bool = False,
        loop: str = "auto",
        skip_code_fences: bool = False,
        speculation: str | Speculation = "auto",
        routing: str | PathLike[str] | None = None,
        small_tokenizer: str | PathLike[str] | None = None,
        large_tokenizer: str | PathLike[str] | None = None,
    ) -> None:
        config = EngineConfig(
            device=device,
            dtype=dtype,
            ops=ops,
            quantization=quantization,
            num_threads=num_threads,
            kv_cache_bytes=kv_cache_bytes,
            page_size=page_size,
            max_model_len=max_model_len,
            max_batch_size=max_batch_size,
            max_batch_tokens=max_batch_tokens,
            batch_invariant=batch_invariant,
            enforce_eager=enforce_eager,
            loop=loop,
            skip_code_fences=skip_code_fences,
        )
        proposers = read_speculation(speculation)
        router = None if routing is None else load_router(routing, small, large)
        op_set = config.make_ops()
        models: list[LoadedModel] = load_models(small, large, config, op_set, small_tokenizer, large_tokenizer)
        self.config = config
        self._dictionary = make_dictionary(models)
        memory = plan_memory(models, self._dictionary, config)
        self.max_model_len = memory.max_model_len
        texts = self._dictionary.texts
        voices = [make_voice(loaded, text, skip_code_fences) for loaded, text in zip(models, texts, strict=False)]
        self._voices = (voices[0], voices[-1])
        self._meter, self._delivery = Meter(), Delivery()
        runners = make_runners(models, voices, self._dictionary, memory, config, op_set)
        pool = PagePool(memory.num_pages, page_size, num_models=len(Model))
        self._loop = make_loop(runners, pool, config, proposers, self._meter, self._delivery)
        self._arrivals = count()
        router = router or (GlimpRouter() if len(models) > 1 else SmallOnly())
        self._default_routing = RoutingParams(router=router)
        self._guard = Guard()

    # One call for many prompts, or one prompt's events as they come.

    def generate(
        self,
        prompts: Prompt | Sized[Prompt],
        sampling: SamplingParams | Sized[SamplingParams] | None = None,
        routing: RoutingParams | Sized[RoutingParams] | None = None,
        use_tqdm: bool = True,
    ) -> list[RequestOutput]:
        """The finished outputs, in the order of the prompts.

        A prompt is text, token ids of the small model, chat messages, or a dict with `prompt`, `prompt_token_ids` or
        `messages` (with which `tools`, `documents`, `chat_template_kwargs`, `add_generation_prompt`,
        `continue_final_message` and `parse_special` may stand). Parameters are one for all or one for each.
        A prompt that can't be run gives an output with finish reason `error` and harms no other.

        Raises: RequestError when the prompts are no list; ConfigError when there are not as many parameters as prompts.
        """
        each = list_prompts(prompts)
        sampling_of = one_for_each("sampling", sampling, len(each))
        routing_of = one_for_each("routing", routing, len(each))
        outputs: dict[str, RequestOutput] = {}
        ids, events = [self._new_request_id() for _ in each], deque[Event]()
        try:
            for request_id, prompt, s, r in zip(ids, each, sampling_of, routing_of, strict=True):
                try:
                    self._add(request_id, prompt, s, r, events, is_told=False)
                except RequestError as error:
                    log.warning("request %s: %s", request_id, error)
                    outputs[request_id] = RequestOutput.failed(request_id, prompt, error)
            with tqdm(total=len(each), initial=len(outputs), unit="prompt", disable=not use_tqdm) as progress:
                while len(outputs) < len(each):
                    for event in self._next_events(events):
                        if isinstance(event, Finish) and event.output is not None:
                            outputs[event.request_id] = event.output
                            progress.update()
        finally:
            for request_id in ids:
                self._drop(request_id)
        return [outputs[request_id] for request_id in ids]

    def stream(
        self, prompt: Prompt, sampling: SamplingParams | None = None, routing: RoutingParams | None = None
    ) -> EventStream:
        """The events of one request as they come; closing the iterator, or losing it, aborts the request.

        Raises: RequestError, at once, when the prompt can't be run.
        """
        request_id, events = self._new_request_id(), deque[Event]()
        stream = EventStream(partial(self._next_events, events), partial(self._drop, request_id))
        self._add(request_id, prompt, sampling, routing, events)
        return stream

    # The low-level way, for servers.

    def add_request(
        self,
        request_id: str,
        prompt: Prompt | PreparedRequest,
        sampling: SamplingParams | None = None,
        routing: RoutingParams | None = None,
    ) -> None:
        """Queue a request; `advance` brings its events. What `prepare_request` gave is a prompt too, with all of it.

        Raises: RequestError when the id is in use or the prompt can't be run; ConfigError on parameters of a wrong
                type, or a router that needs a large model where there is none.
        """
        if not isinstance(prompt, PreparedRequest):
            return self._add(request_id, prompt, sampling, routing, own_events=None)
        if (request_id, sampling, routing) != (prompt.request.request_id, None, None):
            raise ConfigError("a prepared request comes with an id or parameters; allowed: its own id, and no others")
        return self._queue(prompt, own_events=None)

    def prepare_request(
        self,
        request_id: str,
        prompt: Prompt,
        sampling: SamplingParams | None = None,
        routing: RoutingParams | None = None,
        is_told: bool = True,
    ) -> PreparedRequest:
        """Read and check a request, for `add_request`: from any thread, also while another one is in the engine.

        Without is_told there are no events of its tokens.

        Raises: as `add_request`.
        """
        sampling = check_type("sampling", sampling, SamplingParams) or SamplingParams()
        routing = check_type("routing", routing, RoutingParams) or self._default_routing
        self._check_id(request_id)
        if len(self._loop.runners) == 1 and routing.needs.only is not Model.SMALL:
            raise ConfigError(f"router is {routing.router!r}, and the engine has no large model; allowed: SmallOnly()")
        read = read_prompt(prompt, routing)
        streams = make_streams(
            read,
            self._dictionary,
            self._loop.pool,
            self.max_model_len,
            sampling.truncate_prompt_tokens,
            is_thinking_allowed=routing.max_thinking_tokens > 0,
        )
        request = make_request(
            request_id,
            next(self._arrivals),
            read if isinstance(read, str) else None,
            streams,
            self._dictionary,
            sampling,
            routing,
            self.max_model_len,
            is_told,
        )
        return PreparedRequest(request, streams)

    def advance(self) -> list[Event]:
        """One tick: the events that it and the calls since the last one have brought about.

        Those of the requests of `generate` and `stream` go to their own callers.
        """
        self._tick()
        return self._delivery.take_others()

    def abort(self, request_id: str) -> None:
        """End a request now; its output so far comes with the next `advance`. An unknown id is ignored, as in vLLM."""
        with self._guard:
            self._loop.abort(request_id)

    def has_unfinished(self) -> bool:
        """Whether there is anything left for `advance` to do or to tell."""
        return bool(self._loop.live) or self._delivery.has_others()

    @property
    def has_one_vocabulary(self) -> bool:
        """Whether a token id means the same to both models."""
        return self._dictionary.pair.kind == "identical"

    @property
    def has_large(self) -> bool:
        """Whether there are two models."""
        return len(self._loop.runners) > 1

    def text(self, model: Model) -> Text:
        """The model's tokens and chat template; the small one's where there is no large model."""
        return self._voices[model].text

    def weight_bytes(self, model: Model) -> int:
        """Bytes of the model that a forward of one token reads.

        Raises: ConfigError when the engine has no such model.
        """
        if model >= len(self._loop.runners):
            raise ConfigError("model is large, and the engine has none; allowed: small")
        return self._loop.runners[model].model.weight_bytes

    def token_text(self, token_id: int, model: Model = Model.SMALL) -> str:
        """What one of the model's tokens stands for, special ones too."""
        return self.text(model).bytes_of(token_id).decode(errors="replace")

    def record_ticks(self) -> list[Tick]:
        """A list to which each tick is appended from now on, for as long as the engine lives."""
        return self._meter.record_ticks()

    def stats(self) -> Stats:
        """A copy of the counters, and the state of the pages."""
        scheduler, pool = self._loop.scheduler, self._loop.pool
        return replace(
            self._meter.snapshot(
                each for family in self._loop.live.values() for each in family if each.finish_reason is None
            ),
            cached_prompt_tokens=scheduler.num_cached_tokens,
            preemptions=scheduler.num_preemptions,
            num_running=len(scheduler.running),
            num_waiting=len(scheduler.waiting),
            num_pages=pool.num_pages,
            num_free_pages=pool.num_free,
            num_cached_pages=pool.num_cached,
        )

    # What they have in common.

    def _add(
        self,
        request_id: str,
        prompt: Prompt,
        sampling: SamplingParams | None,
        routing: RoutingParams | None,
        own_events: deque[Event] | None,
        is_told: bool = True,
    ) -> None:
        """Queue a request; its events go to `own_events`, or to `advance`: without is_told not those of each token."""
        with self._guard:
            prepared = self.prepare_request(request_id, prompt, sampling, routing, is_told)
        self._queue(prepared, own_events)

    def _queue(self, prepared: PreparedRequest, own_events: deque[Event] | None) -> None:
        request, streams = prepared.request, prepared.streams
        with self._guard:
            self._check_id(request.request_id)
            if own_events is not None:
                self._delivery.claim(request.request_id, own_events)
            self._loop.add(Sequence(request, 0, streams, self._voices, time.perf_counter()))

    def _check_id(self, request_id: str) -> None:
        if not isinstance(request_id, str) or request_id in self._loop.live:
            raise RequestError(f"request_id is {request_id!r}; allowed: a string that no unfinished request has")

    def _tick(self) -> None:
        with self._guard:
            while self._delivery.abandoned:
                self._loop.abort(self._delivery.abandoned[0])
                self._delivery.release(self._delivery.abandoned.popleft())
            self._loop.tick()

    def _next_events(self, own: deque[Event]) -> Iterator[Event]:
        """The events in this queue, after a tick if there are none."""
        if not own:
            self._tick()
        while own:
            yield own.popleft()

    def _drop(self, request_id: str) -> None:
        """Forget a request that nobody listens to any more, and abort it if it isn't finished."""
        if not self._delivery.is_claimed(request_id):
            return
        try:
            with self._guard:
                self._loop.abort(request_id)
                self._delivery.release(request_id)
        except EngineError:  # a stream may be lost anywhere; the next tick sees to it
            self._delivery.abandoned.append(request_id)

    def _new_request_id(self) -> str:
        request_id = f"request-{secrets.token_hex(8)}"
        return self._new_request_id() if request_id in self._loop.live else request_id


def make_loop(
    runners: list[ModelRunner],
    pool: PagePool,
    config: EngineConfig,
    speculation: Speculation,
    meter: Meter,
    delivery: Delivery,
) -> DecodingLoop:
    """The loop over these models; what its ticks take is what proposals are priced by."""
    forward_bytes = tuple(runner.model.weight_bytes for runner in runners)
    times = TickTimes(forward_bytes)
    max_ticks = [runner.max_ticks for runner in runners]
    proposing = Proposing(speculation, times, Acceptance(), [num_ticks > 1 for num_ticks in max_ticks])
    launches = Launches(max_ticks, config.max_launch_seconds, times, proposing, pool)
    scheduler = Scheduler(pool, config.max_batch_size, config.max_batch_tokens, forward_bytes, proposing, launches)
    starts_ahead = config.has_graphs
    return DecodingLoop(runners, pool, scheduler, meter, times, config.page_size, starts_ahead, delivery.emit)
