"""llama.cpp as a contestant, through its low-level API, so that Python costs it next to nothing.

Settings are those that a user would have: files mapped into memory, flash attention where llama.cpp chooses it, K/V in
fp16, physical batches of 512. Runs in a Python that has numpy and llama-cpp-python (built with GGML_NATIVE=ON).
"""

import ctypes
import time
from typing import Any

import llama_cpp as c
import numpy as np
from routing import Writer, write_routed
from serve import serve

BATCH_SIZE = 512
MIN_CONTEXT = 1024
quiet = c.llama_log_callback(lambda level, text, data: None)


class Context(Writer):
    """K/V of one or several sequences of a model. `held` is what each sequence's K/V holds."""

    def __init__(self, model: Any, num_sequences: int, num_tokens: int, num_threads: int) -> None:
        params = c.llama_context_default_params()
        params.n_seq_max, params.n_ctx = num_sequences, num_sequences * num_tokens
        params.n_batch = params.n_ubatch = BATCH_SIZE
        params.n_threads = params.n_threads_batch = num_threads
        self.context = c.llama_init_from_model(model, params)
        if not self.context:
            raise MemoryError(f"a context of {num_sequences} * {num_tokens} tokens")
        self.memory = c.llama_get_memory(self.context)
        self.vocab = c.llama_model_get_vocab(model)
        self.vocab_size = c.llama_vocab_n_tokens(self.vocab)
        self.held: list[list[int]] = [[] for _ in range(num_sequences)]
        self.batch = c.llama_batch_init(BATCH_SIZE, 0, 1)
        self.num_logits = 0
        self.num_run = 0

    def forward(self, runs: list[tuple[int, list[int]]], all_logits: bool = False) -> None:
        """Append tokens to sequences, at most BATCH_SIZE together; logits of the last one of each, or of all."""
        batch, i, self.num_logits = self.batch, 0, 0
        for sequence, token_ids in runs:
            held = self.held[sequence]
            for j, token_id in enumerate(token_ids):
                batch.token[i], batch.pos[i] = token_id, len(held) + j
                batch.n_seq_id[i], batch.seq_id[i][0] = 1, sequence
                batch.logits[i] = all_logits or j == len(token_ids) - 1
                self.num_logits += batch.logits[i]
                i += 1
            held += token_ids
        batch.n_tokens = i
        self.num_run += i
        code = c.llama_decode(self.context, batch)
        if code:
            raise RuntimeError(f"llama_decode returned {code}")

    def logits(self) -> np.ndarray:
        """Logits [R, V] of the forward before, valid until the next one."""
        return np.ctypeslib.as_array(c.llama_get_logits(self.context), shape=(self.num_logits, self.vocab_size))

    def truncate(self, sequence: int, num_tokens: int) -> None:
        c.llama_memory_seq_rm(self.memory, sequence, num_tokens, -1)
        del self.held[sequence][num_tokens:]

    def hold(self, sequence: int, token_ids: list[int]) -> None:
        """Make the K/V of a sequence hold these tokens, and have the logits of the last one; what it holds is kept."""
        held, common = self.held[sequence], 0
        for a, b in zip(held, token_ids, strict=False):
            if a != b:
                break
            common += 1
        if common == len(token_ids) == len(held) and self.num_logits:
            return  # nothing new: the logits are still there
        common = min(common, len(token_ids) - 1)
        if common < len(held):
            self.truncate(sequence, common)
        for start in range(common, len(token_ids), BATCH_SIZE):
            self.forward([(sequence, token_ids[start : start + BATCH_SIZE])])

    # What a routed loop needs of a model.

    def catch_up(self, token_ids: list[int]) -> np.ndarray:
        self.hold(0, token_ids)
        return self.logits()[-1]

    def piece(self, token_id: int) -> bytes:
        buffer = ctypes.create_string_buffer(256)
        num_bytes = c.llama_token_to_piece(self.vocab, token_id, buffer, 256, 0, True)
        return buffer.raw[:num_bytes]

    def is_end(self, token_id: int) -> bool:
        return bool(c.llama_vocab_is_eog(self.vocab, token_id))


