"""Calls of tools, found in what models write: whole, in pieces, cut off, and not quite as they were told to."""

import json
from functools import cache

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from llama_cpp import find_models

from glimp_engine import ConfigError
from glimp_engine.serving.tool_calls import (
    CallDelta,
    ContentDelta,
    HermesParser,
    Qwen3CoderParser,
    find_parser,
)
from glimp_engine.text.chat import ChatFormat, ChatTemplate
from glimp_engine.text.messages import Chat

TYPES = {
    "text": {"type": "string"},
    "count": {"type": "integer"},
    "size": {"type": "number"},
    "deep": {"type": "boolean"},
    "options": {"type": "object"},
    "files": {"type": "array", "items": {"type": "string"}},
    "nothing": {"type": "null"},
    "maybe": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
    "maybe_text": {"type": ["string", "null"]},
    "old_maybe": {"type": "integer", "nullable": True},
    "text_or_count": {"type": ["string", "integer"]},
    "count_or_text": {"oneOf": [{"type": "integer"}, {"type": "string"}]},
    "referred": {"$ref": "#/$defs/point"},
    "all_of": {"allOf": [{"$ref": "#/$defs/point"}]},
    "circle": {"$ref": "#/$defs/circle"},
    "nowhere": {"$ref": "#/$defs/nowhere"},
    "colour": {"enum": ["red", "blue"]},
    "level": {"enum": [1, 2]},
    "fixed": {"const": True},
    "any": {},
    "odd": {"type": 7, "anyOf": "x"},
    "unheard": {"type": "uuid"},
}
DEFS = {"point": {"type": "object"}, "circle": {"anyOf": [{"$ref": "#/$defs/circle"}, {"type": "integer"}]}}
TOOLS = [
    {"type": "function", "function": {"name": "f", "parameters": {"properties": TYPES, "$defs": DEFS}}},
    {"type": "function", "function": {"name": "g"}},
]


def parse(parser, pieces, tools=TOOLS):
    """Content, and (name, arguments) of each call, of all pieces; what every answer must hold is checked."""
    reading = parser(tools)
    content, names, arguments, ids = "", [], [], []
    for deltas in [*map(reading.push, pieces), reading.finish()]:
        for delta in deltas:
            if isinstance(delta, ContentDelta):
                assert delta.text
                content += delta.text
            else:
                assert isinstance(delta, CallDelta)
                if delta.index == len(names):
                    assert delta.id.startswith("call_")
                    names.append(delta.name)
                    arguments.append("")
                    ids.append(delta.id)
                else:
                    assert delta.id is None
                    assert delta.name is None
                    assert delta.arguments
                assert delta.index == len(names) - 1
                arguments[-1] += delta.arguments
    assert len(set(ids)) == len(ids)
    assert reading.finish() == []
    return content, list(zip(names, arguments, strict=True))


def hermes(text):
    whole = parse(HermesParser, [text])
    assert parse(HermesParser, text) == whole
    return whole


def coder(text):
    whole = parse(Qwen3CoderParser, [text])
    assert parse(Qwen3CoderParser, text) == whole
    return whole


# Hermes.


def object_of(arguments, name="f"):
    return f'{{"name": "{name}", "arguments": {arguments}}}'


def call_of(arguments, name="f"):
    return f"<tool_call>\n{object_of(arguments, name)}\n</tool_call>"


@pytest.mark.parametrize(
    "arguments",
    [
        "{}",
        '{"a": 1}',
        '{"a":1,"b" : [ 1.50, -2e3 ,true,null ] }',
        '{"a": {"b": {"c": [{}, [], [{"d": {}}]]}}}',
        '{"a": "{[\\"}]"}',
        '{"a": "\\\\", "b": "\\\\\\""}',
        '{"a": "</tool_call>", "b": "<tool_call>{\\"name\\": 1}</tool_call>"}',
        '{"a": "\\u00e9\\ud83d\\ude00é😀"}',
        '{\n  "a": "line\\nline",\n  "b": 2\n}',
        '{"a": "a\nraw line break"}',
        '["not", "an object"]',
        '"text"',
        "5",
    ],
)
def test_arguments_are_what_was_written(arguments):
    assert hermes(call_of(arguments)) == ("", [("f", arguments)])
    assert hermes(f'<tool_call>{{"arguments": {arguments}, "name":"f"}}</tool_call>') == ("", [("f", arguments)])


