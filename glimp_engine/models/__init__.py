"""A model: its decoder on PyTorch's or Triton's ops and its native twin, weights as the ops read them, K/V tensors.

It may import `checkpoints`, `kernels` and what lies below.
"""

from glimp_engine.models.decoder import Decoder
from glimp_engine.models.kv_store import KVLayout, KVStore, num_pages_within
from glimp_engine.models.native_decoder import NativeDecoder
from glimp_engine.models.native_weights import read_weights

__all__ = [
    "Decoder",
    "KVLayout",
    "KVStore",
    "NativeDecoder",
    "num_pages_within",
    "read_weights",
]
