"""The Triton ops: on a GPU where there is one, else under Triton's interpreter, which must be asked for before."""

import os

import pytest
import torch

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
if DEVICE.type == "cpu":
    os.environ["TRITON_INTERPRET"] = "1"
HALF = torch.bfloat16 if DEVICE.type == "cuda" else torch.float16  # the interpreter cuts bf16 off instead of rounding


def make_triton_ops(batch_invariant=False):
    pytest.importorskip("triton")
    from glimp_engine.kernels.gpu.ops import TritonOps

    return TritonOps(DEVICE, batch_invariant)


def moved(fields, device=DEVICE):
    """A dataclass of tensors, on the device."""
    return type(fields)(**{name: tensor.to(device) for name, tensor in vars(fields).items()})