@pytest.mark.parametrize(
    ("written", "arguments"),
    [
        ('{"name": "f"}', "{}"),
        ('{"name": "f", "arguments": null}', "{}"),
        ('{"name": "f", "arguments": "{\\"a\\": \\"é\\\\n\\"}"}', '{"a": "é\\n"}'),
        ('{"name": "f", "arguments": ""}', "{}"),
        ('{"name": "f", "parameters": {"a": 1}}', '{"a": 1}'),
        ('{"id": 7, "type": {"x": ["}"]}, "name": "f", "arguments": {"a": 1}, "more": "x"}', '{"a": 1}'),
        ('{"name": "f", "arguments": {"a": 1}}}', '{"a": 1}'),
        ('{"name": "f", "arguments": {"a": 1}', '{"a": 1}'),
        ('{"name": "f", "arguments": {"a": {"b": [1, "x"]', '{"a": {"b": [1, "x"]\n}}'),
        ('{"name": "f", "arguments": {"a": [1}}', '{"a": [1]}'),
        ('{"name": "\\u0066", "arguments": {"a": 1},}', '{"a": 1}'),
        ('{"name": "f", "name": "g", "arguments": {}, "arguments": {"a": 1}}', "{}"),
    ],
)
def test_what_models_write_instead(written, arguments):
    assert hermes(f"<tool_call>\n{written}\n</tool_call>") == ("", [("f", arguments)])


@pytest.mark.parametrize("between", ["", "\n", " \n\n"])
def test_several_calls(between):
    calls = [("f", '{"a": 1}'), ("g", "{}"), ("f", "{}")]
    texts = [call_of(arguments, name) for name, arguments in calls]
    assert hermes(between.join(texts) + between) == ("", calls)
    assert hermes("Let me see." + between + between.join(texts)) == ("Let me see.", calls)
    objects = between.join(object_of(arguments, name) for name, arguments in calls)
    assert hermes(f"<tool_call>{between}{objects}</tool_call>") == ("", calls)
    unclosed = between.join(f"<tool_call>{object_of(arguments, name)}" for name, arguments in calls)
    assert hermes(unclosed) == ("", calls)


def test_text_around_calls_is_content():
    assert hermes(f"\n a b\n\n{call_of('{}')}\n c ") == ("\n a b\n c ", [("f", "{}")])
    assert hermes(f"a{call_of('{}')} b {call_of('{}', 'g')}\n") == ("a b", [("f", "{}"), ("g", "{}")])
    assert hermes(f"{call_of('{}')}</tool_call>") == ("</tool_call>", [("f", "{}")])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Hello.\n\n",
        " \n",
        "a < b <tool <tool_call <tool_calls>",
        "Write `<tool_call>` and then </tool_call>.\n",
        "<tool_call>\nf\n</tool_call>",
        "<tool_call>\n\n</tool_call>\n",
        "<tool_call>{}</tool_call>",
        '<tool_call>{"arguments": {"a": 1}}</tool_call>',
        '<tool_call>{"name": 5, "arguments": {}}</tool_call>',
        '<tool_call>{"name": "", "arguments": {}}</tool_call>',
        '<tool_call>{"name": {"a": "f"}, "arguments": {}}</tool_call>',
        '<tool_call>{"name": "\\q", "arguments": {}}</tool_call>',
        "<tool_call>{name: f}</tool_call>",
        "<tool_call>{'name': 'f'}</tool_call>",
        '<tool_call>[{"name": "f", "arguments": {}}]</tool_call>',
        '<tool_call>{"name" "f"}</tool_call>',
        '<tool_call>{"name": }</tool_call>',
        '<tool_call>{"arguments": {"a": 1]}</tool_call>',
        '{"name": "f", "arguments": {}}',
        "<tool_call>",
        "<tool_call>\n",
        '<tool_call>\n{"name": "f"',
        '<tool_call>\n{"name": "f", "argum',
        '<tool_call>\n{"name": "f", "arguments": ',
        '<tool_call>\n{"arguments": {"a": "f',
        '<tool_call>\n{"name": "f", "arguments": 12',
        "<tool_c",
    ],
)
def test_what_is_no_call_is_content(text):
    assert hermes(text) == (text, [])


