"""Runs a program that nobody has read, shut in as well as this machine allows without root.

contained.py is the other half: what the program's own process does before it becomes the program.
"""

import marshal
import math
import os
import select
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from glimp_engine.errors import ConfigError

__all__ = ["LEVELS", "Containment", "find_containment"]

LEVELS = {  # from the strongest on
    "namespaces": "no files but Python's, no network, no other processes, by namespaces of its own",
    "bubblewrap": "no files but Python's, no network, no other processes, by bubblewrap",
    "limits": "limits on time, memory, processes and files, and nothing else: it could read files and use the network",
}
INSIDE = Path(__file__).with_name("contained.py")
WALL_SECONDS_A_CPU_SECOND = 4.0  # a program's limit is on processor time, so that a busy machine changes no verdict
SECONDS_TO_END = 10.0  # of the outer process, which waits for all below it; with limits alone it may be held up
MEMORY_BYTES = 4 << 30
FILE_BYTES = 16 << 20
MAX_FILES = 128
MAX_PROCESSES = 64
SYSTEM_PATHS = ("/usr", "/bin", "/lib", "/lib32", "/lib64", "/nix/store", "/etc/ld.so.cache", "/etc/localtime")
TRIAL = """
import os, sys
assert sys.stdin.read() == "given", "no input"
assert not os.path.exists(sys.argv[1]), f"{sys.argv[1]} can be seen"
open("file", "w").close()
print("contained")
"""


class Containment:
    """A way to run programs. Threads may run several at once."""

    def __init__(self, level: str) -> None:
        self.level = level
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self._is_closed = False

    def run(self, files: Mapping[str, bytes], arguments: list[str], given: bytes, seconds: float) -> bytes | None:
        """What Python prints, run with these arguments in a directory of its own that has these files.

        It reads `given`, has `seconds` of processor time, and nothing that it has started outlives this call. None if
        it fails, or takes too much of anything.
        """
        printed, _ = self._run(files, arguments, given, seconds)
        return printed

    def fault(self) -> str | None:
        """Why a program can't be contained so on this machine; None if it can."""
        with tempfile.NamedTemporaryFile(prefix="glimp-") as secret:
            hidden = "/nowhere" if self.level == "limits" else secret.name
            if self.level == "bubblewrap" and os.geteuid() == 0:
                return "root's processes can't be counted"  # RLIMIT_NPROC spares root in its user namespaces too
            if self.level == "bubblewrap" and shutil.which("bwrap") is None:
                return "it isn't installed"
            printed, said = self._run({"trial.py": TRIAL.encode()}, ["trial.py", hidden], b"given", 5.0)
        if printed == b"contained\n":
            return None
        return said.strip().rpartition("\n")[2][-200:] or "the trial's program failed"

    def close(self) -> None:
        """End what is running; there it comes back as failed. Nothing can be run from then on."""
        with self._lock:
            self._is_closed = True
            running = list(self._running)
        for process in running:
            process.terminate()

    def _run(
        self, files: Mapping[str, bytes], arguments: list[str], given: bytes, seconds: float
    ) -> tuple[bytes | None, str]:
        with tempfile.TemporaryDirectory(prefix="glimp-", ignore_cleanup_errors=True) as directory:
            for name in ("given", "root"):
                Path(directory, name).mkdir()
            for name, content in files.items():
                Path(directory, "given", name).write_bytes(content)
            Path(directory, "stdin").write_bytes(given)
            with (
                Path(directory, "stdin").open("rb") as stdin,
                tempfile.TemporaryFile() as stdout,
                tempfile.TemporaryFile() as stderr,
                self._started(directory, arguments, seconds, (stdin, stdout, stderr)) as process,
            ):
                if not ends_within(process, seconds * WALL_SECONDS_A_CPU_SECOND):
                    return None, "it took too long"
                stdout.seek(0)
                stderr.seek(0)
                said = stderr.read(1 << 16).decode(errors="replace")
                return stdout.read() if process.returncode == 0 else None, said

    @contextmanager
    def _started(
        self, directory: str, arguments: list[str], seconds: float, streams: tuple[IO[bytes], IO[bytes], IO[bytes]]
    ) -> Iterator["subprocess.Popen[bytes]"]:
        """The outer process, which is gone with all below it when the block is left."""
        stdin, stdout, stderr = streams
        with self._lock:
            if self._is_closed:
                raise RuntimeError("the containment is closed")
            process = subprocess.Popen(
                self._command(directory, arguments, seconds),
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                cwd="/",
                env={},
                start_new_session=True,  # no terminal, and no Ctrl-C from one
            )
            self._running.add(process)
        try:
            yield process
        finally:
            process.terminate()
            if not ends_within(process, SECONDS_TO_END):
                process.kill()
                process.wait()
            with self._lock:
                self._running.discard(process)

    def _command(self, directory: str, arguments: list[str], seconds: float) -> list[str]:
        python = [sys.executable, "-I", "-X", "utf8"]
        order = {
            "level": self.level,
            "directory": directory,
            "parent": os.getpid(),
            "user": os.geteuid(),
            "paths": readable_paths(),
            "command": [*python, *arguments],
            "limits": {
                "RLIMIT_CPU": math.ceil(seconds),
                "RLIMIT_AS": MEMORY_BYTES,
                "RLIMIT_FSIZE": FILE_BYTES,
                "RLIMIT_NOFILE": MAX_FILES,
                "RLIMIT_NPROC": MAX_PROCESSES,
                "RLIMIT_CORE": 0,
            },
        }
        is_wrapped = self.level == "bubblewrap"
        inside = "/contained.py" if is_wrapped else str(INSIDE)
        command = [sys.executable, "-I", "-S", inside, marshal.dumps(order).hex()]
        return [*bubblewrap(directory), *command] if is_wrapped else command


