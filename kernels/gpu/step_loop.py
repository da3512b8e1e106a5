"""csrc/glimp_cuda.h in ctypes: the decoding loop that a GPU runs by itself."""

import ctypes

from torch import Tensor

from glimp_engine.errors import ConfigError
from glimp_engine.kernels import STEP_LOOP_LIBRARY

__all__ = ["LoopState", "StepLoop"]

ABI_VERSION = 2
FIELDS = (
    *("token_ids", "positions", "slots", "sample_positions", "kv_len"),
    *("token", "entropy", "logprob", "token_class", "next_state", "completes", "num_classes"),
    *("state", "awaits_glimpse", "small_below", "ends_at_step", "min_logprob", "control"),
    *("samples", "num_done", "is_over", "stop"),
)


class LoopState(ctypes.Structure):
    """glimp_loop_state."""

    _fields_ = [(name, ctypes.c_int32 if name == "num_classes" else ctypes.c_void_p) for name in FIELDS]

    @classmethod
    def of(cls, num_classes: int, **tensors: Tensor) -> "LoopState":
        """The addresses of the tensors, which must outlive it."""
        return cls(num_classes=num_classes, **{name: tensor.data_ptr() for name, tensor in tensors.items()})


def load_library() -> ctypes.CDLL:
    """The library with its functions' types.

    Raises: ConfigError when it's another version's.
    """
    library = ctypes.CDLL(str(STEP_LOOP_LIBRARY))
    library.glimp_cuda_error_string.restype = ctypes.c_char_p
    library.glimp_cuda_error_string.argtypes = [ctypes.c_int32]
    library.glimp_loop_create.argtypes = [ctypes.c_void_p, ctypes.POINTER(LoopState), ctypes.c_int32, ctypes.c_void_p]
    library.glimp_loop_launch.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
    library.glimp_loop_destroy.argtypes = [ctypes.c_void_p]
    library.glimp_loop_destroy.restype = None
    found = library.glimp_cuda_abi_version()
    if found != ABI_VERSION:
        raise ConfigError(f"{STEP_LOOP_LIBRARY} has ABI version {found}; expected {ABI_VERSION}: build it again")
    return library


class StepLoop:
    """A recorded tick that is launched once and runs until its state says stop."""

    def __init__(self, raw_graph: int, state: LoopState, num_rows: int) -> None:
        self._library = load_library()
        self._handle = ctypes.c_void_p()
        error = self._library.glimp_loop_create(raw_graph, ctypes.byref(state), num_rows, ctypes.byref(self._handle))
        self._check(error)

    def launch(self, stream: int) -> None:
        """Start it on a CUDA stream and come back at once."""
        self._check(self._library.glimp_loop_launch(self._handle, stream))

    def _check(self, error: int) -> None:
        if error:
            raise RuntimeError(f"the step loop: {self._library.glimp_cuda_error_string(error).decode()}")

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            self._library.glimp_loop_destroy(self._handle)
