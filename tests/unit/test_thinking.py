"""Thinking: each family's marks, made of whatever tokens; where it's opened is asked of what the template renders."""

import pytest
from tiny import CHAT_TEMPLATE, make_text
from tokenizers import AddedToken

from glimp_engine.text.chat import ChatFormat, ChatTemplate
from glimp_engine.text.messages import Chat
from glimp_engine.text.thinking import FAMILIES, MarkReader, find_marks

USER = {"role": "user", "content": "a"}
ON, OFF = ({"enable_thinking": value} for value in (True, False))
THINK = FAMILIES[0]
CONTROL = ("<|im_start|>", "<|im_end|>")


def ends(template, allowed=True, special=(*CONTROL, "<think>", "</think>"), **kwargs):
    """What the prompt ends with, from the last message on."""
    text = make_text(template=template, special=special)
    chat = Chat([USER], chat_template_kwargs=kwargs, is_thinking_allowed=allowed)
    return b"".join(map(text.bytes_of, text.encode_chat(chat))).decode().rpartition("assistant\n")[2]


# Where thinking is opened.

ALWAYS = CHAT_TEMPLATE + "{{ '<think>\n' }}"
NEVER = CHAT_TEMPLATE + "{{ '<think>\n\n</think>\n\n' }}"
WRITES_THOUGHTS = CHAT_TEMPLATE.replace(
    "{{ message.content }}",
    "{% if message.role == 'assistant' %}<think>\n{{ message.reasoning_content }}\n</think>\n{% endif %}"
    "{{ message.content }}",
)
STRIPS = CHAT_TEMPLATE.replace("message.content", "message.content.split('</think>')[-1]")
CLOSES_IF_TOLD = CHAT_TEMPLATE + (
    "{% if add_generation_prompt and enable_thinking is defined and enable_thinking is false %}"
    "<think>\n\n</think>\n\n{% endif %}"
)
OPENS_IF_TOLD = CHAT_TEMPLATE + (
    "{% if add_generation_prompt %}{% if thinking %}<think>{% else %}</think>{% endif %}{% endif %}"
)
ADAPTIVE = CHAT_TEMPLATE + (
    "{% if enable_thinking is defined %}"
    "{% if enable_thinking %}<think>\n{% else %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
BY_THE_USER = CHAT_TEMPLATE + "{% if '/no_think' in messages[-1].content %}<think>\n\n</think>\n\n{% endif %}"


@pytest.mark.parametrize(
    ("template", "default", "on", "off"),
    [
        (CHAT_TEMPLATE, "", "", ""),
        (ALWAYS, "<think>\n", "<think>\n", "<think>\n"),
        (NEVER, *["<think>\n\n</think>\n\n"] * 3),
        (CLOSES_IF_TOLD, "<think>\n", "<think>\n", "<think>\n\n</think>\n\n"),
        (OPENS_IF_TOLD, "</think>", "<think>", "</think>"),
        (ADAPTIVE, "", "<think>\n", "<think>\n\n</think>\n\n"),
        (WRITES_THOUGHTS, "<think>\n", "<think>\n", "<think>\n"),
        (STRIPS, "", "", ""),  # an instruct model that only takes old thinking away: it may open one itself
        (CHAT_TEMPLATE + "{# <think> </think> enable_thinking #}", "", "", ""),  # the source says nothing
        (BY_THE_USER, "", "", ""),
    ],
    ids=["plain", "opened", "closed", "off if told", "on if told", "adaptive", "turns", "strips", "source", "user"],
)
def test_thinking_is_opened_where_the_template_shows_it(template, default, on, off):
    both = {"enable_thinking": True, "thinking": True}, {"enable_thinking": False, "thinking": False}
    assert (ends(template), ends(template, **both[0]), ends(template, **both[1])) == (default, on, off)


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (CHAT_TEMPLATE, ""),
        (ALWAYS, "<think>\n\n</think>\n\n"),
        (CLOSES_IF_TOLD, "<think>\n\n</think>\n\n"),
        (OPENS_IF_TOLD, "</think>"),
        (WRITES_THOUGHTS, "<think>\n\n</think>\n\n"),
        (STRIPS, ""),
    ],
)
def test_no_thinking_tokens_is_no_thinking(template, expected):
    assert ends(template, allowed=False) == expected


def test_what_the_user_writes_neither_opens_nor_closes_it():
    text = make_text(template=ALWAYS)
    for content in ("Say </think>.", "</think>", "<think>", "What is <think>?"):
        ids = text.encode_chat(Chat([{"role": "user", "content": content}]))
        assert [i for i in ids if i in (text.begin_thinking_id, text.end_thinking_id)] == [text.begin_thinking_id]
        assert content in b"".join(map(text.bytes_of, ids)).decode()
    plain = make_text()
    ids = plain.encode_chat(Chat([{"role": "user", "content": "<think>"}]))
    assert not plain.is_thinking_open(ids)


