"""How many of the vocabulary's tokens a model that only proposes looks at: a head is much of a small model.

Ids of a byte pair vocabulary are given in the order of its merges, so the first ones are the frequent ones (a draft
model's head for frequent tokens alone: FR-Spec, arXiv 2502.14856). A text of later ones, as of a script that came late
into the vocabulary, is proposed from all.
"""

__all__ = ["NUM_FIRST", "FirstTokens"]

NUM_FIRST = 1 << 15
WINDOW = 256  # tokens of a text that its script is seen from
MOST_LATER = 8  # of them are later tokens, or proposals would miss more than they save
HOLDS = 32  # tokens, then the text is looked at again


class FirstTokens:
    """Whether one sequence's text is made of the vocabulary's first tokens."""

    def __init__(self) -> None:
        self._looked_at = -HOLDS  # when so many tokens were written
        self._are_enough = True

    def num_logits(self, token_ids: list[int], num_written: int) -> int | None:
        """How many of the vocabulary's first tokens are enough behind token_ids[:num_written]; None: look at all."""
        if abs(num_written - self._looked_at) >= HOLDS:
            window = token_ids[max(num_written - WINDOW, 0) : num_written]
            self._are_enough = sum(token_id >= NUM_FIRST for token_id in window) <= MOST_LATER
            self._looked_at = num_written
        return NUM_FIRST if self._are_enough else None
