"""Chat templates that llama.cpp ships: each renders as in transformers, and thinking is opened where it shows.

They are facts of others and not kept here: see `llama_cpp.py` for where they are looked for.
"""

from functools import cache

import pytest
from llama_cpp import find_models
from transformers.utils.chat_template_utils import _compile_jinja_template

from glimp_engine import RequestError
from glimp_engine.text.chat import ChatFormat, ChatTemplate
from glimp_engine.text.messages import Chat, read_messages

pytestmark = pytest.mark.slow

SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
USER = {"role": "user", "content": "a"}
ANSWER = {"role": "assistant", "content": "b"}
CONVERSATIONS = {
    "user": [USER],
    "system": [{"role": "system", "content": "Be brief."}, USER],
    "several turns": [USER, ANSWER, {"role": "user", "content": "c"}],
    "old reasoning": [USER, {**ANSWER, "reasoning_content": "hm"}, {"role": "user", "content": "c"}],
    "old marks": [USER, {**ANSWER, "content": "<think>\nhm\n</think>\n\nb"}, {"role": "user", "content": "c"}],
}
ON, OFF = ({"enable_thinking": value, "thinking": value} for value in (True, False))
REFUSED = ("refused",) * 3  # the template asks for tools, or for functions
PLAIN = (None,) * 3
# how a prompt ends that says nothing of thinking, asks for it, or for none: inside it (open), behind it (shut), or
# without a word of it (left), where the model opens it itself or doesn't
THINKING = {
    "Apertus-8B-Instruct": PLAIN,
    "GigaChat3-10B-A1.8B": PLAIN,
    "GigaChat3.1-10B-A1.8B": PLAIN,
    "Kimi-K2-Instruct": PLAIN,
    "LFM2-8B-A1B": PLAIN,
    "LFM2.5-Instruct": PLAIN,
    "MiMo-VL": PLAIN,
    "MiniMax-M1": PLAIN,
    "Mistral-Small-3.2-24B-Instruct-2506": PLAIN,
    "Qwen-Qwen2.5-7B-Instruct": PLAIN,
    "Qwen3-Coder": PLAIN,
    "google-gemma-2-2b-it": PLAIN,
    "ibm-granite-granite-4.0": PLAIN,
    "ibm-granite-granite-4.1": PLAIN,
    "meetkai-functionary-medium-v3.1": PLAIN,
    "meetkai-functionary-medium-v3.2": PLAIN,
    "meta-llama-Llama-3.1-8B-Instruct": PLAIN,
    "meta-llama-Llama-3.2-3B-Instruct": PLAIN,
    "meta-llama-Llama-3.3-70B-Instruct": PLAIN,
    "microsoft-Phi-3.5-mini-instruct": PLAIN,
    "mistralai-Mistral-Nemo-Instruct-2407": PLAIN,
    "moonshotai-Kimi-K2": PLAIN,
    "unsloth-mistral-Devstral-Small-2507": PLAIN,
    "Apriel-1.6-15b-Thinker-fixed": ("open", "open", "open"),
    "Bielik-11B-v3.0-Instruct": ("left", "open", "left"),
    "Reka-Edge": ("left", "open", "left"),
    "ByteDance-Seed-OSS": ("open", "open", "open"),
    "Cohere2MoE": ("open", "open", "open"),
    "CohereForAI-c4ai-command-r-plus-tool_use": REFUSED,
    "NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use": REFUSED,
    "NousResearch-Hermes-3-Llama-3.1-8B-tool_use": REFUSED,
    "fireworks-ai-llama-3-firefunction-v2": REFUSED,
    "CohereForAI-c4ai-command-r7b-12-2024-tool_use": ("shut", "open", "shut"),
    "GLM-4.6": ("open", "open", "shut"),
    "GLM-4.7-Flash": ("open", "open", "shut"),
    "HuggingFaceTB-SmolLM3-3B": ("open", "open", "shut"),
    "NVIDIA-Nemotron-3-Nano-30B-A3B-BF16": ("open", "open", "shut"),
    "Qwen-Qwen3-0.6B": ("open", "open", "shut"),
    "Qwen3.5-4B": ("open", "open", "shut"),
    "Spark2.5": ("open", "open", "shut"),
    "inclusionai-ling-3.0-flash": ("open", "open", "shut"),
    "poolside-Laguna-S-2.1": ("open", "open", "shut"),
    "Kimi-K2-Thinking": ("left", "left", "left"),
    "ibm-granite-granite-3.3-2B-Instruct": ("left", "left", "left"),
    "Kimi-K3": ("open", "open", "left"),
    "LFM2.5-8B-A1B": ("open", "open", "open"),
    "MiniMax-M2": ("open", "open", "open"),
    "NVIDIA-Nemotron-Nano-v2": ("open", "open", "open"),
    "StepFun3.5-Flash": ("open", "open", "open"),
    "deepseek-ai-DeepSeek-R1-Distill-Llama-8B": ("open", "open", "open"),
    "llama-cpp-deepseek-r1": ("open", "open", "open"),
    "MiniMax-M3": ("open", "open", "open"),
    "Qwen-QwQ-32B": ("shut", "open", "shut"),
    "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B": ("shut", "open", "shut"),
    "deepseek-ai-DeepSeek-V3.1": ("shut", "open", "shut"),
    "deepseek-ai-DeepSeek-V3.2": ("shut", "open", "shut"),
    "deepseek-ai-DeepSeek-V4-Flash-0731": ("shut", "open", "shut"),
    "deepseek-ai-DeepSeek-V4": ("shut", "open", "shut"),
    "poolside-Laguna-XS-2.1": ("shut", "open", "shut"),
    "poolside-Laguna-XS.2": ("shut", "open", "shut"),
    "google-gemma-4-31B-it-interleaved": ("shut", "open", "shut"),
    "google-gemma-4-31B-it": ("shut", "open", "shut"),
    "llama-cpp-rwkv-world": ("left", "open", "shut"),
    "openbmb-MiniCPM5-1B": ("left", "open", "shut"),
    "mistralai-Ministral-3-14B-Reasoning-2512": ("left", "left", "left"),
    "muse-glimmer": ("open", "open", "open"),
    "openai-gpt-oss-120b": ("open", "open", "open"),
    "tencent-Hy3": ("shut", "shut", "shut"),
    "unsloth-Apriel-1.5": ("left", "left", "left"),
    "upstage-Solar-Open-100B": ("open", "open", "open"),
}
MARKS = {
    "Apriel-1.6-15b-Thinker-fixed": "Here are my reasoning steps:",
    "ByteDance-Seed-OSS": "<seed:think>",
    "Cohere2MoE": "<|START_THINKING|>",
    "CohereForAI-c4ai-command-r7b-12-2024-tool_use": "<|START_THINKING|>",
    "Kimi-K3": "<|open|>think<|sep|>",
    "MiniMax-M3": "<mm:think>",
    "google-gemma-4-31B-it-interleaved": "<|channel>thought",
    "google-gemma-4-31B-it": "<|channel>thought",
    "mistralai-Ministral-3-14B-Reasoning-2512": "[THINK]",
    "muse-glimmer": "to=self<|message|>",
    "openai-gpt-oss-120b": "<|channel|>analysis<|message|>",
    "tencent-Hy3": "<think:opensource>",
    "unsloth-Apriel-1.5": "Here are my reasoning steps:",
    "upstage-Solar-Open-100B": "<|think|>",
}


