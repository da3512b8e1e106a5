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
NUM_READS = 4  # of the whole buffer in one sample
NUM_MULTIPLY_PASSES = 20_000_000  # of 12 instructions: about 50 ms

Ceilings = dict[str, Any]  # floats by name; None where the processor lacks the instruction


class CeilingProbe:
    """Samples the ceilings as often as it's asked to; a benchmark asks once in every round."""

    def __init__(self, num_threads: int) -> None:
        self.num_threads = num_threads
        self._library = compiled()
        self._samples: dict[str, list[float]] = {}

    def sample(self) -> None:
        """One more sample of each.

        Cost:   about 1.5 s, most of it for writing the two buffers.
        """
        for is_huge, name in ((1, "read_bytes_per_s_huge_pages"), (0, "read_bytes_per_s_normal_pages")):
            self._add(name, self._read_bandwidth(is_huge))
        for name, kind in KINDS.items():
            num_ops = self._library.ops_of_pass(kind) * NUM_MULTIPLY_PASSES * self.num_threads
            if num_ops:
                seconds = self._library.seconds_of(kind, self.num_threads, None, 0, NUM_MULTIPLY_PASSES)
                self._add(f"{name}_ops_per_s", num_ops / seconds)

    def ceilings(self) -> Ceilings:
        """Medians of the samples: bytes/s, and operations/s of all threads together."""
        medians: Ceilings = {f"{name}_ops_per_s": None for name in KINDS}
        medians |= {name: statistics.median(values) for name, values in self._samples.items()}
        reads = [value for name, value in medians.items() if name.startswith("read_") and value is not None]
        return {"read_bytes_per_s": max(reads), **medians, "num_samples": len(next(iter(self._samples.values())))}

    def _read_bandwidth(self, is_huge: int) -> float:
        buffer = self._library.make_buffer(BUFFER_BYTES, is_huge)
        if not buffer:
            raise MemoryError(f"{BUFFER_BYTES} bytes for the measurement of the bandwidth")
        try:
            seconds = self._library.seconds_of(READ, self.num_threads, buffer, BUFFER_BYTES, NUM_READS)
        finally:
            self._library.free_buffer(buffer)
        return NUM_READS * BUFFER_BYTES / seconds

    def _add(self, name: str, value: float) -> None:
        self._samples.setdefault(name, []).append(value)


def measure_ceilings(num_threads: int, num_samples: int = 3) -> Ceilings:
    """The ceilings once, for a benchmark of less than a minute."""
    probe = CeilingProbe(num_threads)
    for _ in range(num_samples):
        probe.sample()
    return probe.ceilings()


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
