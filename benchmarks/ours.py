"""Our engine as a contestant, through its public API: requests are added and `advance` is called, as a server would.

The prefix cache would give a prompt that has been run before for nothing: where a prompt's run is what's timed, the
counters are asked whether all of its tokens were really run.
"""

import sys
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from costs import cost_of

sys.path.insert(0, str(Path(__file__).parent / "peers"))
from serve import serve

from glimp_engine import Engine, Finish, GlimpRouter, LargeOnly, Model, RoutingParams, SamplingParams, SmallOnly
from glimp_engine.kernels import Attention
from glimp_engine.models.kv_store import KVStore
from glimp_engine.text.messages import Chat

PAGE_SIZE = 16
LOGIT_ROWS = 128  # of logits at every position made by one forward: 78 MB of Qwen2.5's vocabulary


def greedy(max_tokens: int) -> SamplingParams:
    return SamplingParams(temperature=0, max_tokens=max_tokens)


def routing(router: Any, max_tokens: int) -> RoutingParams:
    """The router with no limit of its own, and no proposals, as the peers have none: bench_speculation.py has them."""
    return RoutingParams(
        router=router,
        max_step_tokens=max_tokens,
        max_answer_tokens=max_tokens,
        stop_repeated_steps=False,
        speculation="off",
    )


