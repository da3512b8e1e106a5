"""What a request lets one model write next, and which tokens end its output, in that model's own ids."""

import math
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from glimp_engine.errors import RequestError
from glimp_engine.routing import Model
from glimp_engine.sampling import SamplingParams
from glimp_engine.sequences.streams import Dictionary
from glimp_engine.text import Grammar

__all__ = ["Biases", "TokenRules", "make_rules", "no_token_left"]


@dataclass(frozen=True)
class Biases:
    """What is done to one row's logits before penalties."""

    by_id: dict[int, float]  # what is added; -inf bans
    listed_only: bool = False  # whether every token that isn't listed is banned


@dataclass(frozen=True)
class TokenRules:
    """A request's rules in one model's ids. Nothing here changes: what was written is passed in."""

    always: Biases
    stop_ids: dict[int, int]  # to the id that the user gave
    ending_ids: frozenset[int]  # end and stop tokens: banned before min_tokens
    min_tokens: int
    # words of several tokens by the last but one: (those before it, last token)
    bad_words: dict[int, list[tuple[list[int], int]]]
    max_word_len: int
    grammar: Grammar | None  # that the answer follows

    def biases(self, written: Sequence[int], num_written: int) -> Biases:
        """Those of the next token. `written` are the output's last tokens, at least max_word_len - 1 if it has them."""
        banned = self.ending_ids if num_written < self.min_tokens else frozenset[int]()
        if self.bad_words and written:
            banned = banned.union(
                last for before, last in self.bad_words.get(written[-1], ()) if ends_with(written[:-1], before)
            )
        if not banned:
            return self.always
        return Biases({**self.always.by_id, **dict.fromkeys(banned, -math.inf)}, self.always.listed_only)


def ends_with(tokens: Sequence[int], end: list[int]) -> bool:
    """Whether the tokens end so."""
    return len(tokens) >= len(end) and list(tokens[len(tokens) - len(end) :]) == end


def make_rules(sampling: SamplingParams, dictionary: Dictionary, models: Iterable[Model]) -> dict[Model, TokenRules]:
    """The rules for each of these models, and for the small one, which may propose, if they can be said in its ids.

    Raises: RequestError when an id isn't in the small model's vocabulary or has no one token in the large model's, or
            when no token is left that may be written, or a grammar can't be followed.
    """
    rules = {model: rules_for(sampling, dictionary, model) for model in models}
    if Model.SMALL not in rules:
        with suppress(RequestError):
            rules[Model.SMALL] = rules_for(sampling, dictionary, Model.SMALL)
    return rules


def rules_for(sampling: SamplingParams, dictionary: Dictionary, model: Model) -> TokenRules:
    """The rules in the model's ids."""
    translate, asked = Translation(dictionary, model), sampling.structured_outputs
    stop_ids = translate.ids("stop_token_ids", sampling.stop_token_ids or ())
    bias = sampling.logit_bias or {}
    by_id = {own: bias[given] for own, given in translate.ids("logit_bias", bias).items()}
    if sampling.allowed_token_ids is not None:
        allowed = translate.ids("allowed_token_ids", sampling.allowed_token_ids)
        if not allowed:
            raise RequestError(
                f"allowed_token_ids has no token that the {model} model has; allowed: one that it can write"
            )
        by_id = {own: by_id.get(own, 0.0) for own in allowed}
    words = [ids for word in sampling.bad_words or () for ids in encode_bad_word(word, dictionary, model)]
    by_id |= {ids[0]: -math.inf for ids in words if len(ids) == 1}
    longer: dict[int, list[tuple[list[int], int]]] = {}
    for ids in words:
        if len(ids) > 1:
            longer.setdefault(ids[-2], []).append((ids[:-2], ids[-1]))
    end_ids = {i for i in dictionary.texts[model].end_token_ids if i < dictionary.vocab_sizes[model]}
    return TokenRules(
        always=Biases(by_id, listed_only=sampling.allowed_token_ids is not None),
        stop_ids=stop_ids,
        ending_ids=frozenset(end_ids.union(stop_ids)),
        min_tokens=sampling.min_tokens,
        bad_words=longer,
        max_word_len=max(map(len, words), default=0),
        grammar=None if asked is None else dictionary.compile(asked, model),
    )


def no_token_left(sampling: SamplingParams, model: Model, error: str) -> RequestError:
    """That a model has nothing to write, as all is banned; `error` says why if it's a grammar that gave up."""
    names = "allowed_token_ids, bad_words, logit_bias, min_tokens"
    if sampling.structured_outputs is not None:
        names += ", structured_outputs"
    return RequestError(error or f"{names} leave the {model} model no token to write")


class Translation:
    """The small model's ids, in which a request is asked, as a model's own."""

    def __init__(self, dictionary: Dictionary, target: Model) -> None:
        self._dictionary = dictionary
        self._target = target

    def ids(self, name: str, given: Iterable[int]) -> dict[int, int]:
        """The model's id of each token that it has, and the id that was given for it.

        What it doesn't have it can't write: nothing about such a token has to be said to it.

        Raises: RequestError on an id that isn't in the vocabulary, or that can't be said in the model's ids.
        """
        found = {}
        num_ids = self._dictionary.vocab_sizes[Model.SMALL]
        for token_id in given:
            if token_id >= num_ids:
                raise RequestError(f"{name} has token id {token_id}; allowed: from 0 to {num_ids - 1}")
            own = self._own_id(name, token_id)
            if 0 <= own < self._dictionary.vocab_sizes[self._target]:
                found[own] = token_id
        return found

    def _own_id(self, name: str, token_id: int) -> int:
        """The id in the model's vocabulary, which may lie beyond it; -1 for none."""
        pair, texts = self._dictionary.pair, self._dictionary.texts
        if self._target is Model.SMALL or pair.kind == "identical":
            return token_id
        if pair.to_large is not None:
            return pair.to_large[token_id] if token_id < len(pair.to_large) else -1
        text, ends = texts[Model.SMALL].bytes_of(token_id), texts[self._target].end_token_ids
        own = texts[self._target].token_of(text, is_special=token_id in texts[Model.SMALL].added_ids)
        if own is None and token_id in texts[Model.SMALL].end_token_ids and ends:
            return min(ends)
        if own is None:
            raise RequestError(
                f"{name} has token id {token_id}, {text!r}, which the {self._target} model's vocabulary has no one "
                "token for; allowed with it: tokens that both have, or a router that uses the small model only"
            )
        return own


def encode_bad_word(word: str, dictionary: Dictionary, model: Model) -> list[list[int]]:
    """The ids of a word at the beginning of a text and, where they are as many and begin otherwise, within one.

    Raises: RequestError when it has none, or can't be read.
    Source: vLLM, SamplingParams.update_from_tokenizer.
    """
    text, bare = dictionary.texts[model], word.lstrip()
    first, spaced = text.encode_word(bare), text.encode_word(f" {bare}")
    if not first:
        raise RequestError(f"bad_words has {word!r}, which has no tokens; allowed: words that have")
    is_other = bool(spaced) and spaced[0] != first[0] and len(spaced) == len(first)
    words = [first, spaced] if is_other else [first]
    for ids in words:
        dictionary.check_ids(ids, model)
    return words
