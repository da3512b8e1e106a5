"""The decoder on the native ops: a whole forward is one call of the library."""

import torch
from torch import Tensor

from glimp_engine.checkpoints import FREQ_FACTORS, ModelConfig
from glimp_engine.kernels import Attention, Sampling
from glimp_engine.kernels.abi import CAttention, CDecoder, CLayer, CLoopState, CWeight, check_error
from glimp_engine.kernels.native import NativeOps
from glimp_engine.models.kv_store import KVLayout, KVStore
from glimp_engine.models.native_weights import NativeWeight, NativeWeights

__all__ = ["NativeDecoder"]

MATRICES = {
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "output": "self_attn.o_proj",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}
NORMS = {
    "input_norm": "input_layernorm",
    "q_norm": "self_attn.q_norm",
    "k_norm": "self_attn.k_norm",
    "mlp_norm": "post_attention_layernorm",
}


class NativeDecoder:
    """A decoder on the CPU. Its activations are float32; K/V is float32 if all its matrices are, else float16."""

    device = torch.device("cpu")

    def __init__(self, config: ModelConfig, weights: NativeWeights, ops: NativeOps) -> None:
        self.config = config
        self.ops = ops
        self.weights = weights  # what the structs point to
        by_name = weights.by_name
        is_float32 = all(weight.type == "F32" for weight in by_name.values())
        factors = by_name.get(FREQ_FACTORS)
        self.kv_layout = KVLayout(
            torch.float32 if is_float32 else torch.float16,
            are_keys_transposed=True,
            freq_factors=None if factors is None else factors.data,
        )
        embedding = by_name["model.embed_tokens.weight"]
        head = embedding if config.tied_embeddings else by_name["lm_head.weight"]
        total_bytes = sum(weight.data.nbytes for weight in by_name.values())
        # a forward of one token reads one row of an embedding that isn't the head too
        self.weight_bytes = total_bytes - (0 if head is embedding else embedding.data.nbytes)
        self._layers = (CLayer * config.num_layers)(*(layer_struct(by_name, i) for i in range(config.num_layers)))
        self._struct = CDecoder(
            num_layers=config.num_layers,
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_heads=config.num_heads,
            num_kv_heads=config.num_kv_heads,
            head_dim=config.head_dim,
            vocab_size=config.vocab_size,
            rms_norm_eps=config.rms_norm_eps,
            layers=self._layers,
            norm=by_name["model.norm.weight"].data.data_ptr(),
            embedding=embedding.struct(),
            head=head.struct(),
        )
        self._logits = torch.empty(1, config.vocab_size)

    def forward(
        self, token_ids: Tensor, batch: Attention, logit_rows: Tensor, kv: KVStore, num_logits: int | None = None
    ) -> Tensor:
        """Logits of the asked rows, which hold until the next forward; the K/V of all tokens is stored.

        Shapes: token_ids [T] int64; logit_rows [R] int64, indices into T; result [R, V] fp32, or [R, num_logits], of
                the vocabulary's first tokens.
        Cost:   reads every weight once, of the head what is asked; a few us before and after the library's own time.
        Raises: ValueError, in the library's words, on an id, a slot or a row that isn't there.
        """
        num_rows = len(logit_rows)
        num_logits = self._make_room(num_rows, num_logits, kv)
        error = self.ops.library.glimp_forward(
            self.ops.cpu,
            self._struct,
            token_ids.data_ptr(),
            attention_struct(batch),
            logit_rows.data_ptr(),
            num_rows,
            num_logits,
            kv.structs,
            self._logits.data_ptr(),
        )
        check_error(self.ops.library, "forward", error)
        return self._logits.view(-1)[: num_rows * num_logits].view(num_rows, num_logits)

    def decode(
        self,
        batch: Attention,
        logit_rows: Tensor,
        kv: KVStore,
        sampling: Sampling,
        token_class: Tensor,
        forbidden_ids: Tensor,
        loop: CLoopState,
        num_logits: int | None = None,
    ) -> None:
        """Forward, sample and go on with what was drawn, until the loop is over; without the interpreter's lock.

        Shapes: a batch of one token a sequence; logit_rows [B] int64, ascending; token_class [V] uint8. The loop's
                inputs are the batch's own tensors, and the sampling's positions: it moves them on.
        Raises: ValueError, in the library's words, on what isn't there.
        """
        num_logits = self._make_room(len(logit_rows), num_logits, kv)
        error = self.ops.library.glimp_decode(
            self.ops.cpu,
            self._struct,
            attention_struct(batch),
            logit_rows.data_ptr(),
            num_logits,
            kv.structs,
            self._logits.data_ptr(),
            forbidden_ids.data_ptr(),
            len(forbidden_ids),
            self.ops.sampling_struct(sampling, len(logit_rows), num_logits),
            token_class.data_ptr(),
            loop,
        )
        check_error(self.ops.library, "decode", error)

    def _make_room(self, num_rows: int, num_logits: int | None, kv: KVStore) -> int:
        """See to it that so many rows of logits have room; how many of the vocabulary's first tokens they have."""
        if num_rows > len(self._logits):
            self._logits = torch.empty(num_rows, self.config.vocab_size)
        self._struct.num_positions, self._struct.cos_sin = len(kv.cos_sin), kv.cos_sin.data_ptr()
        return min(num_logits or self.config.vocab_size, self.config.vocab_size)


def attention_struct(batch: Attention) -> CAttention:
    """The batch's addresses; valid as long as its tensors are."""
    num_sequences, max_pages = batch.page_table.shape
    names = ("positions", "slots", "query_start", "page_table", "kv_len")
    addresses = (getattr(batch, name).data_ptr() for name in names)
    return CAttention(len(batch.positions), num_sequences, max_pages, *addresses)


def layer_struct(by_name: dict[str, NativeWeight], i: int) -> CLayer:
    """glimp_layer of layer i."""
    layer = f"model.layers.{i}."

    def norm(name: str) -> int | None:
        weight = by_name.get(f"{layer}{name}.weight")
        return None if weight is None else weight.data.data_ptr()

    def matrix(name: str) -> CWeight:
        return by_name[f"{layer}{name}.weight"].struct(by_name.get(f"{layer}{name}.bias"))

    return CLayer(
        **{field: norm(name) for field, name in NORMS.items()},
        **{field: matrix(name) for field, name in MATRICES.items()},
    )
