"""Thinking in whole lives, on models that are scripts: opened by the model, ended by whatever its mark is made of."""

import pytest
from tiny import CHAT_TEMPLATE, Script, make_text

from glimp_engine import (
    Engine,
    GlimpRouter,
    LargeOnly,
    Model,
    RoutingParams,
    SamplingParams,
    SmallOnly,
    StepStart,
    Token,
)
from glimp_engine.text.messages import Chat

GREEDY = SamplingParams(temperature=0)
CONTROL = ("<|im_start|>", "<|im_end|>")
MESSAGES = [{"role": "user", "content": "Go"}]
OPENS = CHAT_TEMPLATE + "{{ '<think>\n' if add_generation_prompt }}"
HARMONY_END = "<|end|><|start|>assistant<|channel|>final<|message|>"
HARMONY = ("<|channel|>", "<|message|>", "<|end|>", "<|start|>")


def life(text, pieces, routing=None, prompt=MESSAGES, num_equal=None, **options):
    """(events, output) of two models that both write these pieces; a piece is one token."""
    script = Script(text)
    length = len(
        text.encode_chat(Chat(prompt)) if isinstance(prompt, list) else text.encode(prompt, allow_special=True)
    )
    models = [script.model(length, pieces, num_equal) for _ in Model]
    engine = Engine(*models, kv_cache_bytes=1 << 20, **options)
    events = list(engine.stream(prompt, GREEDY, routing or RoutingParams(router=GlimpRouter(1.0))))
    output = events[-1].output
    assert output.error is None
    assert (
        "".join(event.text for event in events if isinstance(event, Token)) + events[-1].text == output.outputs[0].text
    )
    return events, output.outputs[0]


def budget(max_thinking_tokens, **options):
    return RoutingParams(router=GlimpRouter(1.0), max_thinking_tokens=max_thinking_tokens, **options)


def letters(text):
    """Pieces of one token each, for a vocabulary that has no other for them."""
    return list(text)


def phases(completion):
    return [str(step.phase) for step in completion.steps]


def texts(completion):
    return [completion.text[step.text_start : step.text_end] for step in completion.steps]


# A model that opens its thinking itself.


@pytest.mark.parametrize("white", [[], ["\n"], ["\n\n"]], ids=["at once", "newline", "blank line"])
def test_a_block_that_the_model_opens_is_thinking(white):
    text = make_text()
    pieces = [*white, "<think>", " w1.\n\n", " w2", "</think>", "\n\n", " w4"]
    events, completion = life(text, pieces)
    opened = "".join(white) + "<think>"
    assert texts(completion) == [opened, " w1.\n\n", " w2</think>", "\n\n w4"]
    assert phases(completion) == ["thinking"] * 3 + ["answer"]
    assert completion.thinking_finish_reason == "stop"
    assert [str(step.model) for step in completion.steps] == ["small"] * 3 + ["large"]  # the answer's own writer
    starts = [event.step for event in events if isinstance(event, StepStart)]
    assert all(step.entropy is not None for step in starts[:3])  # what follows the mark is glimpsed


def test_the_first_step_of_an_opened_block_is_routed_by_its_own_glimpse():
    _, completion = life(make_text(), ["<think>", " w1.\n\n", "</think>", " w4"], num_equal={1: 5})
    assert [str(step.model) for step in completion.steps] == ["small", "large", "small", "large"]


def test_a_mark_behind_other_text_is_text():
    _, completion = life(make_text(), [" w1", "<think>", " w2.\n\n", " w3"])
    assert phases(completion) == ["answer"] * 2
    assert completion.thinking_finish_reason is None
    assert completion.text == " w1<think> w2.\n\n w3"


@pytest.mark.parametrize("end", [["</think>"], ["\n\n", "</think>"]])
def test_an_answer_that_begins_with_a_mark_is_no_second_thinking(end):
    _, completion = life(make_text(template=OPENS), [" w1", *end, "<think>", " w2.\n\n", " w3"])
    assert phases(completion)[-1] == "answer"
    assert completion.text.endswith("</think><think> w2.\n\n w3")
    assert completion.thinking_finish_reason == "stop"


def test_budgets_count_from_the_mark():
    pieces = ["<think>", " w1", " w2", *[" w9"] * 4, " w4"]
    _, completion = life(make_text(), pieces, budget(2))
    assert completion.text == "<think> w1 w2\n</think>\n\n w4"
    assert completion.thinking_finish_reason == "thinking_budget"
    _, completion = life(make_text(), ["<think>", *[" w9"] * 4, " w4"], budget(0))
    assert completion.text == "<think>\n</think>\n\n w4"
    assert phases(completion) == ["thinking", "answer"]


def test_large_alone_opens_its_thinking_too():
    routing = RoutingParams(router=LargeOnly())
    _, completion = life(make_text(), ["<think>", " w1.\n\n", "</think>", " w4"], routing)
    assert phases(completion) == ["thinking"] * 3 + ["answer"]


# Marks of several tokens.


