"""Models that are tables of logits, and what they should write, token by token, by a plain reference."""

import math

import pytest
import torch
from tiny import ScriptedModel, make_text

from glimp_engine import (
    Engine,
    LoadedModel,
    RoutingParams,
)
from glimp_engine.config import EngineConfig
from glimp_engine.kernels.philox import exponential_noise

PROMPT = "How many?"
TEXT = make_text()
V = TEXT.num_tokens
END = min(TEXT.end_token_ids)
NUM_TABLES = 23
KV = 1 << 20


def table_of(seed, end=0.0, text=TEXT):
    """Logits by (position, token): few words are likely, so that what is banned would come; `end` is for end tokens."""
    generator = torch.Generator().manual_seed(seed)
    table = torch.randn(NUM_TABLES, text.num_tokens, generator=generator) * 2
    words = [i for i in range(text.num_tokens) if b" w" in text.bytes_of(i) or b"\n\n" in text.bytes_of(i)]
    table[:, words] += 3.0
    table[:, list(text.end_token_ids)] += end
    return table


def logits_in(table, position, token_id):
    return table[(7 * position + token_id) % NUM_TABLES]


def model_of(table, text=TEXT):
    model = ScriptedModel(lambda position, token: logits_in(table, position, token).clone(), text.num_tokens)
    return LoadedModel(model, text)


TABLES = [table_of(1), table_of(2)]


def engine_on(ops):
    return Engine(*map(model_of, TABLES), device="cpu", page_size=4, ops=ops, kv_cache_bytes=KV)


def word_ids(word):
    """As vLLM's: the word at the beginning of a text, and within one if that's as long and begins otherwise."""
    first, spaced = TEXT.encode_word(word.lstrip()), TEXT.encode_word(" " + word.lstrip())
    return [first, spaced] if spaced[0] != first[0] and len(spaced) == len(first) else [first]


def plain_choice(raw, prompt, written, sampling, index=0, left=None):
    """The next token, written out in full: dense and in float64, in vLLM's order; `left` are the ids to choose from."""
    logits = raw.double().clone()
    if sampling.allowed_token_ids is not None:
        rest = [i for i in range(V) if i not in sampling.allowed_token_ids]
        logits[rest] = -math.inf
    for word in [ids for each in sampling.bad_words for ids in word_ids(each)]:
        before = word[:-1]
        if len(written) >= len(before) and written[len(written) - len(before) :] == before:
            logits[word[-1]] = -math.inf
    if len(written) < sampling.min_tokens:
        logits[[*TEXT.end_token_ids, *sampling.stop_token_ids]] = -math.inf
    for token, bias in (sampling.logit_bias or {}).items():
        logits[token] += bias
    if left is not None:
        logits[[i for i in range(V) if i not in left]] = -math.inf
    for token in {*prompt, *written}:
        value = logits[token]
        logits[token] = value / sampling.repetition_penalty if value > 0 else value * sampling.repetition_penalty
        count = written.count(token)
        logits[token] -= sampling.frequency_penalty * count + sampling.presence_penalty * (count > 0)
    if sampling.temperature == 0:
        return int(logits.argmax())
    position = len(prompt) + len(written)
    noise = exponential_noise(V, sampling.seed, index, position, torch.float64)
    return int((logits / sampling.temperature - noise.log()).argmax())


def ends(written, sampling):
    """Whether the last token ends the output."""
    ending = set(sampling.stop_token_ids) | (set() if sampling.ignore_eos else TEXT.end_token_ids)
    return written[-1] in ending


def check(output, sampling, tables=TABLES, left_after=None):
    """Each token is its writer's choice, and the output ends where it must.

    left_after: the ids that a grammar leaves behind the output's first ones, None for all.
    """
    prompt = output.prompt_token_ids
    for completion in output.outputs:
        ids = completion.token_ids
        for step in completion.steps:
            for i in range(step.token_start, step.token_end):
                raw = logits_in(tables[step.model], len(prompt) + i - 1, (prompt + ids[:i])[-1])
                left = None if left_after is None else left_after(ids[:i])
                assert ids[i] == plain_choice(raw, prompt, ids[:i], sampling, completion.index, left), (i, step.model)
        assert sum(step.num_tokens for step in completion.steps) == len(ids)
        assert not any(ends(ids[:i], sampling) for i in range(1, len(ids)))
        is_ended = ends(ids, sampling)
        assert completion.finish_reason == ("stop" if is_ended else "length")
        stop_id = ids[-1] if is_ended and ids[-1] not in (TEXT.end_token_ids - sampling_end(sampling)) else None
        assert completion.stop_reason == stop_id
        assert is_ended or len(ids) == sampling.max_tokens


def sampling_end(sampling):
    """End tokens that are none, as the request ignores them."""
    return TEXT.end_token_ids if sampling.ignore_eos else frozenset()


def id_of(piece):
    return [TEXT.bytes_of(i) for i in range(V)].index(piece.encode())


W = [id_of(f" w{i}") for i in range(40)]


def routed(router, **options):
    return RoutingParams(router=router, stop_repeated_steps=False, max_step_tokens=5, **options)


SLOW_MODES = [pytest.param(mode, marks=pytest.mark.slow) for mode in ("reference", "graphs", "ahead")]
MODES = ["native", *SLOW_MODES]  # Triton's ops have tests of their own


def engine_in(mode, monkeypatch):
    """A pair of tables on an op set, or in ticks that stay or run ahead."""
    if mode in ("graphs", "ahead"):
        monkeypatch.setattr(EngineConfig, "has_graphs", True)
        monkeypatch.setattr(EngineConfig, "runs_ahead", mode == "ahead")
    return engine_on(mode if mode in ("native", "reference") else "reference")
