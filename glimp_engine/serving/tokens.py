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
    if (fields.prompt is None) == (fields.messages is None):
        raise ApiError(400, "prompt and messages are both given, or neither is; allowed: one of them", "prompt")
    if fields.messages is not None:
        chat = Chat(
            fields.messages,
            tools=fields.tools,
            chat_template_kwargs=fields.chat_template_kwargs or {},
            add_generation_prompt=fields.add_generation_prompt,
            continue_final_message=fields.continue_final_message,
        )
        ids = text.encode_chat(chat)
    else:
        ids = text.encode(fields.prompt or "", allow_special=fields.add_special_tokens)
    told: dict[str, Any] = {"count": len(ids), "max_model_len": served.max_model_len, "tokens": ids}
    if fields.return_token_strs:
        told["token_strs"] = [text.bytes_of(token_id).decode(errors="replace") for token_id in ids]
    return told


def detokenize(served: Served, fields: DetokenizeRequest) -> dict[str, Any]:
    """The text of token ids, special ones with their names."""
    text = served.text_named(fields.model)
    check_known(fields.tokens, text)
    return {"prompt": b"".join(map(text.bytes_of, fields.tokens)).decode(errors="replace")}


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
        "eos_token": next(iter([text.bytes_of(i).decode(errors="replace") for i in sorted(text.end_token_ids)]), None),
        "chat_template": text.template_source,
        "max_model_len": served.max_model_len,
    }
