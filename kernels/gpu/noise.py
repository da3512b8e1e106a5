"""The noise of `philox.exponential_noise` and the order of floats, inside kernels."""

import triton
import triton.language as tl

__all__ = ["gumbel", "interleave4", "ordered_key"]


@triton.jit
def interleave4(a, b, c, d):
    """a[0], b[0], c[0], d[0], a[1], ... of four [N]: [4 N]."""
    return tl.reshape(tl.join(tl.join(a, c), tl.join(b, d)), [4 * a.shape[0]])


@triton.jit
def gumbel(block, position, sequence_index, seed):
    """-log E for the ids 4 block ... 4 block + 3 of each of block [N] uint32: fp32 [4 N], in the order of the ids.

    E is exponential: -log(1 - w) of the uniform w = (x + 1/2) / 2^32, as `philox.exponential_noise` defines it.
    """
    zero = block * 0
    c1, c2 = zero + position.to(tl.uint32), zero + sequence_index.to(tl.uint32)
    key_low, key_high = seed.to(tl.uint32), (seed >> 32).to(tl.uint32)
    words = tl.philox_impl(block, c1, c2, zero, key_low, key_high)
    x = interleave4(words[0], words[1], words[2], words[3])
    w = tl.minimum((x.to(tl.float32) + 0.5) * 2.3283064365386963e-10, 0.99999994)
    series = w * (1.0 + w * (0.5 + w * (0.33333334 + w * 0.25)))
    rest = 1.0 - w
    # what the rounding of 1 - w has lost, to first order
    exponential = tl.where(w < 0.00390625, series, -(tl.log(rest) + ((1.0 - rest) - w) / rest))
    return -tl.log(exponential)


@triton.jit
def ordered_key(x):
    """int32 keys in the order of the floats x; no NaN. -0 is 0."""
    bits = (x + 0.0).to(tl.int32, bitcast=True)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)
