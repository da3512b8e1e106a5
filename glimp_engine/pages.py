"""The page pool, its prefix cache, and the page table of one token stream. Integers only.

A page is `page_size` token positions and one slot in both models' K/V tensors. Per page and per model there is only a
fill mark: how many of its positions, from the first on, hold that model's K/V. What a model has seen of a sequence is
read off the marks, so whoever is the first to need a shared page fills it for all.

A page is *sealed* once all its tokens are known, even if no model has run yet. Then it's found by its key, the hash of
its tokens chained with its parent's key, and shared. A page that isn't sealed belongs to one table alone: others copy
the part that they have in common with it.
"""

from array import array
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

from glimp_engine.errors import CapacityError

__all__ = ["PageCopy", "PagePool", "PageTable"]


@dataclass(frozen=True)
class PageCopy:
    """Both models' K/V of page `source` are to be copied to page `target` before the next forward."""

    source: int
    target: int


@dataclass(frozen=True)
class Content:
    """What the prefix cache knows of a page: the tokens it was published with, and the key of its parent."""

    parent: bytes
    tokens: tuple[int, ...]
    key: bytes | None  # None for a page that isn't sealed


class PagePool:
    """All pages: each is used (referenced by tables), cached (unreferenced, but its K/V may serve again), or free."""

    def __init__(self, num_pages: int, page_size: int, num_models: int) -> None:
        self.num_pages = num_pages
        self.page_size = page_size
        self.filled = [[0] * num_pages for _ in range(num_models)]  # [model][page]: positions that hold its K/V
        self.references = [0] * num_pages
        self.num_unfills = 0  # tells the tables that what they have read off the marks may no longer hold
        self._free = list(range(num_pages - 1, -1, -1))
        self._cached: OrderedDict[int, None] = OrderedDict()  # least recently used first
        self._content: dict[int, Content] = {}
        self._by_key: dict[bytes, int] = {}
        self._by_parent: dict[tuple[bytes, int], list[int]] = {}  # (parent's key, first token) -> pages
        self._copies: list[PageCopy] = []  # that truncated tables wait for

    @property
    def num_free(self) -> int:
        return len(self._free)

    @property
    def num_cached(self) -> int:
        return len(self._cached)

    @property
    def num_available(self) -> int:
        """Pages that `take` can give: the free ones, and the cached ones that it may evict."""
        return len(self._free) + len(self._cached)

    def take(self) -> int:
        """An empty page with one reference; the least recently used cached page goes when none is free.

        Raises: CapacityError when every page is in use.
        """
        if not self._free:
            if not self._cached:
                raise CapacityError(f"1 page was asked for, 0 of {self.num_pages} are available")
            page, _ = self._cached.popitem(last=False)
            self._discard(page)
        page = self._free.pop()
        self.references[page] = 1
        return page

    def share(self, page: int) -> None:
        """One more reference to a used or cached page."""
        self._cached.pop(page, None)
        self.references[page] += 1

    def release(self, page: int) -> None:
        """One reference less; the last one leaves the page cached if its K/V can be found again, else free."""
        self.references[page] -= 1
        if self.references[page]:
            return
        if page in self._content and any(marks[page] for marks in self.filled):
            self._cached[page] = None
        else:
            self._discard(page)

    def publish(self, page: int, content: Content) -> None:
        """Let other tables find the page; of two sealed pages with one key the first one stays the known one."""
        self.unpublish(page)
        if content.key is not None and self._by_key.setdefault(content.key, page) != page:
            return
        self._content[page] = content
        self._by_parent.setdefault((content.parent, content.tokens[0]), []).append(page)

    def unpublish(self, page: int) -> None:
        """Let no table find the page any more."""
        content = self._content.pop(page, None)
        if content is None:
            return
        siblings = self._by_parent[content.parent, content.tokens[0]]
        siblings.remove(page)
        if not siblings:
            del self._by_parent[content.parent, content.tokens[0]]
        if content.key is not None:
            del self._by_key[content.key]

    def copy(self, source: int, target: int) -> None:
        """Have a page copied before the next forward; `target` is then as full as `source`."""
        self._copies.append(PageCopy(source, target))
        for marks in self.filled:
            marks[target] = marks[source]

    def collect_copies(self) -> list[PageCopy]:
        """The copies that have been asked for since the last call, in their order."""
        copies, self._copies = self._copies, []
        return copies

    def find(self, key: bytes) -> int | None:
        """The sealed page with this key, used or cached."""
        return self._by_key.get(key)

    def find_common(self, parent: bytes, tokens: Sequence[int]) -> tuple[int, int]:
        """(page, n): the child of `parent` that holds the most K/V of tokens[:n]; n is 0 if there is none."""
        best = (-1, 0)
        for page in self._by_parent.get((parent, tokens[0]), ()):
            common = common_prefix_len(self._content[page].tokens, tokens)
            held = min(common, max(marks[page] for marks in self.filled))
            if held > best[1]:
                best = (page, held)
        return best

    def check(self) -> None:
        """Assert that every page is exactly one of used, cached, free, and that the indexes agree."""
        used = [page for page, references in enumerate(self.references) if references > 0]
        assert sorted([*used, *self._cached, *self._free]) == list(range(self.num_pages))
        assert all(self._content[page].key == key for key, page in self._by_key.items())
        assert sorted(page for pages in self._by_parent.values() for page in pages) == sorted(self._content)
        assert not any(page in self._content or any(m[page] for m in self.filled) for page in self._free)
        assert all(page in self._content for page in self._cached)

    def _discard(self, page: int) -> None:
        self.unpublish(page)
        for marks in self.filled:
            marks[page] = 0
        self._free.append(page)


