"""The Triton ops: on a GPU where there is one, else under Triton's interpreter, which must be asked for before."""

import inspect
import os
from functools import lru_cache

import pytest
import torch

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
if DEVICE.type == "cpu":
    os.environ["TRITON_INTERPRET"] = "1"
    from triton.runtime import interpreter

    @lru_cache
    def builtin_names(part):
        return [name for name, member in inspect.getmembers(part) if interpreter.tl.core.is_builtin(member)]

    def patch_builtin(part, builder, scope):
        """As the interpreter's own, which looks for the names at each call: a fifth of all time."""
        for name in builtin_names(part):
            if interpreter.tl.core.is_builtin(getattr(part, name)):
                interpreter._patch_attr(part, name, getattr(part, name), builder, scope)

    interpreter._patch_builtin = patch_builtin
HALF = torch.bfloat16 if DEVICE.type == "cuda" else torch.float16  # the interpreter cuts bf16 off instead of rounding


def make_triton_ops(batch_invariant=False):
    pytest.importorskip("triton")
    from glimp_engine.kernels.gpu.ops import TritonOps

    return TritonOps(DEVICE, batch_invariant)


def moved(fields, device=DEVICE):
    """A dataclass of tensors, on the device."""
    return type(fields)(**{name: tensor.to(device) for name, tensor in vars(fields).items()})
