"""The C ABI as an embedder meets it: codes, not crashes."""

import ctypes
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from glimp_engine.errors import ConfigError
from glimp_engine.kernels.abi import ABI_VERSION, CKV, PATHS, CAttention, load_library
from glimp_engine.kernels.native import NativeOps

NULL_POINTER, BAD_SIZE, BAD_TYPE, UNSUPPORTED_PATH = 1, 2, 5, 6


@pytest.fixture
def library():
    return load_library()


@pytest.fixture
def cpu(library):
    handle = ctypes.c_void_p()
    assert library.glimp_cpu_create(2, PATHS["best"], ctypes.byref(handle)) == 0
    yield handle
    library.glimp_cpu_destroy(handle)


def sample(library, cpu, num_rows, vocab_size, stride):
    return library.glimp_sample(cpu, None, num_rows, vocab_size, stride, None, None, None, None, None, None)


def test_nothing_to_do_is_no_error(library, cpu):
    assert sample(library, cpu, 0, 5, 5) == 0
    assert library.glimp_rms_norm(cpu, None, 0, 5, None, 0.0, None) == 0
    assert library.glimp_silu_mul(cpu, None, 0, 5, None) == 0


def test_null_pointers(library, cpu):
    assert sample(library, cpu, 1, 5, 5) == NULL_POINTER
    assert library.glimp_philox(None, None, None) == NULL_POINTER
    assert library.glimp_rms_norm(cpu, None, 1, 5, None, 0.0, None) == NULL_POINTER
    assert library.glimp_silu_mul(cpu, None, 1, 5, None) == NULL_POINTER
    batch, kv = CAttention(), CKV()
    assert library.glimp_rope_and_store(cpu, None, 2, 1, 4, None, 1, None, None, 0.0, batch, kv) == NULL_POINTER
    assert library.glimp_paged_attention(cpu, None, 8, 2, 1, 4, 1.0, batch, kv, None) == NULL_POINTER


def test_no_cpu_is_a_null_pointer(library):
    assert sample(library, None, 0, 5, 5) == NULL_POINTER
    assert library.glimp_rms_norm(None, None, 0, 5, None, 0.0, None) == NULL_POINTER
    assert library.glimp_silu_mul(None, None, 0, 5, None) == NULL_POINTER
    assert library.glimp_rope_and_store(None, None, 2, 1, 4, None, 1, None, None, 0.0, None, None) == NULL_POINTER
    assert library.glimp_paged_attention(None, None, 8, 2, 1, 4, 1.0, None, None, None) == NULL_POINTER
    assert library.glimp_cpu_create(1, 0, None) == NULL_POINTER
    assert library.glimp_cpu_path(None) == PATHS["best"]
    library.glimp_cpu_destroy(None)


@pytest.mark.parametrize(("num_rows", "vocab_size", "stride"), [(-1, 5, 5), (1, 0, 5), (1, 5, 4)])
def test_bad_sizes(library, cpu, num_rows, vocab_size, stride):
    assert sample(library, cpu, num_rows, vocab_size, stride) == BAD_SIZE


@pytest.mark.parametrize(("num_heads", "num_kv_heads", "head_dim"), [(3, 2, 4), (0, 1, 4), (2, 0, 4), (2, 1, 0)])
def test_bad_heads(library, cpu, num_heads, num_kv_heads, head_dim):
    heads = (num_heads, num_kv_heads, head_dim)
    assert library.glimp_rope_and_store(cpu, None, *heads, None, 1, None, None, 0.0, None, None) == BAD_SIZE
    assert library.glimp_paged_attention(cpu, None, 100, *heads, 1.0, None, None, None) == BAD_SIZE


def test_bad_pages(library, cpu):
    memory = (ctypes.c_float * 64)()
    address = ctypes.addressof(memory)
    for kv, code in (
        (CKV(address, address, 1, 0, 0), BAD_SIZE),
        (CKV(address, address, -1, 4, 0), BAD_SIZE),
        (CKV(address, address, 1, 4, 8), BAD_TYPE),
        (CKV(address, None, 1, 4, 0), NULL_POINTER),
    ):
        assert library.glimp_paged_attention(cpu, address, 8, 2, 1, 4, 1.0, CAttention(), kv, address) == code
    assert library.glimp_rope_and_store(cpu, None, 2, 1, 5, None, 1, None, None, 0.0, None, None) == BAD_SIZE


@pytest.mark.parametrize(("num_threads", "path", "code"), [(0, 0, BAD_SIZE), (1, 99, UNSUPPORTED_PATH)])
def test_a_cpu_that_cannot_be(library, num_threads, path, code):
    handle = ctypes.c_void_p(1)
    assert library.glimp_cpu_create(num_threads, path, ctypes.byref(handle)) == code
    assert not handle


def test_the_path_can_be_chosen(monkeypatch):
    assert NativeOps(1, "portable").path == "portable"
    monkeypatch.setenv("GLIMP_CPU_PATH", "portable")
    assert NativeOps(1).path == "portable"
    monkeypatch.setenv("GLIMP_CPU_PATH", "sse9")
    with pytest.raises(ConfigError, match="path is 'sse9'; allowed: best, portable"):
        NativeOps(1)
    with pytest.raises(ConfigError, match="num_threads is -3"):
        NativeOps(-3, "portable")


def test_every_code_has_a_text(library):
    texts = [library.glimp_error_string(code) for code in range(-1, 11)]
    assert all(texts)
    assert texts[0] == texts[-1] == b"unknown error"
    assert len(set(texts[1:8])) == 7


def test_the_version_is_the_headers():
    header = Path(__file__).parents[2] / "csrc" / "glimp.h"
    assert re.search(rf"GLIMP_ABI_VERSION {ABI_VERSION}\b", header.read_text())


def test_a_missing_or_foreign_library_is_a_config_error(tmp_path):
    with pytest.raises(ConfigError, match="pip install -e"):
        load_library(tmp_path / "libglimp.so")
    (tmp_path / "libglimp.so").write_bytes(b"no library")
    with pytest.raises(ConfigError, match="reference"):
        load_library(tmp_path / "libglimp.so")


def test_one_wrong_argument_is_an_error_code():
    """600 calls in a process of their own: null pointers, sizes, types, and values in arrays that nothing may hold."""
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("abi_calls.py")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    assert re.search(r"^[89]\d\d calls; taken: \[\]$", done.stdout, re.M)


SCARCE = """
import ctypes, resource, sys
from glimp_engine.kernels.abi import load_library
library, cpu = load_library(), ctypes.c_void_p()
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20), resource.RLIM_INFINITY))
code = library.glimp_cpu_create(1024, 0, ctypes.byref(cpu))
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
assert library.glimp_cpu_create(2, 0, ctypes.byref(ctypes.c_void_p())) == 0
print(code, library.glimp_error_string(code).decode(), bool(cpu))
"""


@pytest.mark.skipif("GLIMP_LIBRARY" in os.environ, reason="a sanitizer takes all of the address space")
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's limits")
def test_threads_that_cannot_be_made_are_an_error_code():
    done = subprocess.run([sys.executable, "-c", SCARCE], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split(maxsplit=1)[0] in ("4", "7")  # no memory for a stack, or no threads
    assert done.stdout.strip().endswith("False")
