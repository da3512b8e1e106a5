"""The page pool and its prefix cache. Integers only.

A page is `page_size` token positions and one slot in both models' K/V tensors. Per page and per model there is only a
fill mark: how many of its positions, from the first on, hold that model's K/V. What a model has seen of a sequence is
read off the marks, so whoever is the first to need a shared page fills it for all.

A page is *sealed* once all its tokens are known, even if no model has run yet. Then it's found by its key, the hash of
its tokens chained with its parent's key, and shared. A page that isn't sealed belongs to one table alone: others copy
the part that they have in common with it.
"""

from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from glimp_engine.errors import CapacityError

__all__ = ["Content", "PageCopy", "PagePool"]

MAX_TRIED = 64


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
        self._by_parent: dict[bytes, list[tuple[tuple[int, ...], int]]] = {}  # parent's key -> (tokens, page), ordered
        self._copies: list[PageCopy] = []  # to be made before the next forward, in this order

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
        insort(self._by_parent.setdefault(content.parent, []), (content.tokens, page))

    def unpublish(self, page: int) -> None:
        """Let no table find the page any more."""
        content = self._content.pop(page, None)
        if content is None:
            return
        siblings = self._by_parent[content.parent]
        del siblings[bisect_left(siblings, (content.tokens, page))]
        if not siblings:
            del self._by_parent[content.parent]
        if content.key is not None:
            del self._by_key[content.key]

    def copy(self, source: int, target: int, num_positions: int) -> None:
        """Have a page copied before the next forward; of `target` no more than num_positions then count."""
        self._copies.append(PageCopy(source, target))
        for marks in self.filled:
            marks[target] = min(marks[source], num_positions)

    def collect_copies(self) -> list[PageCopy]:
        """The copies that have been asked for since the last call, in their order."""
        copies, self._copies = self._copies, []
        return copies

    def unfill(self, model: int, page: int, num_positions: int) -> None:
        """Of the page's K/V of this model only the first num_positions count from now on."""
        self.filled[model][page] = min(self.filled[model][page], num_positions)
        self.num_unfills += 1

    def take_back(self, copies: list[PageCopy]) -> None:
        """These copies may not have been made: nothing in their targets counts."""
        for copy in copies:
            for model in range(len(self.filled)):
                self.unfill(model, copy.target, 0)

    def find(self, key: bytes) -> int | None:
        """The sealed page with this key, used or cached."""
        return self._by_key.get(key)

    def find_common(self, parent: bytes, tokens: Sequence[int]) -> tuple[int, int]:
        """(page, n): the child of `parent` that holds the most K/V of tokens[:n]; n is 0 if there is none.

        Cost:   the children with the most in common stand next to each other; MAX_TRIED of them are looked at, either
                way, which only those that nobody has run yet can use up.
        """
        siblings = self._by_parent.get(parent, [])
        place = bisect_left(siblings, (tuple(tokens), -1))
        best = (-1, 0)
        for nearest_first in (siblings[place : place + MAX_TRIED], siblings[max(place - MAX_TRIED, 0) : place][::-1]):
            for content, page in nearest_first:
                common = common_prefix_len(content, tokens)
                if common <= best[1]:
                    break
                held = min(common, max(marks[page] for marks in self.filled))
                if held > best[1]:
                    best = (page, held)
        return best

    def check(self) -> None:
        """Assert that every page is exactly one of used, cached, free, and that the indexes agree."""
        used = [page for page, references in enumerate(self.references) if references > 0]
        assert sorted([*used, *self._cached, *self._free]) == list(range(self.num_pages))
        assert all(self._content[page].key == key for key, page in self._by_key.items())
        assert sorted(page for children in self._by_parent.values() for _, page in children) == sorted(self._content)
        assert all(children == sorted(children) for children in self._by_parent.values())
        assert not any(page in self._content or any(m[page] for m in self.filled) for page in self._free)
        assert all(page in self._content for page in self._cached)

    def _discard(self, page: int) -> None:
        self.unpublish(page)
        for marks in self.filled:
            marks[page] = 0
        self._free.append(page)


def common_prefix_len(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens a and b have in common from the first on."""
    for i, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return i
    return min(len(a), len(b))
