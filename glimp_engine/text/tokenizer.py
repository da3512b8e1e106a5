"""The text of one model's tokens: what each stands for, and how text and messages become ids."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

from glimp_engine.checkpoints import is_gguf
from glimp_engine.errors import RequestError
from glimp_engine.text.chat import BEGIN_THINKING, END_THINKING, ChatTemplate
from glimp_engine.text.detokenizer import Detokenizer
from glimp_engine.text.tokenizer_files import read_directory, read_gguf

__all__ = ["Text"]

# special tokens that end a turn or a text, whatever the configuration calls the end token
END_TOKENS = (
    *("<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|end_of_text|>", "<|eom_id|>", "</s>"),
    "<｜end▁of▁sentence｜>",  # noqa: RUF001
)
# GPT-2's letter of each byte to the character of that number, any other letter to one that has no byte
_LETTERS = {ord(letter): byte for byte, letter in bytes_to_unicode().items()}
BYTES_OF_LETTERS = {**{byte: 0x100 for byte in range(0x100) if byte not in _LETTERS}, **_LETTERS}
CHARS_PER_TOKEN_TRIED = 8  # a prompt is looked at in pieces if it has more characters a token than this
CUT_TOKENS = 64  # by which a beginning may have more tokens than it has in the whole text
BYTE_FALLBACK = re.compile("<0x([0-9A-F]{2})>")


class Text:
    """One model's tokenizer, and what its tokens are: ids from 0 to num_tokens - 1.

    What a token is gets asked of the tokenizer each time, as lists of 150,000 of them take 20 MB a model.
    """

    def __init__(
        self, backend: Tokenizer, chat: PreTrainedTokenizerFast, vocab_size: int, end_token_ids: Sequence[int]
    ) -> None:
        """`chat` has the chat template, and the special tokens' names that stand in it."""
        self._backend = backend
        self._added = {i: token for i, token in backend.get_added_tokens_decoder().items() if i < vocab_size}
        self._is_byte_level = has_byte_level_decoder(backend)
        self.added_ids = frozenset(self._added)
        self.num_tokens = min(max(backend.get_vocab(with_added_tokens=True).values(), default=-1) + 1, vocab_size)
        self.begin_thinking_id = self._single_token(BEGIN_THINKING)
        self.end_thinking_id = self._single_token(END_THINKING)
        self._chat = ChatTemplate(chat, has_thinking=self.end_thinking_id is not None)
        special = {i for i, token in self._added.items() if token.special}
        self._unwritten = special - {self.begin_thinking_id, self.end_thinking_id}
        known = {i for i in special if self._added[i].content in END_TOKENS}
        self.end_token_ids = frozenset(i for i in {*end_token_ids, *known} if 0 <= i < self.num_tokens)

    @classmethod
    def load(cls, path: Path, vocab_size: int) -> "Text":
        """The text of the checkpoint in a directory or a .gguf file, for a model with vocab_size logits.

        Raises: CheckpointError when there is no tokenizer, or one that can't be read.
        """
        backend, chat, end_token_ids = read_gguf(path) if is_gguf(path) else read_directory(path)
        return cls(backend, chat, vocab_size, end_token_ids)

    def tokens(self) -> list[str | None]:
        """Each id's token as the vocabulary has it; None for an id that is none."""
        return [self._backend.id_to_token(i) for i in range(self.num_tokens)]

    def bytes_of(self, token_id: int) -> bytes:
        """The bytes that a token stands for, special ones too; of an id beyond the tokens, none."""
        if token_id in self._added:
            return self._added[token_id].content.encode()
        return ordinary_bytes(self._backend.id_to_token(token_id) or "", self._is_byte_level)

    def written_bytes(self, token_id: int) -> bytes:
        """The bytes that a token adds to the text: a special token and an id beyond the tokens write nothing."""
        is_written = token_id < self.num_tokens and token_id not in self._unwritten
        return self.bytes_of(token_id) if is_written else b""

    def encode(self, text: str, allow_special: bool, max_tokens: int | None = None) -> list[int]:
        """The text's token ids.

        With allow_special it's a prompt: special tokens in it are parsed and the begin token is put before it, where
        the model has one. Without, it's what somebody wrote, and nothing in it is special.

        Cost:   a second and 200 MB for some MB of text; one that certainly has more than max_tokens is not read whole.
        Raises: RequestError on what is no text, can't be read, or has more tokens by far.
        """
        if max_tokens is not None:
            self._refuse_longer(text, max_tokens)
        return self._ids(text, parse_special=allow_special, add_special=allow_special)

    def encode_carried(self, text: str) -> list[int]:
        """What the other model wrote, in this model's ids; only <think> and </think> are special in it."""
        ids: list[int] = []
        for piece in re.split(f"({BEGIN_THINKING}|{END_THINKING})", text):
            token_id = self._single_token(piece)
            is_thinking = token_id is not None and token_id in (self.begin_thinking_id, self.end_thinking_id)
            ids += [token_id] if is_thinking and token_id is not None else self.encode(piece, allow_special=False)
        return ids

    def encode_chat(self, messages: list[dict[str, Any]], max_tokens: int | None = None) -> list[int]:
        """Chat messages through the model's template, up to where the answer begins; thinking is opened.

        Raises: RequestError when a message is malformed, or the model has no template, or the template refuses them, or
                what it gives can't be read, or has more than max_tokens by far.
        """
        rendered = self._chat.render(messages)
        if max_tokens is not None:
            self._refuse_longer(rendered, max_tokens)
        return self._ids(rendered, parse_special=True, add_special=False)

    def encode_question(self, question: str, as_turn: bool) -> list[int]:
        """What asks the model for a score in the middle of its answer, up to where the digit comes.

        With as_turn it's a turn of the user's, if the model has a chat template; else there is nothing special in it.
        """
        turn = self._chat.render_turn(question) if as_turn else f"\n\n{question}\n"
        return self._ids(turn + "Score:\n", parse_special=True, add_special=False)  # then a digit is one token

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of the ids, without special tokens."""
        detokenizer = self.detokenizer()
        return "".join(map(detokenizer.push, token_ids)) + detokenizer.flush()

    def detokenizer(self) -> Detokenizer:
        """A new incremental decoder for one sequence's output, which goes on where a prompt ends."""
        return Detokenizer(self.written_bytes)

    def is_thinking_open(self, token_ids: Sequence[int]) -> bool:
        """Whether the last <think> has not been closed."""
        for token_id in reversed(token_ids):
            if token_id in (self.begin_thinking_id, self.end_thinking_id):
                return token_id == self.begin_thinking_id
        return False

    def end_of_thinking(self, text: str) -> list[int]:
        """The ids that end the thinking after this text: </think> on a line of its own."""
        newline = [] if text.endswith("\n") else self.encode("\n", allow_special=False)
        return newline + self.encode_carried(END_THINKING) + self.encode("\n\n", allow_special=False)

    def _ids(self, text: str, parse_special: bool, add_special: bool) -> list[int]:
        """The one place where text becomes ids. Raises: RequestError on what is no text, or can't be read."""
        try:
            text.encode()
        except UnicodeEncodeError as error:
            half = ord(text[error.start])
            raise RequestError(
                f"text has U+{half:04X} at character {error.start}, half of a character; allowed: whole ones"
            ) from None
        self._backend.encode_special_tokens = not parse_special
        try:
            return self._backend.encode(text, add_special_tokens=add_special).ids
        except BaseException as error:  # what panics in Rust is no Exception
            if isinstance(error, (KeyboardInterrupt, SystemExit, GeneratorExit)):
                raise
            raise RequestError(f"the tokenizer can't read the text: {type(error).__name__}: {error}") from error

    def _refuse_longer(self, text: str, max_tokens: int) -> None:
        """Raise RequestError if the text's beginning alone has more tokens than are allowed."""
        num_chars = CHARS_PER_TOKEN_TRIED * max_tokens
        while num_chars < len(text):
            num_tokens = len(self._ids(text[:num_chars], parse_special=True, add_special=False))
            if num_tokens > max_tokens + CUT_TOKENS:
                raise RequestError(
                    f"prompt has more than {num_tokens - CUT_TOKENS} tokens in its first {num_chars} characters of "
                    f"{len(text)}; allowed: fewer than max_model_len, {max_tokens}"
                )
            num_chars *= 2

    def _single_token(self, token: str) -> int | None:
        token_id = self._backend.token_to_id(token)
        return token_id if token_id in self.added_ids else None


def has_byte_level_decoder(backend: Tokenizer) -> bool:
    """Whether tokens are written in GPT-2's alphabet of bytes."""
    state = {} if backend.decoder is None else json.loads(backend.decoder.__getstate__())
    return "ByteLevel" in {part["type"] for part in state.get("decoders", [state]) if part}


def ordinary_bytes(token: str, is_byte_level: bool) -> bytes:
    """The bytes that a token of the vocabulary stands for."""
    if is_byte_level:
        try:
            return token.translate(BYTES_OF_LETTERS).encode("latin-1")
        except UnicodeEncodeError:  # not of the alphabet
            return token.encode()
    fallback = BYTE_FALLBACK.fullmatch(token)
    return bytes([int(fallback[1], 16)]) if fallback else token.replace("▁", " ").encode()