class PageTable:
    """The pages of one token stream. The caller keeps the tokens, which only grow but for `truncate`."""

    def __init__(self, pool: PagePool, vocabulary: bytes) -> None:
        self.pool = pool
        self.pages: list[int] = []
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

    def attach(self, tokens: Sequence[int]) -> PageCopy | None:
        """Hold these tokens, starting with what the prefix cache has of them; the last one always remains to be run.

        A copy, if one comes back, must be made before the next forward.

        Raises: CapacityError when `can_attach` is false.
        """
        self.is_attached = True
        self.pages = self._match(tokens)
        self._num_sealed = len(self.pages)
        for page in self.pages:
            self.pool.share(page)
        copy = self._copy_common(tokens)
        self.hold(tokens)
        self._publish_tail(tokens)
        return copy

    def hold(self, tokens: Sequence[int]) -> None:
        """Take the pages that these tokens need, and publish those that are sealed.

        Raises: CapacityError when the pool has fewer than num_missing(len(tokens)).
        """
        missing = self.num_missing(len(tokens))
        if missing > self.pool.num_available:
            raise CapacityError(f"{missing} pages were asked for, {self.pool.num_available} are available")
        self.pages += [self.pool.take() for _ in range(missing)]
        self._seal(tokens)

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

    def unfill(self, model: int, start: int, end: int) -> None:
        """Take back a `fill` whose forward failed."""
        size, filled = self.pool.page_size, self.pool.filled[model]
        for i in range(start // size, -(-end // size)):
            filled[self.pages[i]] = min(filled[self.pages[i]], max(start - i * size, 0))
        self.pool.num_unfills += 1

    def truncate(self, tokens: Sequence[int], num_tokens: int) -> None:
        """Keep the first num_tokens of the tokens, and what each model has seen of them.

        The page that's cut may be shared: then a copy goes on in its place. If there is no page for that, all are
        given back, as at a preemption.
        """
        self._seal(tokens)  # so that what is dropped may be found again
        size, num_full = self.pool.page_size, num_tokens // self.pool.page_size
        for page in reversed(self.pages[-(-num_tokens // size) :]):
            self.pool.release(page)
        del self.pages[-(-num_tokens // size) :]
        if num_full < len(self.pages) and not self._own(num_full):
            self.pool.release(self.pages.pop())
            self.release(tokens[: num_full * size])
        del self._keys[num_full:]
        self._num_sealed = min(self._num_sealed, num_full)
        self._cursor = [min(cursor, num_tokens) for cursor in self._cursor]
        if num_full < len(self.pages):
            for marks in self.pool.filled:
                marks[self.pages[num_full]] = min(marks[self.pages[num_full]], num_tokens % size)

    def release(self, tokens: Sequence[int]) -> None:
        """Give all pages back. What is filled stays cached while it can, the beginning of the stream longest."""
        self._seal(tokens)
        self._publish_tail(tokens)
        for page in reversed(self.pages):
            self.pool.release(page)
        self.pages = []
        self.is_attached = False
        self._cursor = [0] * len(self._cursor)

    def _own(self, i: int) -> bool:
        """Make page i one that no other table has or can find; False if that takes a page and there is none."""
        page = self.pages[i]
        if self.pool.references[page] == 1:
            self.pool.unpublish(page)
            return True
        if not self.pool.num_available:
            return False
        self.pages[i] = self.pool.take()
        self.pool.copy(page, self.pages[i])
        self.pool.release(page)
        return True

    def _match(self, tokens: Sequence[int]) -> list[int]:
        self._extend_keys(tokens)
        pages = []
        for key in self._keys[: max(len(tokens) - 1, 0) // self.pool.page_size]:
            page = self.pool.find(key)
            if page is None:
                break
            pages.append(page)
        return pages

    def _copy_common(self, tokens: Sequence[int]) -> PageCopy | None:
        """Start the next page with a copy of the cached page that has the longest beginning in common with it."""
        begin = len(self.pages) * self.pool.page_size
        rest = tokens[begin : min(begin + self.pool.page_size, len(tokens) - 1)]
        source, common = self.pool.find_common(self._parent(len(self.pages)), rest) if rest else (-1, 0)
        if common == 0 or self.pool.num_available <= (self.pool.references[source] == 0):
            return None
        self.pool.share(source)  # so that `take` can't evict it
        target = self.pool.take()
        self.pool.release(source)
        for marks in self.pool.filled:
            marks[target] = min(marks[source], common)
        self.pages.append(target)
        return PageCopy(source, target)

    def _seal(self, tokens: Sequence[int]) -> None:
        self._extend_keys(tokens)
        size = self.pool.page_size
        num_full = min(len(tokens) // size, len(self.pages))
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

    def _extend_keys(self, tokens: Sequence[int]) -> None:
        size = self.pool.page_size
        for i in range(len(self._keys), len(tokens) // size):
            page_tokens = array("q", tokens[i * size : (i + 1) * size])
            self._keys.append(blake2b(self._parent(i) + page_tokens.tobytes(), digest_size=16).digest())


def common_prefix_len(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens a and b have in common from the first on."""
    for i, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return i
    return min(len(a), len(b))