class LlamaCpp:
    """The contestant; one context for each number of sequences and length, made when it's first needed."""

    def open(self, models: list[str], num_threads: int, num_tokens: int) -> dict[str, Any]:
        """Load the models, with a context of num_tokens for each."""
        c.llama_log_set(quiet, ctypes.c_void_p(0))
        c.llama_backend_init()
        self.num_threads = num_threads
        self.contexts: dict[Any, Context] = {}
        began = time.perf_counter()
        self.models = [c.llama_model_load_from_file(path.encode(), c.llama_model_default_params()) for path in models]
        if not all(self.models):
            raise ValueError(f"llama.cpp can't load {models}")
        self.num_tokens = num_tokens
        for index in range(len(models)):
            self.context_of(index, 1, num_tokens)
        return {"seconds": time.perf_counter() - began, "version": f"llama.cpp ({c.__name__} {c.__version__})"}

    def context_of(self, model: int, num_sequences: int, num_tokens: int, key: str = "") -> Context:
        """The context for that many sequences of at least that many tokens each."""
        length = max(MIN_CONTEXT, 1 << (num_tokens - 1).bit_length())
        name = (model, num_sequences, length, key)
        if name not in self.contexts:
            self.contexts[name] = Context(self.models[model], num_sequences, length, self.num_threads)
        return self.contexts[name]

    def prefill(self, token_ids: list[int]) -> dict[str, Any]:
        context = self.context_of(0, 1, len(token_ids))
        context.truncate(0, 0)
        began = time.perf_counter()
        context.hold(0, token_ids)
        int(context.logits()[-1].argmax())
        return {"seconds": time.perf_counter() - began}

    def extend(self, token_ids: list[int], new_ids: list[int]) -> dict[str, Any]:
        context = self.context_of(0, 1, len(token_ids) + len(new_ids))
        context.hold(0, token_ids)
        began = time.perf_counter()
        context.forward([(0, new_ids)])
        int(context.logits()[-1].argmax())
        return {"seconds": time.perf_counter() - began}

    def decode(self, token_ids: list[int], num_tokens: int) -> dict[str, Any]:
        return self.decode_many([token_ids], num_tokens)

    def decode_many(self, prompts: list[list[int]], num_tokens: int) -> dict[str, Any]:
        """num_tokens forwards of one token a sequence; each is sampled greedily from the one before."""
        context = self.context_of(0, len(prompts), max(map(len, prompts)) + num_tokens)
        ids = []
        for sequence, prompt in enumerate(prompts):
            context.truncate(sequence, min(len(context.held[sequence]), len(prompt)))
            context.hold(sequence, prompt)
            ids.append(int(context.logits()[-1].argmax()))
        written = [[token_id] for token_id in ids]
        began = time.perf_counter()
        for _ in range(num_tokens):
            context.forward([(sequence, [token_id]) for sequence, token_id in enumerate(ids)])
            ids = context.logits().argmax(-1).tolist()
            for own, token_id in zip(written, ids, strict=True):
                own.append(token_id)
        return {"seconds": time.perf_counter() - began, "token_ids": written}

    def solve(self, token_ids: list[int], router: str, max_tokens: int) -> dict[str, Any]:
        """An answer by both models, each router with contexts of its own, as a server of its own would have."""
        small, large = (self.context_of(index, 1, self.num_tokens, router) for index in range(2))
        return write_routed(small, large, token_ids, router, max_tokens)

    def answers(self, prompts: list[list[int]], max_tokens: int) -> dict[str, Any]:
        context = self.context_of(0, 1, self.num_tokens)
        answers = [write_routed(context, context, prompt, "small", max_tokens) for prompt in prompts]
        return {"texts": [answer["text"] for answer in answers]}

    def logits(self, token_ids: list[int], path: str) -> dict[str, Any]:
        context = self.context_of(0, 1, len(token_ids))
        context.truncate(0, 0)
        rows = []
        for start in range(0, len(token_ids), BATCH_SIZE):
            context.forward([(0, token_ids[start : start + BATCH_SIZE])], all_logits=True)
            rows.append(context.logits().copy())
        np.save(path, np.concatenate(rows))
        return {}


if __name__ == "__main__":
    serve(LlamaCpp())
