"""From a prompt, in any of its forms, to the token streams that the models read; and the parameters beside it."""

import operator
from collections.abc import Mapping
from collections.abc import Sequence as Sized
from typing import Any, TypeVar

from glimp_engine.errors import ConfigError, RequestError, shown
from glimp_engine.routing import Model, RoutingParams
from glimp_engine.sequences.pages import PagePool
from glimp_engine.sequences.streams import Dictionary, Streams
from glimp_engine.sequences.token_stream import TokenStream
from glimp_engine.text import Chat, Text

__all__ = ["Prompt", "PromptText", "check_type", "list_prompts", "make_streams", "one_for_each", "read_prompt"]

P = TypeVar("P")
# text, the small model's token ids, chat messages, or a dict with one of KINDS
Prompt = str | Sized[int] | Sized[dict[str, Any]] | Mapping[str, Any]
PromptText = str | list[int] | Chat  # a prompt that has been read
KINDS = ("prompt", "prompt_token_ids", "messages")
CHAT_OPTIONS = (
    *("tools", "documents", "chat_template_kwargs"),
    *("add_generation_prompt", "continue_final_message", "parse_special"),
)
ALLOWED = f"text, token ids, chat messages, or a dict with one of {', '.join(KINDS)}; and not empty"


def list_prompts(prompts: Prompt | Sized[Prompt]) -> list[Prompt]:
    """One prompt or several, as a list: a list of ids or of messages is one prompt.

    Raises: RequestError on what is neither, as a generator or a set, whose prompts have no order or no number.
    """
    if hasattr(prompts, "tolist"):
        prompts = prompts.tolist()
    if isinstance(prompts, (str, Mapping)):
        return [prompts]
    if not isinstance(prompts, (list, tuple)):
        raise RequestError(f"prompts is {shown(prompts)}; allowed: a list of prompts, or one: {ALLOWED}")
    is_one = len(prompts) > 0 and (is_integer(prompts[0]) or is_message(prompts[0]))
    return [prompts] if is_one else list(prompts)


def read_prompt(prompt: Prompt, routing: RoutingParams) -> PromptText:
    """The prompt in one of three forms.

    Raises: RequestError that says what it is, if it's none.
    """
    if isinstance(prompt, Mapping):
        return read_dict(prompt, routing)
    if hasattr(prompt, "tolist"):  # an array or a tensor
        prompt = prompt.tolist()
    if not isinstance(prompt, (str, list, tuple)) or not prompt:
        raise RequestError(f"prompt is {shown(prompt)}; allowed: {ALLOWED}")
    if isinstance(prompt, str):
        return prompt
    if is_integer(prompt[0]):
        return [read_integer(i, token_id) for i, token_id in enumerate(prompt)]
    return chat_of({"messages": prompt}, routing)


def read_dict(prompt: Mapping[str, Any], routing: RoutingParams) -> PromptText:
    """A prompt with its kind beside it, as vLLM has them; a chat may have options."""
    kinds = [kind for kind in KINDS if kind in prompt]
    options = CHAT_OPTIONS if kinds == ["messages"] else ()
    unknown = [key for key in prompt if key not in (*KINDS, *options)]
    if len(kinds) != 1 or unknown:
        raise RequestError(
            f"prompt is a dict with {', '.join(map(shown, prompt)) or 'nothing'}; "
            f"allowed: one of {', '.join(KINDS)}; beside messages also {', '.join(CHAT_OPTIONS)}"
        )
    value = prompt[kinds[0]]
    if kinds == ["messages"]:
        return chat_of(prompt, routing)
    read = None if isinstance(value, Mapping) else read_prompt(value, routing)
    if not isinstance(read, str if kinds == ["prompt"] else list):
        raise RequestError(f"{kinds[0]} is {shown(value)}; allowed: {'text' if kinds == ['prompt'] else 'token ids'}")
    return read


def chat_of(prompt: Mapping[str, Any], routing: RoutingParams) -> Chat:
    """The chat of a prompt; its own template variables count more than those of the routing parameters."""
    kwargs = prompt.get("chat_template_kwargs") or {}
    if not isinstance(kwargs, Mapping):
        raise RequestError(f"chat_template_kwargs is {shown(kwargs)}; allowed: a dict")
    return Chat(
        **{
            **prompt,
            "chat_template_kwargs": {**routing.chat_template_kwargs, **kwargs},
            "is_thinking_allowed": routing.max_thinking_tokens > 0,
        }
    )


def is_integer(value: object) -> bool:
    """Whether the value is an integer of any library's, and no truth value nor an array."""
    return hasattr(value, "__index__") and not isinstance(value, bool) and getattr(value, "shape", ()) == ()