def attention(start: int, end: int) -> Attention:
    """Positions start:end of one sequence whose pages are 0, 1, 2 ..."""
    positions = torch.arange(start, end)
    return Attention(
        positions=positions,
        slots=positions,
        query_start=torch.tensor([0, end - start], dtype=torch.int32),
        page_table=torch.arange(-(-end // PAGE_SIZE), dtype=torch.int32)[None],
        kv_len=torch.tensor([end], dtype=torch.int32),
    )


class Ours:
    """The contestant; see peers/serve.py."""

    def open(self, models: list[str], num_threads: int, num_tokens: int, **options: Any) -> dict[str, Any]:
        """Load the models, with K/V for num_tokens tokens; options are the engine's."""
        torch.set_num_threads(num_threads)
        self.models = [Path(path) for path in models]
        itemsize = 4 if options.get("dtype") == "float32" else 2
        kv_cache_bytes = num_tokens * itemsize * sum(cost_of(path).kv_elements for path in self.models)
        self.options = {
            **options,
            "num_threads": num_threads,
            "page_size": PAGE_SIZE,
            "kv_cache_bytes": kv_cache_bytes,
        }
        began = time.perf_counter()
        self.engine = Engine(*self.models, **self.options)
        seconds = time.perf_counter() - began
        # there is no public way to run a forward or the tokenizer alone
        self.model, self.text = self.engine._loop.runners[0].model, self.engine._voices[0].text
        self.engines: dict[str, Engine] = {}  # one for each router of a routed run
        return {
            "seconds": seconds,
            "version": f"glimp_engine {version('glimp_engine')}",
            "packed_bytes": self.model.weight_bytes,
        }

    def encode(self, text: str, is_chat: bool = False) -> dict[str, Any]:
        """The ids of a text, or of a user's message as the model's chat template has it."""
        if is_chat:
            return {"token_ids": self.text.encode_chat(Chat([{"role": "user", "content": text}]))}
        return {"token_ids": self.text.encode(text, allow_special=False)}

    def prefill(self, token_ids: list[int]) -> dict[str, Any]:
        return {"seconds": self._time_prompt(token_ids, len(token_ids))}

    def extend(self, token_ids: list[int], new_ids: list[int]) -> dict[str, Any]:
        self._run_prompt(token_ids)
        return {"seconds": self._time_prompt(token_ids + new_ids, len(new_ids))}

    def decode(self, token_ids: list[int], num_tokens: int) -> dict[str, Any]:
        return self.decode_many([token_ids], num_tokens)

    def decode_many(self, prompts: list[list[int]], num_tokens: int) -> dict[str, Any]:
        """Time of num_tokens ticks, once each sequence has its first token."""
        ids = [str(i) for i in range(len(prompts))]
        written: dict[str, list[int]] = {name: [] for name in ids}
        for name, prompt in zip(ids, prompts, strict=True):
            self.engine.add_request(name, prompt, greedy(4 * num_tokens + 16), routing(SmallOnly(), 1 << 20))

        def tick() -> None:
            for event in self.engine.advance():
                if isinstance(event, Finish):
                    raise RuntimeError(f"a sequence ended after {len(written[event.request_id])} tokens")
                if hasattr(event, "token_id"):
                    written[event.request_id].append(event.token_id)

        while not all(written.values()):
            tick()
        num_before = sum(map(len, written.values()))
        began = time.perf_counter()
        for _ in range(num_tokens):
            tick()
        seconds = time.perf_counter() - began
        for name in ids:
            self.engine.abort(name)
        self._drain()
        num_written = sum(map(len, written.values())) - num_before
        assert num_written == len(ids) * num_tokens, "a tick did not serve every sequence"
        return {"seconds": seconds, "token_ids": [written[name] for name in ids]}

    @torch.inference_mode()
    def decode_bare(self, token_ids: list[int], num_tokens: int) -> dict[str, Any]:
        """As `decode`, of the forward alone: no scheduler, no sampling; the tokens are the prompt's, again."""
        length = len(token_ids)
        kv = self._kv(length + num_tokens)
        self.model.forward(torch.tensor(token_ids), attention(0, length), torch.tensor([length - 1]), kv)
        batches = [attention(i, i + 1) for i in range(length, length + num_tokens)]
        ids, row = [torch.tensor([token_ids[i % length]]) for i in range(num_tokens)], torch.tensor([0])
        began = time.perf_counter()
        for token_id, batch in zip(ids, batches, strict=True):
            self.model.forward(token_id, batch, row, kv)
        return {"seconds": time.perf_counter() - began}

    def logits(self, token_ids: list[int], path: str) -> dict[str, Any]:
        """Logits at every position, saved as [T, V] float32."""
        np.save(path, np.concatenate([logits.numpy().copy() for logits in self._all_logits(token_ids)]))
        return {}

    def is_greedy(self, token_ids: list[int], written: list[int]) -> dict[str, Any]:
        """Whether a prefill of all these tokens finds each of `written` most likely after those before it."""
        expected = [i for logits in self._all_logits(token_ids + written) for i in logits.argmax(-1).tolist()]
        return {"is_greedy": expected[len(token_ids) - 1 : -1] == written}

    def answers(self, prompts: list[list[int]], max_tokens: int) -> dict[str, Any]:
        """Greedy texts of all the prompts, decoded together."""
        outputs = self.engine.generate(prompts, greedy(max_tokens), routing(SmallOnly(), max_tokens), use_tqdm=False)
        return {"texts": [output.outputs[0].text for output in outputs]}

    def solve(self, token_ids: list[int], router: str, max_tokens: int) -> dict[str, Any]:
        """An answer by both models, each router with K/V of its own, as a server of its own would have."""
        if router not in self.engines:
            self.engines[router] = Engine(*self.models, **self.options)
        engine = self.engines[router]
        policy = {"small": SmallOnly(), "large": LargeOnly()}.get(router) or GlimpRouter(float(router))
        before, began = engine.stats(), time.perf_counter()
        first_token_seconds, output = None, None
        for event in engine.stream(token_ids, greedy(max_tokens), routing(policy, max_tokens)):
            if hasattr(event, "token_id") and first_token_seconds is None:
                first_token_seconds = time.perf_counter() - began
            if isinstance(event, Finish):
                output = event.output
        seconds = time.perf_counter() - began
        assert output is not None
        if output.error is not None:
            raise RuntimeError(output.error)
        after, completion = engine.stats(), output.outputs[0]
        assert after.recomputed_tokens == 0
        pairs = {str(model): (getattr(before, str(model)), getattr(after, str(model))) for model in Model}
        return {
            "seconds": seconds,
            "first_token_seconds": first_token_seconds,
            "num_tokens": len(completion.token_ids),
            "prompt_tokens": {name: b.prompt_tokens - a.prompt_tokens for name, (a, b) in pairs.items()},
            "catch_up_tokens": {name: b.catch_up_tokens - a.catch_up_tokens for name, (a, b) in pairs.items()},
            "hand_overs": after.hand_overs - before.hand_overs,
            "finish": str(completion.finish_reason),
            "steps": [
                {"model": str(step.model), "entropy": step.entropy, "num_tokens": step.num_tokens}
                for step in completion.steps
            ],
            "text": completion.text,
        }

    @torch.inference_mode()
    def _all_logits(self, token_ids: list[int]) -> Iterator[torch.Tensor]:
        """Logits at every position, [LOGIT_ROWS, V] at a time, valid until the next ones are asked for."""
        kv = self._kv(len(token_ids))
        for start in range(0, len(token_ids), LOGIT_ROWS):
            end = min(start + LOGIT_ROWS, len(token_ids))
            ids = torch.tensor(token_ids[start:end])
            yield self.model.forward(ids, attention(start, end), torch.arange(end - start), kv)

    def _kv(self, num_tokens: int) -> KVStore:
        num_pages = -(-num_tokens // PAGE_SIZE)
        model = self.model
        return KVStore(model.config, num_pages, PAGE_SIZE, model.kv_layout, model.device, num_tokens)

    def _run_prompt(self, token_ids: list[int]) -> None:
        self.engine.add_request("prompt", token_ids, greedy(1))
        self._drain()

    def _time_prompt(self, token_ids: list[int], num_tokens: int) -> float:
        """Seconds from a request until its first token, of which num_tokens prompt tokens had to be run."""
        before, began = self.engine.stats().small.prompt_tokens, time.perf_counter()
        self._run_prompt(token_ids)
        seconds, num_run = time.perf_counter() - began, self.engine.stats().small.prompt_tokens - before
        if num_run != num_tokens:
            raise RuntimeError(f"{num_run} prompt tokens were run instead of {num_tokens}")
        return seconds

    def _drain(self) -> None:
        while self.engine.has_unfinished():
            self.engine.advance()


if __name__ == "__main__":
    serve(Ours())
