"""schemathesis asks what /openapi.json allows, and what it doesn't; nothing that comes back may surprise it."""

import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(sys.executable).with_name("schemathesis")
# What fields allow together no schema says: one router, not two; arguments of a call that are JSON; a final message
# that the model's template writes as it is. So what fits the schema may be refused all the same.
OPTIONS = ("--exclude-checks", "positive_data_acceptance", "--max-examples", "20", "--seed", "1")


@pytest.mark.slow
@pytest.mark.skipif(not TOOL.exists(), reason="pip install schemathesis")
@pytest.mark.parametrize("phase", ["coverage", "fuzzing"])
def test_answers_are_as_described(server, phase, tmp_path):
    command = [TOOL, "run", f"{server.url}/openapi.json", *OPTIONS, "--phases", phase]
    told = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert told.returncode == 0, told.stdout
