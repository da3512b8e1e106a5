"""The text of one model's tokens: what each stands for, and how text and messages become ids."""

import json
import logging
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from tokenizers import Tokenizer

from glimp_engine.checkpoints import is_gguf
from glimp_engine.errors import CheckpointError, RequestError
from glimp_engine.text.chat import ChatFormat, ChatTemplate
from glimp_engine.text.continuing import starts_of
from glimp_engine.text.detokenizer import Detokenizer
from glimp_engine.text.messages import Chat, SpecialNames
from glimp_engine.text.thinking import ThinkingMarks
from glimp_engine.text.tokenizer_files import read_directory, read_gguf, read_other

__all__ = ["Text"]

RECENT_TOKENS = 1 << 14  # whose bytes needn't be asked of the tokenizer again
# special tokens that end a turn or a text, whatever the configuration calls the end token
END_TOKENS = (
    *("<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|end_of_text|>", "<|eom_id|>", "</s>"),
    "<｜end▁of▁sentence｜>",  # noqa: RUF001
)
# GPT-2's letters of bytes: those that can be printed are their own, the others come behind them, in order
_PRINTED = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_OTHERS = [byte for byte in range(0x100) if byte not in _PRINTED]
_LETTERS = {**{byte: byte for byte in _PRINTED}, **{0x100 + i: byte for i, byte in enumerate(_OTHERS)}}
LETTER_OF_BYTE = {byte: chr(letter) for letter, byte in _LETTERS.items()}
# the byte of each letter, and for any other character one that has no byte
BYTES_OF_LETTERS = {**{byte: 0x100 for byte in range(0x100) if byte not in _LETTERS}, **_LETTERS}
CHARS_PER_TOKEN_TRIED = 8  # a prompt is looked at in pieces if it has more characters a token than this
CUT_TOKENS = 64  # by which a beginning may have more tokens than it has in the whole text
BYTE_FALLBACK = re.compile("<0x([0-9A-F]{2})>")
PADDING_ROWS = 1024  # and a quarter of the tokens: how many rows of an embedding may stand for no token

log = logging.getLogger(__name__)


