"""POST /tokenize and /detokenize, GET /tokenizer_info."""

from typing import Any

from glimp_engine.serving.problems import ApiError
from glimp_engine.serving.protocol import DetokenizeRequest, TokenizeRequest
from glimp_engine.serving.served import Served
from glimp_engine.text import Chat, Text

__all__ = ["detokenize", "tokenize", "tokenizer_info"]


def tokenize(served: Served, fields: TokenizeRequest) -> dict[str, Any]:
    """Token ids of a text or of messages, in the ids of the model that the name means."""
    text = served.text_named(fields.model)
    if sum(given is not None for given in (fields.prompt, fields.content, fields.messages)) != 1:
        raise ApiError(400, "prompt, content and messages are not one; allowed: one of them", "prompt")
    if fields.messages is not None:
        chat = Chat(
            [message.model_dump(exclude_unset=True) for message in fields.messages],
            tools=fields.tools,
            chat_template_kwargs=fields.chat_template_kwargs or {},
            add_generation_prompt=fields.add_generation_prompt,
            continue_final_message=fields.continue_final_message,
        )
        ids = text.encode_chat(chat)
    else:
        written = fields.content or "" if fields.prompt is None else fields.prompt
        ids = text.encode(written, allow_special=fields.add_special_tokens and fields.add_special)
    told: dict[str, Any] = {"count": len(ids), "max_model_len": served.max_model_len, "tokens": ids}
    if fields.return_token_strs:
        told["token_strs"] = [name_of(token_id, text) for token_id in ids]
    if fields.with_pieces:
        told["tokens"] = [{"id": token_id, "piece": piece_of(token_id, text)} for token_id in ids]
    return told


def name_of(token_id: int, text: Text) -> str:
    """What a token stands for, as far as that is text."""
    return text.bytes_of(token_id).decode(errors="replace")


def piece_of(token_id: int, text: Text) -> str | list[int]:
    """The same; bytes that are no text by themselves as numbers."""
    written = text.bytes_of(token_id)
    try:
        return written.decode()
    except UnicodeDecodeError:
        return list(written)


def detokenize(served: Served, fields: DetokenizeRequest) -> dict[str, Any]:
    """The text of token ids, special ones with their names."""
    text = served.text_named(fields.model)
    check_known(fields.tokens, text)
    written = b"".join(map(text.bytes_of, fields.tokens)).decode(errors="replace")
    return {"prompt": written, "content": written}


def check_known(ids: list[int], text: Text) -> None:
    """Raise ApiError unless the vocabulary has each id."""
    unknown = next((i for i, token_id in enumerate(ids) if token_id >= text.num_tokens), None)
    if unknown is not None:
        allowed = f"a token id below {text.num_tokens}"
        raise ApiError(400, f"tokens[{unknown}] is {ids[unknown]}; allowed: {allowed}", f"tokens.{unknown}")


def tokenizer_info(served: Served) -> dict[str, Any]:
    """What a client needs to count tokens by itself."""
    text = served.text_named(None)
    return {
        "num_tokens": text.num_tokens,
        "end_token_ids": sorted(text.end_token_ids),
        "eos_token": next((name_of(token_id, text) for token_id in sorted(text.end_token_ids)), None),
        "chat_template": text.template_source,
        "max_model_len": served.max_model_len,
    }
