"""A text that comes piece by piece."""

__all__ = ["GrowingText"]


class GrowingText:
    """Pieces that are put together when somebody reads them: adding each to a string would copy all of it each time."""

    __slots__ = ("_num_chars", "_pieces")

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._num_chars = 0

    def __len__(self) -> int:
        return self._num_chars

    def __str__(self) -> str:
        if len(self._pieces) > 1:
            self._pieces = ["".join(self._pieces)]
        return self._pieces[0] if self._pieces else ""

    def add(self, piece: str) -> None:
        """Put a piece behind all others."""
        self._pieces.append(piece)
        self._num_chars += len(piece)

    def cut(self, num_chars: int) -> None:
        """Keep the first num_chars characters."""
        self._pieces = [str(self)[:num_chars]]
        self._num_chars = len(self._pieces[0])
