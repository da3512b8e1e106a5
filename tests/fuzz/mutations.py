"""Mutated checkpoints: bytes, values, keys and files changed by a seeded generator."""

import copy
import json
import math
import os
import shutil
import socket
import struct

VALUES = (
    *(None, True, False, 0, 1, -1, 2, 3, 7, 2**15, 2**20, 2**31 - 1, 2**31, 2**32, 2**53, 2**63, 2**64, 10**400),
    *(0.0, -0.0, 0.5, 1e-300, 1e300, math.nan, math.inf, -math.inf, "", "a", "4", "\ud83d", "\0", "x" * 100000),
    *([], [0], [None], [[]], {}, {"a": 1}, [[[[]]]], ["full_attention"], "../../etc/passwd", "/dev/zero"),
)
IMPOSTORS = (
    b"",
    b"\0",
    b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n",
    b"<!DOCTYPE html><html><body>404</body></html>",
    b"PK\x03\x04archive",
    b"\xff\xfe\x00",
    b"[" * 100000,
    b'{"a":' * 100000,
    b"1" * 10000,
    b'{"a": ' + b"9" * 5000 + b"}",
)


def random_bytes(rng, count):
    return bytes(rng.randrange(256) for _ in range(count))


def mutated_bytes(rng, blob, end):
    """The bytes with something wrong among the first `end` of them, or at their end."""
    blob = bytearray(blob)
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        at = rng.randrange(max(min(end, len(blob)), 1))
        how = rng.randrange(7)
        if how == 0 and blob:
            blob[at % len(blob)] ^= 1 << rng.randrange(8)
        elif how == 1:
            blob[at : at + 4] = struct.pack("<I", rng.choice((0, 1, 8, 9, 12, 13, 255, 2**31 - 1, 2**31, 2**32 - 1)))
        elif how == 2:
            blob[at : at + 8] = struct.pack("<Q", rng.choice((0, 1, 2**20, 2**31, 2**32, 2**62, 2**63, 2**64 - 1)))
        elif how == 3:
            del blob[at : at + rng.randrange(1, 64)]
        elif how == 4:
            blob[at:at] = random_bytes(rng, rng.randrange(1, 64))
        elif how == 5:
            del blob[rng.randrange(len(blob) + 1) :]
        else:
            blob[at : at + 16] = random_bytes(rng, 16)
    return bytes(blob)


def mutated_value(rng, value):
    """A JSON value with one place in it changed."""
    value = copy.deepcopy(value)
    holder, places = value, []
    while isinstance(holder, (dict, list)) and holder:
        key = rng.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
        places.append((holder, key))
        holder = holder[key]
        if rng.random() < 0.3:
            break
    if not places:
        return rng.choice(VALUES)
    holder, key = places[-1]
    how = rng.randrange(4)
    if how == 0:
        del holder[key]
    elif how == 1 and isinstance(holder, dict):
        holder[rng.choice(list(holder))] = holder[key]
    else:
        holder[key] = rng.choice(VALUES)
    return value


def mutated_json(rng, blob):
    """A JSON file with a value, or with bytes changed."""
    try:
        value = json.loads(blob)
    except (ValueError, RecursionError):  # mutated before
        value = None
    if value is None or rng.random() < 0.2:
        return mutated_bytes(rng, blob, len(blob))
    for _ in range(rng.choice((1, 1, 2, 4))):
        value = mutated_value(rng, value)
    return json.dumps(value).encode()


def mutate_directory(rng, path):
    """Change one or two files of a checkpoint."""
    for _ in range(rng.choice((1, 1, 1, 2))):
        file = rng.choice(sorted(path.iterdir()))
        if not file.is_file():
            continue
        how = rng.random()
        if how < 0.05:
            file.unlink()
        elif how < 0.15:
            file.unlink()
            make_special(rng.choice(("fifo", "socket", "device", "directory", "loop", "dangling")), file)
        elif how < 0.25:
            file.write_bytes(rng.choice(IMPOSTORS))
        elif file.suffix == ".json":
            file.write_bytes(mutated_json(rng, file.read_bytes()))
        elif file.suffix == ".safetensors":
            blob = file.read_bytes()
            file.write_bytes(mutated_bytes(rng, blob, rng.choice((16, 8 + int.from_bytes(blob[:8], "little")))))
        else:
            file.write_bytes(mutated_bytes(rng, file.read_bytes(), file.stat().st_size))


def make_special(kind, file):
    """Something that is no file, in a file's place."""
    if kind == "fifo":
        os.mkfifo(file)
    elif kind == "socket":
        here = os.getcwd()
        os.chdir(file.parent)  # a socket's path has at most 107 bytes
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(file.name)
        os.chdir(here)
    else:
        target = {"device": "/dev/zero", "loop": file.name, "dangling": "absent"}
        file.mkdir() if kind == "directory" else file.symlink_to(target[kind])


def copy_directory(source, target):
    return shutil.copytree(source, target)
