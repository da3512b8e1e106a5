"""The arena: aligned, apart, as large as was asked, and alive as long as one of its tensors."""

import gc

import pytest
import torch

from glimp_engine.models.arena import Arena, aligned


def test_pieces_are_aligned_and_apart():
    shapes = [
        ((3,), torch.float32),
        ((5, 7), torch.bfloat16),
        ((1,), torch.uint8),
        ((), torch.float16),
        ((64,), torch.uint8),
    ]
    sizes = [torch.empty(shape, dtype=dtype).nbytes for shape, dtype in shapes]
    arena = Arena(sum(map(aligned, sizes)))
    tensors = [arena.take(shape, dtype) for shape, dtype in shapes]
    assert tensors[0].data_ptr() % (2 << 20) == 0
    assert all(tensor.data_ptr() % 64 == 0 for tensor in tensors)
    for i, (tensor, (shape, dtype)) in enumerate(zip(tensors, shapes, strict=True)):
        assert (tensor.shape, tensor.dtype) == (shape, dtype)
        assert not tensor.any()
        tensor.fill_(i + 1)
    assert [set(tensor.flatten().tolist()) for tensor in tensors] == [{i + 1} for i in range(len(tensors))]
    with pytest.raises(AssertionError, match="more was taken"):
        arena.take((1,), torch.uint8)


def test_a_tensor_keeps_its_memory():
    tensor = Arena(1 << 20).take((1 << 18,), torch.float32)
    tensor.copy_(torch.arange(1 << 18))
    gc.collect()
    Arena(1 << 20).take((1 << 18,), torch.float32).fill_(-1)
    assert torch.equal(tensor, torch.arange(1 << 18).float())
