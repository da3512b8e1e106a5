"""Every Triton kernel compiles for every architecture, without a GPU, and keeps its values in registers."""

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu" / "compile_kernels.py"


def test_every_kernel_compiles_and_none_spills():
    done = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 spill" in done.stdout
