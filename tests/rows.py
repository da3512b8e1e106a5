"""Logit rows to sample from, whether two samplers agree, and what any `sample` must do with them."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from glimp_engine.kernels import Sampling
from glimp_engine.kernels.philox import exponential_noise
from glimp_engine.kernels.reference import ReferenceOps

FILTERS = [
    {},
    {"top_k": 1},
    {"top_k": 5},
    {"top_p": 0.1},
    {"top_p": 0.95},
    {"min_p": 0.05},
    {"top_k": 40, "top_p": 0.9},
    {"top_k": 300, "top_p": 0.7, "min_p": 0.001},
]


def make_sampling(num_rows, seen=(), biases=(), mask=None, **values):
    """Parameters that do nothing, but for `values`; seen: (ids, counts) a row, biases: {id: value} a row.

    mask [R, V]: whether a row may draw a token.
    """
    neutral = {"temperature": 1, "top_p": 1, "repetition_penalty": 1}
    seen = list(seen) or [([], [])] * num_rows
    columns = {
        "seen_start": torch.tensor(np.cumsum([0, *(len(ids) for ids, _ in seen)]), dtype=torch.int32),
        "seen_ids": torch.tensor([i for ids, _ in seen for i in ids], dtype=torch.int64),
        "seen_counts": torch.tensor([c for _, counts in seen for c in counts], dtype=torch.int32),
    }
    biases = list(biases) or [{}] * num_rows
    columns |= {
        "bias_start": torch.tensor(np.cumsum([0, *map(len, biases)]), dtype=torch.int32),
        "bias_ids": torch.tensor([i for row in biases for i in row], dtype=torch.int64),
        "bias_values": torch.tensor([value for row in biases for value in row.values()], dtype=torch.float32),
    }
    columns["token_mask"] = torch.empty(0, 0, dtype=torch.int32) if mask is None else packed(mask)
    for field in dataclasses.fields(Sampling):
        if field.name not in columns:
            value = values.get(field.name, neutral.get(field.name, 0))
            dtype = {"seed": torch.int64, "position": torch.int64}
            dtype |= dict.fromkeys(("top_k", "sequence_index", "listed_only"), torch.int32)
            column = torch.as_tensor(value).expand(num_rows) if torch.as_tensor(value).ndim == 0 else value
            columns[field.name] = torch.as_tensor(column).to(dtype.get(field.name, torch.float32)).contiguous()
    return Sampling(**columns)


def packed(mask):
    """[R, V] of booleans as the op takes them, with what lies beyond the vocabulary set at random."""
    num_rows, vocab_size = mask.shape
    words = -(-vocab_size // 32)
    bits = torch.rand(num_rows, words * 32, generator=torch.Generator().manual_seed(0)) < 0.5
    bits[:, :vocab_size] = mask
    numbers = np.packbits(bits.numpy(), axis=1, bitorder="little").view(np.int32)
    return torch.from_numpy(numbers.copy())


def random_logits(num_rows, vocab_size, scale=3.0, seed=0):
    return torch.randn(num_rows, vocab_size, generator=torch.Generator().manual_seed(seed)) * scale


def classes_of(vocab_size):
    return (torch.arange(vocab_size) % 251).to(torch.uint8)


def agree_or_nearly_tie(samples, oracle, logits, params):
    """Tokens are equal, but where the two best scores are closer than float32 can tell."""
    num_ties = 0
    for row in range(len(logits)):
        ours, theirs = int(samples.token[row]), int(oracle.token[row])
        if ours != theirs:
            temperature = float(params.temperature[row])
            noise = exponential_noise(
                logits.shape[1],
                int(params.seed[row]),
                int(params.sequence_index[row]),
                int(params.position[row]),
                torch.float64,
            )
            scores = logits[row].double() / temperature - noise.log()
            assert abs(float(scores[ours] - scores[theirs])) < 1e-5 * max(1.0, float(scores[theirs].abs()))
            num_ties += 1
    return num_ties


def check_entropy_logprob_and_class(sample, num_rows, vocab_size):
    """Greedy tokens, and float32's accuracy of what goes with them."""
    logits = random_logits(num_rows, vocab_size)
    params = make_sampling(num_rows, temperature=0)
    samples = sample(logits, params, classes_of(vocab_size))
    oracle = ReferenceOps().sample(logits.double(), params, classes_of(vocab_size))
    assert samples.token.tolist() == oracle.token.tolist() == logits.argmax(-1).tolist()
    assert samples.token_class.tolist() == [token % 251 for token in samples.token.tolist()]
    plain = logits.log_softmax(-1)
    for name, torch_float32 in (("entropy", -(plain.exp() * plain).sum(-1)), ("logprob", plain.amax(-1))):
        exact = getattr(oracle, name)
        allowed = 2 * (torch_float32 - exact).norm() + 1e-6 * exact.norm()
        assert (getattr(samples, name) - exact).norm() <= allowed
        if num_rows and float(exact.abs().max()) > 0.1:
            assert (getattr(samples, name) * 1.01 - exact).norm() > allowed  # so a 1% error would be seen