def test_a_call_behind_what_is_none():
    call = call_of("{}")
    assert hermes(f"<tool_call>{call}") == ("<tool_call>", [("f", "{}")])
    assert hermes(f"<tool_call>{{\n{call}") == ("<tool_call>{", [("f", "{}")])
    assert hermes(f"<tool<{call}") == ("<tool<", [("f", "{}")])
    assert hermes(f"{call}\n{{no call}}\n{call}") == ("\n{no call}", [("f", "{}")] * 2)
    assert hermes(f"<tool_call>{object_of('{}')}\n{{5}}</tool_call>") == ("\n{5}</tool_call>", [("f", "{}")])


def test_the_texts_end_cuts_arguments_off():
    text = call_of('{"a": "b", "c": [1]}')
    begin, end = text.index('{"a"'), text.index("}}") + 1
    for num in range(begin + 1, len(text) + 1):
        assert hermes(text[:num]) == ("", [("f", text[begin : min(num, end)])])


def test_arguments_come_as_they_are_written():
    parser = HermesParser()
    assert parser.push('ok <tool_call>\n{"name": "f", "arguments": ') == [ContentDelta("ok")]
    (first,) = parser.push('{"a')
    assert (first.index, first.name, first.arguments) == (0, "f", '{"a')
    assert parser.push('": "</tool') == [CallDelta(0, '": "</tool')]
    assert parser.push('"}') == [CallDelta(0, '"}')]
    assert parser.push("}\n</tool_call>\n") == []
    assert parser.push("x") == [ContentDelta("\nx")]
    assert parser.push(" <") == []
    assert parser.push("b") == [ContentDelta(" <b")]


# Qwen3-Coder.


def function_of(name="f", **values):
    parameters = "".join(f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in values.items())
    return f"<function={name}>\n{parameters}</function>"


def marked(function):
    return f"<tool_call>\n{function}\n</tool_call>"


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("text", "Paris", '"Paris"'),
        ("text", "", '""'),
        ("text", "5", '"5"'),
        ("text", "null", '"null"'),
        ("text", '{"a": 1}', '"{\\"a\\": 1}"'),
        ("text", 'a\n  b\\n\t"é😀" & <b>&amp;\x01', '"a\\n  b\\\\n\\t\\"é😀\\" & <b>&amp;\\u0001"'),
        ("text", "    if x:\n        return\n", '"    if x:\\n        return\\n"'),
        ("text", "\n\n", '"\\n\\n"'),
        ("text", "a </parameter> b\n</parameter>\nc", '"a </parameter> b\\n</parameter>\\nc"'),
        ("text", "a\n</function>\n</x>", '"a\\n</function>\\n</x>"'),
        ("text", "</tool_call>\n<parameter>", '"</tool_call>\\n<parameter>"'),
        ("text", "a <parameter=b> </para", '"a <parameter=b> </para"'),
        ("text", "</parameter></parameter>\n\n</parameter>", '"</parameter></parameter>\\n\\n</parameter>"'),
        ("unknown", "5", '"5"'),
        ("any", "true", '"true"'),
        ("odd", "5", '"5"'),
        ("unheard", "5", '"5"'),
        ("nowhere", "5", '"5"'),
        ("count", "5", "5"),
        ("count", " -5 ", "-5"),
        ("count", "5.0", "5"),
        ("count", "123456789012345678901234567890", "123456789012345678901234567890"),
        ("count", "5.5", '"5.5"'),
        ("count", "five", '"five"'),
        ("count", "", '""'),
        ("count", "true", '"true"'),
        ("count", "0x10", '"0x10"'),
        ("count", "null", '"null"'),
        ("size", "1.50", "1.50"),
        ("size", "2", "2"),
        ("size", "-1e-7", "-1e-7"),
        ("size", "NaN", '"NaN"'),
        ("size", "-Infinity", '"-Infinity"'),
        ("deep", "true", "true"),
        ("deep", "False", "false"),
        ("deep", "yes", '"yes"'),
        ("deep", "1", '"1"'),
        ("options", '{"a": {"b": "}"},\n "c": null}', '{"a": {"b": "}"},\n "c": null}'),
        ("options", "{}", "{}"),
        ("options", "{'a': 1}", "\"{'a': 1}\""),
        ("options", '{"a": NaN}', '"{\\"a\\": NaN}"'),
        ("options", "[1]", '"[1]"'),
        ("files", '["a", "b"]', '["a", "b"]'),
        ("files", "a.txt", '"a.txt"'),
        ("files", "[" * 5000, '"' + "[" * 5000 + '"'),
        ("nothing", "None", "null"),
        ("maybe", "null", "null"),
        ("maybe", "None", "null"),
        ("maybe", "7", "7"),
        ("maybe_text", "null", "null"),
        ("maybe_text", "null and void", '"null and void"'),
        ("old_maybe", "null", "null"),
        ("old_maybe", "7", "7"),
        ("text_or_count", "7", '"7"'),
        ("count_or_text", "7", "7"),
        ("count_or_text", "seven", '"seven"'),
        ("referred", '{"x": 1}', '{"x": 1}'),
        ("all_of", '{"x": 1}', '{"x": 1}'),
        ("circle", "7", "7"),
        ("colour", "red", '"red"'),
        ("level", "2", "2"),
        ("fixed", "True", "true"),
    ],
)
def test_the_schema_says_what_a_value_is(name, value, expected):
    content, calls = coder(marked(function_of(**{name: value})))
    assert (content, calls) == ("", [("f", f'{{"{name}": {expected}}}')])
    json.loads(calls[0][1])


