"""How many tokens are proposed: as many as pay, by measured times and what has become of those before."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glimp_engine import ConfigError, Proposer, Speculation
from glimp_engine.sequences.acceptance import Acceptance, Record
from glimp_engine.sequences.first_tokens import HOLDS, MOST_LATER, NUM_FIRST, WINDOW, FirstTokens
from glimp_engine.sequences.ngrams import NGrams
from glimp_engine.sequences.proposing import Prices
from glimp_engine.sequences.tick_times import TickTimes
from glimp_engine.sequences.token_stream import Outcome, Proposal
from glimp_engine.speculation import read_speculation

# Prices.


def plain_rate(prices, chance, depth):
    """Seconds a token at a depth, by summing up what may happen."""
    tokens = sum((1 + accepted) * chance**accepted * (1 - chance) for accepted in range(depth))
    return (prices.ticks[depth] + depth * prices.proposal) / (tokens + (1 + depth) * chance**depth)


@given(
    ticks=st.lists(st.floats(0.001, 1), min_size=2, max_size=9),
    proposal=st.floats(0.0001, 1),
    chance=st.integers(0, 99).map(lambda percent: percent / 100),
)
def test_a_token_takes_what_it_takes_at_the_best_depth(ticks, proposal, chance):
    prices = Prices(ticks, proposal)
    best = min(plain_rate(prices, chance, depth) for depth in range(len(ticks)))
    assert prices.token(chance) == pytest.approx(best, rel=1e-9)
    assert prices.token(0.0) == pytest.approx(min(ticks[0], *(t + d * proposal for d, t in enumerate(ticks))))


def test_a_row_costs_nothing_less_than_nothing():
    assert Prices([1.0, 0.9, 1.5], 0.1).row(1) == 0
    assert Prices([1.0, 0.9, 1.5], 0.1).row(2) == pytest.approx(0.6)


# Times.


def test_what_was_measured_is_what_is_expected():
    times = TickTimes((100, 400))
    for _ in range(5):
        times.add(1, 1, 0.4)
        times.add(1, 8, 0.8)
    assert times.of(1, 1) == pytest.approx(0.4)
    assert times.of(1, 8) == pytest.approx(0.8)
    assert times.of(1, 4) == pytest.approx(0.4 + 3 / 7 * 0.4)  # between what was measured
    assert 0.8 < times.of(1, 16) < 1.2  # beyond it a row is thought to be cheap, so that it is tried
    assert times.of(0, 1) == pytest.approx(0.1)  # by its bytes, as it hasn't run yet


def test_a_tick_that_was_held_up_counts_for_little():
    times = TickTimes((1,))
    for _ in range(10):
        times.add(0, 1, 1.0)
    times.add(0, 1, 1000.0)
    assert times.of(0, 1) <= 1.2


def test_times_follow_what_changes():
    times = TickTimes((1,))
    for seconds in (*[1.0] * 20, *[1.5] * 60):
        times.add(0, 3, seconds)
    assert times.of(0, 3) == pytest.approx(1.5, rel=0.01)


def test_a_prompt_makes_a_single_token_seem_no_dearer_than_it_is():
    """The small model has only read prompts: by its bytes a token takes a quarter of the large one's."""
    times = TickTimes((100, 400))
    times.add(0, 150, 0.5)
    for num_tokens in (1, 2, 150):
        times.add(1, num_tokens, 0.04 if num_tokens < 150 else 2.0)
    assert times.of(0, 1) == pytest.approx(0.01)
    assert times.of(0, 150) == pytest.approx(0.5)
    assert TickTimes((100, 400)).of(1, 1) == pytest.approx(4 * TickTimes((100, 400)).of(0, 1))


def test_slow_minutes_make_nothing_seem_dear_that_was_measured_in_them():
    """Two rows cost a tenth more than one; they are seldom tried, and the machine becomes twice as fast."""
    times = TickTimes((1,))
    for i in range(300):
        slow = 2.0 if i < 100 else 1.0
        times.add(0, 1, slow)
        if i < 100 and i % 10 == 0:
            times.add(0, 2, 1.1 * slow)
    assert times.of(0, 1) == pytest.approx(1.0, rel=0.02)
    assert times.of(0, 2) / times.of(0, 1) == pytest.approx(1.1, rel=0.35)


@given(st.lists(st.tuples(st.integers(1, 3000), st.floats(1e-6, 10)), min_size=1, max_size=30), st.integers(1, 5000))
def test_any_number_of_tokens_has_a_time(measured, num_tokens):
    times = TickTimes((10, 20))
    assert times.of(1, num_tokens) > 0
    for tokens, seconds in measured:
        times.add(0, tokens, seconds)
    assert 0 < times.of(0, num_tokens) < math.inf
    assert 0 < times.of(1, num_tokens) < math.inf


def test_a_tick_in_a_launch_has_a_time_of_its_own():
    times = TickTimes((1, 4))
    times.add(1, 1, 4.0)
    assert times.in_launch(1, 1) is None
    for _ in range(50):
        times.add(1, 1, 1.0, is_in_launch=True)
        times.add(1, 1, 4.0)
    assert times.in_launch(1, 1) / times.of(1, 1) == pytest.approx(0.5, rel=0.3)  # of() has both in it
    assert times.in_launch(0, 1) is None


