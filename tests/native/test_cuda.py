"""csrc/cuda compiles for every architecture, without a GPU, and its ABI is what Python expects."""

import ctypes
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from glimp_engine.kernels import STEP_LOOP_LIBRARY, has_step_loop
from glimp_engine.kernels.abi import CLoopState

CSRC = Path(__file__).parents[2] / "csrc"
nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc, CUDA's compiler, isn't here")
built = pytest.mark.skipif(not has_step_loop(), reason="libglimp_cuda.so wasn't built, which takes nvcc")


@nvcc
@pytest.mark.parametrize("architecture", ["sm_80", "sm_90a", "sm_100a"])
@pytest.mark.slow
def test_it_compiles_without_spills(tmp_path, architecture):
    command = ["nvcc", f"-arch={architecture}", "-std=c++17", "-O3", "-Xptxas", "-v", "-Werror", "all-warnings"]
    library = tmp_path / "loop.so"
    flags = ["-shared", "-Xcompiler", "-fPIC,-Wall,-Wextra,-Werror"]
    done = subprocess.run(
        [*command, *flags, CSRC / "cuda" / "step_loop.cu", "-o", library], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert re.findall(r"(\d+) bytes spill stores", done.stderr) == ["0"]


def test_the_struct_is_the_headers():
    header = (CSRC / "glimp_loop.h").read_text()
    body = re.search(r"typedef struct \{([^{}]*)\} glimp_loop_state;", header)[1]
    declared = re.sub(r"/\*.*?\*/", "", body, flags=re.S)
    names = re.findall(r"(\w+)\s*[,;]", declared)
    assert names == [name for name, _ in CLoopState._fields_]


@built
def test_what_cannot_be_made_is_refused():
    step_loop = pytest.importorskip("glimp_engine.kernels.gpu.step_loop")
    library, state = step_loop.load_library(), CLoopState(num_classes=4)
    handle = ctypes.c_void_p()
    for graph, num_rows, message in ((None, 1, b"a pointer is null"), (8, 0, b"size"), (8, 1025, b"size")):
        error = library.glimp_loop_create(graph, ctypes.byref(state), num_rows, ctypes.byref(handle))
        assert message in library.glimp_cuda_error_string(error)
    assert not handle
    assert library.glimp_loop_launch(None, None) == -1
    assert STEP_LOOP_LIBRARY.exists()
