"""The Triton ops, in both modes."""

import pytest
from on_gpu import DEVICE, make_triton_ops

pytest.importorskip("triton", reason="the GPU's ops need Triton")


@pytest.fixture(scope="session")
def device():
    return DEVICE


@pytest.fixture(scope="session", params=[False, True], ids=["fastest", "batch invariant"])
def ops(request):
    return make_triton_ops(request.param)


@pytest.fixture(scope="session")
def invariant_ops():
    return make_triton_ops(batch_invariant=True)