@pytest.mark.parametrize(
    "text",
    [
        "<tool_call><function=f><parameter=text>a</parameter><parameter=count>5</parameter></function></tool_call>",
        "<tool_call>\n<function=f>\n<parameter=text>\na\n</parameter>\n\n\n<parameter=count>5\n</parameter></function>",
        '<tool_call><function="f"><parameter="text">a</parameter><parameter=\'count\'>5</parameter></function>',
        "<tool_call>\n<function=f>\n<parameter=text>\na\n<parameter=count>\n5\n</function>\n</tool_call>",
        "<tool_call>\n<function=f>\n<parameter=text>\na\n</parameter>\n<parameter=count>\n5\n</parameter>\n</tool_call>",
        "<tool_call>\n<function=f>\n<parameter=text>\na\n</parameter>\n<parameter=count>\n5\n</tool_call>",
        "<tool_call>\n<function=f>\n<parameter=text>\na\n</parameter>\n<parameter=count>\n5\n</parameter>",
        "<function=f>\n<parameter=text>\na\n</parameter>\n<parameter=count>\n5\n</parameter>\n</function>\n</tool_call>",
        "<function=f>\n<parameter=text>\na\n</parameter>\n<parameter=count>\n5\n</parameter>\n</function>\n",
    ],
)
def test_marks_in_other_places_or_missing(text):
    assert coder(text) == ("", [("f", '{"text": "a", "count": 5}')])
    assert coder(f"Let me see.\n{text}\n") == ("Let me see.", [("f", '{"text": "a", "count": 5}')])


@pytest.mark.parametrize("between", ["", "\n", " \n\n"])
def test_several_functions(between):
    functions = [function_of(text="a"), function_of("g"), function_of("h", x="1")]
    calls = [("f", '{"text": "a"}'), ("g", "{}"), ("h", '{"x": "1"}')]
    assert coder("Hm." + between + between.join(map(marked, functions)) + between) == ("Hm.", calls)
    assert coder(f"<tool_call>{between.join(functions[:2])}</tool_call>") == ("", calls[:2])
    ends = [f"{between}</parameter>", f"{between}</parameter></function>"]
    for end in ends:
        text = f"<tool_call><function=f><parameter=text>a{end}{between}{marked(functions[1])}"
        assert coder(text)[1][1] == calls[1]


@pytest.mark.parametrize(
    "text",
    [
        "Call <tool_call> or <function=f> or </function>.",
        "<function=h>\n<parameter=text>\na\n</parameter>\n</function>",  # no tool of this name, and no mark
        "<tool_call>\nf\n</tool_call>",
        '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>',
        "<tool_call><function=></function></tool_call>",
        "<tool_call><function=f g></function></tool_call>",
        "<tool_call><function=f></tool_call>",
        '<tool_call><function=f>{"a": 1}</function></tool_call>',
        "<tool_call>\n<function=f>\n",
        "<tool_call>\n<function=f>\n<parame",
        "<tool_call>\n<func",
        "<func",
    ],
)
def test_what_is_no_function_is_content(text):
    assert coder(text) == (text, [])


