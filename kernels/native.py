"""The ops in C++ for CPUs, behind the C ABI of csrc/glimp.h. What has no native op yet is the reference's."""

import ctypes
from pathlib import Path

import torch
from torch import Tensor

from glimp_engine.errors import ConfigError
from glimp_engine.kernels import Samples, Sampling
from glimp_engine.kernels.reference import ReferenceOps

__all__ = ["NativeOps", "load_library"]

LIBRARY = Path(__file__).parent / "libglimp.so"
ABI_VERSION = 1
SAMPLING_FIELDS = {
    "temperature": torch.float32,
    "top_k": torch.int32,
    "top_p": torch.float32,
    "min_p": torch.float32,
    "repetition_penalty": torch.float32,
    "presence_penalty": torch.float32,
    "frequency_penalty": torch.float32,
    "seed": torch.int64,
    "sequence_index": torch.int32,
    "position": torch.int64,
    "seen_start": torch.int32,
    "seen_ids": torch.int64,
    "seen_counts": torch.int32,
}


class CSampling(ctypes.Structure):
    """glimp_sampling."""

    _fields_ = [(name, ctypes.c_void_p) for name in SAMPLING_FIELDS]


def load_library(path: Path = LIBRARY) -> ctypes.CDLL:
    """The shared library with its functions' types declared.

    Raises: ConfigError when it's missing, or was built for another version of this package.
    """
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise ConfigError(
            f"ops is 'native', and {path.name} can't be loaded ({error}): build it with `pip install -e .`, "
            "or use ops='reference'"
        ) from error
    version = library.glimp_abi_version()
    if version != ABI_VERSION:
        raise ConfigError(f"{path} has ABI version {version}, expected {ABI_VERSION}: build it anew")
    pointer, size = ctypes.c_void_p, ctypes.c_int64
    library.glimp_sample.argtypes = [pointer, size, size, size, ctypes.POINTER(CSampling), *[pointer] * 5]
    library.glimp_philox.argtypes = [pointer, pointer, pointer]
    library.glimp_error_string.argtypes = [ctypes.c_int32]
    library.glimp_error_string.restype = ctypes.c_char_p
    return library


class NativeOps(ReferenceOps):
    """The CPU's op set."""

    name = "native"

    def __init__(self) -> None:
        self._library = load_library()

    def sample(self, logits: Tensor, params: Sampling, token_class: Tensor) -> Samples:
        """One token a row, see `Ops.sample`; float32 logits on the CPU, other dtypes go the reference's way.

        Raises: ValueError on a shape, dtype or device that doesn't fit, naming the argument.
        """
        if logits.dtype != torch.float32:
            return super().sample(logits, params, token_class)
        num_rows, vocab_size = logits.shape
        if logits.stride(1) != 1 and vocab_size > 1:
            raise ValueError(f"logits has strides {logits.stride()}; allowed: the last dim contiguous")
        check("token_class", token_class, torch.uint8, vocab_size)
        columns = CSampling(*(check_column(params, name, num_rows) for name in SAMPLING_FIELDS))
        samples = Samples(
            token=torch.empty(num_rows, dtype=torch.int64),
            entropy=torch.empty(num_rows, dtype=torch.float32),
            logprob=torch.empty(num_rows, dtype=torch.float32),
            token_class=torch.empty(num_rows, dtype=torch.uint8),
        )
        error = self._library.glimp_sample(
            logits.data_ptr(),
            num_rows,
            vocab_size,
            max(logits.stride(0), vocab_size),
            columns,
            token_class.data_ptr(),
            *(out.data_ptr() for out in (samples.token, samples.entropy, samples.logprob, samples.token_class)),
        )
        if error:
            raise ValueError(f"sample: {self._library.glimp_error_string(error).decode()}")
        return samples


def check_column(params: Sampling, name: str, num_rows: int) -> int:
    """Address of one field of the sampling parameters."""
    column: Tensor = getattr(params, name)
    if name in ("seen_ids", "seen_counts"):
        num_entries = int(params.seen_start[-1])
    else:
        num_entries = num_rows + (name == "seen_start")
    return check(f"params.{name}", column, SAMPLING_FIELDS[name], num_entries)


def check(name: str, tensor: Tensor, dtype: torch.dtype, num_entries: int) -> int:
    """Address of a contiguous vector on the CPU."""
    found = (tensor.dtype, tuple(tensor.shape), tensor.device.type)
    if found != (dtype, (num_entries,), "cpu") or not tensor.is_contiguous():
        raise ValueError(f"{name} is {found}; allowed: {(dtype, (num_entries,), 'cpu')}, contiguous")
    return tensor.data_ptr()