def test_marks_of_several_tokens_begin_and_end_the_thinking():
    text = make_text(special=CONTROL, template=OPENS)
    pieces = [" w1.\n\n", " w2", *letters("</think>"), "\n\n", " w4"]
    _, completion = life(text, pieces)
    assert texts(completion) == [" w1.\n\n", " w2</think>", "\n\n w4"]
    assert phases(completion) == ["thinking", "thinking", "answer"]
    _, completion = life(make_text(special=CONTROL, template=OPENS), [*letters("</thin"), " w2", "</think>"[0], " w3"])
    assert completion.thinking_finish_reason == "unclosed"


def test_a_model_may_open_a_block_of_several_tokens_itself():
    text = make_text(
        special=CONTROL, template=CHAT_TEMPLATE + "{{ '<think>\n' if enable_thinking and add_generation_prompt }}"
    )
    pieces = [*letters("<think>"), " w1", *letters("</think>"), " w4"]
    _, completion = life(text, pieces)
    assert texts(completion) == ["<think>", " w1</think>", " w4"]
    assert phases(completion) == ["thinking", "thinking", "answer"]


def test_a_forced_end_of_several_tokens():
    text = make_text(special=CONTROL, template=OPENS)
    pieces = [" w1", " w2", *[" w9"] * len("\n</think>\n\n"), " w4"]
    _, completion = life(text, pieces, budget(2))
    assert completion.text == " w1 w2\n</think>\n\n w4"


def test_channels_of_special_tokens():
    template = CHAT_TEMPLATE + "{{ '<|channel|>analysis<|message|>' if add_generation_prompt }}"
    text = make_text(special=(*CONTROL, *HARMONY), template=template)
    end = ["<|end|>", "<|start|>", *"assistant", "<|channel|>", *"final", "<|message|>"]
    _, completion = life(text, [" w1.\n\n", " w2", *end, " w4"])
    assert texts(completion) == [" w1.\n\n", " w2" + HARMONY_END, " w4"]
    assert phases(completion) == ["thinking", "thinking", "answer"]
    _, completion = life(text, [" w1", *[" w9"] * (len(end) + 1), " w4"], budget(1))
    assert completion.text == f" w1\n{HARMONY_END} w4"


# The end of a thinking.


@pytest.mark.parametrize("special", [(*CONTROL, "<think>", "</think>"), CONTROL], ids=["token", "several tokens"])
def test_a_stray_mark_behind_a_forced_end_is_not_shown(special):
    text = make_text(special=special, template=OPENS)
    stray = ["</think>"] if len(special) > 2 else letters("</think>")
    num_forced = len(text.end_of_thinking("", text.marks))
    pieces = [" w1", *[" w9"] * num_forced, " w2", *stray, " w3", "<", " w4", "<"]
    _, completion = life(text, pieces, budget(1))
    assert completion.text == " w1\n</think>\n\n w2 w3< w4<"


def test_a_stray_mark_behind_a_written_end_is_text():
    _, completion = life(make_text(template=OPENS), [" w1", "</think>", " w2", "</think>", " w3"])
    assert completion.text == " w1</think> w2</think> w3"


def test_a_thinking_that_ends_with_the_output_says_so():
    text = make_text(template=OPENS)
    assert life(text, [" w1"])[1].thinking_finish_reason == "unclosed"
    engine = Engine(Script(text).model(len(text.encode_chat(Chat(MESSAGES))), [" w1", " w2"]), kv_cache_bytes=1 << 20)
    stopped = engine.generate(MESSAGES, SamplingParams(temperature=0, stop="w2"), use_tqdm=False)[0].outputs[0]
    assert (stopped.thinking_finish_reason, stopped.finish_reason) == ("unclosed", "stop")
    short = engine.generate(MESSAGES, SamplingParams(temperature=0, max_tokens=1), use_tqdm=False)[0].outputs[0]
    assert (short.thinking_finish_reason, short.finish_reason) == ("length", "length")


def test_a_code_fence_in_the_thinking_is_closed_by_its_end():
    text = make_text(template=OPENS, words=(" w1.\n\n", " w2.\n\n", " w3", "```x", "\n\n"))
    num_forced = len(text.end_of_thinking("", text.marks))
    pieces = ["```x", "\n\n", *["\n"] * num_forced, " w1.\n\n", " w2.\n\n", " w3"]
    _, completion = life(text, pieces, budget(2, answer_model="routed"), skip_code_fences=True)
    assert phases(completion) == ["thinking", *["answer"] * 3]


@pytest.mark.parametrize(
    ("prompt", "closed"), [("<think>\n", "<think>\n</think>\n\n"), (MESSAGES, "<think>\n\n</think>\n\n")]
)
def test_no_thinking_at_all(prompt, closed):
    text = make_text(template=OPENS)
    before = "" if prompt is not MESSAGES else text.decode(text.encode_chat(Chat(MESSAGES))).removesuffix("<think>\n")
    num_control = 0 if prompt is not MESSAGES else 3
    length = len(text.encode(before + closed, allow_special=True)) + num_control
    engine = Engine(Script(text).model(length, [" w1.\n\n", " w2"]), kv_cache_bytes=1 << 20)
    routing = RoutingParams(router=SmallOnly(), max_thinking_tokens=0)
    output = engine.generate([prompt], GREEDY, routing, use_tqdm=False)[0]
    assert text.decode(output.prompt_token_ids).endswith(closed)
    assert phases(output.outputs[0]) == ["answer", "answer"]
    assert output.outputs[0].text == " w1.\n\n w2"
