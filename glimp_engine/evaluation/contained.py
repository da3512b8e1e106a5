"""The inner half of containment.py: a script that shuts itself in, and then becomes the graded program.

It runs before any of our own packages could be imported, in up to three processes. The outer one is what the engine
waits for and ends. In a PID namespace it has one child, the namespace's first process, whose end is the end of
everything in there; that one builds the file system and waits. Its child gives up what is left of its rights, and
becomes the program.

It is run before every program, so it imports little: json and typing would double its 28 ms.
"""

from __future__ import annotations

import contextlib
import ctypes
import marshal
import os
import resource
import select
import signal
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn, TypeAlias

    Order: TypeAlias = dict[str, Any]  # as Containment has written it

WORKPLACE = "/graded"  # the program's directory, where its root is its own
NOBODY = 65534
DEVICES = ("null", "zero", "random", "urandom")
WORKPLACE_OPTIONS = b"size=64m,nr_inodes=4096,mode=777"  # so that many small files can't fill a disk, nor the memory
NOTHING_LEFT_BUT_TO_END = 125

# linux/sched.h, linux/mount.h, linux/prctl.h
NEW_MOUNTS, NEW_CGROUP, NEW_NAMES, NEW_IPC = 0x20000, 0x2000000, 0x4000000, 0x8000000
NEW_USER, NEW_PIDS, NEW_NETWORK = 0x10000000, 0x20000000, 0x40000000
NO_SUID, NO_DEVICES, BIND, RECURSIVE, PRIVATE, DETACH = 2, 4, 0x1000, 0x4000, 0x40000, 2
SYS_MOUNT_SETATTR, AT_FDCWD, AT_RECURSIVE, ATTR_READ_ONLY = 442, -100, 0x8000, 1
SET_PARENT_DEATH_SIGNAL, SET_DUMPABLE, SET_SUBREAPER, SET_NO_NEW_PRIVILEGES = 1, 4, 36, 38


