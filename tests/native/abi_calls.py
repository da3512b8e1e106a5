"""Calls of the C ABI with one wrong argument each: python abi_calls.py. Prints those that were taken; crashes show."""

import ctypes
import math
import os
import sys
from pathlib import Path

import numpy as np

from glimp_engine.kernels import abi

HUGE = (-(2**63), -1, 2**62, 2**63 - 1)  # sizes that no buffer has
D, F, V, H, HK, HEAD, T, PAGES, SIZE, POSITIONS = 32, 64, 40, 4, 2, 8, 5, 6, 4, 64
VALUES = {  # what an array must not hold, and where: (array, index) -> values
    "positions": (-1, POSITIONS, 2**62),
    "slots": (-1, PAGES * SIZE, 2**62),
    "query_start": (-1, 7, -(2**31)),
    "page_table": (-1, PAGES, -(2**31)),
    "kv_len": (-1, 0, 2**31 - 1),
    "token_ids": (-1, V, 2**62),
    "logit_rows": (-1, T, 2**62),
    "seen_ids": (-1, V, 2**62),
    "seen_start": (-1, 2**31 - 1, -(2**31)),
    "bias_ids": (-1, V, 2**62),
    "bias_start": (-1, 2**31 - 1, -(2**31)),
    "bias_values": (math.nan, math.inf),
    "temperature": (math.nan, math.inf, -1.0),
    "top_p": (math.nan, math.inf, -1.0, 1.5),
    "min_p": (math.nan, math.inf, -1.0, 1.5),
    "repetition_penalty": (math.nan, math.inf, -math.inf, 0.0, -1.0),
    "presence_penalty": (math.nan, math.inf, -math.inf),
    "frequency_penalty": (math.nan, math.inf, -math.inf),
    "state": (-1, 2, 2**31 - 1),
    "control": (-1, 0, 9, 2**31 - 1),
}
NUM_STATES, NUM_CLASSES, MOST_TICKS = 2, 3, 3


