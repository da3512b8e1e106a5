"""The page table of one token stream: which pages hold it, and what each model has still to run. Integers only."""

from array import array
from collections.abc import Sequence
from hashlib import blake2b

from glimp_engine.errors import CapacityError
from glimp_engine.sequences.pages import Content, PagePool

__all__ = ["PageTable"]


class PageTable:
    """The pages of one token stream. The caller keeps the tokens, which only grow but for `truncate` and `cut`."""

    def __init__(self, pool: PagePool, vocabulary: bytes) -> None:
        self.pool = pool
        self.pages = array("i")  # a row of a batch's page table is copied from it
        self.num_changes = 0  # of its pages, but for those that are taken behind them
        self.is_attached = False
        self._root = vocabulary  # streams of different vocabularies share no page
        self._keys: list[bytes] = []  # of all full pages of the tokens; survives a release
        self._num_sealed = 0
        self._cursor = [0] * len(pool.filled)  # [model]: every position before it is filled
        self._num_unfills = 0

    def num_missing(self, num_tokens: int) -> int:
        """Pages to take before the table covers num_tokens positions."""
        return max(0, -(-num_tokens // self.pool.page_size) - len(self.pages))

    def can_attach(self, tokens: Sequence[int], headroom: int) -> bool:
        """Whether the pool can hold these tokens, pages shared with others not counted, and `headroom` pages more."""
        shared = self._match(tokens)
        revived = sum(self.pool.references[page] == 0 for page in shared)
        return self.num_missing(len(tokens)) - len(shared) + headroom <= self.pool.num_available - revived

    def attach(self, tokens: Sequence[int]) -> None:
        """Hold these tokens, starting with what the prefix cache has of them; the last one always remains to be run.

        Raises: CapacityError when `can_attach` is false.
        """
        self.is_attached = True
        self.num_changes += 1
        self.pages = array("i", self._match(tokens))
        self._num_sealed = len(self.pages)
        for page in self.pages:
            self.pool.share(page)
        self._copy_common(tokens)
        self.hold(tokens)
        self._publish_tail(tokens)

    def hold(self, tokens: Sequence[int], num_written: int | None = None) -> None:
        """Take the pages that these tokens need, and publish those that are sealed: of the num_written first tokens.

        Raises: CapacityError when the pool has fewer than num_missing(len(tokens)).
        """
        missing = self.num_missing(len(tokens))
        if missing > self.pool.num_available:
            raise CapacityError(f"{missing} pages were asked for, {self.pool.num_available} are available")
        self.take(missing)
        self._seal(tokens, len(tokens) if num_written is None else num_written)

    def take(self, num_pages: int) -> None:
        """Take pages behind those that are held; the pool must have them."""
        self.pages.extend(self.pool.take() for _ in range(num_pages))

    def covers(self, num_tokens: int, num_written: int) -> bool:
        """Whether there is nothing to `hold`: all have pages, and the full ones of the num_written first are sealed."""
        size = self.pool.page_size
        return num_tokens <= len(self.pages) * size and num_written < (self._num_sealed + 1) * size

    def next_run(self, model: int, num_tokens: int) -> tuple[int, int]:
        """(start, end) of the first held positions below num_tokens that the model has not seen; equal if none."""
        if self._num_unfills != self.pool.num_unfills:
            self._cursor, self._num_unfills = [0] * len(self._cursor), self.pool.num_unfills
        size, filled = self.pool.page_size, self.pool.filled[model]
        num_tokens = min(num_tokens, len(self.pages) * size)
        start = self._cursor[model]
        while start < num_tokens and start % size < filled[self.pages[start // size]]:
            start += filled[self.pages[start // size]] - start % size
        self._cursor[model] = start
        end = min(num_tokens, (start // size + 1) * size)
        while end < num_tokens and not filled[self.pages[end // size]]:
            end = min(num_tokens, end + size)
        return start, end

    def fill(self, model: int, start: int, end: int) -> None:
        """Mark positions start:end, the beginning of `next_run`, as filled by the forward that is being planned."""
        size, filled = self.pool.page_size, self.pool.filled[model]
        for i in range(start // size, -(-end // size)):
            page = self.pages[i]
            assert filled[page] == max(start - i * size, 0), "a position would be run twice, or skipped"
            filled[page] = min(end - i * size, size)

    def fill_next(self, model: int, position: int) -> None:
        """Mark the position, all before which are filled."""
        page, offset = self.pages[position // self.pool.page_size], position % self.pool.page_size
        filled = self.pool.filled[model]
        assert filled[page] == offset, "a position would be run twice, or skipped"
        filled[page] = offset + 1

    def truncate(self, tokens: Sequence[int], num_tokens: int) -> None:
        """Keep the first num_tokens of the tokens, and what each model has seen of them.

        The page that's cut may be shared: then a copy goes on in its place. If there is no page for that, all are
        given back, as at a preemption.
        """
        self._seal(tokens, len(tokens))  # so that what is dropped may be found again
        size, num_full = self.pool.page_size, num_tokens // self.pool.page_size
        self._drop_pages(-(-num_tokens // size))
        if num_full < len(self.pages) and not self._own(num_full):
            self.pool.release(self.pages.pop())
            self.release(tokens[: num_full * size])
        del self._keys[num_full:]
        self._num_sealed = min(self._num_sealed, num_full)
        self.cut(num_tokens)

    def cut(self, num_tokens: int) -> None:
        """Keep what is known of the first num_tokens tokens; no page of the others has been sealed."""
        size, num_full = self.pool.page_size, num_tokens // self.pool.page_size
        self._drop_pages(-(-num_tokens // size))
        self._cursor = [min(cursor, num_tokens) for cursor in self._cursor]
        if num_full < len(self.pages):
            for marks in self.pool.filled:
                marks[self.pages[num_full]] = min(marks[self.pages[num_full]], num_tokens % size)

    def release(self, tokens: Sequence[int]) -> None:
        """Give all pages back. What is filled stays cached while it can, the beginning of the stream longest."""
        self._seal(tokens, len(tokens))
        self._publish_tail(tokens)
        self._drop_pages(0)
        self.is_attached = False
        self._cursor = [0] * len(self._cursor)

    def _drop_pages(self, num_kept: int) -> None:
        if num_kept < len(self.pages):
            self.num_changes += 1
            for page in reversed(self.pages[num_kept:]):
                self.pool.release(page)
            del self.pages[num_kept:]

    def _own(self, i: int) -> bool:
        """Make page i one that no other table has or can find; False if that takes a page and there is none."""
        page = self.pages[i]
        if self.pool.references[page] == 1:
            self.pool.unpublish(page)
            return True
        if not self.pool.num_available:
            return False
        self.num_changes += 1
        self.pages[i] = self.pool.take()
        self.pool.copy(page, self.pages[i], self.pool.page_size)
        self.pool.release(page)
        return True

    def _match(self, tokens: Sequence[int]) -> list[int]:
        self._extend_keys(tokens, len(tokens))
        pages = []
        for key in self._keys[: max(len(tokens) - 1, 0) // self.pool.page_size]:
            page = self.pool.find(key)
            if page is None:
                break
            pages.append(page)
        return pages

    def _copy_common(self, tokens: Sequence[int]) -> None:
        """Start the next page with a copy of the cached page that has the longest beginning in common with it."""
        begin = len(self.pages) * self.pool.page_size
        rest = tokens[begin : min(begin + self.pool.page_size, len(tokens) - 1)]
        source, common = self.pool.find_common(self._parent(len(self.pages)), rest) if rest else (-1, 0)
        if common == 0 or self.pool.num_available <= (self.pool.references[source] == 0):
            return
        self.pool.share(source)  # so that `take` can't evict it
        target = self.pool.take()
        self.pool.copy(source, target, common)
        self.pool.release(source)
        self.pages.append(target)

    def _seal(self, tokens: Sequence[int], num_written: int) -> None:
        self._extend_keys(tokens, num_written)
        size = self.pool.page_size
        num_full = min(num_written // size, len(self.pages))
        for i in range(self._num_sealed, num_full):
            content = Content(self._parent(i), tuple(tokens[i * size : (i + 1) * size]), self._keys[i])
            self.pool.publish(self.pages[i], content)
        self._num_sealed = num_full

    def _publish_tail(self, tokens: Sequence[int]) -> None:
        """Let others copy from the last page, which isn't sealed, as far as they have its tokens in common."""
        i = len(tokens) // self.pool.page_size
        tail = tuple(tokens[i * self.pool.page_size :])
        if tail and i < len(self.pages):
            self.pool.publish(self.pages[i], Content(self._parent(i), tail, None))

    def _parent(self, i: int) -> bytes:
        return self._keys[i - 1] if i else self._root

    def _extend_keys(self, tokens: Sequence[int], num_written: int) -> None:
        size = self.pool.page_size
        for i in range(len(self._keys), num_written // size):
            page_tokens = array("q", tokens[i * size : (i + 1) * size])
            self._keys.append(blake2b(self._parent(i) + page_tokens.tobytes(), digest_size=16).digest())
