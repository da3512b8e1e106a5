"""What stood behind the last tokens elsewhere in the sequence.

Source: prompt lookup decoding (Saxena 2023), which vLLM and llama.cpp call n-gram speculation.
"""

__all__ = ["NGrams"]

SIZES = (8, 3)  # tokens that must stand elsewhere too: many tell a table's rows apart, few find anything at all
MAX_MATCH = 32  # tokens before it that are compared


class NGrams:
    """Where each run of as many tokens of one stream stood last."""

    def __init__(self) -> None:
        self._place_behind: dict[int, int] = {}  # by the hash of the run, which is smaller
        self._num_read = min(SIZES)

    def find(self, tokens: list[int], num_written: int) -> tuple[int, int]:
        """(token, number of tokens before it that stand elsewhere too); the number is 0 where there is none.

        `tokens` may have proposals behind the num_written that stand: these are looked for, but not among them.
        """
        self._read(tokens, num_written)
        for size in SIZES:
            place = self._place_behind.get(hash(tuple(tokens[-size:])), 0) if size <= len(tokens) else 0
            if 0 < place < num_written:  # a draft that was taken back may have been longer; hashes may be equal
                length = matching(tokens, place)
                if length >= size:
                    return tokens[place], length
        return 0, 0

    def _read(self, tokens: list[int], num_written: int) -> None:
        """Take in the runs that end before num_written."""
        for size in SIZES:
            first = max(self._num_read, size)
            if num_written - first == 1:
                self._place_behind[hash(tuple(tokens[first - size : first]))] = first
            elif num_written > first:  # all runs at once: a slice for each takes five times as long
                columns = (tokens[start : start + num_written - first] for start in range(first - size, first))
                runs = map(hash, zip(*columns, strict=True))
                self._place_behind.update(zip(runs, range(first, num_written), strict=True))
        self._num_read = max(num_written, min(SIZES))


def matching(tokens: list[int], place: int) -> int:
    """How many tokens before the place are those at the end."""
    length, end = 0, len(tokens)
    while length < min(MAX_MATCH, place) and tokens[place - 1 - length] == tokens[end - 1 - length]:
        length += 1
    return length
