"""int8 and int4: GGUF's own layouts, the errors, and the corners."""

import pytest
import torch
from gguf import GGMLQuantizationType as Type
from gguf.quants import quantize

from glimp_engine.checkpoints.stored_tensor import dequantize_rows
from glimp_engine.models.quantize import quantize_rows


def weights(kind="normal", shape=(64, 256)):
    torch.manual_seed(1)
    return {
        "normal": torch.randn(shape),
        "long tails": torch.distributions.StudentT(4.0).sample(shape),
        "far from 0": torch.randn(shape) + 5,
        "uniform": torch.rand(shape),
    }[kind]


def relative(error, weight):
    return float(error**0.5 / weight.norm())


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_1"])
@pytest.mark.parametrize("distribution", ["normal", "long tails", "far from 0", "uniform"])
def test_the_error_is_at_most_that_of_the_gguf_package(kind, distribution):
    weight = weights(distribution)
    blocks, squared_error = quantize_rows(weight, kind)
    error = (dequantize_rows(blocks, kind) - weight).square().sum()
    assert float(error) == pytest.approx(squared_error, rel=1e-4)
    theirs = torch.from_numpy(quantize(weight.numpy(), Type[kind]))
    assert blocks.shape == theirs.shape
    assert error <= (dequantize_rows(theirs, kind) - weight).square().sum() * 1.001


def test_errors_of_normal_weights():
    weight = weights("normal", (256, 1024))
    assert relative(quantize_rows(weight, "Q8_0")[1], weight) < 0.0054
    assert relative(quantize_rows(weight, "Q4_1")[1], weight) < 0.0735  # the plain range gives 0.0783


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_1"])
def test_what_can_be_exact_is(kind):
    steps = torch.randint(0, 16, (8, 64)).float()
    steps[:, ::32], steps[:, 1::32] = 0, 15
    weight = steps * 0.25 - 1 if kind == "Q4_1" else (steps - 7) * 127 / 8
    if kind == "Q8_0":
        weight[:, 1::32] = 127
    blocks, squared_error = quantize_rows(weight, kind)
    assert squared_error == 0 or kind == "Q8_0"
    torch.testing.assert_close(dequantize_rows(blocks, kind), weight, rtol=0, atol=0.5 if kind == "Q8_0" else 0)


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_1"])
@pytest.mark.parametrize("value", [0.0, 0.5, -3.0, 1e-30])
def test_groups_of_one_value(kind, value):
    weight = torch.full((2, 64), value)
    rounded = dequantize_rows(quantize_rows(weight, kind)[0], kind)
    torch.testing.assert_close(rounded, weight, rtol=2**-8, atol=1e-7)


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_1"])
def test_groups_are_alone(kind):
    weight = weights()
    blocks, _ = quantize_rows(weight, kind)
    assert torch.equal(quantize_rows(weight[7:9], kind)[0], blocks[7:9])
    outlier = weight.clone()
    outlier[0, 0] = 1000.0
    changed = (quantize_rows(outlier, kind)[0] != blocks).nonzero()
    assert changed[:, 0].max() == 0
    assert changed[:, 1].max() < blocks.shape[1] // 8
