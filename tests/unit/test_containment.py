"""Programs that mean harm, contained: what each tries would be seen outside."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from glimp_engine import ConfigError
from glimp_engine.evaluation import containment as module
from glimp_engine.evaluation.containment import LEVELS, Containment, find_containment

FAULTS = {level: Containment(level).fault() for level in LEVELS}
CONTAINED = [level for level in LEVELS if level != "limits"]
MARK = f"glimp-test-outlives-{os.getpid()}"  # tests run side by side: each worker looks for its own


def run(level, code, *arguments, given=b"", seconds=2.0):
    if FAULTS[level] is not None:
        pytest.skip(f"{level} can't be had here: {FAULTS[level]}")
    return Containment(level).run({"program.py": code.encode()}, ["program.py", *arguments], given, seconds)


def tries(code):
    """The program says "done" where the code went through, and which error it had where it didn't."""
    lines = "".join(f"    {line}\n" for line in code.strip().splitlines())
    return f"import os, sys\ntry:\n{lines}    print('done')\nexcept Exception as e:\n    print(type(e).__name__)\n"


def marked_processes(mark):
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if mark.encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


@pytest.fixture(params=CONTAINED)
def contained(request):
    return request.param


@pytest.fixture(params=LEVELS)
def level(request):
    return request.param


def test_what_it_reads_and_prints(level):
    assert run(level, "import sys\nprint(sys.stdin.read() * 2, end='')", given=b"ab\n") == b"ab\nab\n"
    assert run(level, "raise SystemExit(3)") is None
    assert run(level, "import os\nos.kill(os.getpid(), 9)") is None
    assert run(level, "open('mine', 'w').write('x'); print(open('mine').read())") == b"x\n"
    assert run(level, "import math, json, random, numpy; print(numpy.ones(3).sum())", seconds=5.0) == b"3.0\n"


def test_a_file_of_ours_can_not_be_read(contained, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("secret")
    secret.chmod(0o644)
    assert run(contained, tries("open(sys.argv[1]).read()"), str(secret)) == b"FileNotFoundError\n"
    for path in ("/etc/passwd", "/root/.bashrc", str(Path(__file__))):
        assert run(contained, tries("open(sys.argv[1]).read()"), path) == b"FileNotFoundError\n"


def test_nothing_is_written_outside(contained, tmp_path):
    tmp_path.chmod(0o777)
    for path in (tmp_path / "a", "/tmp/glimp-a", f"{sys.prefix}/glimp-a", "/usr/glimp-a", "/glimp-a"):
        assert run(contained, tries("open(sys.argv[1], 'w')"), str(path)) != b"done\n"
        assert not Path(path).exists()


def test_there_is_no_network(contained):
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)
        connect = tries(f"import socket\nsocket.create_connection(('127.0.0.1', {server.getsockname()[1]}), 1)")
        assert run(contained, connect) == b"OSError\n"  # unreachable: there is no interface that is up
        with pytest.raises(TimeoutError):
            server.accept()


def test_unix_sockets_are_out_of_reach(contained):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("\0glimp-test")
        server.listen()
        connect = tries("import socket\nsocket.socket(socket.AF_UNIX).connect('\\0glimp-test')")
        assert run(contained, connect) == b"ConnectionRefusedError\n"


def test_our_process_is_out_of_reach(contained):
    here = str(os.getpid())
    assert run(contained, tries("os.kill(int(sys.argv[1]), 9)"), here) == b"ProcessLookupError\n"
    for name in ("environ", "mem", "maps", "cmdline"):
        assert (
            run(contained, tries("open(f'/proc/{sys.argv[1]}/' + sys.argv[2], 'rb').read()"), here, name) != b"done\n"
        )
    ptrace = "import ctypes\nprint(ctypes.CDLL(None).ptrace(16, os.getppid(), 0, 0))"
    assert run(contained, f"import os\n{ptrace}") == b"-1\n"
    everyone = "import os, signal\nos.kill(os.getppid(), 9)\ntry: os.kill(-1, 9)\nexcept OSError: pass\nprint('alive')"
    assert run(contained, everyone) in (b"alive\n", None)


