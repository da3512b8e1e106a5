"""`sample`: every implementation against the reference in float64."""

import ctypes
import dataclasses
import functools
import math

import pytest
import torch
from rows import (
    BIASES,
    FILTERS,
    LISTED_ONLY,
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

from glimp_engine.errors import ConfigError
from glimp_engine.kernels.abi import PATHS
from glimp_engine.kernels.native import NativeOps, load_library
from glimp_engine.kernels.philox import exponential_noise, philox
from glimp_engine.kernels.reference import ReferenceOps

# Random123's known answers for Philox4x32-10: counter, key, words
KNOWN_ANSWERS = [
    ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        [0xA4093822, 0x299F31D0],
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]


@pytest.fixture(params=["reference", 1, 2], ids=["reference", "1 thread", "2 threads"], scope="module")
def ops(request):
    return ReferenceOps() if request.param == "reference" else NativeOps(request.param)


@pytest.mark.parametrize("vocab_size", [1, 7, 111, 989, 49152, 151936])
@pytest.mark.parametrize("num_rows", [0, 1, 5])
def test_entropy_logprob_and_class(ops, num_rows, vocab_size):
    check_entropy_logprob_and_class(ops.sample, num_rows, vocab_size)


@pytest.mark.parametrize("vocab_size", [2, 989, 151936])
def test_entropy_at_the_extremes(ops, vocab_size):
    check_extremes(ops.sample, vocab_size)


def test_a_row_without_numbers_says_so_and_harms_no_other(ops):
    check_rows_without_numbers(ops.sample, vocab_size=111, nan_at=50)


def test_the_lowest_id_wins_among_equals(ops):
    logits = torch.zeros(1, 989)
    logits[0, [17, 400, 988]] = 2.0
    assert ops.sample(logits, make_sampling(1, temperature=0), classes_of(989)).token.item() == 17


@functools.cache  # one answer for all implementations
def sampled_by_the_reference(vocab_size, scale, filters):
    num_rows = 24
    logits = random_logits(num_rows, vocab_size, scale, seed=1)
    logits[:, ::3] -= 1.0
    params = make_sampling(
        num_rows,
        temperature=torch.linspace(0.3, 1.5, num_rows),
        seed=torch.arange(num_rows) * 2**40 - 5,
        position=torch.arange(num_rows) * 977,
        sequence_index=torch.arange(num_rows) % 3,
        **dict(filters),
    )
    return logits, params, ReferenceOps().sample(logits.double(), params, classes_of(vocab_size))


@pytest.mark.parametrize("filters", FILTERS, ids=str)
@pytest.mark.parametrize(("vocab_size", "scale"), [(1, 1.0), (7, 1.0), (989, 2.0), (49152, 1.0), (49152, 0.0)])
def test_sampled_tokens(ops, vocab_size, scale, filters):
    logits, params, oracle = sampled_by_the_reference(vocab_size, scale, tuple(filters.items()))
    samples = ops.sample(logits, params, classes_of(vocab_size))
    assert agree_or_nearly_tie(samples, oracle, logits, params) <= 1


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_penalties(ops, temperature):
    num_rows, vocab_size = 12, 111
    logits = random_logits(num_rows, vocab_size, seed=2)
    seen = random_seen(vocab_size, [5 * row for row in range(num_rows)])
    params = make_sampling(
        num_rows,
        seen,
        temperature=temperature,
        repetition_penalty=1.7,
        presence_penalty=0.9,
        frequency_penalty=0.4,
        position=torch.arange(num_rows),
    )
    samples = ops.sample(logits, params, classes_of(vocab_size))
    oracle = ReferenceOps().sample(logits.double(), params, classes_of(vocab_size))
    if temperature:
        assert agree_or_nearly_tie(samples, oracle, logits, params) == 0
    expected = logits.double()
    for row, (ids, counts) in enumerate(seen):
        for i, count in zip(ids, counts, strict=True):
            value = expected[row, i]
            value = value / 1.7 if value > 0 else value * 1.7
            expected[row, i] = value - 0.4 * count - 0.9 * (count > 0)
    if not temperature:
        assert samples.token.tolist() == expected.argmax(-1).tolist()
        assert samples.token.tolist() != logits.argmax(-1).tolist()
    plain = logits.double().log_softmax(-1)  # entropy and log-probability are the raw distribution's
    assert samples.logprob.tolist() == pytest.approx(plain.gather(1, samples.token[:, None])[:, 0].tolist(), abs=1e-5)


BIASED = [
    {"temperature": 0},
    {"temperature": 1},
    {"temperature": 0.8, "top_k": 9},
    {"temperature": 0.8, "top_p": 0.9, "min_p": 0.01},
    {"temperature": 1, "top_k": 20, "top_p": 0.8},
]


@pytest.mark.parametrize("values", BIASED, ids=str)
def test_biases(ops, values):
    check_biases(ops.sample, **values)


@pytest.mark.parametrize("values", BIASED, ids=str)
@pytest.mark.parametrize("vocab_size", [3, 5003])
def test_biases_that_leave_nothing(ops, vocab_size, values):
    check_nothing_left(ops.sample, vocab_size, **values)


@pytest.mark.parametrize("values", MASKED, ids=str)
@pytest.mark.parametrize("vocab_size", [1, 7, 32, 111, 989, 40001])
def test_masks(ops, vocab_size, values):
    check_mask(ops.sample, vocab_size, **values)


@pytest.mark.parametrize("values", MASKED, ids=str)
def test_masks_on_every_code_path(values):
    for path in supported_paths():
        for num_threads in (1, 7):  # fewer than rows, and more
            check_mask(NativeOps(num_threads, path).sample, 20011, **values)


def test_a_mask_is_every_rows(ops):
    """A row whose mask leaves all is as it is without one, whoever else has one."""
    logits, mask = random_logits(5, 989), torch.ones(5, 989, dtype=torch.bool)
    mask[1:3, 100:] = False
    values = {"temperature": 0.9, "seed": torch.arange(5), "top_p": 0.95}
    masked = ops.sample(logits, make_sampling(5, mask=mask, **values), classes_of(989))
    plain = ops.sample(logits, make_sampling(5, **values), classes_of(989))
    assert (masked.token[1:3] < 100).all()
    for name in ("token", "entropy", "logprob", "token_class"):
        for row in (0, 3, 4):
            assert getattr(masked, name)[row] == getattr(plain, name)[row]


def test_ties_with_the_last_one_kept_stay(ops):
    logits = torch.full((1, 8), -5.0)
    logits[0, :4] = torch.tensor([2.0, 1.0, 1.0, 1.0])
    drawn = set()
    for seed in range(200):
        params = make_sampling(1, top_k=2, seed=seed)
        drawn.add(ops.sample(logits, params, classes_of(8)).token.item())
    assert drawn == {0, 1, 2, 3}


@pytest.mark.parametrize("filters", [{}, {"top_k": 5}, {"top_p": 0.7, "min_p": 0.01}], ids=str)
@pytest.mark.parametrize("vocab_size", [1, 2, 989, 5003])
def test_numbers_at_the_edge(ops, vocab_size, filters):
    check_edges(ops.sample, vocab_size, **filters)


@pytest.mark.parametrize("filters", [{}, {"top_p": 0.8}])
@pytest.mark.slow
def test_frequencies_are_the_distributions(ops, filters):
    check_frequencies(ops.sample, num_draws=4000, **filters)


def test_the_random_number_depends_on_nothing_else(ops):
    logits = random_logits(6, 989, 1.0)
    params = make_sampling(6, temperature=0.9, seed=torch.arange(6), position=torch.arange(6) + 100)
    together = ops.sample(logits, params, classes_of(989))
    for row in (5, 2, 0):
        alone = make_sampling(1, temperature=0.9, seed=row, position=row + 100)
        single = ops.sample(logits[row : row + 1], alone, classes_of(989))
        assert single.token.item() == together.token[row].item()
        assert single.entropy.item() == together.entropy[row].item()
    moved = make_sampling(6, temperature=0.9, seed=torch.arange(6), position=torch.arange(6) + 101)
    assert ops.sample(logits, moved, classes_of(989)).token.tolist() != together.token.tolist()


@pytest.mark.parametrize("filters", [*FILTERS, {"temperature": 0}, {"temperature": 1}], ids=str)
@pytest.mark.parametrize("vocab_size", [989, 151936])
def test_rows_and_threads_change_no_bit(native, vocab_size, filters):
    """Alone all threads work on one row, in a batch each has rows of its own."""
    num_rows = 4
    logits, classes = random_logits(num_rows, vocab_size, seed=5), classes_of(vocab_size)
    seen = [([], []), ([3, 5, vocab_size - 1], [0, 1, 2]), ([], []), (list(range(0, 900, 7)), [1] * 129)]
    values = {"temperature": 0.7, "repetition_penalty": 1.2, "presence_penalty": 0.1, **filters}
    together = native[1].sample(logits, make_sampling(num_rows, seen, seed=3, **values), classes)
    for num_threads, ops in native.items():
        again = ops.sample(logits, make_sampling(num_rows, seen, seed=3, **values), classes)
        alone = [
            ops.sample(logits[r : r + 1], make_sampling(1, seen[r : r + 1], seed=3, **values), classes)
            for r in range(num_rows)
        ]
        for name in ("token", "entropy", "logprob", "token_class"):
            assert torch.equal(getattr(again, name), getattr(together, name)), num_threads
            assert torch.equal(torch.cat([getattr(a, name) for a in alone]), getattr(together, name)), num_threads


@pytest.mark.parametrize("filters", FILTERS, ids=str)
@pytest.mark.parametrize(("vocab_size", "scale"), [(7, 1.0), (989, 2.0), (49152, 1.0)])
def test_every_code_path(native, vocab_size, scale, filters):
    logits, params, oracle = sampled_by_the_reference(vocab_size, scale, tuple(filters.items()))
    samples = native[2].sample(logits, params, classes_of(vocab_size))
    assert agree_or_nearly_tie(samples, oracle, logits, params) <= 1
    torch.testing.assert_close(samples.entropy.double(), oracle.entropy, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("filters", FILTERS, ids=str)
def test_at_temperature_1_nothing_is_divided(native, filters):
    logits = random_logits(6, 5003, 2.0, seed=8)  # the last block is a short one
    params = make_sampling(6, seed=torch.arange(6), **filters)
    samples = native[1].sample(logits, params, classes_of(5003))
    oracle = ReferenceOps().sample(logits.double(), params, classes_of(5003))
    assert agree_or_nearly_tie(samples, oracle, logits, params) == 0


@pytest.mark.parametrize("values", BIASED, ids=str)
@pytest.mark.parametrize("vocab_size", [111, 20000])
def test_biases_change_no_bit_from_path_to_path(values, vocab_size):
    logits = random_logits(len(BIASES), vocab_size, seed=6)
    params = make_sampling(len(BIASES), biases=BIASES, listed_only=LISTED_ONLY, seed=3, **values)
    expected = None
    for path in supported_paths():
        for num_threads in (1, 3, 7):  # fewer than rows, and more
            samples = NativeOps(num_threads, path).sample(logits, params, classes_of(vocab_size))
            found = [samples.token.tolist(), samples.token_class.tolist()]
            expected = expected or found
            assert found == expected, (path, num_threads)


def supported_paths():
    """The code paths that this processor can run."""
    for path in list(PATHS)[1:]:
        try:
            NativeOps(1, path)
        except ConfigError:
            continue
        yield path


def test_every_code_path_sees_a_nan(native):
    for place in (0, 15, 16, 989 - 1):
        logits = random_logits(2, 989)
        logits[0, place] = torch.nan
        samples = native[2].sample(logits, make_sampling(2), classes_of(989))
        assert samples.entropy.isnan().tolist() == [True, False]


def test_top_logprobs(ops):
    logits = random_logits(3, 111)
    logits[1, 5:9] = 50.0
    values, ids = ops.top_logprobs(logits, 4)
    assert ids[1].tolist() == [5, 6, 7, 8]
    torch.testing.assert_close(values, logits.log_softmax(-1).topk(4).values)


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN_ANSWERS)
def test_philox_known_answers(counter, key, words):
    ours = philox(tuple(torch.tensor([word]) for word in counter), tuple(key))
    assert [int(word) for word in ours] == words
    native = (ctypes.c_uint32 * 4)()
    assert load_library().glimp_philox((ctypes.c_uint32 * 4)(*counter), (ctypes.c_uint32 * 2)(*key), native) == 0
    assert list(native) == words


def test_noise_is_exponential():
    noise = exponential_noise(200_000, seed=3, sequence_index=0, position=9, dtype=torch.float32)
    assert noise.min() > 0
    assert noise.mean().item() == pytest.approx(1, abs=0.01)
    assert (noise > 3).float().mean().item() == pytest.approx(math.exp(-3), rel=0.03)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature": torch.ones(2)}, "params.temperature"),
        ({"seed": torch.zeros(1, dtype=torch.int32)}, "params.seed"),
        ({"seen_start": torch.zeros(1, dtype=torch.int32)}, "params.seen_start"),
        ({"bias_start": torch.zeros(1, dtype=torch.int32)}, "params.bias_start"),
        ({"listed_only": torch.zeros(1)}, "params.listed_only"),
        ({"token_mask": torch.zeros(1, 3, dtype=torch.int32)}, "params.token_mask"),
        ({"token_mask": torch.zeros(2, 4, dtype=torch.int32)}, "params.token_mask"),
        ({"token_mask": torch.zeros(1, 4)}, "params.token_mask"),
        ({"bias_start": torch.tensor([0, 1], dtype=torch.int32)}, "params.bias_ids"),
        ({"bias_start": torch.tensor([0, 1], dtype=torch.int32), "bias_ids": torch.tensor([500]),
          "bias_values": torch.ones(1)}, "outside the vocabulary"),
        ({"seen_start": torch.tensor([0, 1], dtype=torch.int32), "seen_ids": torch.tensor([500]),
          "seen_counts": torch.ones(1, dtype=torch.int32)}, "outside the vocabulary"),
    ],
)  # fmt: skip
def test_native_refuses_what_does_not_fit(change, message):
    params = dataclasses.replace(make_sampling(1), **change)
    with pytest.raises(ValueError, match=message):
        NativeOps().sample(torch.zeros(1, 111), params, classes_of(111))
    with pytest.raises(ValueError, match="token_class"):
        NativeOps().sample(torch.zeros(1, 111), make_sampling(1), classes_of(110))
