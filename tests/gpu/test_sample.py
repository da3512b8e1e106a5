"""`sample` in Triton against the reference in float64."""

import pytest
import torch
from on_gpu import DEVICE, make_triton_ops, moved
from rows import (
    FILTERS,
    MASKED,
    agree_or_nearly_tie,
    check_biases,
    check_edges,
    check_entropy_logprob_and_class,
    check_extremes,
    check_frequencies,
    check_mask,
    check_nothing_left,
    check_rows_without_numbers,
    classes_of,
    make_sampling,
    random_logits,
    random_seen,
)

from glimp_engine.kernels.reference import ReferenceOps

# a vocabulary of one split, of several and a part, of more groups than candidates; under the interpreter, few rows
SIZES = [(1, 1.0), (7, 1.0), (5003, 2.0), (20000, 1.0)]
NUM_ROWS = 24 if DEVICE.type == "cuda" else 3


@pytest.fixture(scope="module")
def sample():
    """`sample` on the device, of tensors on the CPU."""
    ops = make_triton_ops()

    def run(logits, params, token_class):
        return moved(ops.sample(logits.to(DEVICE), moved(params), token_class.to(DEVICE)), "cpu")

    return run


def draw(sample, vocab_size, scale, filters, **values):
    """(the op's samples, the reference's, logits, parameters) of rows with their own temperatures and seeds."""
    logits = random_logits(NUM_ROWS, vocab_size, scale, seed=1)
    row = torch.arange(NUM_ROWS)
    params = make_sampling(
        NUM_ROWS,
        temperature=0.3 + 0.4 * row,
        seed=row * 2**40 - 5,
        position=row * 977,
        sequence_index=row % 3,
        **filters,
        **values,
    )
    oracle = ReferenceOps().sample(logits.double(), params, classes_of(vocab_size))
    return sample(logits, params, classes_of(vocab_size)), oracle, logits, params


@pytest.mark.parametrize("vocab_size", [1, 7, 989, 151936])
@pytest.mark.parametrize("num_rows", [0, 1, 2])
def test_entropy_logprob_and_class(sample, num_rows, vocab_size):
    check_entropy_logprob_and_class(sample, num_rows, vocab_size)


def test_entropy_at_the_extremes(sample):
    check_extremes(sample, vocab_size=5003)


@pytest.mark.parametrize("filters", [{}, {"top_k": 5}, {"top_p": 0.7, "min_p": 0.01}], ids=str)
@pytest.mark.parametrize("vocab_size", [1, 5003])
def test_numbers_at_the_edge(sample, vocab_size, filters):
    check_edges(sample, vocab_size, **filters)


@pytest.mark.parametrize("filters", [{}, {"top_k": 5, "top_p": 0.5}], ids=str)
def test_a_row_without_numbers_says_so_and_harms_no_other(sample, filters):
    check_rows_without_numbers(sample, vocab_size=2500, nan_at=2400, **filters)


def test_the_lowest_id_wins_among_equals(sample):
    logits = torch.zeros(1, 5003)
    logits[0, [2100, 2300, 5000]] = 2.0
    assert sample(logits, make_sampling(1, temperature=0), classes_of(5003)).token.item() == 2100


@pytest.mark.parametrize("filters", FILTERS, ids=str)
@pytest.mark.parametrize(("vocab_size", "scale"), SIZES)
def test_sampled_tokens(sample, vocab_size, scale, filters):
    samples, oracle, logits, params = draw(sample, vocab_size, scale, filters)
    assert agree_or_nearly_tie(samples, oracle, logits, params) <= 1


@pytest.mark.parametrize("filters", [{"top_k": 20}, {"top_p": 0.4}, {"min_p": 0.9, "top_p": 0.5}, {"top_k": 3000}])
def test_thresholds_that_are_not_among_the_candidates(sample, filters):
    """Flat rows, full of ties: the walk over the whole row."""
    vocab_size = 9000
    logits = random_logits(2, vocab_size, 0.01).mul(100).round().div(100)
    params = make_sampling(2, seed=torch.arange(2), **filters)
    samples = sample(logits, params, classes_of(vocab_size))
    oracle = ReferenceOps().sample(logits.double(), params, classes_of(vocab_size))
    assert agree_or_nearly_tie(samples, oracle, logits, params) == 0


@pytest.mark.parametrize(
    "values", [{"temperature": 0}, {"temperature": 0.8}, {"temperature": 0.8, "top_k": 9}], ids=str
)
def test_penalties(sample, values):
    num_rows, vocab_size = 4, 2111
    logits = random_logits(num_rows, vocab_size, seed=2)
    seen = random_seen(vocab_size, [500 * row for row in range(num_rows)])
    penalties = {"repetition_penalty": 1.7, "presence_penalty": 0.9, "frequency_penalty": 0.4}
    params = make_sampling(num_rows, seen, **penalties, **values, position=torch.arange(num_rows))
    before = logits.clone()
    samples = sample(logits, params, classes_of(vocab_size))
    oracle = ReferenceOps().sample(logits.double(), params, classes_of(vocab_size))
    assert samples.token.tolist() == oracle.token.tolist()
    assert torch.equal(logits, before)
    # entropy and log-probability are the raw distribution's
    torch.testing.assert_close(samples.entropy.double(), oracle.entropy, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(samples.logprob.double(), oracle.logprob, rtol=1e-6, atol=1e-5)


BIASED = [
    {"temperature": 0},
    {"temperature": 1},
    {"temperature": 0.8, "top_k": 9},
    {"temperature": 0.8, "top_p": 0.9, "min_p": 0.01},
    {"temperature": 1, "top_k": 20, "top_p": 0.8},
]


@pytest.mark.parametrize("values", BIASED, ids=str)
def test_biases(sample, values):
    check_biases(sample, vocab_size=2500, **values)


@pytest.mark.parametrize("values", BIASED, ids=str)
@pytest.mark.parametrize("vocab_size", [3, 2500])
def test_biases_that_leave_nothing(sample, vocab_size, values):
    check_nothing_left(sample, vocab_size, **values)


@pytest.mark.parametrize("filters", [{}, {"top_p": 0.8}], ids=str)
def test_frequencies_are_the_distributions(sample, filters):
    check_frequencies(sample, num_draws=4000 if DEVICE.type == "cuda" else 150, **filters)


@pytest.mark.parametrize("filters", [{}, {"top_k": 20, "top_p": 0.9}], ids=str)
def test_a_row_is_a_row(sample, filters):
    logits = random_logits(3, 5003, 1.0)
    params = make_sampling(3, temperature=0.9, seed=torch.arange(3), position=torch.arange(3) + 100, **filters)
    together = sample(logits, params, classes_of(5003))
    for row in (2, 0):
        alone = make_sampling(1, temperature=0.9, seed=row, position=row + 100, **filters)
        single = sample(logits[row : row + 1], alone, classes_of(5003))
        for name in ("token", "entropy", "logprob", "token_class"):
            assert torch.equal(getattr(single, name), getattr(together, name)[row : row + 1])


@pytest.mark.parametrize("values", MASKED, ids=str)
@pytest.mark.parametrize("vocab_size", [1, 32, 5003])
def test_masks(sample, vocab_size, values):
    check_mask(sample, vocab_size, **values)