def is_message(value: object) -> bool:
    """Whether the value is a message of a chat, not a prompt that is a dict."""
    return (isinstance(value, Mapping) and not any(kind in value for kind in KINDS)) or hasattr(value, "model_dump")


def read_integer(index: int, token_id: object) -> int:
    """A token id as an integer of Python's."""
    if not is_integer(token_id):
        raise RequestError(f"prompt[{index}] is {shown(token_id)}; allowed: a token id")
    try:
        return operator.index(token_id)  # type: ignore[arg-type]
    except TypeError:  # a tensor's number that is none of integers
        raise RequestError(f"prompt[{index}] is {shown(token_id)}; allowed: a token id") from None


def make_streams(
    prompt: PromptText,
    dictionary: Dictionary,
    pool: PagePool,
    max_model_len: int,
    num_kept: int | None = None,
    is_thinking_allowed: bool = True,
) -> Streams:
    """One stream for both models where the prompt means the same in both, else one for each.

    Of each vocabulary's ids the last num_kept are kept, if it's given; -1 are as many as leave room for one more.

    Raises: RequestError when the prompt is not in the vocabulary, or far longer than max_model_len; it may still be
            too long.
    """
    num_kept = max_model_len - 1 if num_kept == -1 else num_kept

    def encoded(model: Model) -> list[int]:
        token_ids = encode(prompt, dictionary.texts[model], max_model_len if num_kept is None else None)
        token_ids = as_allowed(token_ids, dictionary.texts[model], is_thinking_allowed)
        token_ids = token_ids if num_kept is None else token_ids[-num_kept:]
        dictionary.check_ids(token_ids, model)
        return token_ids

    small_ids = encoded(Model.SMALL)
    if dictionary.pair.kind == "identical":
        dictionary.check_ids(small_ids, Model.LARGE)
        stream = TokenStream(small_ids, Model.SMALL, pool)
        return Streams(stream, stream, dictionary)
    if isinstance(prompt, list):
        large_ids = dictionary.carry(small_ids, dictionary.texts[Model.SMALL].decode(small_ids), Model.LARGE)
        large_ids = large_ids if num_kept is None else large_ids[-num_kept:]
        dictionary.check_ids(large_ids, Model.LARGE)
    else:
        large_ids = encoded(Model.LARGE)
    if dictionary.pair.kind == "mapped" and dictionary.map_ids(small_ids, Model.LARGE) == large_ids:
        stream = TokenStream(small_ids, Model.SMALL, pool)
        return Streams(stream, stream, dictionary)
    return Streams(TokenStream(small_ids, Model.SMALL, pool), TokenStream(large_ids, Model.LARGE, pool), dictionary)


def encode(prompt: PromptText, text: Text, max_tokens: int | None) -> list[int]:
    """The ids in one model's vocabulary. Raises: RequestError, also of text with more than max_tokens by far."""
    if isinstance(prompt, str):
        token_ids = text.encode(prompt, allow_special=True, max_tokens=max_tokens)
    elif isinstance(prompt, Chat):
        token_ids = text.encode_chat(prompt, max_tokens=max_tokens)
    else:
        token_ids = [check_token_id(i, token_id, text.num_tokens) for i, token_id in enumerate(prompt)]
    if not token_ids:
        raise RequestError(f"prompt is {shown(prompt)}, which has no tokens; allowed: at least one")
    return token_ids


def as_allowed(token_ids: list[int], text: Text, is_thinking_allowed: bool) -> list[int]:
    """The prompt's ids, with the thinking closed that they leave open, where none is allowed."""
    if is_thinking_allowed or text.marks is None or not text.is_thinking_open(token_ids):
        return token_ids
    return token_ids + text.end_of_thinking(text.decode(token_ids[-1:]), text.marks)


def check_token_id(index: int, token_id: int, vocab_size: int) -> int:
    """The token id, if the vocabulary has it."""
    if not 0 <= token_id < vocab_size:
        raise RequestError(f"prompt[{index}] is {token_id}; allowed: a token id from 0 to {vocab_size - 1}")
    return token_id


def one_for_each(name: str, params: P | Sized[P] | None, num_prompts: int) -> list[P | None]:
    """Parameters for each prompt, given once for all or one for each."""
    if not isinstance(params, (list, tuple)):
        return [params] * num_prompts  # type: ignore[list-item]
    if len(params) != num_prompts:
        raise ConfigError(f"{name} has {len(params)} entries; allowed: one for all, or one for each of {num_prompts}")
    return list(params)


def check_type(name: str, value: P | None, expected: type[P]) -> P | None:
    """The value, if it's None or of the expected type."""
    if value is not None and not isinstance(value, expected):
        raise ConfigError(f"{name} is {value!r}; allowed: None or {expected.__name__}(...)")
    return value