@pytest.mark.parametrize(
    ("inside", "content", "arguments"),
    [
        ("<parameter=\nx\n</parameter>", "<parameter=\nx", "{}"),
        ("<parameter=ids: [1]\n</parameter>\n<parameter=count>5</parameter>", "<parameter=ids: [1]", '{"count": 5}'),
        ("<parameter=count>5</parameter></parameter>", "", '{"count": "5</parameter>"}'),
        ("<parameter=text>a</parameter>\nso\n<parameter=count>5</parameter>", "", None),
    ],
)
def test_a_parameter_that_is_none(inside, content, arguments):
    text = f"<tool_call><function=f>{inside}</function></tool_call>\n"
    written, ((name, found),) = coder(text)
    assert (written, name) == (content, "f")
    json.loads(found)
    assert arguments is None or found == arguments


def test_the_texts_end_cuts_a_value_off():
    """What is written of a mark then is no text; and a call that lacks no value is closed."""
    head = "<tool_call>\n<function=f>\n<parameter=text>\n"
    assert coder(head + "a\nb\n") == ("", [("f", '{"text": "a\\nb')])
    assert coder(head + "a\n</par") == ("", [("f", '{"text": "a')])
    assert coder(head.replace("text", "count") + "5") == ("", [("f", '{"count": ')])
    assert coder(head + "a\n</parameter>\n</func") == ("", [("f", '{"text": "a"}')])
    assert coder(head + "a\n</parameter>\n<parameter=cou") == ("", [("f", '{"text": "a"')])


def test_strings_come_as_they_are_written():
    parser = Qwen3CoderParser(TOOLS)
    (first,) = parser.push("<tool_call>\n<function=f>\n<parameter=text>\na")
    assert (first.index, first.name, first.arguments) == (0, "f", '{"text": "a')
    assert parser.push('"b\n') == [CallDelta(0, '\\"b')]
    assert parser.push("c</param") == [CallDelta(0, "\\nc")]
    assert parser.push("eter>\n<parameter=count>\n") == [CallDelta(0, '", "count": ')]
    assert parser.push("12") == []
    assert parser.push("</parameter></function>x") == [CallDelta(0, "12}"), ContentDelta("x")]


@pytest.mark.parametrize("tools", [[], [None, 5, {}, {"function": None}, {"function": {"name": 5, "parameters": 5}}]])
def test_tools_may_say_nothing(tools):
    parser = Qwen3CoderParser(tools)
    (delta,) = parser.push(marked(function_of("5", count="5")))
    assert (delta.name, delta.arguments) == ("5", '{"count": "5"}')


# Any pieces.

WORDS = ["<tool_call>", "</tool_call>", "\n", " ", "<", "é😀", "x"]
JSON_WORDS = [*'{}[]:,"\\', '{"name": "f", ', '"arguments": {', '"arguments": ', '"a": 1', '"}}', call_of('{"a": "b"}')]
XML_WORDS = ["<function=f>", "</function>", "<parameter=text>", "<parameter=count>", "</parameter>", "5", ">", "</"]
XML_WORDS += ["<parameter=", marked(function_of(text="a")), function_of(count=5)]


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from([(HermesParser, JSON_WORDS), (Qwen3CoderParser, XML_WORDS)]).flatmap(
        lambda kind: st.tuples(st.just(kind[0]), st.lists(st.sampled_from([*WORDS, *kind[1]]), max_size=25))
    ),
    st.lists(st.integers(1, 9), min_size=1),
)
@example((HermesParser, ["<tool_call>", '{"name": "f", ', '"arguments": {', "<", "</tool_call>"]), [1])
def test_pieces_change_nothing(written, lengths):
    parser, words = written
    text = "".join(words)
    pieces, place = [], 0
    while place < len(text):
        length = lengths[len(pieces) % len(lengths)]
        pieces.append(text[place : place + length])
        place += length
    whole = parse(parser, [text])
    assert parse(parser, pieces) == parse(parser, words) == whole
    content, calls = whole
    if not calls:
        assert content == text
    assert all(name for name, _ in calls)
    if parser is Qwen3CoderParser:
        assert all(json.loads(arguments) is not None for _, arguments in calls[:-1])  # the last may be cut off