def ends_within(process: "subprocess.Popen[bytes]", seconds: float) -> bool:
    """Popen.wait looks only every 50 ms, which would be a quarter of all the time a program takes."""
    try:
        handle = os.pidfd_open(process.pid)
    except (AttributeError, OSError):  # not everywhere
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True
    try:
        has_ended = bool(select.select([handle], [], [], seconds)[0])
    finally:
        os.close(handle)
    if has_ended:
        process.wait()
    return has_ended


def find_containment(is_unsafe_allowed: bool) -> Containment:
    """The strongest that works on this machine, each having been tried.

    Raises: ConfigError when only limits do, and these alone are not allowed.
    """
    faults = []
    for level in LEVELS:
        containment = Containment(level)
        fault = containment.fault()
        if fault is None and (level != "limits" or is_unsafe_allowed):
            return containment
        if fault is not None:
            faults.append(f"{level}: {fault}")
    told = "; ".join(faults)
    raise ConfigError(
        f"grader is 'code', which runs what a model has written, and this machine can't contain it ({told}); "
        "allowed: a machine that can, or --unsafe, to run it with limits alone"
    )


def readable_paths() -> dict[str, str]:
    """path -> where it links to, or "": what Python takes to run, none inside another."""
    prefixes = {sys.prefix, sys.base_prefix, str(Path(sys.executable).resolve().parents[1])}
    found: dict[str, str] = {}
    for path in (*SYSTEM_PATHS, *sorted(prefixes)):
        if os.path.exists(path) and not any(Path(path).is_relative_to(other) for other in found):
            found[path] = os.readlink(path) if os.path.islink(path) and path in SYSTEM_PATHS else ""
    return found


def bubblewrap(directory: str) -> list[str]:
    """The command that a contained command stands behind."""
    command = [shutil.which("bwrap") or "bwrap", "--unshare-all", "--die-with-parent", "--new-session", "--clearenv"]
    command += ["--cap-drop", "ALL", "--dev", "/dev", "--remount-ro", "/dev"]
    for path, link in readable_paths().items():
        command += ["--symlink", link, path] if link else ["--ro-bind", path, path]
    command += ["--ro-bind", str(INSIDE), "/contained.py", "--ro-bind", f"{directory}/given", "/given"]
    return [*command, "--size", str(64 << 20), "--tmpfs", "/graded", "--remount-ro", "/", "--chdir", "/graded"]
