"""Tools and structured outputs through the openai client: on the demo pair, and on text that a script writes."""

import json

import jsonschema
import openai
import pytest
from pydantic import BaseModel, Field
from serving.conftest import OPTIONS
from serving.running import running

from glimp_engine import Engine, SamplingParams
from glimp_engine.demo_pair import LARGE, SMALL
from glimp_engine.sampling import StructuredOutputs

SCHEMA = {
    "type": "object",
    "properties": {"place": {"type": "string", "maxLength": 12}, "km": {"type": "integer", "maximum": 999}},
    "required": ["place", "km"],
    "additionalProperties": False,
}
ASKED = [{"role": "user", "content": "how far is porto to metz?"}]


class Trip(BaseModel):
    place: str = Field(max_length=12)
    km: int = Field(ge=0, le=999)


@pytest.fixture(scope="module")
def client(server):
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


def answer(client, **more):
    return client.chat.completions.create(model="demo", messages=ASKED, max_tokens=300, **more).choices[0]


@pytest.mark.parametrize("temperature", [0, 1.0])
@pytest.mark.parametrize("stream", [False, True])
def test_a_schema_is_held(client, temperature, stream):
    form = {"type": "json_schema", "json_schema": {"name": "trip", "schema": SCHEMA, "strict": True}}
    more = {"response_format": form, "temperature": temperature, "seed": 3}
    if stream:
        chunks = client.chat.completions.create(model="demo", messages=ASKED, max_tokens=300, stream=True, **more)
        choices = [chunk.choices[0] for chunk in chunks]
        text = "".join(choice.delta.content or "" for choice in choices)
        reason = choices[-1].finish_reason
    else:
        choice = answer(client, **more)
        text, reason = choice.message.content, choice.finish_reason
    assert reason == "stop"
    jsonschema.validate(json.loads(text), SCHEMA)


def test_what_comes_is_what_the_engine_gives(client, engine, routing):
    sampling = SamplingParams(temperature=0, max_tokens=300, structured_outputs=StructuredOutputs(json=SCHEMA))
    (output,) = engine.generate([ASKED], sampling, routing, use_tqdm=False)
    form = {"type": "json_schema", "json_schema": {"name": "trip", "schema": SCHEMA}}
    told = answer(client, response_format=form, temperature=0)
    assert told.message.content == output.outputs[0].text.partition("</think>")[2].lstrip("\n")


def test_a_class_is_parsed(client):
    told = client.chat.completions.parse(
        model="demo", messages=ASKED, response_format=Trip, max_tokens=300, temperature=0.5, seed=1
    )
    assert isinstance(told.choices[0].message.parsed, Trip)


def test_vllms_other_ways(client):
    told = answer(client, temperature=0, extra_body={"structured_outputs": {"choice": ["near", "far"]}})
    assert told.message.content in ("near", "far")
    told = answer(client, temperature=0, extra_body={"structured_outputs": {"regex": "[0-9]{2} km"}})
    assert told.message.content[2:] == " km"
    told = answer(client, temperature=1, seed=2, response_format={"type": "json_object"})
    assert isinstance(json.loads(told.message.content), dict) or told.finish_reason == "length"


@pytest.mark.parametrize(
    "body",
    [
        {"response_format": {"type": "json_schema"}},
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "hiccup"}}}},
        {"response_format": {"type": "json_object"}, "structured_outputs": {"regex": "a"}},
        {"structured_outputs": {}},
        {"structured_outputs": {"xml": "a"}},
        {"structured_outputs": {"regex": "("}},
        {"structured_outputs": {"choice": []}},
    ],
)
def test_what_cant_be_held_is_refused(client, body):
    with pytest.raises(openai.BadRequestError):
        answer(client, extra_body=body)


# Calls of tools, as a script writes them.

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "distance",
            "description": "How far two places are apart.",
            "parameters": {"type": "object", "properties": {"from": {"type": "string"}, "to": {"type": "string"}}},
        },
    }
]
WRITTEN = 'let me see <tool_call>\n{"name": "distance", "arguments": {"from": "porto", "to": "metz"}}\n</tool_call>'


def forced(client, **more):
    """An answer that a grammar leaves no choice: the call."""
    body = {"structured_outputs": {"choice": [WRITTEN]}}
    return client.chat.completions.create(
        model="demo", messages=ASKED, temperature=0, max_tokens=300, extra_body=body, **more
    )


@pytest.fixture(scope="module")
def hermes(routing):
    with running(
        Engine(SMALL, LARGE, **OPTIONS), model_names=("demo",), routing=routing, tool_parser="hermes"
    ) as found:
        yield openai.OpenAI(base_url=f"{found.url}/v1", api_key="none", max_retries=0)


def test_a_call_of_a_tool(hermes):
    choice = forced(hermes, tools=TOOLS).choices[0]
    assert choice.finish_reason == "tool_calls"
    (call,) = choice.message.tool_calls
    assert (call.type, call.function.name) == ("function", "distance")
    assert json.loads(call.function.arguments) == {"from": "porto", "to": "metz"}
    assert choice.message.content == "let me see"


def test_a_call_as_a_stream(hermes):
    chunks = [chunk.choices[0] for chunk in forced(hermes, tools=TOOLS, stream=True)]
    calls = [call for chunk in chunks for call in chunk.delta.tool_calls or []]
    assert calls[0].function.name == "distance"
    assert calls[0].id.startswith("call_")
    assert all(call.id is None and call.function.name is None for call in calls[1:])
    assert json.loads("".join(call.function.arguments or "" for call in calls)) == {"from": "porto", "to": "metz"}
    assert "".join(chunk.delta.content or "" for chunk in chunks) == "let me see"
    assert chunks[-1].finish_reason == "tool_calls"


def test_without_tools_a_call_is_text(hermes):
    for more in ({}, {"tools": TOOLS, "tool_choice": "none"}):
        choice = forced(hermes, **more).choices[0]
        assert choice.finish_reason == "stop"
        assert choice.message.content == WRITTEN


def test_a_conversation_with_calls_goes_on(hermes):
    message = forced(hermes, tools=TOOLS).choices[0].message
    history = [
        *ASKED,
        message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "61 km"},
    ]
    told = hermes.chat.completions.create(model="demo", messages=history, tools=TOOLS, temperature=0, max_tokens=50)
    assert told.usage.prompt_tokens > 0
