"""What clients send: OpenAI's fields, vLLM's beside them, and our own `routing`.

A field that isn't here is refused. Those "without effect" are taken, as clients send them by habit, and docs/serving.md
names them.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

__all__ = [
    "MOST_TOKEN_IDS",
    "ChatRequest",
    "CompletionRequest",
    "DetokenizeRequest",
    "InputMessage",
    "InputReasoning",
    "ResponsesRequest",
    "RoutingFields",
    "SharedFields",
    "TokenizeRequest",
]

LARGEST = 2**31 - 1
MOST_TOKEN_IDS = LARGEST - 1  # stands for the vocabulary's last id: see schema.py
TokenId = Annotated[int, Field(ge=0, le=MOST_TOKEN_IDS)]
Word = Annotated[str, Field(min_length=1, max_length=1024)]
TokenIds = Annotated[list[TokenId], Field(min_length=1)]
TokenKey = Annotated[str, Field(pattern="^[0-9]{1,9}$")]  # a token id as a key of JSON
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh"]


class Fields(BaseModel):
    """Fields that are all known, of the types that they say."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def read_numbers(cls, value: Any) -> Any:
        """JSON has one kind of number: 8.0 is as good as 8."""
        return with_integers(value)


def with_integers(value: Any) -> Any:
    """The fields of an object, or a list, with the integers in it as integers."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {key: with_integers(each) if isinstance(each, float | list) else each for key, each in value.items()}
    return [with_integers(each) for each in value] if isinstance(value, list) else value


class OpenFields(BaseModel):
    """Fields beside which others may stand, for the model's template."""

    model_config = ConfigDict(extra="allow", strict=True)


class TextPart(OpenFields):
    """A part of a message; there are no models here that see or hear others."""

    type: Literal["text", "input_text", "output_text"] = "text"
    text: str


class Message(OpenFields):
    """What somebody says; an answer's thinking by any of its names."""

    role: str = Field(min_length=1)
    content: str | Annotated[list[TextPart], Field(min_length=1)]
    reasoning: str | None = None
    reasoning_content: str | None = None
    thinking: str | None = None


class Function(OpenFields):
    """Which tool is called, with which arguments."""

    name: str
    arguments: str | dict[str, Any] = ""


class ToolCall(OpenFields):
    """A call of a tool."""

    function: Function


class Call(OpenFields):
    """An answer that calls tools."""

    role: Literal["assistant"]
    content: str | list[TextPart] | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    thinking: str | None = None
    tool_calls: Annotated[list[ToolCall], Field(min_length=1)]


Messages = Annotated[list[Message | Call], Field(min_length=1)]


class StreamOptions(Fields):
    """What a stream tells beside the text."""

    include_usage: bool = False  # a last chunk with the usage
    continuous_usage_stats: bool = False  # the usage so far in every chunk
    include_steps: bool = False  # in each chunk whose step its text is of, and the shares of both models in the last
    include_obfuscation: bool = False  # without effect


class RoutingFields(Fields):
    """How this request's steps are routed, in place of what the model's name says. Counts are in tokens."""

    router: str | None = None  # as glimp:0.5, large, random:0.2
    threshold: float | None = Field(default=None, ge=0)  # nats, of GlimpRouter
    fraction: float | None = Field(default=None, ge=0, le=1)  # of the steps that GlimpRouter gives to the large model
    answer_model: Literal["small", "large", "routed"] | None = None
    max_thinking_tokens: int | None = Field(default=None, ge=0)
    max_answer_tokens: int | None = Field(default=None, ge=1)
    max_step_tokens: int | None = Field(default=None, ge=1)
    stop_repeated_steps: bool | None = None
    speculation: Literal["auto", "off"] | None = None


class CustomParams(Fields):
    """What SGLang's clients send."""

    thinking_budget: int | None = Field(default=None, ge=0)


class JsonSchema(Fields):
    """A schema of OpenAI's response_format."""

    model_config = ConfigDict(populate_by_name=True)

    name: str = "response"
    description: str | None = None
    schema_: dict[str, Any] = Field(default_factory=dict, alias="schema")
    strict: bool | None = None


