"""From a prompt, in any of its forms, to the token streams that the models read; and the parameters beside it."""

from collections.abc import Sequence as Sized
from typing import Any, TypeVar

from glimp_engine.errors import ConfigError, RequestError, shown
from glimp_engine.routing import Model
from glimp_engine.sequences.pages import PagePool
from glimp_engine.sequences.streams import Dictionary, Streams, TokenStream

__all__ = ["Prompt", "check_type", "list_prompts", "make_streams", "one_for_each"]

P = TypeVar("P")
Prompt = str | Sized[int] | Sized[dict[str, Any]]  # text, the small model's token ids, or chat messages


def list_prompts(prompts: Prompt | Sized[Prompt]) -> list[Prompt]:
    """One prompt or several, as a list: a list of ids or of messages is one prompt."""
    if isinstance(prompts, str) or (len(prompts) > 0 and isinstance(prompts[0], (int, dict))):
        return [prompts]  # type: ignore[list-item]
    return list(prompts)  # type: ignore[arg-type]


def make_streams(
    prompt: Prompt, dictionary: Dictionary, pool: PagePool, max_model_len: int, num_kept: int | None = None
) -> Streams:
    """One stream for both models where the prompt means the same in both, else one for each.

    Of each vocabulary's ids the last num_kept are kept, if it's given; -1 are as many as leave room for one more.

    Raises: RequestError when the prompt is empty, of no known form, not in the vocabulary, or far longer than
            max_model_len; it may still be too long.
    """
    num_kept = max_model_len - 1 if num_kept == -1 else num_kept
    small_ids = encode(prompt, Model.SMALL, dictionary, max_model_len, num_kept)
    if dictionary.pair.kind == "identical":
        dictionary.check_ids(small_ids, Model.LARGE)
        stream = TokenStream(small_ids, Model.SMALL, pool)
        return Streams(stream, stream, dictionary)
    if isinstance(prompt, str) or isinstance(prompt[0], dict):
        large_ids = encode(prompt, Model.LARGE, dictionary, max_model_len, num_kept)
    else:
        large_ids = dictionary.carry(small_ids, dictionary.texts[Model.SMALL].decode(small_ids), Model.LARGE)
        large_ids = large_ids if num_kept is None else large_ids[-num_kept:]
        dictionary.check_ids(large_ids, Model.LARGE)
    if dictionary.pair.kind == "mapped" and dictionary.map_ids(small_ids, Model.LARGE) == large_ids:
        stream = TokenStream(small_ids, Model.SMALL, pool)
        return Streams(stream, stream, dictionary)
    return Streams(TokenStream(small_ids, Model.SMALL, pool), TokenStream(large_ids, Model.LARGE, pool), dictionary)


def encode(prompt: Prompt, model: Model, dictionary: Dictionary, max_model_len: int, num_kept: int | None) -> list[int]:
    """The prompt's ids in one model's vocabulary, or the last num_kept of them, each of which its embedding has."""
    text, max_tokens = dictionary.texts[model], max_model_len if num_kept is None else None
    if not isinstance(prompt, (str, Sized)) or isinstance(prompt, bytes) or len(prompt) == 0:
        raise RequestError(f"prompt is {shown(prompt)}; allowed: text, token ids, or chat messages, and not empty")
    if isinstance(prompt, str):
        token_ids = text.encode(prompt, allow_special=True, max_tokens=max_tokens)
    elif isinstance(prompt[0], dict):
        token_ids = text.encode_chat(list(prompt), max_tokens=max_tokens)  # type: ignore[arg-type]
    else:
        token_ids = [check_token_id(i, token_id, text.num_tokens) for i, token_id in enumerate(prompt)]
    if not token_ids:
        raise RequestError(f"prompt is {shown(prompt)}, which has no tokens; allowed: at least one")
    token_ids = token_ids if num_kept is None else token_ids[-num_kept:]
    dictionary.check_ids(token_ids, model)
    return token_ids


def check_token_id(index: int, token_id: object, vocab_size: int) -> int:
    """The token id, if it is one."""
    if not isinstance(token_id, int) or isinstance(token_id, bool) or not 0 <= token_id < vocab_size:
        raise RequestError(f"prompt[{index}] is {shown(token_id)}; allowed: a token id from 0 to {vocab_size - 1}")
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