# Chances.


def outcome(is_confirmed, evidence=0.5, proposer=Proposer.SMALL):
    return Outcome(Proposal(proposer, evidence, 0), is_confirmed)


def test_chances_become_what_was_seen():
    acceptance, rng = Acceptance(), random.Random(0)
    for _ in range(3000):
        acceptance.learn(outcome(rng.random() < 0.9, evidence=0.85))
        acceptance.learn(outcome(rng.random() < 0.1, evidence=0.1))
    assert acceptance.of(Proposer.SMALL, 0.85) == pytest.approx(0.9, abs=0.05)
    assert acceptance.of(Proposer.SMALL, 0.1) == pytest.approx(0.1, abs=0.05)
    assert acceptance.of_next(Proposer.SMALL) == pytest.approx(0.5, abs=0.05)
    for _ in range(9000):
        acceptance.forget()
    first = Acceptance().of_next(Proposer.SMALL)
    assert acceptance.of_next(Proposer.SMALL) == pytest.approx(first, abs=0.01)  # so that it is tried again
    assert acceptance.of(Proposer.NGRAM, 5) == Acceptance().of(Proposer.NGRAM, 5)


def test_a_sequence_that_does_worse_is_trusted_less_and_later_tried_again():
    record = Record()
    assert record.factor(Proposer.SMALL) == 1.0
    for _ in range(30):
        record.add(outcome(False), 0.8)
    assert record.factor(Proposer.SMALL) < 0.3
    assert record.factor(Proposer.NGRAM) == 1.0
    for _ in range(400):
        record.forget()
    assert record.factor(Proposer.SMALL) > 0.9


# N-grams.


@given(st.lists(st.integers(0, 2), max_size=60), st.lists(st.integers(0, 2), max_size=4))
def test_what_stood_behind_the_same_tokens(tokens, proposals):
    """Against a plain search for eight tokens, then for three; the index is built as the tokens come."""
    ngrams = NGrams()
    for end in range(len(tokens)):
        ngrams.find(tokens[:end], end)
    everything = tokens + proposals
    token, length = ngrams.find(everything, len(tokens))
    for size in (8, 3):
        places = [p for p in range(size, len(tokens)) if everything[p - size : p] == everything[-size:]]
        if places and len(everything) >= size:
            place = places[-1]
            assert token == tokens[place]
            assert size <= length <= place
            assert everything[place - length : place] == everything[len(everything) - length :]
            return
    assert length == 0


def test_a_row_of_a_table_is_told_from_the_others():
    row = [1, 2, 3, 4, 5, 6, 7]
    table = [token for i in range(5) for token in (100 + i, *row)]
    assert NGrams().find([*table, 100, *row], len(table) + 8) == (101, 8)  # three tokens would have said 100


def test_a_stream_that_was_taken_back_gives_no_wrong_length():
    ngrams = NGrams()
    ngrams.find([1, 2, 3, 4, 1, 2, 3, 5, 6, 7], 10)
    assert ngrams.find([1, 2, 3, 9, 9, 1, 2, 3], 8)[1] in (0, 3)
    assert ngrams.find([5, 6, 7], 3) == (0, 0)


# What users say.


@pytest.mark.parametrize("given", ["on", "", None, 3, True, ("small",)])
def test_what_is_no_speculation_is_refused(given):
    with pytest.raises(ConfigError, match="speculation is"):
        read_speculation(given)


@pytest.mark.parametrize(
    "options",
    [{"proposers": "small"}, {"proposers": ["eagle"]}, {"proposers": None}, {"max_tokens": -1}, {"max_tokens": 65}],
)
def test_a_wrong_field_is_refused_by_name(options):
    with pytest.raises(ConfigError, match=f"{next(iter(options))} is"):
        Speculation(**options)


def test_off_means_nobody():
    assert read_speculation("off").proposers == ()
    assert set(read_speculation("auto").proposers) == set(Proposer)


# Which tokens are looked at.


def test_a_text_is_proposed_from_the_first_tokens_as_long_as_it_is_made_of_them():
    tokens, first = [5] * 3000, FirstTokens()
    tokens[1500 : 1500 + MOST_LATER + 1] = [NUM_FIRST] * (MOST_LATER + 1)
    assert first.num_logits(tokens, 1000) == NUM_FIRST
    assert first.num_logits(tokens, 1500 + MOST_LATER) == NUM_FIRST
    assert first.num_logits(tokens, 1500 + MOST_LATER + HOLDS) is None
    assert first.num_logits(tokens, 1500 + WINDOW) is None
    assert first.num_logits(tokens, 1500 + WINDOW + HOLDS) == NUM_FIRST
    assert first.num_logits(tokens, 1600) is None  # cut off, and written anew


def test_a_prompt_in_a_script_of_later_tokens_is_gone_on_with_from_all():
    tokens = [NUM_FIRST + 7] * 300 + [5] * 300
    assert FirstTokens().num_logits(tokens, 300) is None
    assert FirstTokens().num_logits(tokens[300:], 2) == NUM_FIRST
    assert FirstTokens().num_logits(tokens, 600) == NUM_FIRST
