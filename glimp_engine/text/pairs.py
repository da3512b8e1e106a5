"""How two vocabularies relate."""

from dataclasses import dataclass
from typing import Literal

from glimp_engine.text.tokenizer import Text

__all__ = ["Pair", "relate"]


@dataclass(frozen=True)
class Pair:
    """How two vocabularies relate.

    identical: an id means the same in both. mapped: the ordinary tokens are the same and special ones differ; the
    tables give the other model's id, or -1. unrelated: only text can be carried over.
    """

    kind: Literal["identical", "mapped", "unrelated"]
    to_large: list[int] | None = None
    to_small: list[int] | None = None


def relate(small: Text, large: Text) -> Pair:
    """How the vocabularies of the two models relate.

    What counts is what an id means, not how text is cut into ids: so merges are not compared.
    """
    if small is large or small.tokens() == large.tokens():
        return Pair("identical")
    to_large, to_small = translation(small, large), translation(large, small)
    both_think = small.marks == large.marks
    bodies = ((small, to_large), (large, to_small))
    if both_think and all(table[i] >= 0 for text, table in bodies for i in ordinary_ids(text)):
        return Pair("mapped", to_large, to_small)
    return Pair("unrelated")


def ordinary_ids(text: Text) -> list[int]:
    """Ids of the tokens that aren't special."""
    return [i for i, token in enumerate(text.tokens()) if token is not None and i not in text.added_ids]


def translation(source: Text, target: Text) -> list[int]:
    """For each id of the source the id of the same token in the target, or -1; an end token has the target's."""
    target_ids = {(token, i in target.added_ids): i for i, token in enumerate(target.tokens()) if token is not None}
    table = [target_ids.get((str(token), i in source.added_ids), -1) for i, token in enumerate(source.tokens())]
    for i in source.end_token_ids:
        if table[i] < 0 and target.end_token_ids:
            table[i] = min(target.end_token_ids)
    return table
