"""`linear` and `embed` of the native ops: every weight type against float64, and bit for bit against itself."""

import ctypes

import gguf
import numpy as np
import pytest
import torch
from ragged import is_close, randn

from glimp_engine.kernels.abi import TYPES, CWeight
from glimp_engine.kernels.reference import ReferenceOps

REFERENCE = ReferenceOps()
QUANTIZED = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K"]
FLOATS = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
SCALE_AT = {"Q6_K": 208}  # bytes into a block; 0 for the others
WITH_MIN = ("Q4_1", "Q5_1", "Q4_K", "Q5_K")
QUANTS_AT = {  # bytes of a block; from 2 on in the others
    **{"Q4_1": slice(4, None), "Q5_1": slice(4, None), "Q4_K": slice(16, None), "Q5_K": slice(16, None)},
    **{"Q6_K": slice(0, 192)},
}
ROW_COUNTS = [1, 2, 7, 8, 9, 37]  # groups of rows in registers are of 8


def random_blocks(kind, n, k, seed=0):
    """Rows of random blocks in GGUF's layout, whose scales are of a usual size: [n, bytes]."""
    block_size, block_bytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    generator = np.random.default_rng(seed)
    blocks = generator.integers(0, 256, (n, k // block_size, block_bytes), dtype=np.uint8)

    def halves(low, high):
        values = generator.uniform(low, high, (n, k // block_size, 1)).astype(np.float16)
        return values.view(np.uint8)

    at = SCALE_AT.get(kind, 0)
    blocks[..., at : at + 2] = halves(0.001, 0.01)
    if kind in WITH_MIN:
        blocks[..., 2:4] = halves(-0.05, 0.05)
    return blocks.reshape(n, -1)


class Packed:
    """A quantised matrix for one op set, and what it stands for."""

    def __init__(self, ops, kind, n, k, bias=None, seed=0, blocks=None):
        blocks = random_blocks(kind, n, k, seed) if blocks is None else blocks
        self.exact = torch.from_numpy(gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType[kind]))
        num_bytes = ops.library.glimp_packed_bytes(TYPES[kind], n, k)
        self.data = torch.full((num_bytes + 64,), 255, dtype=torch.uint8)
        address = -(-self.data.data_ptr() // 64) * 64
        assert ops.library.glimp_pack(ops.cpu, TYPES[kind], blocks.ctypes.data, n, k, address) == 0
        assert bool((self.data[address - self.data.data_ptr() + num_bytes :] == 255).all()), "written past the end"
        self.bias = bias
        self.struct = CWeight(address, None if bias is None else bias.data_ptr(), n, k, TYPES[kind])


def rounded(x):
    """x as the kernels see it: int8 in blocks of 32, the largest of each 127."""
    blocks = x.view(len(x), -1, 32)
    scale = blocks.abs().amax(-1, keepdim=True) / 127
    inverse = torch.where(scale > 0, 127 / blocks.abs().amax(-1, keepdim=True), 0.0)
    return ((blocks * inverse).round().double() * scale.double()).view(x.shape)


@pytest.mark.parametrize("kind", QUANTIZED)
@pytest.mark.parametrize(("n", "k"), [(1, 256), (16, 256), (33, 512), (111, 768), (989, 256)])
def test_quantised_linear(ops, kind, n, k):
    bias = randn(n, seed=1, dtype=torch.float32)
    weight = Packed(ops, kind, n, k, bias)
    x = randn(11, k, seed=2, dtype=torch.float32) * 3
    x[3] = 0  # a block without a scale
    out = ops.linear(x, weight.struct)
    exact = REFERENCE.linear(rounded(x), weight.exact.double(), bias.double())
    plain = REFERENCE.linear(rounded(x).float(), weight.exact, bias)
    assert is_close(out, plain, exact)
    assert not is_close(out * 1.01, plain, exact)
    without_a_row = out.clone()
    without_a_row[5] = 0
    assert not is_close(without_a_row, plain, exact)


@pytest.mark.parametrize("kind", QUANTIZED)
def test_rounding_the_activations_costs_less_than_a_percent(ops, kind):
    weight, x = Packed(ops, kind, 64, 512), randn(9, 512, seed=3, dtype=torch.float32)
    exact = REFERENCE.linear(x.double(), weight.exact.double())
    assert (ops.linear(x, weight.struct) - exact).norm() < 0.01 * exact.norm()


@pytest.mark.parametrize("kind", QUANTIZED)
def test_the_largest_sums_fit(ops, kind):
    """Some paths sum products in 16 bits: here of the largest and smallest quants with -127 and 127."""
    n, k = 32, 512
    blocks = random_blocks(kind, n, k).reshape(n, -1, gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]][1])
    quants = blocks[..., QUANTS_AT.get(kind, slice(2, None))]
    quants[0::2], quants[1::2] = (0x7F, 0x80) if kind == "Q8_0" else (0xFF, 0)
    weight = Packed(ops, kind, n, k, blocks=blocks.reshape(n, -1))
    signs = torch.tensor([[1.0] * 32, [-1.0] * 32, [1.0, -1.0] * 16, [1.0] * 16 + [-1.0] * 16])
    x = signs.repeat(3, k // 32)  # more than a group of rows
    plain = REFERENCE.linear(x, weight.exact)
    assert is_close(ops.linear(x, weight.struct), plain, REFERENCE.linear(x.double(), weight.exact.double()))


@pytest.mark.parametrize("dtype", FLOATS.values(), ids=list(FLOATS))
@pytest.mark.parametrize(("n", "k"), [(1, 1), (7, 15), (16, 64), (33, 111), (989, 48)])
def test_float_linear(ops, dtype, n, k):
    weight, bias = randn(n, k, dtype=dtype), randn(n, seed=1, dtype=torch.float32)
    x = randn(11, k, seed=2, dtype=torch.float32)
    seen = x.bfloat16().float() if dtype is torch.bfloat16 and ops.path == "avx512_bf16" else x
    out = ops.linear(x, weight, bias)
    exact = REFERENCE.linear(seen.double(), weight.double(), bias.double())
    assert is_close(out, REFERENCE.linear(seen, weight.float(), bias), exact)
    assert not is_close(out * 1.01, REFERENCE.linear(seen, weight.float(), bias), exact)


@pytest.mark.parametrize("kind", [*QUANTIZED, *FLOATS])
def test_a_row_is_a_row(native, kind):
    n, k = 89, 512
    x = randn(max(ROW_COUNTS), k, seed=4, dtype=torch.float32)
    packed = None if kind in FLOATS else Packed(native[1], kind, n, k)
    weight = packed.struct if packed else randn(n, k, dtype=FLOATS[kind])
    alone = torch.cat([native[1].linear(row, weight) for row in x.split(1)])
    for ops in native.values():
        for num_rows in ROW_COUNTS:
            assert torch.equal(ops.linear(x[:num_rows], weight), alone[:num_rows])
            assert torch.equal(ops.linear(x[-num_rows:].contiguous(), weight), alone[-num_rows:])


@pytest.mark.parametrize("kind", [*QUANTIZED, *FLOATS])
def test_embed(ops, kind):
    n, k = 37, 256
    ids = torch.tensor([0, 36, 15, 16, 15])
    if kind in FLOATS:
        weight = table = randn(n, k, dtype=FLOATS[kind])
    else:
        packed = Packed(ops, kind, n, k)
        weight, table = packed.struct, packed.exact
    assert torch.equal(ops.embed(ids, weight), table.float()[ids])
    assert ops.embed(ids[:0], weight).shape == (0, k)


@pytest.mark.parametrize("kind", ["Q4_K", "F32"])
def test_accumulate_adds_to_what_is_there(ops, kind):
    n, k = 37, 256
    bias = randn(n, seed=5, dtype=torch.float32)
    plain = randn(n, k, dtype=torch.float32)
    packed = Packed(ops, "Q4_K", n, k, bias)
    weight = packed.struct if kind == "Q4_K" else CWeight(plain.data_ptr(), bias.data_ptr(), n, k, TYPES[kind])
    x, before = randn(9, k, seed=6, dtype=torch.float32), randn(9, n + 3, seed=7, dtype=torch.float32)
    out = before.clone()  # rows with a gap behind them
    code = ops.library.glimp_linear(ops.cpu, x.data_ptr(), 9, ctypes.byref(weight), out.data_ptr(), n + 3, 1)
    assert code == 0
    assert torch.equal(out[:, :n], before[:, :n] + ops.linear(x, weight))
    assert torch.equal(out[:, n:], before[:, n:])


def test_what_does_not_fit_is_refused(ops):
    x, weight = torch.zeros(2, 32), torch.zeros(4, 32)
    for bad_x, bad_weight, message in (
        (torch.zeros(2, 31), weight, "x is"),
        (x, weight.double(), "weight is"),
        (x, weight.to("meta"), "weight is"),
        (x.T, weight.T, "weight has strides"),
    ):
        with pytest.raises(ValueError, match=message):
            ops.linear(bad_x, bad_weight)
    with pytest.raises(ValueError, match="isn't there"):
        ops.embed(torch.tensor([4]), weight)
    assert ops.library.glimp_packed_bytes(TYPES["Q4_K"], 4, 128) == -1
    assert ops.library.glimp_packed_bytes(TYPES["F32"], 4, 128) == -1