def test_it_has_no_rights(contained):
    status = "import ctypes\nlibc = ctypes.CDLL(None)\nprint(libc.unshare(0x10000000 | 0x20000), os.geteuid() == 0)"
    if contained == "namespaces":
        assert run(contained, f"import os\n{status}") == b"-1 False\n"
    for code in (
        "os.setuid(0)",
        "os.chroot('/')",
        "os.sethostname('x')" if hasattr(os, "sethostname") else "os.nice(-5)",
    ):
        assert run(contained, tries(code)) != b"done\n"


def test_environment_and_files_are_not_inherited(level, monkeypatch):
    monkeypatch.setenv("GLIMP_SECRET", "secret")
    read, write = os.pipe()
    os.set_inheritable(write, True)
    code = "import os\nprint('GLIMP_SECRET' in os.environ, [n for n in range(3, 64) if is_open(n)])"
    is_open = (
        "def is_open(n):\n    import os\n    try: os.fstat(n)\n    except OSError: return False\n    return True\n"
    )
    assert run(level, is_open + code) == b"False []\n"
    os.close(read)
    os.close(write)


SETSID = f"""
import os, subprocess, sys
child = "import os, time; os.setsid() if os.getpid() != os.getsid(0) else None; time.sleep(60)"
for _ in range(3):
    subprocess.Popen([sys.executable, "-c", child, "{MARK}"], start_new_session=True)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execv(sys.executable, [sys.executable, "-c", "import time; time.sleep(60)", "{MARK}"])
print("started")
"""


@pytest.mark.parametrize("ending", ["", "import time; time.sleep(60)", "os._exit(1)"], ids=["ends", "stays", "fails"])
def test_a_child_in_a_session_of_its_own_ends_with_it(level, ending):
    run(level, SETSID + ending, seconds=0.4)
    assert marked_processes(MARK) == []


@pytest.mark.slow
def test_forks_are_limited(level):
    code = """
import os, time
n = 0
try:
    while n < 300:
        if os.fork() == 0:
            time.sleep(60)
        n += 1
except OSError:
    pass
print(n)
"""
    printed = run(level, code)
    if level == "limits" and os.geteuid() == 0 and printed == b"300\n":
        pytest.skip("root's processes are not counted, and this Python lies where nobody else may start it")
    assert printed is not None
    assert int(printed) < 100


@pytest.mark.slow
@pytest.mark.parametrize(
    "code",
    [
        "while True: pass",
        "import time; time.sleep(600)",
        "x = bytearray(1 << 36)",
        "x = []\nwhile True: x.append(bytearray(1 << 28))",
        "while True: print('x' * 10**6)",
        "while True: os.write(2, b'x' * 10**6)",
        "for n in range(10**6): open(str(n), 'wb').write(b'x' * 10**6)",
        "files = [open('/dev/null') for _ in range(10**6)]",
        "for n in range(64): os.close(n) if n > 2 else None\nraise SystemExit(1)",
        "import signal\n[signal.signal(n, signal.SIG_IGN) for n in (1, 2, 3, 15)]\nwhile True: pass",
        "os.close(0); os.close(1); os.close(2)\nwhile True: pass",
        "while True: os.fork()",
    ],
)
def test_what_takes_too_much_is_ended(level, code):
    if level == "limits" and os.geteuid() == 0 and "fork" in code:
        pytest.skip("root's processes are not counted")
    if level == "limits" and "10**6): open" in code:
        pytest.skip("only a file's size is limited, not how many there are")
    began = time.monotonic()
    assert run(level, "import os\n" + code, seconds=1.0) is None
    assert time.monotonic() - began < 30


