"""Every Triton kernel compiles for every architecture, without a GPU, and keeps its values in registers."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu" / "compile_kernels.py"


@pytest.mark.parametrize("architecture", ["80", "90", "100"])
def test_every_kernel_compiles_and_none_spills(architecture):
    done = subprocess.run([sys.executable, SCRIPT, architecture], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 spill" in done.stdout
