"""Chat templates: what ours writes is what transformers writes, and what loops or explodes ends."""

import time
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import pytest
from fuzz.hostile import STEPS, bombs
from tiny import CHAT_TEMPLATE, chat_format, make_text, make_tokenizer
from transformers import PreTrainedTokenizerFast

from glimp_engine import RequestError
from glimp_engine.text import sandbox
from glimp_engine.text.chat import ChatTemplate
from glimp_engine.text.messages import Chat, read_messages


@dataclass
class Call:
    """A message's part that isn't of JSON's types."""

    name: str
    arguments: dict


CHATS = [
    [{"role": "user", "content": "a"}],
    [{"role": "system", "content": "<b>&'é\n"}, {"role": "user", "content": "x", "name": None}],
    [
        {"role": "user", "content": [{"type": "text", "text": "a"}]},
        {"role": "assistant", "content": "b", "tool_calls": [Call("f", {"x": np.int64(3)})]},
    ],
]
TEMPLATES = [
    CHAT_TEMPLATE,
    "{% for m in messages %}{{ m|tojson }}{{ m.items()|list }}{{ loop.index0 ~ loop.last ~ loop.length }}{% endfor %}",
    "{% for m in messages %}{{ m|tojson(indent=2) }}{{ m.reasoning_content }}{{ m.name is defined }}{% endfor %}",
    "{% set ns = namespace(n=0, l=[]) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}"
    "{% set ns.l = ns.l + [m.role] %}{% if loop.first %}{% continue %}{% endif %}{{ ns.n }}{% endfor %}"
    "{{ ns.l }}{{ ns.l|join('-') }}",
    "{% macro m(a, b=2) %}{{ a }}:{{ b }}{% endmacro %}{{ m(1) ~ m('x', b=[3]) }}{{ bos_token }}{{ eos_token }}",
    "  {% if tools %}x{% endif %}\n  {% generation %}a{% endgeneration %}\n{{- messages[-1].content }}\n",
    "{{ '%s=%d'|format('a', 3) }}{{ '{}-{:>4}'.format('a', 1) }}{{ 'ab' * 3 }}{{ 2 ** 10 }}{{ 7 % 4 }}",
    "{{ [1, 2] + [3] }}",
    "{{ messages[0].content|string|trim|upper|replace('A', 'xx')|indent(2) }}{{ {'a': (1, none, true)} }}{{ none }}",
    "{% for k, v in dict(a=1, b=[2])|dictsort %}{{ k, v }}{% endfor %}{{ messages[::-1]|map(attribute='role')|list }}",
    "{{ messages|selectattr('role', 'equalto', 'user')|list|length }}{{ range(3)|list }}{{ 'a' in ['a', bos_token] }}",
    "{% for m in messages if m.role == 'user' %}{{ loop.length }}{% else %}none{% endfor %}{{ documents }}",
    "{% set x %}{{ messages[0].role }}{% endset %}{{ x }}{{ x.split('s')|tojson }}{{ '<&>' }}{{ 1.5 }}{{ true }}",
]


def rendered(tokenizer, messages):
    return "".join(ChatTemplate(chat_format(tokenizer)).render(Chat(messages)))


@pytest.mark.parametrize("template", TEMPLATES)
def test_what_is_written_is_what_transformers_writes(template):
    tokenizer = make_tokenizer(template=template)
    for chat in CHATS:
        expected = tokenizer.apply_chat_template(read_messages(chat), tokenize=False, add_generation_prompt=True)
        assert rendered(tokenizer, chat) == expected


def test_of_several_templates_the_default_is_taken():
    tokenizer = make_tokenizer(template={"tool_use": "b", "default": "a"})
    assert isinstance(tokenizer, PreTrainedTokenizerFast)
    assert rendered(tokenizer, CHATS[0]) == "a"
    with pytest.raises(RequestError, match="several templates, x, and no default"):
        make_text(template={"x": "b"}).encode_chat(Chat(CHATS[0]))


@pytest.mark.parametrize("step", STEPS)
def test_what_explodes_ends(step, monkeypatch):
    monkeypatch.setattr(sandbox, "MAX_SECONDS", 1.0)
    start = time.monotonic()
    with suppress(RequestError):
        rendered(make_tokenizer(template=bombs(300, step)), CHATS[0])
    assert time.monotonic() - start < 10


def test_what_loops_ends_with_its_limit(monkeypatch):
    monkeypatch.setattr(sandbox, "MAX_SECONDS", 0.2)
    loops = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    with pytest.raises(RequestError, match=r"the chat template takes longer than 0\.2 s"):
        make_text(template=loops).encode_chat(Chat(CHATS[0]))
