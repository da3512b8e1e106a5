"""The page pool and page tables: sharing, fill marks, copies, eviction, and that all pages come back."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from glimp_engine.errors import CapacityError
from glimp_engine.sequences.page_table import PageTable
from glimp_engine.sequences.pages import PageCopy, PagePool

SMALL, LARGE = 0, 1


def new_table(pool, tokens, vocabulary=b"small"):
    """A table and the copy that it waits for, if any."""
    table = PageTable(pool, vocabulary)
    table.attach(tokens)
    copies = pool.collect_copies()
    assert len(copies) <= 1
    return table, copies[0] if copies else None


def run_all(table, model, num_tokens):
    """Run a model over all it has not seen, and return the positions that were run."""
    positions = []
    while True:
        start, end = table.next_run(model, num_tokens)
        if start == end:
            return positions
        table.fill(model, start, end)
        positions += range(start, end)


def test_a_table_holds_as_many_pages_as_its_tokens_need():
    pool = PagePool(10, 4, 2)
    table, copy = new_table(pool, list(range(9)))
    assert (len(table.pages), copy, pool.num_free) == (3, None, 7)
    table.hold(list(range(13)))
    assert len(table.pages) == 4
    table.release(list(range(13)))
    assert pool.num_free == 10  # nothing was filled, so nothing is worth keeping
    pool.check()


def test_each_model_has_marks_of_its_own():
    pool = PagePool(10, 4, 2)
    table, _ = new_table(pool, list(range(9)))
    assert run_all(table, SMALL, 9) == list(range(9))
    assert table.next_run(SMALL, 9) == (9, 9)
    assert table.next_run(LARGE, 9) == (0, 9)


def test_a_shared_prefix_is_run_once_by_each_model():
    pool = PagePool(20, 4, 2)
    first, _ = new_table(pool, [*range(12), 100])
    run_all(first, SMALL, 13)
    second, copy = new_table(pool, [*range(12), 200])
    assert second.pages[:3] == first.pages[:3]
    assert copy is None
    assert run_all(second, SMALL, 13) == [12]
    assert run_all(second, LARGE, 13) == list(range(13))  # the first to need it fills it ...
    assert run_all(first, LARGE, 13) == [12]  # ... for all sharers


def test_the_last_token_always_remains_to_be_run():
    pool = PagePool(20, 4, 2)
    tokens = list(range(8))
    first, _ = new_table(pool, tokens)
    run_all(first, SMALL, 8)
    second, copy = new_table(pool, tokens)
    assert copy == PageCopy(first.pages[1], second.pages[1])
    assert run_all(second, SMALL, 8) == [7]


def test_a_page_that_is_not_sealed_is_copied_as_far_as_it_is_common():
    pool = PagePool(20, 8, 2)
    first, _ = new_table(pool, [1, 2, 3, 4, 5, 6])
    run_all(first, SMALL, 6)
    second, copy = new_table(pool, [1, 2, 3, 9, 9, 9])
    assert copy == PageCopy(first.pages[0], second.pages[0])
    assert first.pages[0] != second.pages[0]
    assert run_all(second, SMALL, 6) == [3, 4, 5]
    assert run_all(second, LARGE, 6) == list(range(6))


def test_forks_share_the_prompt_and_copy_its_last_page():
    pool = PagePool(20, 4, 2)
    prompt = list(range(6))
    leader, _ = new_table(pool, prompt)
    run_all(leader, SMALL, 6)
    for first_token in (70, 80):
        child, copy = new_table(pool, [*prompt, first_token])
        assert child.pages[0] == leader.pages[0]
        assert copy == PageCopy(leader.pages[1], child.pages[1])
        assert run_all(child, SMALL, 7) == [6]


def test_streams_of_different_vocabularies_share_nothing():
    pool = PagePool(20, 4, 2)
    first, _ = new_table(pool, list(range(9)), b"small")
    run_all(first, SMALL, 9)
    second, copy = new_table(pool, list(range(9)), b"large")
    assert copy is None
    assert not set(first.pages) & set(second.pages)


def test_what_was_filled_is_found_again_after_a_release():
    pool = PagePool(20, 4, 2)
    tokens = list(range(11))
    table, _ = new_table(pool, tokens[:7])
    run_all(table, SMALL, 7)
    table.release(tokens[:7])
    assert (pool.num_free, pool.num_cached) == (18, 2)
    again, copy = new_table(pool, tokens)
    assert copy is not None  # of the partial page
    assert run_all(again, SMALL, 11) == [7, 8, 9, 10]


def test_the_least_recently_used_page_is_evicted_and_the_end_of_a_stream_first():
    pool = PagePool(4, 4, 2)
    old, _ = new_table(pool, list(range(8)))
    run_all(old, SMALL, 8)
    root, leaf = old.pages
    old.release(list(range(8)))
    new, _ = new_table(pool, [50] * 12)
    assert leaf in new.pages
    assert root not in new.pages
    pool.check()


def test_a_gap_is_filled_up_to_where_the_marks_go_on():
    pool = PagePool(4, 4, 2)
    tokens = list(range(13))
    first, _ = new_table(pool, tokens)
    run_all(first, LARGE, 13)
    pool.filled[LARGE][first.pages[1]] = 2  # as if its second half had never been run
    second, _ = new_table(PagePool(1, 1, 2), [0])
    assert second.next_run(LARGE, 1) == (0, 1)
    first._cursor = [0, 0]
    assert first.next_run(LARGE, 13) == (6, 8)


def test_a_failed_forward_is_taken_back_for_all_sharers():
    pool = PagePool(20, 4, 2)
    first, _ = new_table(pool, [*range(8), 1])
    second, _ = new_table(pool, [*range(8), 2])
    first.fill(SMALL, 0, 6)
    assert second.next_run(SMALL, 9) == (6, 9)
    for i in range(2):
        pool.unfill(SMALL, first.pages[i], 0)
    assert second.next_run(SMALL, 9) == (0, 9)


def test_filling_what_is_filled_is_refused():
    pool = PagePool(4, 4, 2)
    table, _ = new_table(pool, list(range(8)))
    table.fill(SMALL, 0, 4)
    with pytest.raises(AssertionError):
        table.fill(SMALL, 2, 6)


def test_asking_for_more_pages_than_there_are_changes_nothing():
    pool = PagePool(2, 4, 2)
    table, _ = new_table(pool, list(range(4)))
    assert not PageTable(pool, b"small").can_attach([7] * 8, headroom=0)
    with pytest.raises(CapacityError, match="2 pages were asked for, 1 are available"):
        table.hold(list(range(12)))
    assert pool.num_available == 1
    with pytest.raises(CapacityError):
        [pool.take() for _ in range(2)]


def test_a_page_that_is_cut_is_no_longer_found():
    pool = PagePool(10, 4, 2)
    table, _ = new_table(pool, list(range(10)))
    run_all(table, SMALL, 10)
    table.truncate(list(range(10)), 6)
    assert (len(table.pages), pool.collect_copies()) == (2, [])
    assert table.next_run(SMALL, 6) == (6, 6)
    assert run_all(table, SMALL, 9) == [6, 7]  # what follows them needs a page again
    other, copy = new_table(pool, list(range(10)))
    assert (other.pages[0], copy) == (table.pages[0], None)
    assert run_all(other, SMALL, 10) == [4, 5, 6, 7, 8, 9]


def test_a_shared_page_is_copied_where_it_is_cut():
    pool = PagePool(10, 4, 2)
    tokens = list(range(9))
    first, _ = new_table(pool, tokens)
    run_all(first, SMALL, 9)
    second, _ = new_table(pool, tokens)
    shared = second.pages[1]
    assert first.pages[1] == shared
    second.truncate(tokens, 6)
    assert pool.collect_copies() == [PageCopy(shared, second.pages[1])]
    assert second.pages[1] != shared
    assert run_all(second, SMALL, 6) == []
    assert first.next_run(SMALL, 9) == (9, 9)
    pool.check()


def test_without_a_page_for_a_copy_all_pages_are_given_back():
    pool = PagePool(4, 4, 2)
    tokens = list(range(13))
    first, _ = new_table(pool, tokens[:12])
    run_all(first, SMALL, 12)
    second, _ = new_table(pool, tokens)
    assert second.pages[:3] == first.pages
    assert pool.num_available == 0
    first.truncate(tokens[:12], 6)
    assert not first.is_attached
    assert pool.references == [1, 1, 1, 1]
    assert second.next_run(SMALL, 12) == (12, 12)
    assert pool.collect_copies() == []
    pool.check()


class PagesMachine(RuleBasedStateMachine):
    """Tables that attach, grow, run on either model and release, over few tokens, so that they share a lot.

    What each page holds is kept beside it: for each model the tokens whose K/V was written into its slots.
    """

    @initialize(num_pages=st.integers(8, 20), page_size=st.integers(1, 5))
    def start(self, num_pages, page_size):
        self.pool = PagePool(num_pages, page_size, 2)
        self.slots = {}  # (model, page, offset) -> the whole prefix that was attended to
        self.live = []  # (table, tokens)
        self.preempted = []

    @rule(tokens=st.lists(st.integers(0, 1), min_size=1, max_size=20))
    def attach(self, tokens):
        table = PageTable(self.pool, b"small")
        if not table.can_attach(tokens, headroom=0):
            return
        table.attach(tokens)
        self.make_copies()
        self.live.append((table, tokens))

    def make_copies(self):
        for copy in self.pool.collect_copies():
            for model in (SMALL, LARGE):
                for offset in range(self.pool.page_size):
                    self.slots[model, copy.target, offset] = self.slots.get((model, copy.source, offset))

    @rule(tokens=st.lists(st.integers(0, 1), min_size=1, max_size=20))
    def attach_without_the_copy(self, tokens):
        """The tick that should have made it failed."""
        table = PageTable(self.pool, b"small")
        if table.can_attach(tokens, headroom=0):
            table.attach(tokens)
            self.pool.take_back(self.pool.collect_copies())
            self.live.append((table, tokens))

    @precondition(lambda self: self.live)
    @rule(data=st.data(), token=st.integers(0, 1))
    def grow(self, data, token):
        table, tokens = data.draw(st.sampled_from(self.live))
        tokens.append(token)
        if table.num_missing(len(tokens)) > self.pool.num_available:
            tokens.pop()
            return
        table.hold(tokens)

    @precondition(lambda self: self.live)
    @rule(data=st.data(), model=st.sampled_from([SMALL, LARGE]), most=st.integers(1, 7))
    def run(self, data, model, most):
        table, tokens = data.draw(st.sampled_from(self.live))
        start, end = table.next_run(model, len(tokens))
        end = min(end, start + most)
        table.fill(model, start, end)
        for position in range(start, end):
            page, offset = table.pages[position // self.pool.page_size], position % self.pool.page_size
            self.slots[model, page, offset] = tuple(tokens[: position + 1])

    @precondition(lambda self: self.live)
    @rule(data=st.data(), model=st.sampled_from([SMALL, LARGE]))
    def fail(self, data, model):
        table, tokens = data.draw(st.sampled_from(self.live))
        start, end = table.next_run(model, len(tokens))
        table.fill(model, start, end)
        for i in range(start // self.pool.page_size, -(-end // self.pool.page_size)):
            self.pool.unfill(model, table.pages[i], max(start - i * self.pool.page_size, 0))

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def truncate(self, data):
        i = data.draw(st.integers(0, len(self.live) - 1))
        table, tokens = self.live[i]
        num_tokens = data.draw(st.integers(1, len(tokens)))
        seen = [min(table.next_run(model, num_tokens)[0], num_tokens) for model in (SMALL, LARGE)]
        table.truncate(tokens, num_tokens)
        self.make_copies()
        del tokens[num_tokens:]
        if table.is_attached:  # all that was seen of the rest is kept
            assert [table.next_run(model, num_tokens)[0] for model in (SMALL, LARGE)] == seen
        else:  # there was no page for a copy
            self.preempted.append(self.live.pop(i))

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def release(self, data):
        i = data.draw(st.integers(0, len(self.live) - 1))
        table, tokens = self.live.pop(i)
        table.release(tokens)
        self.preempted.append((table, tokens))

    @precondition(lambda self: self.preempted)
    @rule(data=st.data())
    def resume(self, data):
        table, tokens = self.preempted.pop(data.draw(st.integers(0, len(self.preempted) - 1)))
        if table.can_attach(tokens, headroom=0):
            table.attach(tokens)
            self.make_copies()
            self.live.append((table, tokens))

    @invariant()
    def every_filled_slot_holds_what_its_table_says(self):
        for table, tokens in getattr(self, "live", []):
            for position in range(len(tokens)):
                page, offset = table.pages[position // self.pool.page_size], position % self.pool.page_size
                for model in (SMALL, LARGE):
                    if offset < self.pool.filled[model][page]:
                        assert self.slots[model, page, offset] == tuple(tokens[: position + 1])

    @invariant()
    def pages_add_up(self):
        if hasattr(self, "pool"):
            self.pool.check()

    def teardown(self):
        for table, tokens in getattr(self, "live", []):
            table.release(tokens)
        if hasattr(self, "pool"):
            self.pool.check()
            assert self.pool.num_free + self.pool.num_cached == self.pool.num_pages


TestPages = PagesMachine.TestCase
TestPages.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


@given(st.lists(st.integers(0, 2), min_size=1, max_size=30), st.integers(1, 6))
def test_a_second_run_of_the_same_tokens_runs_one_token(tokens, page_size):
    pool = PagePool(80, page_size, 2)
    first, _ = new_table(pool, tokens)
    run_all(first, SMALL, len(tokens))
    first.release(tokens)
    second, _ = new_table(pool, tokens)
    assert run_all(second, SMALL, len(tokens)) == [len(tokens) - 1]
