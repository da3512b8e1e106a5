"""csrc/glimp_cuda.h in ctypes: the decoding loop that a GPU runs by itself."""

import ctypes

from glimp_engine.errors import ConfigError
from glimp_engine.kernels import STEP_LOOP_LIBRARY
from glimp_engine.kernels.abi import CLoopState

__all__ = ["StepLoop"]

ABI_VERSION = 3


def load_library() -> ctypes.CDLL:
    """The library with its functions' types.

    Raises: ConfigError when it's another version's.
    """
    library = ctypes.CDLL(str(STEP_LOOP_LIBRARY))
    library.glimp_cuda_error_string.restype = ctypes.c_char_p
    library.glimp_cuda_error_string.argtypes = [ctypes.c_int32]
    library.glimp_loop_create.argtypes = [ctypes.c_void_p, ctypes.POINTER(CLoopState), ctypes.c_int32, ctypes.c_void_p]
    library.glimp_loop_launch.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
    library.glimp_loop_destroy.argtypes = [ctypes.c_void_p]
    library.glimp_loop_destroy.restype = None
    found = library.glimp_cuda_abi_version()
    if found != ABI_VERSION:
        raise ConfigError(f"{STEP_LOOP_LIBRARY} has ABI version {found}; expected {ABI_VERSION}: build it again")
    return library


class StepLoop:
    """A recorded tick that is launched once and runs until its state says stop."""

    def __init__(self, raw_graph: int, state: CLoopState, num_rows: int) -> None:
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