class Text:
    """One model's tokenizer, and what its tokens are: ids from 0 to num_tokens - 1.

    What a token is gets asked of the tokenizer each time, as lists of 150,000 of them take 20 MB a model.
    """

    def __init__(
        self, backend: Tokenizer, chat_format: ChatFormat, vocab_size: int, end_token_ids: Sequence[int]
    ) -> None:
        self._backend = backend
        self._beginning, self._going_on = starts_of(backend)
        self._added = {i: token for i, token in backend.get_added_tokens_decoder().items() if i < vocab_size}
        self._is_byte_level = has_byte_level_decoder(backend)
        self.added_ids = frozenset(self._added)
        self.num_tokens = min(max(backend.get_vocab(with_added_tokens=True).values(), default=-1) + 1, vocab_size)
        special = {i: token.content for i, token in self._added.items() if token.special}
        self._chat = ChatTemplate(chat_format, special.values(), lambda name: backend.token_to_id(name) is not None)
        self.marks = self._chat.marks
        begin, end = ("", "") if self.marks is None else (self.marks.begin, self.marks.end)
        # None where a mark is no added token, but made of whatever tokens text is made of
        self.begin_thinking_id, self.end_thinking_id = self._added_token(begin), self._added_token(end)
        self._recent_bytes = lru_cache(RECENT_TOKENS)(self.written_bytes)
        self._unwritten = {i for i, name in special.items() if name not in begin + end}
        known = {i for i, name in special.items() if name in END_TOKENS}
        self.end_token_ids = frozenset(i for i in {*end_token_ids, *known} if 0 <= i < self.num_tokens)

    @classmethod
    def load(cls, path: Path, vocab_size: int, tokenizer: Path | None = None) -> "Text":
        """The text of the checkpoint in a directory or a .gguf file, for a model with vocab_size logits.

        `tokenizer` is a directory whose tokenizer.json is read in place of what the checkpoint has.

        Raises: CheckpointError when there is no tokenizer, or one that can't be read, or isn't the model's.
        """
        if tokenizer is not None:
            backend, chat_format, end_token_ids = read_other(tokenizer, path)
        else:
            backend, chat_format, end_token_ids = read_gguf(path) if is_gguf(path) else read_directory(path)
        check_vocabulary(backend, vocab_size, tokenizer or path)
        return cls(backend, chat_format, vocab_size, end_token_ids)

    @property
    def template_source(self) -> str:
        """The chat template; that for tools where there are several, and nothing where there is none."""
        return self._chat.source

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

    def answer_bytes(self, token_id: int) -> bytes:
        """The bytes that a token adds to an answer that follows a grammar: an end or a mark of thinking adds none."""
        is_outside = token_id in self.end_token_ids or token_id in (self.begin_thinking_id, self.end_thinking_id)
        return b"" if is_outside else self.written_bytes(token_id)

    def special_text(self, token_id: int) -> str:
        """What a special token is called, which writes nothing; of any other token nothing."""
        return self._added[token_id].content if token_id in self._unwritten else ""

    def token_of(self, text: bytes, is_special: bool) -> int | None:
        """The one token that stands for these bytes, an added one or an ordinary one; None if there is none."""
        written = text.decode(errors="replace")
        if is_special:
            return self._added_token(written)
        names = ["".join(LETTER_OF_BYTE[byte] for byte in text)] if self._is_byte_level else [written.replace(" ", "▁")]
        names += [f"<0x{byte:02X}>" for byte in text[:1] if len(text) == 1]
        ids = [self._backend.token_to_id(name) for name in names]
        return next((i for i in ids if i is not None and i not in self.added_ids and self.bytes_of(i) == text), None)

    def encode_word(self, word: str) -> list[int]:
        """The ids of a word in what a model writes: a special token's name is that token.

        Raises: RequestError on what is no text, or can't be read.
        """
        return self._ids(word, parse_special=True, is_beginning=False)

    def encode(self, text: str, allow_special: bool, max_tokens: int | None = None) -> list[int]:
        """The text's token ids.

        With allow_special it's a prompt: special tokens in it are parsed and the begin token is put before it, where
        the model has one. Without, it's what somebody wrote: it goes on where other text ends, and nothing is special.

        Cost:   a second and 200 MB for some MB of text; one that certainly has more than max_tokens is not read whole.
        Raises: RequestError on what is no text, can't be read, or has more tokens by far.
        """
        if max_tokens is not None:
            self._refuse_longer(text, max_tokens)
        if not allow_special:
            return self._plain_ids(text)
        ids = self._ids(text, parse_special=True, add_special=True)
        return self._with_one_begin(ids, text)

    def encode_carried(self, text: str, source: "Text | None" = None) -> list[int]:
        """What the other model, the source, wrote, in this model's ids; only marks of thinking are special in it."""
        if self.marks is None:
            return self.encode(text, allow_special=False)
        written = self.marks if source is None or source.marks is None else source.marks
        mine = {written.begin: self.marks.begin, written.end: self.marks.end}
        ids: list[int] = []
        for piece in re.split(f"({re.escape(written.begin)}|{re.escape(written.end)})", text):
            is_mark = piece in mine
            ids += self._ids(mine[piece], parse_special=True, is_beginning=False) if is_mark else self._plain_ids(piece)
        return ids

    def encode_chat(self, chat: Chat, max_tokens: int | None = None) -> list[int]:
        """Chat messages through the model's template, up to where the answer begins; thinking is opened.

        Raises: RequestError when a message is malformed, or the model has no template, or the template refuses them, or
                what it gives can't be read, or has more than max_tokens by far.
        """
        pieces = self._chat.render(chat)
        if max_tokens is not None:
            self._refuse_longer("".join(pieces), max_tokens)
        ids = [self._ids(piece, parse_special=True, is_beginning=i == 0) for i, piece in enumerate(pieces)]
        return [token_id for of_piece in ids for token_id in of_piece]

    def encode_question(self, question: str, as_turn: bool) -> list[int]:
        """What asks the model for a score in the middle of its answer, up to where the digit comes.

        With as_turn it's a turn of the user's, if the model has a chat template; else there is nothing special in it.
        """
        turn = self._chat.render_turn(question) if as_turn else f"\n\n{question}\n"
        return self._ids(turn + "Score:\n", parse_special=True, is_beginning=False)  # then a digit is one token

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of the ids, without special tokens."""
        detokenizer = self.detokenizer()
        return "".join(map(detokenizer.push, token_ids)) + detokenizer.flush()

    def detokenizer(self) -> Detokenizer:
        """A new incremental decoder for one sequence's output, which goes on where a prompt ends."""
        return Detokenizer(self._recent_bytes)

    def is_thinking_open(self, token_ids: Sequence[int]) -> bool:
        """Whether the last beginning of a thinking has not been ended.

        Where the marks are several tokens, they are the template's only at the very end.
        """
        if self.marks is None:
            return False
        if self.begin_thinking_id is None or self.end_thinking_id is None:
            last = b"".join(map(self.bytes_of, token_ids[-len(self.marks.begin) - 2 :]))
            return last.rstrip().endswith(self.marks.begin.encode())
        for token_id in reversed(token_ids):
            if token_id in (self.begin_thinking_id, self.end_thinking_id):
                return token_id == self.begin_thinking_id
        return False

    def end_of_thinking(self, text: str, marks: ThinkingMarks) -> list[int]:
        """The ids that end the thinking after this text: its mark, on a line of its own."""
        newline = "" if text.endswith("\n") else "\n"
        pieces = (newline, False), (marks.end, marks == self.marks), (marks.after_end, False)
        return [i for piece, special in pieces for i in self._ids(piece, parse_special=special, is_beginning=False)]

    def _ids(self, text: str, parse_special: bool, add_special: bool = False, is_beginning: bool = True) -> list[int]:
        """The one place where text becomes ids. Raises: RequestError on what is no text, or can't be read."""
        if not text and not add_special:
            return []
        try:
            text.encode()
        except UnicodeEncodeError as error:
            half = ord(text[error.start])
            raise RequestError(
                f"text has U+{half:04X} at character {error.start}, half of a character; allowed: whole ones"
            ) from None
        backend = self._backend
        backend.encode_special_tokens = not parse_special
        if self._going_on != self._beginning:
            backend.normalizer, backend.pre_tokenizer = self._beginning if is_beginning else self._going_on
        try:
            return backend.encode(text, add_special_tokens=add_special).ids
        except BaseException as error:  # what panics in Rust is no Exception
            if isinstance(error, (KeyboardInterrupt, SystemExit, GeneratorExit)):
                raise
            raise RequestError(f"the tokenizer can't read the text: {type(error).__name__}: {error}") from error

    def _plain_ids(self, text: str) -> list[int]:
        """The ids of text that goes on and has nothing special in it; a mark of thinking may be no special token."""
        marks = () if self.marks is None else (self.marks.begin, self.marks.end)
        pieces = SpecialNames(marks).pieces(text)
        return [i for piece in pieces for i in self._ids(piece, parse_special=False, is_beginning=False)]

    def _with_one_begin(self, ids: list[int], text: str) -> list[int]:
        """A prompt's ids with one begin token: a text that has been rendered before brings its own."""
        added = self._ids("", parse_special=True, add_special=True)
        if added and added[0] in self._added and ids[:2] == added[:1] * 2:
            log.warning("a prompt begins with %r, which is put before every prompt: it stands there once", text[:40])
            return ids[1:]
        return ids

    def _refuse_longer(self, text: str, max_tokens: int) -> None:
        """Raise RequestError if the text's beginning alone has more tokens than are allowed."""
        num_chars = CHARS_PER_TOKEN_TRIED * max_tokens
        while num_chars < len(text):
            num_tokens = len(self._ids(text[:num_chars], parse_special=True))
            if num_tokens > max_tokens + CUT_TOKENS:
                raise RequestError(
                    f"prompt has more than {num_tokens - CUT_TOKENS} tokens in its first {num_chars} characters of "
                    f"{len(text)}; allowed: fewer than max_model_len, {max_tokens}"
                )
            num_chars *= 2

    def _added_token(self, token: str) -> int | None:
        token_id = self._backend.token_to_id(token)
        return token_id if token_id in self.added_ids else None