class Calls:
    """Every function with sound arguments; `arrays` keeps what they point to."""

    def __init__(self, library):
        self.library = library
        self.is_wrong = False  # whether an array holds what it must not
        self.cpu = ctypes.c_void_p()
        assert library.glimp_cpu_create(2, 0, ctypes.byref(self.cpu)) == 0
        rng = np.random.default_rng(0)
        floats = {"x": T * max(D, F) * 4, "out": T * 4 * max(D, F, V), "norm": 64, "cos_sin": POSITIONS * HEAD}
        self.arrays = {name: rng.standard_normal(size, np.float32) for name, size in floats.items()}
        self.arrays |= {
            "keys": np.zeros(PAGES * HK * HEAD * SIZE, np.float32),
            "values": np.zeros(PAGES * HK * HEAD * SIZE, np.float32),
            "positions": np.array([0, 1, 2, 0, 1]),
            "slots": np.array([8, 9, 10, 0, 1]),
            "query_start": np.array([0, 3, 5], np.int32),
            "page_table": np.array([2, 3, 0, 1], np.int32),
            "kv_len": np.array([3, 2], np.int32),
            "token_ids": np.array([1, 2, 3, 4, 5]),
            "logit_rows": np.array([2, 4]),
            "token_class": np.zeros(V, np.uint8),
            "token": np.zeros(2, np.int64),
            "out_class": np.zeros(2, np.uint8),
            "temperature": np.array([0.7, 1e-40], np.float32),
            "top_k": np.array([5, 0], np.int32),
            "top_p": np.array([0.9, 1.0], np.float32),
            "min_p": np.array([0.1, 0.0], np.float32),
            "repetition_penalty": np.array([1.2, 1e-38], np.float32),
            "presence_penalty": np.array([0.5, -3e38], np.float32),
            "frequency_penalty": np.array([0.5, 3e38], np.float32),
            "seed": np.array([1, -1]),
            "sequence_index": np.array([0, 1], np.int32),
            "position": np.array([3, 4]),
            "seen_start": np.array([0, 2, 3], np.int32),
            "seen_ids": np.array([1, 2, 3]),
            "seen_counts": np.array([1, 2, 3], np.int32),
            "bias_start": np.array([0, 1, 4], np.int32),
            "bias_ids": np.array([7, 0, 2, V - 1]),
            "bias_values": np.array([-math.inf, 1.5, -3e38, 3e38], np.float32),
            "listed_only": np.array([0, 7], np.int32),
            "token_mask": np.full(2 * (-(-V // 32)), 0xFFFFFFFD, np.uint32),
            "packed": np.zeros(1 << 16, np.uint8),
            "rows": rng.integers(0, 99, 1 << 14, np.uint8),
            "counter": np.zeros(4, np.uint32),
            "key": np.zeros(2, np.uint32),
            "words": np.zeros(4, np.uint32),
        }

    def at(self, name):
        return self.arrays[name].ctypes.data

    def weight(self, n, k):
        return abi.CWeight(self.weights(n * k), None, n, k, abi.TYPES["F32"])

    def weights(self, size):
        return self.arrays.setdefault(f"w{size}", np.full(size, 0.1, np.float32)).ctypes.data

    def batch(self):
        names = ("positions", "slots", "query_start", "page_table", "kv_len")
        return abi.CAttention(T, 2, 2, *map(self.at, names))

    def kv(self):
        return abi.CKV(self.at("keys"), self.at("values"), PAGES, SIZE, abi.TYPES["F32"])

    def sampling(self):
        return abi.CSampling(*(self.at(name) for name, _ in abi.CSampling._fields_))

    def loop(self):
        """A launch of two rows from its beginning, and its batch."""
        self.arrays |= {
            "loop_token_ids": np.array([3, 5]),
            "loop_positions": np.array([2, 1]),
            "loop_slots": np.array([10, 1]),
            "loop_query_start": np.array([0, 1, 2], np.int32),
            "loop_kv_len": np.array([3, 2], np.int32),
            "loop_rows": np.array([0, 1]),
            "position": np.array([3, 2]),
            "next_state": np.zeros(NUM_STATES * NUM_CLASSES, np.uint8),
            "completes": np.zeros(NUM_STATES * NUM_CLASSES, np.uint8),
            "logprob": np.zeros(2, np.float32),
            "awaits_glimpse": np.zeros(2, np.int32),
            "small_below": np.zeros(2, np.float32),
            "ends_at_step": np.zeros(2, np.int32),
            "min_logprob": np.full(2, -np.inf, np.float32),
            "samples": np.zeros(MOST_TICKS * 2 * 24, np.uint8),
            "flags": np.zeros(3, np.int32),
            "forbidden_ids": np.array([0, V - 1]),
        }
        self.arrays.setdefault("state", np.zeros(2, np.int32))
        self.arrays.setdefault("control", np.array([2, MOST_TICKS, 0], np.int32))
        if not self.is_wrong:
            self.arrays["state"][:] = 0
            self.arrays["control"][:] = (2, MOST_TICKS, 0)
        batch = abi.CAttention(
            2, 2, 2, *map(self.at, ("loop_positions", "loop_slots", "loop_query_start", "page_table", "loop_kv_len"))
        )
        names = {"sample_positions": "position", "entropy": "norm", "token_class": "out_class"}
        names |= {name: f"loop_{name}" for name in ("token_ids", "positions", "slots", "kv_len")}
        fields = [name for name, kind in abi.CLoopState._fields_ if kind is ctypes.c_void_p]
        flags = {name: self.at("flags") + 4 * i for i, name in enumerate(("num_done", "is_over", "stop"))}
        addresses = {name: self.at(names.get(name, name)) for name in fields if name not in flags}
        sizes = {"max_pages": 2, "page_size": SIZE, "num_states": NUM_STATES, "num_classes": NUM_CLASSES}
        return batch, abi.CLoopState(**addresses, **flags, **sizes, most_ticks=MOST_TICKS)

    def decoder(self):
        shapes = {"q": (H * HEAD, D), "k": (HK * HEAD, D), "v": (HK * HEAD, D), "output": (D, H * HEAD)}
        shapes |= {"gate": (F, D), "up": (F, D), "down": (D, F)}
        norms = {name: self.at("norm") for name in ("input_norm", "q_norm", "k_norm", "mlp_norm")}
        self.layers = (abi.CLayer * 1)(abi.CLayer(**norms, **{n: self.weight(*s) for n, s in shapes.items()}))
        sizes = (1, D, F, H, HK, HEAD, V, POSITIONS, 1e-6)
        vocabulary = (self.weight(V, D), self.weight(V, D))
        return abi.CDecoder(*sizes, self.layers, self.at("norm"), self.at("cos_sin"), *vocabulary)

    def all(self):
        """Name -> sound arguments. Structures are passed as they are, and pointed to when the function is called."""
        cpu, at = self.cpu, self.at
        heads = (H, HK, HEAD)
        batch, loop = self.loop()
        return {
            "glimp_pack": [cpu, abi.TYPES["Q4_0"], at("rows"), 16, 64, at("packed")],
            "glimp_embed": [cpu, at("token_ids"), T, self.weight(V, D), at("out")],
            "glimp_rms_norm": [cpu, at("x"), T, D, at("norm"), 1e-6, at("out")],
            "glimp_linear": [cpu, at("x"), T, self.weight(F, D), at("out"), F, 0],
            "glimp_rope_and_store": [
                *(cpu, at("x"), *heads, at("cos_sin"), POSITIONS, at("norm"), at("norm"), 1e-6),
                *(self.batch(), self.kv()),
            ],
            "glimp_paged_attention": [cpu, at("x"), H * HEAD, *heads, 0.3, self.batch(), self.kv(), at("out")],
            "glimp_silu_mul": [cpu, at("x"), T, D, at("out")],
            "glimp_sample": [
                *(cpu, at("x"), 2, V, V, self.sampling(), at("token_class")),
                *(at("token"), at("out"), at("norm"), at("out_class")),
            ],
            "glimp_philox": [at("counter"), at("key"), at("words")],
            "glimp_forward": [
                *(cpu, self.decoder(), at("token_ids"), self.batch(), at("logit_rows"), 2, V),
                *(self.kv(), at("out")),
            ],
            "glimp_decode": [
                *(cpu, self.decoder(), batch, at("loop_rows"), V, self.kv(), at("out")),
                *(at("forbidden_ids"), 2, self.sampling(), at("token_class"), loop),
            ],
        }

    def call(self, name, arguments):
        pointed = [ctypes.byref(each) if isinstance(each, ctypes.Structure) else each for each in arguments]
        return getattr(self.library, name)(*pointed)


def wrong_values(value, kind):
    """What may stand in an argument's or a field's place and is certainly wrong."""
    if isinstance(value, ctypes.c_void_p) or kind is ctypes.c_void_p:
        return [None]
    if kind is ctypes.c_int64:
        return list(HUGE)
    return []


def mutations(calls, name):
    """(description, arguments) of calls with one wrong argument, field or value in an array."""
    for i, value in enumerate(calls.all()[name]):
        kind = abi.SIGNATURES[name][i]
        for wrong in wrong_values(value, kind):
            if name == "glimp_rope_and_store" and i in (7, 8):  # the norms of the heads, which not every model has
                continue
            arguments = calls.all()[name]
            arguments[i] = wrong
            yield f"{name}: argument {i} = {wrong}", arguments
        if isinstance(value, ctypes.Structure):
            arguments = calls.all()[name]
            arguments[i] = None
            yield f"{name}: argument {i} is null", arguments
            yield from wrong_fields(calls, name, i)


def wrong_fields(calls, name, i):
    for path, kind in fields_of(calls.all()[name][i]):
        wrongs = [99, -1] if path[-1] == "type" else wrong_values(None, kind)
        for wrong in wrongs:
            if path[-1] in ("bias", "q_norm", "k_norm", "token_mask"):
                continue
            arguments = calls.all()[name]
            *parents, last = path
            owner = arguments[i]
            for parent in parents:
                owner = owner[parent] if isinstance(parent, int) else getattr(owner, parent)
            setattr(owner, last, wrong)
            yield f"{name}: argument {i}{path} = {wrong}", arguments


def fields_of(struct, path=()):
    for name, kind in struct._fields_:
        value = getattr(struct, name)
        if isinstance(value, ctypes.Structure):
            yield from fields_of(value, (*path, name))
        elif isinstance(value, ctypes._Pointer):
            yield (*path, name), ctypes.c_void_p
            yield from fields_of(value[0], (*path, name, 0))
        else:
            yield (*path, name), kind


def wrong_arrays(calls, name):
    used = {array for array in VALUES if name in USES[array]}
    for array in sorted(used):
        values = calls.arrays[array]
        for i in range(len(values)):
            for wrong in VALUES[array]:
                sound = values[i]
                with np.errstate(all="ignore"):
                    values[i] = wrong
                calls.is_wrong = True
                yield f"{name}: {array}[{i}] = {wrong}", calls.all()[name]
                values[i], calls.is_wrong = sound, False


BATCH = ("glimp_rope_and_store", "glimp_forward")
PAGED = ("glimp_paged_attention", "glimp_forward")
USES = {
    **dict.fromkeys(("positions", "slots"), BATCH),
    **dict.fromkeys(("query_start", "page_table", "kv_len"), PAGED),
    "token_ids": ("glimp_embed", "glimp_forward"),
    "logit_rows": ("glimp_forward",),
    **dict.fromkeys(("state", "control"), ("glimp_decode",)),
    **dict.fromkeys(
        (*(name for name in VALUES if name.startswith(("seen", "bias", "temp", "top", "min", "rep", "pres", "freq"))),),
        ("glimp_sample",),
    ),
}
# what a function doesn't look at: pages behind a sequence's end, how many ticks were done before, the other op's fields
HARMLESS = (
    *("page_table[1]", "page_table[3]", "glimp_decode: control[2]"),
    *(f"glimp_rope_and_store: argument 10('{name}'" for name in ("num_sequences", "max_pages")),
    *(f"glimp_rope_and_store: argument 10('{name}'" for name in ("query_start", "page_table", "kv_len")),
    *(f"glimp_paged_attention: argument 7('{name}'" for name in ("positions", "slots")),
)


def main():
    library = os.environ.get("GLIMP_LIBRARY")
    calls = Calls(abi.load_library(Path(library) if library else None))
    num_calls, taken = 0, []
    for name, arguments in calls.all().items():
        assert calls.call(name, arguments) == 0, f"{name} refuses sound arguments"
        for source in (mutations, wrong_arrays):
            for what, wrong in source(calls, name):
                num_calls += 1
                print(what, flush=True)  # the last one, should it crash
                if calls.call(name, wrong) == 0 and not any(each in what for each in HARMLESS):
                    taken.append(what)
        assert calls.call(name, calls.all()[name]) == 0
    calls.library.glimp_cpu_destroy(calls.cpu)
    print(f"{num_calls} calls; taken: {taken}")
    return 1 if taken else 0


if __name__ == "__main__":
    sys.exit(main())