def main() -> NoReturn:
    order: Order = marshal.loads(bytes.fromhex(sys.argv[1]))
    if order["level"] == "bubblewrap":  # which has done all but this
        copy_files("/given", WORKPLACE)
        become_program(order, WORKPLACE)
    signal.signal(signal.SIGTERM, end)
    prctl(SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != order["parent"]:
        os._exit(NOTHING_LEFT_BUT_TO_END)
    start = start_in_namespaces if order["level"] == "namespaces" else start_with_limits
    os._exit(start(order))


def end(*_: object) -> NoReturn:
    raise SystemExit(NOTHING_LEFT_BUT_TO_END)


def call(name: str, *arguments: Any) -> None:
    """A function of the C library. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments) < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def prctl(option: int, value: int) -> None:
    call("prctl", option, ctypes.c_ulong(value), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0))


def mount(source: str | None, target: str, kind: str | None, flags: int, options: bytes | None = None) -> None:
    encoded = [None if text is None else os.fsencode(text) for text in (source, target, kind)]
    call("mount", *encoded, ctypes.c_ulong(flags), options)


def write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


# with limits alone


def start_with_limits(order: Order) -> int:
    """The program's exit status. All it has started comes to us when its own parent ends, and is ended by us."""
    prctl(SET_SUBREAPER, 1)
    workplace = os.path.join(order["directory"], "given")
    is_nobody = order["user"] == 0 and is_open_to_nobody(order["command"][0])
    if is_nobody:
        os.chmod(order["directory"], 0o711)
        os.chown(workplace, NOBODY, NOBODY)
    try:
        program = os.fork()
        if program == 0:
            if is_nobody:
                become_nobody()
            prctl(SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
            become_program(order, workplace)
        return status_of(program)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        end_children()


def is_open_to_nobody(path: str) -> bool:
    """Whether a user without rights could start it: root's own Python often lies in root's home."""
    os.seteuid(NOBODY)
    try:
        return os.access(path, os.X_OK, effective_ids=True)
    finally:
        os.seteuid(0)


def end_children() -> None:
    """End the children, and the grandchildren that become ours by that, until there are none."""
    while True:
        for child in children():
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        try:
            if os.waitpid(-1, os.WNOHANG) == (0, 0):
                time.sleep(0.001)
        except ChildProcessError:
            return


def children() -> list[int]:
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError), open(f"/proc/{name}/stat") as file:
            if file.read().rpartition(")")[2].split()[1] == str(os.getpid()):
                found.append(int(name))
    return found


# in namespaces


def start_in_namespaces(order: Order) -> int:
    """The exit status of the program, which sees no process, file system or network but its own."""
    user, group = order["user"], os.getegid()
    spaces = NEW_MOUNTS | NEW_PIDS | NEW_NETWORK | NEW_IPC | NEW_NAMES | NEW_CGROUP
    if user == 0:  # a user namespace of root's would leave it root's files, and free of the limit on processes
        call("unshare", spaces)
    else:
        call("unshare", spaces | NEW_USER)
        be_known_as(0, user, group)
    prctl(SET_DUMPABLE, 0)
    alive, held = os.pipe()
    first = os.fork()
    if first == 0:
        os.close(held)
        be_first(order, alive)
    try:
        return status_of(first)
    except SystemExit:
        os.kill(first, signal.SIGKILL)
        return status_of(first)


def be_known_as(inside: int, user: int, group: int) -> None:
    """Which ids the user and the group have in this user namespace."""
    write("/proc/self/setgroups", "deny")
    write("/proc/self/uid_map", f"{inside} {user} 1")
    write("/proc/self/gid_map", f"{inside} {group} 1")


def be_first(order: Order, alive: int) -> NoReturn:
    """The first process of the PID namespace: the kernel ends all others with it. The program can't signal it."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    prctl(SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    if select.select([alive], [], [], 0)[0]:  # closed: whoever holds the other end was gone before that signal was set
        os._exit(NOTHING_LEFT_BUT_TO_END)
    root = os.path.join(order["directory"], "root")
    build_root(order, root)
    (ready, tell_ready), (go, tell_go) = os.pipe(), os.pipe()
    program = os.fork()
    if program == 0:
        os.close(ready)
        os.close(tell_go)
        give_up_rights(order["user"] == 0)
        os.close(tell_ready)
        os.read(go, 1)
        become_program(order, WORKPLACE)
    os.close(tell_ready)
    os.read(ready, 1)  # its rights are given up by way of /proc, which isn't there any more with the new root
    os.chdir(root)
    call("pivot_root", b".", b".")
    call("umount2", b".", DETACH)
    os.close(tell_go)
    os._exit(status_of(program))


def build_root(order: Order, root: str) -> None:
    """A file system of what Python takes to run, read-only, four devices, and a directory to work in."""
    mount(None, "/", None, RECURSIVE | PRIVATE)
    mount("tmpfs", root, "tmpfs", NO_SUID | NO_DEVICES, b"size=1m,mode=755")
    for path, link in order["paths"].items():
        if link:
            os.symlink(link, root + path)
        elif os.path.isdir(path):
            os.makedirs(root + path, exist_ok=True)
            mount(path, root + path, None, BIND | RECURSIVE)
        else:
            put_empty_file(root + path)
            mount(path, root + path, None, BIND)
    for device in DEVICES:
        put_empty_file(f"{root}/dev/{device}")
    os.mkdir(root + WORKPLACE)
    read_only = (ctypes.c_uint64 * 4)(ATTR_READ_ONLY | NO_SUID | NO_DEVICES, 0, 0, 0)
    size = ctypes.c_size_t(ctypes.sizeof(read_only))
    call("syscall", SYS_MOUNT_SETATTR, AT_FDCWD, os.fsencode(root), AT_RECURSIVE, read_only, size)
    for device in DEVICES:
        mount(f"/dev/{device}", f"{root}/dev/{device}", None, BIND)
    mount("tmpfs", root + WORKPLACE, "tmpfs", NO_SUID | NO_DEVICES, WORKPLACE_OPTIONS)
    copy_files(os.path.join(order["directory"], "given"), root + WORKPLACE)


def put_empty_file(path: str) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    write(path, "")


def give_up_rights(is_root: bool) -> None:
    """Be a user without rights, in a user namespace that has no others below it and counts its own processes."""
    if is_root:
        become_nobody()
    user, group = os.geteuid(), os.getegid()
    with contextlib.suppress(OSError):  # for the first of the machine
        write("/proc/self/oom_score_adj", "1000")
    prctl(SET_DUMPABLE, 1)  # else the files of /proc/self are root's
    call("unshare", NEW_USER)
    be_known_as(NOBODY, user, group)
    with contextlib.suppress(OSError):  # read-only in some containers
        write("/proc/sys/user/max_user_namespaces", "0")


# in all of them


def become_nobody() -> None:
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)


def copy_files(source: str, target: str) -> None:
    for name in os.listdir(source):
        with open(os.path.join(source, name), "rb") as given, open(os.path.join(target, name), "wb") as copy:
            copy.write(given.read())
        os.chmod(os.path.join(target, name), 0o644)


def become_program(order: Order, workplace: str) -> NoReturn:
    try:
        os.chdir(workplace)
        os.umask(0o022)
        for name, most in order["limits"].items():
            resource.setrlimit(getattr(resource, name), (most, most))
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        prctl(SET_NO_NEW_PRIVILEGES, 1)
        program, *arguments = order["command"]
        os.execve(program, [program, *arguments], {"OMP_NUM_THREADS": "1", "TMPDIR": workplace})
    finally:
        os._exit(NOTHING_LEFT_BUT_TO_END)


def status_of(child: int) -> int:
    """What it ended with; other processes that end meanwhile, and are ours by then, are put away."""
    while True:
        pid, status = os.wait()
        if pid == child:
            return os.WEXITSTATUS(status) if os.WIFEXITED(status) else NOTHING_LEFT_BUT_TO_END


if __name__ == "__main__":
    main()
