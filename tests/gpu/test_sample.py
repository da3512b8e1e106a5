"""`sample` in Triton against the reference in float64."""

import math

import numpy as np
import pytest
import torch
from on_gpu import DEVICE, make_triton_ops, moved
from rows import FILTERS, agree_or_nearly_tie, classes_of, make_sampling, random_logits

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
    logits = random_logits(num_rows, vocab_size)
    params = make_sampling(num_rows, temperature=0)
    samples = sample(logits, params, classes_of(vocab_size))
    oracle = ReferenceOps().sample(logits.double(), params, classes_of(vocab_size))
    assert samples.token.tolist() == logits.argmax(-1).tolist()
    assert samples.token_class.tolist() == [token % 251 for token in samples.token.tolist()]
    plain = logits.log_softmax(-1)
    for name, torch_float32 in (("entropy", -(plain.exp() * plain).sum(-1)), ("logprob", plain.amax(-1))):
        exact = getattr(oracle, name)
        allowed = 2 * (torch_float32 - exact).norm() + 1e-6 * exact.norm()
        assert (getattr(samples, name) - exact).norm() <= allowed
        if num_rows and float(exact.abs().max()) > 0.1:
            assert (getattr(samples, name) * 1.01 - exact).norm() > allowed  # so a 1% error would be seen


def test_entropy_at_the_extremes(sample):
    vocab_size = 5003
    logits = torch.zeros(4, vocab_size)
    logits[1] = -torch.inf
    logits[1, vocab_size - 1] = 5.0  # one-hot
    logits[2] = -torch.inf
    logits[2, :2] = 1e30  # two at the end of the range
    logits[3, 0] = 1e4
    samples = sample(logits, make_sampling(4, temperature=0), classes_of(vocab_size))
    assert samples.token.tolist() == [0, vocab_size - 1, 0, 0]
    assert samples.entropy.tolist() == pytest.approx([math.log(vocab_size), 0, math.log(2), 0], rel=1e-6, abs=1e-6)
    assert samples.logprob.tolist() == pytest.approx([-math.log(vocab_size), 0, -math.log(2), 0], abs=1e-6)


@pytest.mark.parametrize("filters", [{}, {"top_k": 5, "top_p": 0.5}], ids=str)
def test_a_row_without_numbers_says_so_and_harms_no_other(sample, filters):
    logits = random_logits(4, 2500)
    logits[0, 2400] = torch.nan
    logits[2] = -torch.inf
    logits[3, 7] = torch.inf
    for temperature in (0.0, 1.0):
        samples = sample(logits, make_sampling(4, temperature=temperature, **filters), classes_of(2500))
        assert samples.entropy.isnan().tolist() == [True, False, True, True]
        assert samples.logprob.isnan().tolist() == [True, False, True, True]
        assert [samples.token[row].item() for row in (0, 2, 3)] == [0, 0, 0]


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
    generator = np.random.default_rng(0)
    seen = []
    for row in range(num_rows):
        ids = generator.choice(vocab_size, size=row * 500, replace=False).tolist()
        seen.append((ids, generator.integers(0, 4, size=len(ids)).tolist()))
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


@pytest.mark.parametrize("filters", [{}, {"top_p": 0.8}], ids=str)
def test_frequencies_are_the_distributions(sample, filters):
    num_draws, logits = (4000 if DEVICE.type == "cuda" else 150), torch.tensor([1.0, 0.5, 0.0, -1.0, 2.0, -3.0])
    params = make_sampling(num_draws, seed=7, position=torch.arange(num_draws), **filters)
    tokens = sample(logits.expand(num_draws, 6).contiguous(), params, classes_of(6)).token
    probs = logits.softmax(-1)
    if filters:
        probs = probs.where(torch.tensor([True, True, False, False, True, False]), 0)
    expected = probs / probs.sum() * num_draws
    observed = torch.bincount(tokens, minlength=6)
    assert (observed[expected == 0] == 0).all()
    kept = expected > 0
    chi_square = ((observed[kept] - expected[kept]) ** 2 / expected[kept]).sum()
    assert chi_square < 20.5  # 5 degrees of freedom: 0.1%


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