def check_vocabulary(backend: Tokenizer, vocab_size: int, path: Path) -> None:
    """Raise CheckpointError if a tokenizer and an embedding with vocab_size rows can't be of one model.

    An embedding is often padded, and a token that was added for padding often lacks a row: that is no fault.
    """
    vocabulary = backend.get_vocab(with_added_tokens=True)
    num_tokens = max(vocabulary.values(), default=-1) + 1
    beyond = {i: token for token, i in vocabulary.items() if i >= vocab_size}
    added = backend.get_added_tokens_decoder()
    ordinary = [i for i in sorted(beyond) if i not in added]
    if ordinary:
        raise CheckpointError(
            f"{path}: the tokenizer has {num_tokens} tokens, and the embedding {vocab_size} rows: "
            f"{beyond[ordinary[0]]!r} is number {ordinary[0]}; expected a row for each"
        )
    if vocab_size - num_tokens > PADDING_ROWS + num_tokens // 4:
        raise CheckpointError(
            f"{path}: the tokenizer has {num_tokens} tokens, and the embedding {vocab_size} rows; "
            "expected the model's own tokenizer"
        )
    if beyond:
        shown = ", ".join(map(repr, list(beyond.values())[:5]))
        log.warning("%s: the embedding has %d rows, and none for %s: no prompt may have them", path, vocab_size, shown)


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
