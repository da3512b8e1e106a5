"""The machine's ceilings, measured beside what they are the ceilings of: memory's read bandwidth, the rates of the
arithmetic units.

The bandwidth is that of vector loads over a buffer much larger than the caches, in huge pages and in normal ones; the
higher one is the ceiling. A rate is that of one instruction on registers, and null where the processor lacks it.
"""

import ctypes
import statistics
import subprocess
import tempfile
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).parent / "ceilings.c"
READ, KINDS = 0, {"int8": 1, "bf16": 2, "fp32": 3}  # as in ceilings.c
BUFFER_BYTES = 1 << 30
NUM_READS = 2  # of the whole buffer in one sample
NUM_MULTIPLY_PASSES = 20_000_000  # of 12 instructions: about 30 ms

Sample = dict[str, float]  # by name; without the rates of instructions that the processor lacks
Ceilings = dict[str, Any]  # floats by name; None where the processor lacks the instruction


class CeilingProbe:
    """Samples the ceilings as often as it's asked to; a benchmark asks beside everything that it measures.

    Raises: MemoryError where there isn't room for the two buffers that are read.
    """

    def __init__(self, num_threads: int) -> None:
        self._num_threads = num_threads
        self._library = compiled()
        self._buffers: dict[str, int] = {}
        for is_huge, name in ((1, "read_bytes_per_s_huge_pages"), (0, "read_bytes_per_s_normal_pages")):
            buffer = self._library.make_buffer(BUFFER_BYTES, is_huge)
            if not buffer:
                raise MemoryError(f"{BUFFER_BYTES} bytes for the measurement of the bandwidth")
            self._buffers[name] = buffer

    def __enter__(self) -> "CeilingProbe":
        return self

    def __exit__(self, *_: object) -> None:
        for buffer in self._buffers.values():
            self._library.free_buffer(buffer)

    def sample(self) -> Sample:
        """Bytes/s and operations/s of all threads together.

        Cost:   about 0.3 s.
        """
        sample = {}
        for name, buffer in self._buffers.items():
            seconds = self._library.seconds_of(READ, self._num_threads, buffer, BUFFER_BYTES, NUM_READS)
            sample[name] = NUM_READS * BUFFER_BYTES / seconds
        for name, kind in KINDS.items():
            num_ops = self._library.ops_of_pass(kind) * NUM_MULTIPLY_PASSES * self._num_threads
            if num_ops:
                seconds = self._library.seconds_of(kind, self._num_threads, None, 0, NUM_MULTIPLY_PASSES)
                sample[f"{name}_ops_per_s"] = num_ops / seconds
        return sample


def ceilings_of(samples: list[Sample]) -> Ceilings:
    """Medians of the samples; read_bytes_per_s is the higher one of both kinds of pages."""
    ceilings: Ceilings = {f"{name}_ops_per_s": None for name in KINDS}
    ceilings |= {name: statistics.median(sample[name] for sample in samples) for name in samples[0]}
    reads = [value for name, value in ceilings.items() if name.startswith("read_")]
    return {"read_bytes_per_s": max(reads), **ceilings, "num_samples": len(samples)}


def measure_ceilings(num_threads: int, num_samples: int = 3) -> Ceilings:
    """The ceilings once, for a benchmark of less than a minute."""
    with CeilingProbe(num_threads) as probe:
        return ceilings_of([probe.sample() for _ in range(num_samples)])


def compiled() -> ctypes.CDLL:
    """ceilings.c as a shared library, for this machine's processor."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "ceilings.so"
        flags = ["-O3", "-march=native", "-Wno-psabi", "-pthread", "-shared", "-fPIC"]
        subprocess.run(["cc", *flags, "-o", path, SOURCE], check=True)
        library = ctypes.CDLL(str(path))
    library.make_buffer.argtypes = [ctypes.c_size_t, ctypes.c_int]
    library.make_buffer.restype = ctypes.c_void_p
    library.free_buffer.argtypes = [ctypes.c_void_p]
    library.free_buffer.restype = None
    library.ops_of_pass.argtypes = [ctypes.c_int]
    library.ops_of_pass.restype = ctypes.c_int64
    library.seconds_of.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int64]
    library.seconds_of.restype = ctypes.c_double
    return library
