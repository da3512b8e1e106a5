"""The far end of a contestant: calls come in as JSON lines, what they return goes out as JSON lines.

A contestant is a class that can do these, or some of them; times are in seconds and taken inside:

    open(models, num_threads, num_tokens)   load one model, or the small and the large one
    prefill(token_ids)                      run a prompt of which nothing has been run before
    decode(token_ids, num_tokens)           write greedily after a prompt; only the writing is timed
    decode_many(prompts, num_tokens)        the same for several sequences at once
    extend(token_ids, new_ids)              run new_ids after a prompt that has been run; only that is timed
    solve(token_ids, router, max_tokens)    write an answer with both models
    answers(prompts, max_tokens)            greedy texts, by the small model
    logits(token_ids, path)                 logits at every position, saved as [T, V] float32

Python's standard library only, as every contestant runs in a Python of its own.
"""

import json
import os
import sys
from typing import Any


def serve(contestant: Any) -> None:
    """Answer calls until the other end closes; the first line tells which, and what memory the imports alone take."""
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a library prints must not get among the answers
    calls = [name for name in dir(contestant) if not name.startswith("_") and callable(getattr(contestant, name))]
    out.write(json.dumps({"calls": calls, "peak_rss_bytes": peak_rss_bytes()}) + "\n")
    for line in sys.stdin:
        call = json.loads(line)
        try:
            result = getattr(contestant, call["do"])(**call["arguments"])
            result = {**result, "peak_rss_bytes": peak_rss_bytes()}
        except Exception as error:  # told to the one who asked
            result = {"error": f"{type(error).__name__}: {error}"}
        out.write(json.dumps(result) + "\n")


def peak_rss_bytes() -> int:
    """The most memory that this process has held so far (VmHWM)."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))