@settings(deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_any_arguments_come_back(value):
    for written in (json.dumps({"a": value}), json.dumps({"a": value}, ensure_ascii=False, indent=1)):
        assert parse(HermesParser, [call_of(written)]) == ("", [("f", written)])


@settings(deadline=None)
@given(st.text())
def test_any_string_comes_back(value):
    if value.startswith("\n<parameter=") or any(f"</{end}" in value for end in ("parameter", "function", "tool_call")):
        return
    _, ((_, arguments),) = parse(Qwen3CoderParser, [marked(function_of(text=value))])
    assert json.loads(arguments) == {"text": value}


# Templates.

FOUND = {
    HermesParser: """Bielik-11B-v3.0-Instruct MiMo-VL NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use
        NousResearch-Hermes-3-Llama-3.1-8B-tool_use Qwen-QwQ-32B Qwen-Qwen2.5-7B-Instruct Qwen-Qwen3-0.6B Reka-Edge
        ibm-granite-granite-4.0 ibm-granite-granite-4.1 unsloth-Apriel-1.5""".split(),
    Qwen3CoderParser: "NVIDIA-Nemotron-3-Nano-30B-A3B-BF16 Qwen3-Coder Qwen3.5-4B StepFun3.5-Flash".split(),
}
OTHER_CALLS = ("unsloth-Apriel-1.5",)  # a list of objects between other marks, in spite of what it says
CALLS = [
    ("f", {"text": 'a "b"\n  c\\n </x>', "count": 5, "size": 1.5, "deep": True, "files": ["a", "é"], "maybe": None}),
    ("g", {}),
    ("f", {"options": {"a": {"b": [1, None, "x"]}}, "text": ""}),
]


# Some templates can't write what others can.
PLAIN = {name: TYPES[name] for name in ("text", "count", "size", "deep", "files", "options")}
PLAIN["maybe"] = {"type": "integer", "nullable": True}
PLAIN_TOOLS = [
    {"type": "function", "function": {"name": name, "description": "d", "parameters": {"type": "object", **values}}}
    for name, values in (("f", {"properties": PLAIN}), ("g", {"properties": {}}))
]


@cache
def sources():
    return {file.stem: file.read_text(encoding="utf-8") for file in find_models().glob("templates/*.jinja")}


def test_find_parser():
    assert find_parser(None, "<tool_call>") is None
    assert find_parser("hermes", "") is HermesParser
    assert find_parser("qwen3_coder", "") is Qwen3CoderParser
    assert find_parser("auto", "") is None
    assert find_parser("auto", "<tool_call>") is HermesParser
    assert find_parser("auto", "<tool_call><function=f><parameter=p>") is Qwen3CoderParser
    assert find_parser("auto", "<tool_call>f<arg_key>") is None
    with pytest.raises(ConfigError, match=r"tool_call_parser is 'x'; allowed: auto, hermes, qwen3_coder"):
        find_parser("x", "")


@pytest.mark.slow
def test_templates_tell_which_parser():
    found = {parser: [] for parser in FOUND}
    for name, source in sorted(sources().items()):
        parser = find_parser("auto", source)
        if parser is not None:
            found[parser].append(name)
    assert found == FOUND


@pytest.mark.slow
@pytest.mark.parametrize("content", ["", "Let me see."])
@pytest.mark.parametrize("name", [name for names in FOUND.values() for name in names if name not in OTHER_CALLS])
def test_what_a_template_writes_comes_back(name, content):
    template = ChatTemplate(ChatFormat(sources()[name], {"bos_token": "<s>", "eos_token": "</s>"}))
    calls = [{"type": "function", "function": {"name": name, "arguments": values}} for name, values in CALLS]
    messages = [
        {"role": "user", "content": "QUESTION"},
        {"role": "assistant", "content": content, "tool_calls": calls},
    ]
    rendered = "".join(template.render(Chat(messages, tools=PLAIN_TOOLS, add_generation_prompt=False)))
    answer = rendered.rpartition("QUESTION")[2]
    content = content if content in answer else ""  # Hermes' templates leave it out
    answer = answer[answer.index(content) :] if content else answer[answer.index("<tool_call>") :]
    answer = answer[: answer.rindex("</tool_call>") + len("</tool_call>")]
    written, found = parse(find_parser("auto", sources()[name]), answer, PLAIN_TOOLS)
    assert written == content
    assert [(name, json.loads(arguments)) for name, arguments in found] == CALLS