def test_duplicated_and_closed_files_do_no_harm(level):
    assert run(level, "import os\nos.dup2(1, 0); os.dup2(1, 2); os.write(0, b'x')") in (b"x", None)
    assert run(level, "import os\nos.closerange(0, 64)") in (b"", None)


@pytest.mark.slow
def test_closing_ends_what_runs(level):
    if FAULTS[level] is not None:
        pytest.skip(f"{level} can't be had here: {FAULTS[level]}")
    containment, verdicts = Containment(level), []
    code = SETSID + "import time; time.sleep(60)"
    thread = threading.Thread(
        target=lambda: verdicts.append(containment.run({"p.py": code.encode()}, ["p.py"], b"", 60.0))
    )
    thread.start()
    while not marked_processes(MARK):
        time.sleep(0.01)
    containment.close()
    thread.join(10)
    assert verdicts == [None]
    assert marked_processes(MARK) == []


@pytest.mark.slow
def test_nothing_outlives_an_engine_that_is_killed(contained):
    if FAULTS[contained] is not None:
        pytest.skip(f"{contained} can't be had here: {FAULTS[contained]}")
    code = SETSID + "import time; time.sleep(60)"
    program = f"""
from glimp_engine.evaluation.containment import Containment
Containment({contained!r}).run({{"p.py": {code.encode()!r}}}, ["p.py"], b"", 60.0)
"""
    engine = subprocess.Popen([sys.executable, "-P", "-c", program])
    while not marked_processes(f"0\0{MARK}") and not marked_processes(MARK + "\0"):
        assert engine.poll() is None
        time.sleep(0.01)
    engine.send_signal(signal.SIGKILL)
    engine.wait()
    deadline = time.monotonic() + 5
    while marked_processes(MARK) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert marked_processes(MARK) == []


NOBODY = """
import importlib.util, sys, types
def load(name, path):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
sys.modules["glimp_engine"] = types.ModuleType("glimp_engine")  # whose import takes what this Python lacks
load("glimp_engine.errors", sys.argv[1] + "/errors.py")
module = load("containment", sys.argv[1] + "/evaluation/containment.py")
containment = module.Containment("namespaces")
print(containment.fault(), containment.run({"p.py": b"import os; print(os.listdir('.'))"}, ["p.py"], b"", 2.0))
"""


def test_a_user_without_rights_has_namespaces_too(tmp_path_factory):
    python = "/usr/bin/python3"
    if os.geteuid() != 0 or not Path(python).exists():
        pytest.skip("takes root, to become nobody, and a Python that nobody may start")
    version = subprocess.run(
        [python, "-c", "import sys; print(sys.version_info >= (3, 11))"], capture_output=True, text=True, check=True
    )
    package = Path(module.__file__).parents[1]
    if version.stdout != "True\n" or shutil.which("setpriv") is None or not is_open_to_all(package):
        pytest.skip("takes Python 3.11 in /usr/bin, setpriv, and a package that nobody may read")
    nobody = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]
    done = subprocess.run([*nobody, python, "-B", "-c", NOBODY, str(package)], capture_output=True, text=True, cwd="/")
    if "Operation not permitted" in done.stdout or "No space left" in done.stdout:
        pytest.skip(f"user namespaces are forbidden here: {done.stdout}")
    assert done.stdout == "None b\"['p.py']\\n\"\n", done


def is_open_to_all(path):
    return all(parent.stat().st_mode & 0o005 == 0o005 for parent in (path, *path.parents))


def test_limits_alone_take_a_word(monkeypatch):
    monkeypatch.setattr(Containment, "fault", lambda self: None if self.level == "limits" else "forbidden here")
    with pytest.raises(ConfigError, match=r"namespaces: forbidden here; bubblewrap: forbidden here.*--unsafe"):
        find_containment(is_unsafe_allowed=False)
    assert find_containment(is_unsafe_allowed=True).level == "limits"
