"""Grammars of answers: which of a vocabulary's tokens may follow what an answer has so far.

llguidance does the work. It's given a model's tokens and, behind them, a token for each byte: so that an answer is
followed by its bytes, whichever model has written them, and its masks depend on nothing else.
"""

import json
from collections import OrderedDict
from threading import Lock
from typing import Any

import numpy as np

from glimp_engine.errors import ConfigError, RequestError
from glimp_engine.sampling import StructuredOutputs
from glimp_engine.text.tokenizer import Text

__all__ = ["Grammar", "GrammarReader", "Grammars"]

MOST_GRAMMARS = 64  # that a vocabulary keeps compiled: 25 KB each, 280 of a schema with 60 properties
MOST_SPACE = 16  # bytes of white space between a thinking and its answer, beyond which the answer has to begin
NUM_BYTES = 256
WHITE_SPACE = frozenset(b" \t\r\n")
# the whole mask, not only the tokens that its own tokenizer would take where but one text can follow
UNFORCED = '%llguidance {"no_forcing": true}\n'
SPACE = r"(\r?\n[ \t]{0,80}| )?"  # between the parts of JSON
ANY_OBJECT = '{"type": "object"}'


class Grammars:
    """The grammars of one vocabulary, each compiled when it's first asked for."""

    def __init__(self, text: Text) -> None:
        self._text = text
        self._vocabulary: Vocabulary | None = None
        self._compiled: OrderedDict[StructuredOutputs, Any] = OrderedDict()  # the last one used comes last
        self._lock = Lock()

    def compile(self, asked: StructuredOutputs, vocab_size: int) -> "Grammar":
        """What is asked, in the tokens of a model with vocab_size logits; from any thread.

        Cost:   milliseconds; the first one half a second and 50 MB, for 150,000 tokens.
        Raises: RequestError when it can't be compiled, or the model has no end token; ConfigError without llguidance.
        """
        with self._lock:
            if self._vocabulary is None:
                self._vocabulary = Vocabulary(self._text)
            if asked in self._compiled:
                self._compiled.move_to_end(asked)
            else:
                self._compiled[asked] = self._vocabulary.compile(asked)
            if len(self._compiled) > MOST_GRAMMARS:
                self._compiled.popitem(last=False)
            return Grammar(self._compiled[asked], self._vocabulary, vocab_size)


class Vocabulary:
    """A model's tokens as llguidance takes them: then one for each byte, and one that stands for all end tokens."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, text: Text) -> None:
        self._llguidance = import_llguidance()
        written = [text.answer_bytes(token_id) for token_id in range(text.num_tokens)]
        self.num_tokens = text.num_tokens
        self.end_token_ids = sorted(text.end_token_ids)
        self.tokens = [*written, *(bytes([byte]) for byte in range(NUM_BYTES)), b"<end>"]
        self.eos_token_id = self.num_tokens + NUM_BYTES
        self.special_token_ids = [self.eos_token_id]
        self._tokenizer = self._llguidance.LLTokenizer(self, n_vocab=len(self.tokens))
        self.tokens = []  # they are copied
        self.writes = bits_of([i for i, each in enumerate(written) if each], self.num_tokens)
        self.spaces = [(i, each) for i, each in enumerate(written) if each and WHITE_SPACE.issuperset(each)]

    def __call__(self, text: str | bytes) -> list[int]:
        """Tokens of a text, of which llguidance wants to have some way."""
        return [self.num_tokens + byte for byte in (text.encode() if isinstance(text, str) else text)]

    def compile(self, asked: StructuredOutputs) -> Any:
        """llguidance's matcher at the beginning of an answer."""
        if not self.end_token_ids:
            raise RequestError("structured_outputs is given, and the model has no end token; allowed: None")
        try:
            matcher = self._llguidance.LLMatcher(self._tokenizer, source_of(asked, self._llguidance), log_level=0)
            error = matcher.get_error()
        except ValueError as failure:  # of what isn't llguidance's own language
            error = str(failure)
        if error:
            cause = " ".join(error.split("\n   1 | ")[0].split())
            raise RequestError(f"structured_outputs has a {asked.kind} that can't be followed: {cause}")
        return matcher


