"""The ops under the ragged forward: what they take and give. One `reference`, several implementations.

Shape letters, used everywhere: T tokens (ragged over B sequences), R logit rows, d hidden size, H query heads,
Hk KV heads, D head dim, V vocabulary, P pages, S page size.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from torch import Tensor

__all__ = ["STEP_LOOP_LIBRARY", "Attention", "Ops", "Samples", "Sampling", "has_step_loop"]

STEP_LOOP_LIBRARY = Path(__file__).parent / "libglimp_cuda.so"


def has_step_loop() -> bool:
    """Whether the library of the loop on the GPU was built, which takes CUDA's compiler."""
    return STEP_LOOP_LIBRARY.exists()


@dataclass(frozen=True)
class Attention:
    """What one ragged batch looks like to the ops that touch the K/V pages.

    Sequence b owns the query rows query_start[b] : query_start[b + 1], which stand at the positions
    kv_len[b] - (number of its rows) ... kv_len[b] - 1 of that sequence.
    """

    positions: Tensor  # [T] int64, position of each token in its sequence
    slots: Tensor  # [T] int64, page * S + offset: where each token's K/V is stored
    query_start: Tensor  # [B + 1] int32
    page_table: Tensor  # [B, max pages] int32, padded with 0
    kv_len: Tensor  # [B] int32, keys each sequence attends to, its new tokens included


@dataclass(frozen=True)
class Sampling:
    """Sampling parameters, one value a logit row."""

    temperature: Tensor  # [R] fp32, 0 is greedy
    top_k: Tensor  # [R] int32, 0 is off
    top_p: Tensor  # [R] fp32, 1 is off
    min_p: Tensor  # [R] fp32, 0 is off
    repetition_penalty: Tensor  # [R] fp32, 1 is off
    presence_penalty: Tensor  # [R] fp32, 0 is off
    frequency_penalty: Tensor  # [R] fp32, 0 is off
    seed: Tensor  # [R] int64
    sequence_index: Tensor  # [R] int32, which of the request's n sequences
    position: Tensor  # [R] int64, position the sampled token will have
    seen_start: Tensor  # [R + 1] int32, row r's seen tokens are seen_start[r] : seen_start[r + 1]
    seen_ids: Tensor  # [N] int64, distinct token ids of prompt and output; empty for a row without penalties
    seen_counts: Tensor  # [N] int32, how often in the output (0: in the prompt only)
    bias_start: Tensor  # [R + 1] int32, row r's biases are bias_start[r] : bias_start[r + 1]
    bias_ids: Tensor  # [M] int64, distinct token ids of a row
    bias_values: Tensor  # [M] fp32, what is added to their logits; -inf bans a token
    listed_only: Tensor  # [R] int32, other than 0: a row that has biases bans every token without one
    # [R, ceil(V / 32)] int32: bit i % 32 of word i / 32 is 0 where the row bans token i; [0, 0] where no row bans so
    token_mask: Tensor


@dataclass(frozen=True)
class Samples:
    """What `sample` gives, one value a logit row."""

    token: Tensor  # [R] int64
    entropy: Tensor  # [R] fp32, nats, of softmax(raw logits)
    logprob: Tensor  # [R] fp32, nats, of the token under softmax(raw logits); NaN where no token is left to draw
    token_class: Tensor  # [R] uint8, boundary class of the token


class Ops(Protocol):
    """The op set. K/V caches of a layer are [P, Hk, S, D]; a page's keys of one KV head are contiguous."""

    name: str

    def embed(self, token_ids: Tensor, weight: Tensor) -> Tensor:
        """Rows of the embedding: ids [T] int64, weight [V, d] -> [T, d]."""

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float, residual: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(RMSNorm(x + residual) * weight, x + residual): x, residual [T, d], weight [d]."""

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """x [T, k] times weight [n, k] transposed, plus bias [n] -> [T, n]."""

    def rope_and_store(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        cos_sin: Tensor,
        batch: Attention,
        k_cache: Tensor,
        v_cache: Tensor,
        q_norm: Tensor | None = None,
        k_norm: Tensor | None = None,
        eps: float = 0.0,
    ) -> Tensor:
        """q rotated [T, H, D]; k [T, Hk, D] rotated and v are stored at batch.slots.

        cos_sin [positions, 2, D / 2]. With q_norm and k_norm [D] each head is RMS-normalised first (Qwen3).
        """

    def paged_attention(self, q: Tensor, k_cache: Tensor, v_cache: Tensor, batch: Attention, scale: float) -> Tensor:
        """Causal GQA of the ragged queries [T, H, D] over their sequences' pages -> [T, H, D].

        All of the batch's K/V is stored before any of it is read, so a sequence may attend to a shared page
        that another sequence of the same batch fills.
        """

    def silu_mul(self, x: Tensor) -> Tensor:
        """silu(x[:, :f]) * x[:, f:]: [T, 2f] -> [T, f]."""

    def linear_silu_mul(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """silu_mul(linear(x, weight, bias)): x [T, k], weight [2f, k] -> [T, f]."""

    def sample(self, logits: Tensor, params: Sampling, token_class: Tensor) -> Samples:
        """One token a row with its entropy, log-probability and class: logits [R, V], token_class [V] uint8.

        Biases and mask, penalties, temperature, min_p, top_k, top_p, in this order; each filter keeps the tokens that
        tie with its last one. The token is the largest of logit / temperature - log(noise), the lowest id among equals,
        where the noise of a token id depends on (seed, sequence index, position) alone (`philox.exponential_noise`). A
        row that has a NaN or nothing above -inf gives token 0 with entropy and log-probability NaN; one whose biases
        and mask leave nothing above -inf gives token 0 with log-probability NaN, and its entropy.
        """

    def top_logprobs(self, logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The k largest log-probabilities of softmax(raw logits), descending: values [R, k] fp32, ids [R, k] int64."""
