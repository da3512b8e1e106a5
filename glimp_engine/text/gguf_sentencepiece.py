"""SentencePiece's way from text to tokens, from the scores that a GGUF file holds.

The file has no merges but a score for each token: of all neighbours whose union is a token, those of the highest score
become one, the leftmost first. A list of merges can't say that: two ways to make the same token have one score, and
which comes first depends on where they stand. So the merges are ours, and what surrounds them is the library's.

Source: SentencePiece's BPE model, and llama.cpp's reading of it for what the file's flags mean.
"""

import heapq
import re
from functools import lru_cache

from tokenizers import PreTokenizedString, Token, Tokenizer, decoders, models, normalizers, pre_tokenizers

from glimp_engine.checkpoints import Fields
from glimp_engine.errors import CheckpointError

__all__ = ["BYTE", "build_sentencepiece"]

BYTE = 6  # of tokenizer.ggml.token_type
SPACE = "▁"
BYTE_NAMES = tuple(f"<0x{byte:02X}>" for byte in range(256))
CACHED_WORDS, CACHED_CHARS = 1 << 14, 64  # how many words are remembered, and how long one may be


class Merges:
    """A pre-tokenizer that makes tokens of each piece of text, so that nothing is left for the model to do."""

    def __init__(self, ids: dict[str, int], scores: list[float], mergeable: set[int]) -> None:
        self._scores = {token: scores[i] for token, i in ids.items() if i in mergeable}
        self._ids = ids
        is_across = re.compile(f"[^{SPACE}]{SPACE}").search  # such a token joins what a cut at spaces parts
        self._cut = None if any(map(is_across, self._scores)) else re.compile(f"{SPACE}*[^{SPACE}]+|{SPACE}+")
        self._ids_of_short = lru_cache(CACHED_WORDS)(self._ids_of)

    def pre_tokenize(self, text: PreTokenizedString) -> None:
        """The library's interface."""
        text.tokenize(self._tokens)

    def _tokens(self, text: str) -> list[Token]:
        tokens = []
        for word in [text] if self._cut is None else self._cut.findall(text):
            ids = self._ids_of_short(word) if len(word) <= CACHED_CHARS else self._ids_of(word)
            tokens += [Token(i, "", (0, 0)) for i in ids]
        return tokens

    def _ids_of(self, word: str) -> tuple[int, ...]:
        ids: list[int] = []
        for symbol in self._merged(word):
            if symbol in self._scores:
                ids.append(self._ids[symbol])
            else:  # one character that is no token
                ids += [self._byte_id(byte) for byte in symbol.encode()]
        return tuple(ids)

    def _byte_id(self, byte: int) -> int:
        return self._ids[BYTE_NAMES[byte]] if BYTE_NAMES[byte] in self._ids else self._ids[chr(byte)]

    def _merged(self, word: str) -> list[str]:
        """The word's symbols when no two neighbours can become one any more."""
        symbols, scores = list(word), self._scores
        left_of, right_of = list(range(-1, len(word) - 1)), list(range(1, len(word) + 1))
        waiting: list[tuple[float, int, int, str]] = []

        def propose(left: int, right: int) -> None:
            if left >= 0 and right < len(symbols) and (union := symbols[left] + symbols[right]) in scores:
                heapq.heappush(waiting, (-scores[union], left, right, union))

        for i in range(1, len(word)):
            propose(i - 1, i)
        while waiting:
            _, left, right, union = heapq.heappop(waiting)
            if not symbols[left] or not symbols[right] or len(symbols[left]) + len(symbols[right]) != len(union):
                continue  # one of the two has become part of another since
            symbols[left], symbols[right] = union, ""
            right_of[left] = right_of[right]
            if right_of[right] < len(symbols):
                left_of[right_of[right]] = left
            propose(left_of[left], left)
            propose(left, right_of[left])
        return [symbol for symbol in symbols if symbol]


def build_sentencepiece(fields: Fields, tokens: list[str], mergeable: set[int], unused: set[int]) -> Tokenizer:
    """The tokenizer without what goes around a prompt; `mergeable` are the ids that text may become.

    Cost:   0.2 s for 250,000 tokens.
    Raises: CheckpointError if the scores or the bytes are missing, or the file says what isn't done here.
    """
    scores = fields.numbers("scores")
    if len(scores) != len(tokens):
        raise fields.error("scores", f"one for each of {len(tokens)} tokens")
    if fields.flag("remove_extra_whitespaces", False):
        raise fields.error("remove_extra_whitespaces", "false")
    if fields.raw("precompiled_charsmap"):
        raise fields.error("precompiled_charsmap", "none")
    ids = {token: i for i, token in enumerate(tokens) if i not in unused}
    missing = [name for byte, name in enumerate(BYTE_NAMES) if name not in ids and (byte > 127 or chr(byte) not in ids)]
    if missing:
        raise CheckpointError(
            f"{fields.where}: tokenizer.ggml.tokens: expected one for each byte, found none for {missing[0]}"
        )
    adds_space = fields.flag("add_space_prefix", True)
    tokenizer = Tokenizer(models.BPE(vocab=ids, merges=[]))
    prefix = [normalizers.Prepend(SPACE)] if adds_space else []
    tokenizer.normalizer = normalizers.Sequence([*prefix, normalizers.Replace(" ", SPACE)])
    tokenizer.pre_tokenizer = pre_tokenizers.PreTokenizer.custom(Merges(ids, scores, mergeable))
    strip = [decoders.Strip(" ", 1, 0)] if adds_space else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    return tokenizer