@cache
def sources():
    """Templates by name."""
    return {file.stem: file.read_text(encoding="utf-8") for file in find_models().glob("templates/*.jinja")}


@cache
def template_of(name):
    return ChatTemplate(ChatFormat(sources()[name], SPECIAL))


def test_every_template_is_in_the_table():
    assert set(sources()) == set(THINKING)


def state_of(template, kwargs):
    """How the prompt ends."""
    try:
        written = "".join(template.render(Chat([USER], chat_template_kwargs=kwargs))).rstrip()
    except RequestError:
        return "refused"
    if template.marks is None:
        return None
    return (
        "open" if written.endswith(template.marks.begin) else "shut" if written.endswith(template.marks.end) else "left"
    )


@pytest.mark.parametrize("name", THINKING)
def test_thinking_is_opened_where_the_template_shows_it(name):
    template = template_of(name)
    assert tuple(state_of(template, kwargs) for kwargs in ({}, ON, OFF)) == THINKING[name]
    is_plain = THINKING[name] in (PLAIN, REFUSED)
    assert (template.marks and template.marks.begin) == (None if is_plain else MARKS.get(name, "<think>"))


@pytest.mark.parametrize("conversation", CONVERSATIONS)
@pytest.mark.parametrize("name", THINKING)
def test_it_renders_as_transformers_does(name, conversation):
    messages = CONVERSATIONS[conversation]
    values = {"messages": read_messages(messages), "tools": None, "documents": None, "add_generation_prompt": True}
    try:
        expected = _compile_jinja_template(sources()[name]).render(**values, **SPECIAL)
    except Exception:
        expected = None
    template = template_of(name)
    try:
        (written,) = template.render(Chat(messages))
    except RequestError:
        written = None
    if expected is None or written is None:
        assert written == expected  # its own refusal
    else:
        opened = written.removeprefix(expected)
        assert opened == "" or opened.strip() == template.marks.begin
