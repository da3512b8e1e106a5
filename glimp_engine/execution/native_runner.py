"""A runner whose model decodes on within the native library: a launch is one call, and is over when it comes back."""

from functools import partial

import torch
from torch import Tensor

from glimp_engine.execution.batch import Batch
from glimp_engine.execution.run_ahead import DecodeLoop, loop_inputs, loop_state
from glimp_engine.execution.runner import ModelRunner, Ticks
from glimp_engine.kernels.native import NativeOps
from glimp_engine.models import KVStore, NativeDecoder
from glimp_engine.text import BoundaryTable

__all__ = ["NativeRunner"]


class NativeRunner(ModelRunner):
    """A runner on the CPU. What a launch reads are the batch's own tensors, and of as many rows as there are."""

    def __init__(
        self,
        model: NativeDecoder,
        ops: NativeOps,
        kv: KVStore,
        token_class: Tensor,
        forbidden_ids: Tensor,
        boundaries: BoundaryTable,
        max_ticks: int,
    ) -> None:
        super().__init__(model, ops, kv, token_class, forbidden_ids)
        self._decoder, self._boundaries, self.max_ticks = model, boundaries, max_ticks
        self._loops: dict[int, DecodeLoop] = {}  # by number of rows

    @torch.inference_mode()
    def start(self, batch: Batch, max_ticks: int) -> Ticks:
        """As ModelRunner.start."""
        if max_ticks == 1 or not batch.can_run_ahead:
            return super().start(batch, max_ticks)
        num_rows = len(batch.rows)
        if num_rows not in self._loops:
            self._loops[num_rows] = DecodeLoop(num_rows, self._boundaries, self.max_ticks, self.model.device)
        loop = self._loops[num_rows]
        loop.begin(num_rows, partial(self._decode, batch, max_ticks, loop))
        return loop

    def _decode(self, batch: Batch, max_ticks: int, loop: DecodeLoop) -> None:
        """Run the loop to its end."""
        inputs = {
            "token_ids": batch.token_ids,
            "position": batch.sampling.position,
            **vars(batch.attention),
            **loop_inputs(batch.rows, max_ticks),
        }
        self._decoder.decode(
            batch.attention,
            batch.logit_rows,
            self.kv,
            batch.sampling,
            self._token_class,
            self._forbidden_ids,
            loop_state(loop, inputs, self.kv.page_size),
            batch.num_logits,
        )
