"""csrc/glimp.h in ctypes: the structs, the numbers, and the library with its functions' types declared."""

import ctypes
from pathlib import Path

from glimp_engine.errors import ConfigError

__all__ = [
    "CKV",
    "PATHS",
    "TYPES",
    "CAttention",
    "CDecoder",
    "CLayer",
    "CLoopState",
    "CSampling",
    "CWeight",
    "check_error",
    "load_library",
]

LIBRARY = Path(__file__).parent / "libglimp.so"
ABI_VERSION = 6

PATHS = {"best": 0, "portable": 1, "avx2": 2, "avx512": 3, "avx512_vnni": 4, "avx512_bf16": 5}
TYPES = {
    "F32": 0,
    "F16": 1,
    "Q4_0": 2,
    "Q4_1": 3,
    "Q5_0": 6,
    "Q5_1": 7,
    "Q8_0": 8,
    "Q4_K": 12,
    "Q5_K": 13,
    "Q6_K": 14,
    "BF16": 30,
}

POINTER, SIZE, INT, FLOAT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32, ctypes.c_float


class CWeight(ctypes.Structure):
    """glimp_weight."""

    _fields_ = [("data", POINTER), ("bias", POINTER), ("n", SIZE), ("k", SIZE), ("type", INT)]


class CAttention(ctypes.Structure):
    """glimp_attention."""

    _fields_ = [
        ("num_tokens", SIZE),
        ("num_sequences", SIZE),
        ("max_pages", SIZE),
        ("positions", POINTER),
        ("slots", POINTER),
        ("query_start", POINTER),
        ("page_table", POINTER),
        ("kv_len", POINTER),
    ]


class CKV(ctypes.Structure):
    """glimp_kv."""

    _fields_ = [("keys", POINTER), ("values", POINTER), ("num_pages", SIZE), ("page_size", SIZE), ("type", INT)]


class CSampling(ctypes.Structure):
    """glimp_sampling."""

    _fields_ = [
        (name, POINTER)
        for name in (
            "temperature",
            "top_k",
            "top_p",
            "min_p",
            "repetition_penalty",
            "presence_penalty",
            "frequency_penalty",
            "seed",
            "sequence_index",
            "position",
            "seen_start",
            "seen_ids",
            "seen_counts",
            "bias_start",
            "bias_ids",
            "bias_values",
            "listed_only",
            "token_mask",
        )
    ]


class CLayer(ctypes.Structure):
    """glimp_layer."""

    _fields_ = [
        *((name, POINTER) for name in ("input_norm", "q_norm", "k_norm", "mlp_norm")),
        *((name, CWeight) for name in ("q", "k", "v", "output", "gate", "up", "down")),
    ]


class CDecoder(ctypes.Structure):
    """glimp_decoder."""

    _fields_ = [
        ("num_layers", SIZE),
        ("hidden_size", SIZE),
        ("intermediate_size", SIZE),
        ("num_heads", SIZE),
        ("num_kv_heads", SIZE),
        ("head_dim", SIZE),
        ("vocab_size", SIZE),
        ("num_positions", SIZE),
        ("rms_norm_eps", FLOAT),
        ("layers", ctypes.POINTER(CLayer)),
        ("norm", POINTER),
        ("cos_sin", POINTER),
        ("embedding", CWeight),
        ("head", CWeight),
    ]


class CLoopState(ctypes.Structure):
    """glimp_loop_state."""

    _fields_ = [
        *((name, POINTER) for name in ("token_ids", "positions", "slots", "sample_positions", "kv_len", "page_table")),
        *((name, SIZE) for name in ("max_pages", "page_size")),
        *((name, POINTER) for name in ("token", "entropy", "logprob", "token_class", "next_state", "completes")),
        *((name, SIZE) for name in ("num_states", "num_classes")),
        *((name, POINTER) for name in ("state", "awaits_glimpse", "small_below", "ends_at_step", "min_logprob")),
        *((name, POINTER) for name in ("control", "samples", "num_done", "is_over", "stop")),
        ("most_ticks", SIZE),
    ]


WEIGHT, ATTENTION, KV = (ctypes.POINTER(struct) for struct in (CWeight, CAttention, CKV))
SIGNATURES = {
    "glimp_cpu_create": [INT, INT, ctypes.POINTER(POINTER)],
    "glimp_cpu_path": [POINTER],
    "glimp_pack": [POINTER, INT, POINTER, SIZE, SIZE, POINTER],
    "glimp_embed": [POINTER, POINTER, SIZE, WEIGHT, POINTER],
    "glimp_rms_norm": [POINTER, POINTER, SIZE, SIZE, POINTER, FLOAT, POINTER],
    "glimp_linear": [POINTER, POINTER, SIZE, WEIGHT, POINTER, SIZE, INT],
    "glimp_rope_and_store": [
        *[POINTER, POINTER, SIZE, SIZE, SIZE, POINTER, SIZE, POINTER, POINTER, FLOAT],
        *[ATTENTION, KV],
    ],
    "glimp_paged_attention": [POINTER, POINTER, SIZE, SIZE, SIZE, SIZE, FLOAT, ATTENTION, KV, POINTER],
    "glimp_silu_mul": [POINTER, POINTER, SIZE, SIZE, POINTER],
    "glimp_sample": [POINTER, POINTER, SIZE, SIZE, SIZE, ctypes.POINTER(CSampling), *[POINTER] * 5],
    "glimp_philox": [POINTER, POINTER, POINTER],
    "glimp_forward": [
        *[POINTER, ctypes.POINTER(CDecoder), POINTER, ATTENTION, POINTER, SIZE, SIZE],
        *[KV, POINTER],
    ],
    "glimp_decode": [
        *[POINTER, ctypes.POINTER(CDecoder), ATTENTION, POINTER, SIZE, KV, POINTER],
        *[POINTER, SIZE, ctypes.POINTER(CSampling), POINTER, ctypes.POINTER(CLoopState)],
    ],
}


def load_library(path: Path | None = None) -> ctypes.CDLL:
    """The shared library, LIBRARY by default, with its functions' types declared.

    Raises: ConfigError when it's missing, or was built for another version of this package.
    """
    path = path or LIBRARY
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
    for name, arguments in SIGNATURES.items():
        getattr(library, name).argtypes = arguments
    library.glimp_cpu_destroy.argtypes = [POINTER]
    library.glimp_cpu_destroy.restype = None
    library.glimp_packed_bytes.argtypes = [INT, SIZE, SIZE]
    library.glimp_packed_bytes.restype = SIZE
    library.glimp_error_string.argtypes = [INT]
    library.glimp_error_string.restype = ctypes.c_char_p
    return library


def check_error(library: ctypes.CDLL, op: str, code: int) -> None:
    """Raise ValueError with the library's own words unless the op went well."""
    if code:
        raise ValueError(f"{op}: {library.glimp_error_string(code).decode()}")