class ResponseFormat(Fields):
    """Which form the answer has."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class WithoutEffect(Fields):
    """What clients send by habit, and what nothing here depends on."""

    user: str | None = None
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None  # names a session to the ingress before replicas
    priority: int | None = None


class SharedFields(WithoutEffect):
    """What a completion and a chat have in common; names as in vLLM."""

    model: str | None = None
    temperature: float | None = Field(default=None, ge=0, le=1e6)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=-1, le=LARGEST)
    min_p: float | None = Field(default=None, ge=0, le=1)
    repetition_penalty: float | None = Field(default=None, gt=0, le=1e6)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    seed: int | None = Field(default=None, ge=-(2**63), le=2**63 - 1)
    n: int | None = Field(default=None, ge=1, le=128)
    stop: Word | Annotated[list[Word], Field(max_length=64)] | None = None
    stop_token_ids: list[TokenId] | None = None
    min_tokens: int | None = Field(default=None, ge=0)
    ignore_eos: bool | None = None
    include_stop_str_in_output: bool | None = None
    logit_bias: dict[TokenKey, Annotated[float, Field(ge=-100, le=100)]] | None = None
    bad_words: Annotated[list[Word], Field(max_length=1024)] | None = None
    allowed_token_ids: TokenIds | None = None
    skip_special_tokens: bool | None = None
    prompt_logprobs: int | None = Field(default=None, ge=0, le=20)
    truncate_prompt_tokens: Literal[-1] | Annotated[int, Field(ge=1)] | None = None
    response_format: ResponseFormat | None = None
    structured_outputs: dict[str, Any] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    routing: RoutingFields | None = None
    include_steps: bool = False  # of an answer that isn't streamed
    thinking_token_budget: int | None = Field(default=None, ge=0)  # three names of one thing
    thinking_budget_tokens: int | None = Field(default=None, ge=0)
    custom_params: CustomParams | None = None
    return_token_ids: bool = False
    request_id: str | None = None


Prompt = Annotated[str, Field(min_length=1)]


class CompletionRequest(SharedFields):
    """POST /v1/completions."""

    prompt: (
        Prompt
        | TokenIds
        | Annotated[list[Prompt], Field(min_length=1)]
        | Annotated[list[TokenIds], Field(min_length=1)]
    )
    max_tokens: int | None = Field(default=None, ge=0)
    echo: bool = False
    logprobs: int | None = Field(default=None, ge=0, le=20)
    suffix: None = None  # nothing can be inserted
    best_of: Annotated[int, Field(ge=1, le=1)] | None = None


class ChatRequest(SharedFields):
    """POST /v1/chat/completions."""

    messages: Messages
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    tools: list[dict[str, Any]] | None = None
    tool_choice: Literal["none", "auto"] | None = None
    parallel_tool_calls: bool | None = None
    documents: list[dict[str, Any]] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool = False
    echo: Literal[False] = False
    reasoning_effort: Effort | None = None
    include_reasoning: bool = True
    # without effect
    modalities: list[Literal["text"]] | None = None
    verbosity: str | None = None


class ReasoningPart(OpenFields):
    """A part of a thought."""

    text: str


class Reasoning(Fields):
    """How much a response thinks before it."""

    effort: Effort | None = None
    summary: str | None = None  # without effect


class ResponseText(Fields):
    """Which form a response has."""

    format: dict[str, Any] | None = None  # text, json_object or json_schema, whose fields stand beside its type
    verbosity: str | None = None  # without effect


class InputMessage(Message):
    """A message of a response's input."""

    type: Literal["message"] = "message"


class InputReasoning(OpenFields):
    """What an earlier response thought."""

    type: Literal["reasoning"]
    content: list[ReasoningPart] | None = None


class ResponsesRequest(WithoutEffect):
    """POST /v1/responses: text in, text out."""

    model: str | None = None
    input: str | Annotated[list[InputMessage | InputReasoning], Field(min_length=1)]
    instructions: str | None = None
    max_output_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=1e6)
    top_p: float | None = Field(default=None, gt=0, le=1)
    stream: bool | None = None
    reasoning: Reasoning | None = None
    text: ResponseText | None = None
    routing: RoutingFields | None = None
    tools: Annotated[list[dict[str, Any]], Field(max_length=0)] | None = None  # none here, as no call comes back
    tool_choice: Literal["none", "auto"] | None = None
    parallel_tool_calls: bool | None = None
    include: Annotated[list[str], Field(max_length=0)] | None = None
    truncation: Literal["disabled"] | None = None


class TokenizeRequest(Fields):
    """POST /tokenize: of a text, or of messages as the model reads them."""

    model: str | None = None
    prompt: str | None = None
    content: str | None = None  # as llama.cpp's clients call it
    messages: Messages | None = None
    add_special_tokens: bool = True
    add_special: bool = True  # ... and this
    with_pieces: bool = False  # ... and what comes then in place of ids: each with what it stands for
    add_generation_prompt: bool | None = None
    continue_final_message: bool = False
    chat_template_kwargs: dict[str, Any] | None = None
    tools: list[dict[str, Any]] | None = None
    return_token_strs: bool = False


class DetokenizeRequest(Fields):
    """POST /detokenize."""

    model: str | None = None
    tokens: list[TokenId]
