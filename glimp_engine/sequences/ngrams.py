"""What stood behind the last tokens elsewhere in the sequence.

Source: prompt lookup decoding (Saxena 2023), which vLLM and llama.cpp call n-gram speculation.
"""

__all__ = ["NGrams"]

SIZE = 3  # tokens that must stand elsewhere too
MAX_MATCH = 32  # tokens before it that are compared


class NGrams:
    """Where each run of SIZE tokens of one stream stood last."""

    def __init__(self) -> None:
        self._place_behind: dict[tuple[int, ...], int] = {}
        self._num_read = SIZE

    def find(self, tokens: list[int], num_written: int) -> tuple[int, int]:
        """(token, number of tokens before it that stand elsewhere too); the number is 0 where there is none.

        `tokens` may have proposals behind the num_written that stand: these are looked for, but not among them.
        """
        for place in range(self._num_read, num_written):
            self._place_behind[tuple(tokens[place - SIZE : place])] = place
        self._num_read = max(num_written, SIZE)
        end = len(tokens)
        place = self._place_behind.get(tuple(tokens[end - SIZE :]), 0) if end >= SIZE else 0
        if not 0 < place < num_written:
            return 0, 0  # a draft that was taken back may have been longer
        length = 0
        while length < min(MAX_MATCH, place) and tokens[place - 1 - length] == tokens[end - 1 - length]:
            length += 1
        return (tokens[place], length) if length >= SIZE else (0, 0)
