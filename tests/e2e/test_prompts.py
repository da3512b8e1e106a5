"""Prompts in all the forms that vLLM takes, and what is none."""

from collections import UserDict

import numpy as np
import pytest
import torch
from tiny import THINKING_TEMPLATE, Script, make_text

from glimp_engine import ConfigError, Engine, RequestError, RoutingParams, SamplingParams, SmallOnly

GREEDY = SamplingParams(temperature=0, max_tokens=2)
IDS = [38, 78]
MESSAGES = [{"role": "user", "content": "Go"}]


@pytest.fixture(scope="module")
def engine():
    text = make_text(template=THINKING_TEMPLATE)
    return Engine(Script(text).model(0, []), kv_cache_bytes=1 << 20)


def ids_of(engine, prompts, **routing):
    outputs = engine.generate(prompts, GREEDY, RoutingParams(router=SmallOnly(), **routing), use_tqdm=False)
    assert [output.error for output in outputs] == [None] * len(outputs)
    return [output.prompt_token_ids for output in outputs]


@pytest.mark.parametrize(
    "prompt",
    [
        "Go",
        {"prompt": "Go"},
        UserDict({"prompt": "Go"}),
        IDS,
        tuple(IDS),
        {"prompt_token_ids": IDS},
        {"prompt_token_ids": np.array(IDS)},
        np.array(IDS),
        np.array(IDS, dtype=np.uint16),
        torch.tensor(IDS),
        [np.int32(38), np.int64(78)],
        [torch.tensor(38), 78],
    ],
    ids=repr,
)
def test_one_prompt_in_any_form(engine, prompt):
    assert ids_of(engine, prompt) == [IDS]
    assert ids_of(engine, [prompt, prompt]) == [IDS, IDS]
    engine.add_request("a", prompt, GREEDY)
    engine.abort("a")
    engine.advance()


def test_the_text_of_a_prompt_is_given_back(engine):
    assert engine.generate([{"prompt": "Go"}], GREEDY, use_tqdm=False)[0].prompt == "Go"


def test_chats_in_any_form(engine):
    (want,) = ids_of(engine, MESSAGES)
    assert ids_of(engine, [MESSAGES, {"messages": MESSAGES}, tuple(MESSAGES)]) == [want] * 3
    assert ids_of(engine, {"messages": MESSAGES}) == [want]


def test_variables_of_the_template(engine):
    (thinks,) = ids_of(engine, MESSAGES)
    off = {"enable_thinking": False}
    (closed,) = ids_of(engine, {"messages": MESSAGES, "chat_template_kwargs": off})
    text = engine._dictionary.texts[0]
    assert (text.is_thinking_open(thinks), text.is_thinking_open(closed)) == (True, False)
    assert ids_of(engine, MESSAGES, chat_template_kwargs=off) == [closed]
    assert ids_of(engine, MESSAGES, max_thinking_tokens=0) == [closed]
    on = {"messages": MESSAGES, "chat_template_kwargs": {"enable_thinking": True}}
    assert ids_of(engine, on, chat_template_kwargs=off) == [thinks]  # the prompt's own count more


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ({}, "prompt is a dict with nothing; allowed: one of prompt, prompt_token_ids, messages"),
        ({"prompt": "a", "prompt_token_ids": [1]}, "a dict with 'prompt', 'prompt_token_ids'"),
        ({"prompt": "a", "multi_modal_data": {}}, "a dict with 'prompt', 'multi_modal_data'"),
        ({"prompt": "a", "tools": []}, "a dict with 'prompt', 'tools'"),
        ({"prompt_embeds": 1}, "a dict with 'prompt_embeds'"),
        ({"prompt": [1]}, "prompt is [1]; allowed: text"),
        ({"prompt": {"prompt": "a"}}, "prompt is {'prompt': 'a'}; allowed: text"),
        ({"prompt_token_ids": "a"}, "prompt_token_ids is 'a'; allowed: token ids"),
        ({"prompt_token_ids": []}, "prompt is []; allowed: text, token ids, chat messages, or a dict"),
        ({"messages": []}, "messages is []"),
        ({"messages": "a"}, "messages is 'a'"),
        ({"messages": MESSAGES, "chat_template_kwargs": [1]}, "chat_template_kwargs is [1]; allowed: a dict"),
        (None, "prompt is None; allowed: text, token ids, chat messages, or a dict"),
        ({1, 2}, "prompt is {1, 2}; allowed: text"),
        (b"Go", "prompt is b'Go'; allowed: text"),
        (3.5, "prompt is 3.5"),
        ([], "prompt is []"),
        ("", "prompt is ''"),
        ([1, "a"], "prompt[1] is 'a'; allowed: a token id"),
        ([1, 2.0], "prompt[1] is 2.0; allowed: a token id"),
        ([1, True], "prompt[1] is True; allowed: a token id"),
        (np.array([[1, 2], [3, 4]]), "messages[0] is [1, 2]"),
        (np.array([1.5]), "messages[0] is 1.5"),
        ([1, torch.tensor(1.5)], "prompt[1] is tensor(1.5000); allowed: a token id"),
        ([1, np.array([2])], "prompt[1] is array([2]); allowed: a token id"),
        ([1, -1], "prompt[1] is -1; allowed: a token id from 0 to"),
        ([1, 10**9], "prompt[1] is 1000000000; allowed: a token id from 0 to"),
        (range(3), "prompt is range(0, 3)"),
    ],
    ids=repr,
)
def test_what_is_no_prompt_ends_one_request(engine, prompt, message):
    good, bad = engine.generate(["Go", prompt], GREEDY, use_tqdm=False)
    assert good.error is None
    assert bad.error.startswith(message) or message in bad.error
    with pytest.raises(RequestError):
        engine.add_request("bad", prompt, GREEDY)


@pytest.mark.parametrize(
    "prompts",
    [None, {"Go"}, iter(["Go"]), (p for p in ["Go"]), 3, b"Go", range(2)],
    ids=["none", "set", "iterator", "generator", "number", "bytes", "range"],
)
def test_what_is_no_list_of_prompts_is_told(engine, prompts):
    with pytest.raises(RequestError, match=r"prompts is .*; allowed: a list of prompts, or one: text, token ids"):
        engine.generate(prompts, GREEDY, use_tqdm=False)


def test_no_stop_string_is_none(engine):
    assert SamplingParams(stop=None).stop == ()
    with pytest.raises(ConfigError, match="stop is"):
        SamplingParams(stop=[None])
