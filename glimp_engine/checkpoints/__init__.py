"""What a checkpoint's files say: configuration, tensors and their names, which checkpoint it is.

It may import only `errors`. A checkpoint is a directory of safetensors in the hub's layout, or a `.gguf` file; above
this room only `text` knows which.
"""

from glimp_engine.checkpoints.checkpoint import load_checkpoint, locate, open_checkpoint
from glimp_engine.checkpoints.config import ModelConfig
from glimp_engine.checkpoints.fields import Fields, shown
from glimp_engine.checkpoints.files import check_file, read_json, reading
from glimp_engine.checkpoints.fingerprint import fingerprint
from glimp_engine.checkpoints.gguf_header import is_gguf, read_gguf_header
from glimp_engine.checkpoints.rope import RopeScaling
from glimp_engine.checkpoints.stored_tensor import FLOAT_TYPES, QUANTIZED_TYPES, StoredTensor
from glimp_engine.checkpoints.tensors import FREQ_FACTORS

__all__ = [
    "FLOAT_TYPES",
    "FREQ_FACTORS",
    "QUANTIZED_TYPES",
    "Fields",
    "ModelConfig",
    "RopeScaling",
    "StoredTensor",
    "check_file",
    "fingerprint",
    "is_gguf",
    "load_checkpoint",
    "locate",
    "open_checkpoint",
    "read_gguf_header",
    "read_json",
    "reading",
    "shown",
]
