"""Which tokens of a vocabulary have a digit in them."""

from collections.abc import Iterable

__all__ = ["digit_table"]


def digit_table(token_bytes: Iterable[bytes], vocab_size: int) -> bytes:
    """1 for each token with a decimal digit of any script in it, else 0; ids beyond the tokens have none.

    A digit that is cut over several tokens, as rare scripts are, isn't seen.

    Shapes: [vocab_size].
    """
    table = bytes(any(map(str.isdecimal, token.decode(errors="ignore"))) for token in token_bytes)
    return table[:vocab_size].ljust(vocab_size, b"\0")
