"""A process that compares mathematical expressions by math-verify: a script, as math_processes.py starts it.

Each line of its input is JSON, [reference] or [reference, given]; each line of its output is true or false: whether
the one can be read, or whether the two are the same. What takes too long or too much ends the process.
"""

import json
import resource
import sys
from typing import Any

CPU_SECONDS = 5
MEMORY_BYTES = 4 << 30


def main() -> None:
    del sys.path[0]  # this directory, whose files are no modules of the library's
    import math_verify

    answers = sys.stdout
    sys.stdout = sys.stderr  # what the library says is no answer
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for line in sys.stdin:
        used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
        resource.setrlimit(resource.RLIMIT_CPU, (int(used) + 1 + CPU_SECONDS, resource.RLIM_INFINITY))
        try:
            verdict = is_right(math_verify, *json.loads(line))
        except Exception:  # of any type, as the library's grammar and sympy raise what they like
            verdict = False
        answers.write(json.dumps(verdict) + "\n")
        answers.flush()


def is_right(library: Any, reference: str, given: str | None = None) -> bool:
    expected = parsed(library, reference)
    if given is None:
        return bool(expected)
    return bool(library.verify(expected, parsed(library, given), timeout_seconds=None))


def parsed(library: Any, expression: str) -> list[Any]:
    return list(library.parse(f"${expression.strip('$ ')}$", parsing_timeout=None))


if __name__ == "__main__":
    main()
