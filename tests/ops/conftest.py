"""The native ops on every code path that this processor can run."""

import pytest

from glimp_engine.errors import ConfigError
from glimp_engine.kernels.native import NativeOps

PATHS = ["portable", "avx2", "avx512", "avx512_vnni", "avx512_bf16"]


def make_ops(path, num_threads):
    try:
        return NativeOps(num_threads, path)
    except ConfigError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session", params=PATHS)
def native(request):
    """One code path's ops on 1, 2 and 3 threads, by their number."""
    return {num_threads: make_ops(request.param, num_threads) for num_threads in (1, 2, 3)}


@pytest.fixture(scope="session", params=[1, 2], ids=["1 thread", "2 threads"])
def ops(request, native):
    return native[request.param]
