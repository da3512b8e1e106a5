"""From stored tensors to what the native ops read: types, pieces, and what is refused."""

import ctypes
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGML_QUANT_SIZES
from gguf import GGMLQuantizationType as Type

from glimp_engine import ConfigError
from glimp_engine.checkpoints.stored_tensor import FLOAT_TYPES, QUANTIZED_TYPES, StoredTensor, dequantize_rows
from glimp_engine.kernels.abi import check_error
from glimp_engine.kernels.native import NativeOps
from glimp_engine.models.native_weights import read_weights
from glimp_engine.models.quantize import quantize_rows

FILE = Path("a.gguf")
SCALES = {"Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,), "Q8_0": (0,), "Q4_0": (0,), "Q5_0": (0,)}


@pytest.fixture(scope="module")
def ops():
    return NativeOps(2)


def floats(n, k, dtype=torch.float32):
    torch.manual_seed(n)
    return torch.randn(n, k, dtype=torch.float64).to(dtype)


def stored(tensor, kind, shape=None, row_order=None):
    """A tensor of a checkpoint; of quantised ones the bytes are given."""
    return StoredTensor(FILE, shape or tuple(tensor.shape), kind, lambda start, end: tensor[start:end], row_order)


def random_blocks(kind, n, k):
    """Any bits, but for the scales, which are small halves."""
    block_size, block_bytes = GGML_QUANT_SIZES[Type[kind]]
    blocks = np.random.default_rng(n).integers(0, 256, (n * k // block_size, block_bytes), np.uint8)
    for at in SCALES.get(kind, (0, 2)):
        blocks[:, at : at + 2] = np.frombuffer(np.float16(0.01).tobytes(), np.uint8)
    return torch.from_numpy(blocks.reshape(n, -1))


def rows_of(ops, weight, num_rows):
    """The first rows of a matrix as the library reads them."""
    out, ids = torch.empty(num_rows, weight.k), torch.arange(num_rows)
    struct = weight.struct()
    error = ops.library.glimp_embed(ops.cpu, ids.data_ptr(), num_rows, ctypes.byref(struct), out.data_ptr())
    check_error(ops.library, "embed", error)
    return out


@pytest.mark.parametrize("kind", QUANTIZED_TYPES)
@pytest.mark.parametrize("n", [1, 16, 70, 200])
def test_quantised_rows_keep_their_values_whatever_the_pieces(monkeypatch, ops, kind, n):
    blocks = random_blocks(kind, n, 512)
    monkeypatch.setattr("glimp_engine.models.native_weights.READ_VALUES", 512)  # pieces of 64 rows
    order = torch.randperm(n)
    tensors = {"a": stored(blocks, kind, (n, 512)), "b": stored(blocks, kind, (n, 512), order)}
    weights = read_weights(FILE, tensors, ops, None, None).by_name
    expected = dequantize_rows(blocks, kind)
    for name, rows in (("a", expected), ("b", expected[order])):
        assert weights[name].type == kind
        torch.testing.assert_close(rows_of(ops, weights[name], n), rows, rtol=1e-6, atol=1e-6)
        assert torch.equal(tensors[name].read(), rows)
        assert torch.equal(tensors[name].read(n // 3, n), rows[n // 3 :])


@pytest.mark.parametrize("kind", FLOAT_TYPES)
@pytest.mark.parametrize("dtype", [None, *FLOAT_TYPES])
def test_float_matrices_are_kept_or_converted(ops, kind, dtype):
    matrix, vector = floats(9, 7, FLOAT_TYPES[kind]), floats(5, 1, FLOAT_TYPES[kind]).flatten()
    weights = read_weights(FILE, {"m": stored(matrix, kind), "v": stored(vector, kind)}, ops, dtype, None).by_name
    assert (weights["m"].type, weights["v"].type) == (dtype or kind, "F32")
    assert torch.equal(weights["m"].data, matrix.to(FLOAT_TYPES[dtype or kind]))
    assert torch.equal(weights["v"].data, vector.float())
    assert torch.equal(rows_of(ops, weights["m"], 9), weights["m"].data.float())


def test_other_float_types_become_float32(ops):
    matrix = floats(4, 8, torch.float64)
    weight = read_weights(FILE, {"m": stored(matrix, "F64")}, ops, None, None).by_name["m"]
    assert weight.type == "F32"
    assert torch.equal(weight.data, matrix.float())


def test_quantised_matrices_may_be_asked_for_as_floats(ops):
    blocks = random_blocks("Q6_K", 20, 256)
    weight = read_weights(FILE, {"m": stored(blocks, "Q6_K", (20, 256))}, ops, "F32", None).by_name["m"]
    assert torch.equal(weight.data, dequantize_rows(blocks, "Q6_K"))


@pytest.mark.parametrize(("quantization", "kinds"), [("int8", ["Q8_0"] * 3), ("int4", ["Q8_0", "Q4_1", "Q8_0"])])
def test_quantisation(monkeypatch, ops, quantization, kinds):
    monkeypatch.setattr("glimp_engine.models.native_weights.QUANTIZE_VALUES", 96)  # pieces of 64 rows
    names = ["model.embed_tokens.weight", "layer", "lm_head.weight"]
    matrices = {name: floats(80, 96, torch.bfloat16) for name in names}
    tensors = {name: stored(matrix, "BF16") for name, matrix in matrices.items()}
    tensors |= {"odd": stored(floats(4, 40), "F32"), "norm": stored(floats(64, 1).flatten(), "F32")}
    weights = read_weights(FILE, tensors, ops, None, quantization)
    assert [weight.type for weight in weights.by_name.values()] == [*kinds, "F32", "F32"]
    squared_error = squared_norm = 0.0
    for name, kind in zip(names, kinds, strict=True):
        rounded = dequantize_rows(quantize_rows(matrices[name].float(), kind)[0], kind)
        torch.testing.assert_close(rows_of(ops, weights.by_name[name], 80), rounded, rtol=1e-6, atol=1e-6)
        squared_error += float((rounded - matrices[name]).square().sum())
        squared_norm += float(matrices[name].float().square().sum())
    assert weights.quantization_error == pytest.approx((squared_error / squared_norm) ** 0.5, rel=1e-4)


def test_what_is_quantised_is_not_quantised_again(ops):
    tensors = {"m": stored(random_blocks("Q4_K", 2, 256), "Q4_K", (2, 256)), "f": stored(floats(2, 32), "F32")}
    with pytest.raises(ConfigError, match=r"quantization is 'int4', and a\.gguf has Q4_K already; allowed: None"):
        read_weights(FILE, tensors, ops, None, "int4")