def test_what_an_assistant_thought_stays_thinking():
    text = make_text(template=WRITES_THOUGHTS)
    messages = [USER, {"role": "assistant", "content": "b", "reasoning": "hm"}, USER]
    ids = text.encode_chat(Chat(messages))
    marks = [i for i in ids if i in (text.begin_thinking_id, text.end_thinking_id)]
    assert marks == [text.begin_thinking_id, text.end_thinking_id, text.begin_thinking_id]
    old = [USER, {"role": "assistant", "content": "<think>hm</think>b"}, USER]
    stripped = make_text(template=STRIPS)
    assert b"hm" not in b"".join(map(stripped.bytes_of, stripped.encode_chat(Chat(old))))


# Families.


def family_text(marks, kind):
    """A text whose marks are special tokens, ordinary ones, or none."""
    template = CHAT_TEMPLATE + "{% if add_generation_prompt %}" + marks.begin + "{% endif %}"
    names = (marks.begin, marks.end)
    if kind == "special tokens":
        return make_text(template=template, special=(*CONTROL, *names))
    return make_text(template=template, special=CONTROL, **({"words": names} if kind == "words" else {}))


@pytest.mark.parametrize("kind", ["special tokens", "words", "several tokens"])
@pytest.mark.parametrize("marks", FAMILIES, ids=lambda marks: marks.begin)
def test_each_family_is_found_opened_and_ended(marks, kind):
    text = family_text(marks, kind)
    assert text.marks == marks
    assert (text.end_thinking_id is not None) == (kind == "special tokens")
    ids = text.encode_chat(Chat([USER]))
    assert text.is_thinking_open(ids)
    closed = text.encode_chat(Chat([USER], is_thinking_allowed=False))
    assert not text.is_thinking_open(closed)
    assert b"".join(map(text.bytes_of, closed)).decode().endswith(f"{marks.begin}\n{marks.end}{marks.after_end}")
    end = text.end_of_thinking("hm", marks)
    assert text.decode(end) == f"\n{marks.end}{marks.after_end}"  # marks are shown, whatever they are made of
    assert not text.is_thinking_open(ids + end)


@pytest.mark.parametrize("marks", FAMILIES, ids=lambda marks: marks.begin)
def test_each_family_is_known_by_its_tokens(marks):
    names = {"<|channel|>", "<|message|>", "<|end|>", "<|start|>", "<|begin|>", "<|content|>", "<|think|>"}
    names |= {"<|open|>", "<|close|>", "<|sep|>", "<|channel>", "<channel|>", "<|eom|>", "[BEGIN FINAL RESPONSE]"}
    assert find_marks([], lambda name: name in (marks.begin, marks.end)) in (marks, None)
    own = {name for name in names if name in marks.begin + marks.end} | {marks.begin, marks.end}
    assert find_marks([], own.__contains__) == marks
    assert find_marks(["a question"], lambda _: False) is None


@pytest.mark.parametrize("marks", FAMILIES, ids=lambda marks: marks.begin)
@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_marks_are_read_whatever_tokens_they_come_in(marks, size):
    def pieces(text):
        raw = text.encode()
        return [raw[i : i + size] for i in range(0, len(raw), size)]

    reader = MarkReader()
    begun = [reader.begins(piece, marks) for piece in pieces("\n " + marks.begin)]
    assert begun == [False] * (len(begun) - 1) + [True]
    ended = [reader.ends(piece, marks) for piece in pieces("hm é" + marks.end)]
    assert ended == [False] * (len(ended) - 1) + [True]
    reader = MarkReader()
    # behind anything it's text
    assert not any(reader.may_begin and reader.begins(piece, marks) for piece in pieces("a" + marks.begin))


def test_taken_back_marks_can_be_read_again():
    reader = MarkReader()
    assert not reader.begins(b"<thi", THINK)
    mark = reader.mark()
    assert not reader.begins(b"s", THINK)
    assert not reader.may_begin
    reader.take_back(mark)
    assert reader.begins(b"nk>", THINK)


def test_a_hostile_template_is_tried_once(monkeypatch):
    from glimp_engine.text import sandbox

    monkeypatch.setattr(sandbox, "MAX_SECONDS", 0.3)
    tried = []
    render = sandbox.TemplateSandbox.render
    monkeypatch.setattr(sandbox.TemplateSandbox, "render", lambda *args: (tried.append(1), render(*args))[1])
    ChatTemplate(ChatFormat("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"))
    assert len(tried) == 1


def test_special_marks_are_not_taken_for_ends():
    text = make_text(special=(*CONTROL, AddedToken("<think>").content, "</think>"))
    assert text.end_thinking_id not in text.end_token_ids


def test_what_the_other_model_wrote_comes_with_ones_own_marks():
    seed, think = FAMILIES[2], THINK
    texts = [family_text(marks, "special tokens") for marks in (seed, think)]
    written = f"{seed.begin}hm{seed.end}b <think>"
    ids = texts[1].encode_carried(written, texts[0])
    assert [i for i in ids if i in texts[1].added_ids] == [texts[1].begin_thinking_id, texts[1].end_thinking_id]
    assert texts[1].decode(ids) == "<think>hm</think>b <think>"
    plain = make_text(special=CONTROL)
    assert plain.marks is None
    assert plain.decode(plain.encode_carried(written, texts[0])) == written
    assert texts[1].decode(texts[1].encode_carried("<think>a", plain)) == "<think>a"
