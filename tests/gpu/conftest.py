"""The Triton ops, in both modes."""

from pathlib import Path

import pytest
from on_gpu import DEVICE, make_triton_ops

pytest.importorskip("triton", reason="the GPU's ops need Triton")


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.slow)  # interpreted or compiled


@pytest.fixture(scope="session")
def device():
    return DEVICE


@pytest.fixture(scope="session")
def ops():
    """Of the ops that are the same in both modes; see test_modes.py."""
    return make_triton_ops()


@pytest.fixture(scope="session", params=[False, True], ids=["fastest", "batch invariant"])
def ops_of_a_mode(request):
    return make_triton_ops(request.param)


@pytest.fixture(scope="session")
def invariant_ops():
    return make_triton_ops(batch_invariant=True)
