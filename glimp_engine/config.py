"""The engine's own settings, checked, and what `auto` stands for."""

import math
import os
from dataclasses import dataclass

import torch

from glimp_engine.errors import ConfigError, check_choice, check_integer
from glimp_engine.kernels import Ops, has_step_loop
from glimp_engine.kernels.native import NativeOps
from glimp_engine.kernels.reference import ReferenceOps

__all__ = ["EngineConfig"]

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16, "float16": torch.float16}
NATIVE_DTYPES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}  # and GGUF's names of them
MAX_TICKS = 16  # of a launch that decodes without the host
MAX_LAUNCH_SECONDS = 0.03  # on a CPU, where it's over when it can be looked at: text appears 30 times a second
CPU_KV_CACHE_BYTES = 2 << 30
CUDA_KV_CACHE_SHARE = 0.9  # of the memory that is free once the weights are loaded


@dataclass(frozen=True)
class EngineConfig:
    """Settings that hold for all requests of an engine.

    Raises: ConfigError that names the argument, the value and what is allowed.
    """

    device: str = "auto"
    dtype: str = "auto"
    ops: str = "auto"
    quantization: str | None = None
    num_threads: int | None = None
    kv_cache_bytes: int | None = None
    page_size: int = 16
    max_model_len: int | None = None
    max_batch_size: int = 64
    max_batch_tokens: int = 512
    batch_invariant: bool = False
    enforce_eager: bool = False
    loop: str = "auto"
    skip_code_fences: bool = False

    def __post_init__(self) -> None:
        check_choice("dtype", self.dtype, ("auto", *DTYPES))
        check_choice("ops", self.ops, ("auto", "reference", "native", "triton"))
        check_choice("loop", self.loop, ("auto", "device", "host"))
        check_integer("page_size", self.page_size, 1, 1024)
        check_integer("max_batch_size", self.max_batch_size, 1, 4096)
        # so that a tick always has room for one token of each sequence
        check_integer("max_batch_tokens", self.max_batch_tokens, self.max_batch_size)
        if self.kv_cache_bytes is not None:
            check_integer("kv_cache_bytes", self.kv_cache_bytes, 1)
        if self.max_model_len is not None:
            check_integer("max_model_len", self.max_model_len, 2)
        if self.num_threads is not None:
            check_integer("num_threads", self.num_threads, 1, 1024)
        if self.quantization is not None:
            check_choice("quantization", self.quantization, ("int8", "int4"))
        self._check_op_set()

    def _check_op_set(self) -> None:
        """Raise ConfigError if the op set can't do what is asked of it."""
        if self.loop == "device" and not (self.is_native or (self.has_graphs and has_step_loop())):
            raise ConfigError(
                f"loop is 'device' on device {self.torch_device} with ops {self.ops!r}; allowed there: auto, host (a "
                "loop on the device takes native ops, or a GPU, triton ops, and glimp_engine built with nvcc)"
            )
        if self.ops == "native" and self.torch_device.type != "cpu":
            raise ConfigError(f"ops is 'native' on device {self.torch_device}; allowed there: auto, triton, reference")
        if self.ops == "triton" and self.torch_device.type == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
            raise ConfigError(
                "ops is 'triton' on device cpu; allowed there: auto, native, reference (or with TRITON_INTERPRET=1)"
            )
        if self.is_triton and self.dtype == "float64":
            raise ConfigError(
                "dtype is 'float64' with triton ops; allowed: auto, bfloat16, float16, float32, or ops='reference'"
            )
        if self.batch_invariant and not (self.is_triton or self.is_native):
            raise ConfigError("batch_invariant is True with reference ops; allowed: False, or other ops")
        if self.is_native and self.dtype not in ("auto", *NATIVE_DTYPES):
            raise ConfigError(
                f"dtype is {self.dtype!r} with native ops; allowed: auto, {', '.join(NATIVE_DTYPES)}, "
                "or ops='reference'"
            )
        if self.quantization is not None and not self.is_native:
            raise ConfigError(f"quantization is {self.quantization!r} without native ops; allowed: None")

    @property
    def torch_device(self) -> torch.device:
        """The device; `auto` is the first CUDA device, else the CPU."""
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        try:
            device = torch.device(self.device)
        except (RuntimeError, TypeError):
            raise ConfigError(f"device is {self.device!r}; allowed: auto, cpu, cuda, cuda:N") from None
        if device.type not in ("cpu", "cuda") or (device.type == "cuda" and not torch.cuda.is_available()):
            raise ConfigError(f"device is {self.device!r}; available here: {', '.join(available_devices())}")
        return device

    @property
    def is_native(self) -> bool:
        """Whether the op set is the native one, which `auto` means on a CPU."""
        return self.ops == "native" or (self.ops == "auto" and self.torch_device.type == "cpu")

    @property
    def is_triton(self) -> bool:
        """Whether the op set is Triton's, which `auto` means on a GPU."""
        return self.ops == "triton" or (self.ops == "auto" and self.torch_device.type == "cuda")

    @property
    def has_graphs(self) -> bool:
        """Whether a tick is a CUDA graph."""
        return self.is_triton and self.torch_device.type == "cuda" and not self.enforce_eager

    @property
    def runs_ahead(self) -> bool:
        """Whether decoding goes on without the host; `auto` means that it does where the library for it was built."""
        return self.loop != "host" and (self.is_native or (self.has_graphs and has_step_loop()))

    @property
    def max_ticks(self) -> int:
        """Of a launch that decodes without the host."""
        return MAX_TICKS if self.runs_ahead else 1

    @property
    def max_launch_seconds(self) -> float:
        """How long a launch may take; a GPU's can be followed while it goes on."""
        return math.inf if self.torch_device.type == "cuda" else MAX_LAUNCH_SECONDS

    @property
    def native_dtype(self) -> str | None:
        """The type of the native ops' matrices; None leaves each as it's stored, which is what `auto` means."""
        return NATIVE_DTYPES.get(self.dtype)

    @property
    def torch_dtype(self) -> torch.dtype | None:
        """The reference's weights' and K/V's dtype; None is the checkpoint's own, which `auto` means on a GPU."""
        if self.dtype == "auto":
            return torch.float32 if self.torch_device.type == "cpu" else None
        return DTYPES[self.dtype]

    def make_ops(self) -> Ops:
        """The op set that `ops` names."""
        if self.is_native:
            return NativeOps(self.num_threads)
        if self.is_triton:
            from glimp_engine.kernels.gpu.ops import TritonOps  # Triton is there on Linux only

            return TritonOps(self.torch_device, self.batch_invariant, self.page_size)
        return ReferenceOps()

    def kv_budget_bytes(self) -> int:
        """Bytes for both models' K/V."""
        if self.kv_cache_bytes is not None:
            return self.kv_cache_bytes
        if self.torch_device.type == "cpu":
            return CPU_KV_CACHE_BYTES
        free_bytes, _ = torch.cuda.mem_get_info(self.torch_device)
        return int(free_bytes * CUDA_KV_CACHE_SHARE)


def available_devices() -> list[str]:
    """The names that `device` may have on this machine."""
    return ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