def check_extremes(sample, vocab_size):
    """Uniform, one-hot, two at the end of the range, one far above the rest."""
    logits = torch.zeros(4, vocab_size)
    logits[1] = -torch.inf
    logits[1, vocab_size - 1] = 5.0
    logits[2] = -torch.inf
    logits[2, :2] = 1e30
    logits[3, 0] = 1e4
    samples = sample(logits, make_sampling(4, temperature=0), classes_of(vocab_size))
    assert samples.token.tolist() == [0, vocab_size - 1, 0, 0]
    assert samples.entropy.tolist() == pytest.approx([math.log(vocab_size), 0, math.log(2), 0], rel=1e-6, abs=1e-6)
    assert samples.logprob.tolist() == pytest.approx([-math.log(vocab_size), 0, -math.log(2), 0], abs=1e-6)


def check_rows_without_numbers(sample, vocab_size, nan_at, **filters):
    """A NaN, nothing above -inf, or an inf: the row says so and harms no other."""
    logits = random_logits(4, vocab_size)
    logits[0, nan_at] = torch.nan
    logits[2] = -torch.inf
    logits[3, 7] = torch.inf
    for temperature in (0.0, 1.0):
        samples = sample(logits, make_sampling(4, temperature=temperature, **filters), classes_of(vocab_size))
        assert samples.entropy.isnan().tolist() == [True, False, True, True]
        assert samples.logprob.isnan().tolist() == [True, False, True, True]
        assert [samples.token[row].item() for row in (0, 2, 3)] == [0, 0, 0]


