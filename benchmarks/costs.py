"""What a token of a GGUF model costs: bytes read, operations, K/V."""

import math
from dataclasses import dataclass
from pathlib import Path

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from glimp_engine.checkpoints.gguf_header import read_gguf_header

EMBEDDING, HEAD = "token_embd.weight", "output.weight"


@dataclass(frozen=True)
class ModelCost:
    """Counted from the file's own tensors."""

    file_bytes: int
    weight_bytes: int  # read for a forward: all tensors but an embedding table that isn't the head as well
    body_ops: int  # of a token through the layers: 2 for each weight
    head_ops: int  # of a row of logits
    kv_elements: int  # keys and values of a token

    def forward_ops(self, num_tokens: int, num_rows: int = 1) -> int:
        """Operations of the matrices in a forward; attention itself is not counted."""
        return num_tokens * self.body_ops + num_rows * self.head_ops


def cost_of(path: Path) -> ModelCost:
    """The costs of a model.

    Raises: CheckpointError when the file is no GGUF file.
    """
    header = read_gguf_header(path)
    tensors = {tensor.name: tensor for tensor in header.tensors}
    head = tensors.get(HEAD, tensors[EMBEDDING])
    read = [tensor for tensor in header.tensors if tensor is head or tensor.name != EMBEDDING]
    num_bytes = 0
    for tensor in read:
        block_size, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType(tensor.ggml_type)]
        num_bytes += math.prod(tensor.shape) // block_size * block_bytes
    matrices = [tensor for tensor in read if len(tensor.shape) == 2 and tensor is not head]
    keys = tensors["blk.0.attn_k.weight"].shape[0]
    num_layers = header.metadata[f"{header.metadata['general.architecture']}.block_count"]
    return ModelCost(
        file_bytes=path.stat().st_size,
        weight_bytes=num_bytes,
        body_ops=2 * sum(math.prod(tensor.shape) for tensor in matrices),
        head_ops=2 * math.prod(head.shape),
        kv_elements=2 * num_layers * keys,
    )