class Grammar:
    """What one request allows, in one model's tokens."""

    def __init__(self, matcher: Any, vocabulary: Vocabulary, vocab_size: int) -> None:
        """matcher: at the beginning of an answer, where it stays."""
        self._matcher = matcher
        self.vocabulary = vocabulary
        self.vocab_size = vocab_size

    def mask_of_none(self) -> bytes:
        """A mask that leaves no token."""
        return bytes(4 * -(-self.vocab_size // 32))

    def begin(self) -> Any:
        """llguidance's matcher at the beginning of an answer, to be moved on."""
        return self._matcher.deep_copy()


class GrammarReader:
    """Follows one answer, back too, and says which tokens come next."""

    def __init__(self, grammar: Grammar) -> None:
        self._grammar = grammar
        self._matcher = grammar.begin()
        self._vocabulary = grammar.vocabulary
        self._num_words = -(-grammar.vocab_size // 32)
        self._end_bits = bits_of([i for i in self._vocabulary.end_token_ids if i < grammar.vocab_size], 0)
        self._read = b""  # where the matcher stands
        self._spaces: tuple[frozenset[int], np.ndarray] | None = None

    def mask_after(self, written: bytes, has_thought: bool) -> bytes | None:
        """Bit i % 8 of byte i / 8: whether token i may follow this much of an answer; None if that breaks the grammar.

        Where the model has_thought white space may stand before the answer, as far as the grammar has no place for it.

        Cost:   1 us a byte that is new, 20 to 100 us for the mask.
        Raises: RequestError when the grammar has become too complex.
        """
        num_spaces = 0
        if has_thought:
            skipped, _ = self._before_answer()
            num_spaces = len(written) - len(written.lstrip(bytes(skipped)))
        if not self._go_to(written[num_spaces:]):
            return None
        bits = self._bits()
        mask = np.zeros(4 * self._num_words, np.uint8)
        put(mask, bits[: len(self._vocabulary.writes)] & self._vocabulary.writes)
        if has_bit(bits, self._vocabulary.eos_token_id):
            put(mask, self._end_bits)
        if has_thought and num_spaces == len(written) < MOST_SPACE:
            put(mask, self._before_answer()[1])
        return mask.tobytes()

    def _go_to(self, written: bytes) -> bool:
        """Let the matcher stand behind these bytes; whether it can."""
        num_kept = common_length(self._read, written)
        if num_kept < len(self._read):
            self._matcher.rollback(len(self._read) - num_kept)
        new = written[num_kept:]
        num_read = self._matcher.try_consume_tokens(self._vocabulary(new)) if new else 0
        self._read = written[: num_kept + num_read]
        self._check()
        return num_read == len(new)

    def _bits(self) -> np.ndarray:
        """llguidance's mask where the matcher stands."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        self._check()
        return bits

    def _check(self) -> None:
        """Begin anew after an error, of which a matcher never comes back."""
        error = self._matcher.get_error()
        if error:
            self._matcher, self._read = self._grammar.begin(), b""
            raise RequestError(f"structured_outputs can't be followed any further: {' '.join(error.split())[:300]}")

    def _before_answer(self) -> tuple[frozenset[int], np.ndarray]:
        """Bytes of white space that no answer begins with, and the tokens that are made of them."""
        if self._spaces is None:
            self._go_to(b"")
            bits, first = self._bits(), self._vocabulary.num_tokens
            skipped = frozenset(byte for byte in WHITE_SPACE if not has_bit(bits, first + byte))
            ids = [i for i, each in self._vocabulary.spaces if skipped.issuperset(each)]
            self._spaces = skipped, bits_of(ids, 0)
        return self._spaces


def source_of(asked: StructuredOutputs, llguidance: Any) -> str:
    """What is asked, in llguidance's language."""
    if asked.kind == "grammar":
        source = llguidance.grammar_from("grammar", asked.grammar)
    elif asked.kind == "regex":
        source = f"start: /{llguidance.regex_to_lark(asked.regex)}/"
    elif asked.kind == "choice":
        source = "start: " + " | ".join(map(quoted, asked.choice or ()))
    else:
        source = f"start: %json {with_bounded_space(str(asked.json or ANY_OBJECT))}"
    return f"{source}\n{UNFORCED}"


def with_bounded_space(schema: str) -> str:
    """The schema with the white space that people indent by, and no more: a model could write it for ever."""
    read = json.loads(schema)
    return json.dumps({"x-guidance": {"whitespace_pattern": SPACE}, **read}) if isinstance(read, dict) else schema


def quoted(text: str) -> str:
    """The text as a string of Lark's: as JSON has it, but for a control character that Lark doesn't take."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def import_llguidance() -> Any:
    """The library, which nothing else here needs."""
    try:
        import llguidance
    except ImportError:
        raise ConfigError(
            "structured_outputs is given, and llguidance isn't installed; allowed: None, "
            "or `pip install glimp_engine[structured]`"
        ) from None
    return llguidance


def bits_of(ids: list[int], num_ids: int) -> np.ndarray:
    """Bytes with these bits set, for at least num_ids of them."""
    bits = np.zeros(max([num_ids, *(i + 1 for i in ids)]), np.uint8)
    bits[ids] = 1
    return np.packbits(bits, bitorder="little")


def has_bit(bits: np.ndarray, i: int) -> bool:
    """Whether bit i is set."""
    return bool(bits[i // 8] >> i % 8 & 1)


def put(mask: np.ndarray, bits: np.ndarray) -> None:
    """Set these bits too, as many as the mask has room for."""
    num = min(len(mask), len(bits))
    mask[:num] |= bits[:num]


def common_length(a: bytes, b: bytes) -> int:
    """How many bytes both begin with."""
    if b.startswith(a):
        return len(a)
    if a.startswith(b):
        return len(b)
    return next(i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y)