def check_edges(sample, vocab_size, **filters):
    """Temperatures and penalties with which plain arithmetic overflows: the likeliest token, and nothing beyond."""
    temperatures = torch.tensor([1e-45, 1e-38, 1e-30, 3e38, 1.0, 1.0, 1e-38])
    logits = random_logits(len(temperatures), vocab_size, scale=10.0)
    logits[2] = -3e38
    logits[2, vocab_size // 2] = -2.9e38
    likeliest = logits.argmax(-1)
    # two rows in which a penalty would make the likeliest token infinite
    seen = [([int(token)], [3]) if row in (4, 5) else ([], []) for row, token in enumerate(likeliest)]
    params = make_sampling(
        len(temperatures),
        seen,
        temperature=temperatures,
        seed=torch.arange(len(temperatures)),
        repetition_penalty=torch.tensor([1.0, 1.0, 1.0, 1.0, 1e-38, 3e38, 1.0]),
        frequency_penalty=torch.tensor([0.0, 0.0, 0.0, 0.0, -3e38, 3e38, 0.0]),
        **filters,
    )
    samples = sample(logits, params, classes_of(vocab_size))
    assert ((samples.token >= 0) & (samples.token < vocab_size)).all()
    for row in (0, 1, 2, 6):
        assert samples.token[row] == likeliest[row]
    oracle = ReferenceOps().sample(logits, params, classes_of(vocab_size))
    assert samples.token[4:6].tolist() == oracle.token[4:6].tolist()
    if vocab_size > 1:
        assert samples.token[4] == likeliest[4]  # as likely as can be
        assert samples.token[5] != likeliest[5]  # as unlikely as can be
    assert samples.entropy.isfinite().all()


def check_frequencies(sample, num_draws, **filters):
    """Tokens come as often as the distribution says; a top_p of 0.8 leaves three of the six."""
    logits = torch.tensor([1.0, 0.5, 0.0, -1.0, 2.0, -3.0])
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


def random_seen(vocab_size, num_seen):
    """(ids, counts) of that many tokens seen, for each row."""
    generator = np.random.default_rng(0)
    ids = [generator.choice(vocab_size, size=n, replace=False).tolist() for n in num_seen]
    return [(own, generator.integers(0, 4, size=len(own)).tolist()) for own in ids]


BIASES = [{}, {3: 4.0, 50: -2.5}, {}, {0: -math.inf, 7: 100.0, 9: -100.0}, {1: 0.0, 2: 0.0, 60: 0.5}, {4: 3e38}]
LISTED_ONLY = torch.tensor([0, 0, 1, 0, 1, 1])  # the third row has no list, and so no ban


def plainly_biased(logits, biases, listed_only):
    """The logits with each row's biases, written out in full, in float64."""
    dense = torch.zeros(logits.shape, dtype=torch.float64)
    for row, own in enumerate(biases):
        if own and listed_only[row]:
            dense[row] = -torch.inf
        for token, bias in own.items():
            dense[row, token] = bias
    return logits.double() + dense


def check_biases(sample, vocab_size=111, **values):
    """Tokens are drawn from the biased logits; entropy and log-probability are the raw ones'."""
    logits = random_logits(len(BIASES), vocab_size, seed=4)
    logits[3, 9] = 100.0  # which its bias takes back
    lists = {"seen": [([3, 5], [2, 0])] * len(BIASES), "biases": BIASES, "listed_only": LISTED_ONLY}
    params = make_sampling(len(BIASES), **lists, **values, seed=torch.arange(6), presence_penalty=0.5)
    before = logits.clone()
    samples = sample(logits, params, classes_of(vocab_size))
    assert torch.equal(logits, before)
    expected = plainly_biased(logits, BIASES, LISTED_ONLY)
    expected[:, 3] -= 0.5
    plain = make_sampling(len(BIASES), **values, seed=torch.arange(6))
    oracle = ReferenceOps().sample(expected, plain, classes_of(vocab_size))
    assert samples.token.tolist() == oracle.token.tolist()
    assert samples.token.tolist() != logits.argmax(-1).tolist()
    raw = logits.double().log_softmax(-1)
    assert samples.logprob.tolist() == pytest.approx(raw.gather(1, samples.token[:, None])[:, 0].tolist(), abs=1e-4)
    assert samples.entropy.tolist() == pytest.approx((-(raw.exp() * raw).sum(-1)).tolist(), abs=1e-5)
    assert samples.token_class.tolist() == [token % 251 for token in samples.token.tolist()]


def check_nothing_left(sample, vocab_size, **values):
    """Where the biases ban all that could be drawn a row says so, and harms no other; one token left is drawn."""
    logits = random_logits(5, vocab_size)
    logits[1, 2] = -torch.inf  # a bias doesn't bring back what can't be
    biases = [
        dict.fromkeys(range(vocab_size), -math.inf),
        {2: 50.0},
        {vocab_size - 1: -90.0},
        {},
        {token: -math.inf for token in range(vocab_size) if token != 1},
    ]
    listed_only = torch.tensor([0, 1, 1, 1, 0])
    params = make_sampling(5, biases=biases, listed_only=listed_only, **values)
    samples = sample(logits, params, classes_of(vocab_size))
    assert samples.logprob.isnan().tolist() == [True, True, False, False, False]
    assert samples.token[:3].tolist() == [0, 0, vocab_size - 1]
    assert samples.token[4] == 1
    raw = logits.double().log_softmax(-1)
    terms = torch.where(raw == -torch.inf, 0.0, raw.exp() * raw)
    assert samples.entropy.tolist() == pytest.approx((-terms.sum(-1)).tolist(), abs=1e-5)
    assert samples.logprob[2].item() == pytest.approx(raw[2, vocab_size - 1].item(), abs=1e-4)


MASKED = [
    {"temperature": 0},
    {"temperature": 1},
    {"temperature": 0.8, "top_k": 9},
    {"temperature": 0.8, "top_p": 0.9, "min_p": 0.01},
    {"temperature": 0.3, "presence_penalty": 0.5, "repetition_penalty": 1.3},
]
MASK_SHARES = (1.0, 0.5, 0.01, 0.9, 0.0, 0.3)  # of the tokens that each row may draw; the last but one none


def check_mask(sample, vocab_size, **values):
    """A mask bans what it leaves out, before penalties and beside biases; the raw logits' numbers stay as they are."""
    num_rows, generator = len(MASK_SHARES), torch.Generator().manual_seed(vocab_size)
    shares = torch.tensor(MASK_SHARES)[:, None]
    mask = torch.rand(num_rows, vocab_size, generator=generator) < shares
    mask[2, vocab_size // 2] = True  # one at least
    logits = random_logits(num_rows, vocab_size, seed=4)
    logits[3, : vocab_size // 3] = -torch.inf
    last = vocab_size - 1
    lists = {
        "seen": [([0, last][:vocab_size], [2, 0][:vocab_size]), *[([], [])] * 4, ([last], [3])],
        "biases": [{0: 5.0}, {last: 40.0}, {}, {}, {0: 90.0}, {0: -math.inf, last: 2.0}],
        "listed_only": torch.tensor([0, 0, 1, 0, 0, 0]),
    }
    common = {"seed": torch.arange(num_rows), "position": torch.arange(num_rows) * 977, **values}
    if vocab_size == 1:
        lists.pop("seen")
    params = make_sampling(num_rows, **lists, mask=mask, **common)
    before = logits.clone()
    samples = sample(logits, params, classes_of(vocab_size))
    assert torch.equal(logits, before)
    bans = [dict.fromkeys((~row).nonzero()[:, 0].tolist(), -math.inf) for row in mask]
    lists["biases"] = [{**own, **banned} for own, banned in zip(lists["biases"], bans, strict=True)]
    lists["listed_only"] = torch.zeros(num_rows)
    oracle = ReferenceOps().sample(logits.double(), make_sampling(num_rows, **lists, **common), classes_of(vocab_size))
    assert samples.token.tolist() == oracle.token.tolist()
    assert samples.logprob.isnan().tolist() == oracle.logprob.isnan().tolist()
    assert samples.logprob.isnan()[4]
    left = ~samples.logprob.isnan()
    assert mask[left, samples.token[left]].all()
    torch.testing.assert_close(samples.logprob.double(), oracle.logprob, rtol=1e-5, atol=1e-4, equal_nan=True)
    raw = logits.double().log_softmax(-1)
    terms = torch.where(raw == -torch.inf, 0.0, raw.exp() * raw)
    torch.testing.assert_close(samples.entropy.double(), -terms.sum(-1), rtol=1e-5, atol=1e-5)
    assert samples.token_class.tolist() == [token % 251 for token in samples.token.tolist()]
