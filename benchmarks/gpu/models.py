"""Models of the real shapes with random weights made on the device, and inputs for ops and engine."""

from dataclasses import dataclass

import torch
from timing import DEVICE, IS_REHEARSAL
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers.convert_slow_tokenizer import bytes_to_unicode

from glimp_engine import LoadedModel
from glimp_engine.checkpoints.config import ModelConfig
from glimp_engine.checkpoints.tensors import expected_tensors
from glimp_engine.kernels import Attention, Ops, Sampling
from glimp_engine.models.decoder import Decoder
from glimp_engine.text.chat import ChatFormat
from glimp_engine.text.tokenizer import Text

PAGE_SIZE = 16


@dataclass(frozen=True)
class Shape:
    """A Qwen3 decoder's sizes."""

    name: str
    num_layers: int
    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    tied_embeddings: bool

    def config(self) -> ModelConfig:
        """As in the model's config.json."""
        return ModelConfig(
            vocab_size=self.vocab_size,
            hidden_size=self.hidden_size,
            intermediate_size=self.intermediate_size,
            num_layers=self.num_layers,
            num_heads=self.num_heads,
            num_kv_heads=self.num_kv_heads,
            head_dim=self.head_dim,
            rms_norm_eps=1e-6,
            max_positions=40960,
            rope_theta=1e6,
            rope_scaling=None,
            tied_embeddings=self.tied_embeddings,
            qkv_bias=False,
            output_bias=False,
            mlp_bias=False,
            qk_norm=True,
        )


SHAPES = {
    shape.name: shape
    for shape in (
        Shape("tiny", 2, 64, 4, 2, 16, 96, 2500, True),
        Shape("Qwen3-0.6B", 28, 1024, 16, 8, 128, 3072, 151936, True),
        Shape("Qwen3-4B", 36, 2560, 32, 8, 128, 9728, 151936, True),
        Shape("Qwen3-8B", 36, 4096, 32, 8, 128, 12288, 151936, False),
        Shape("Qwen3-32B", 64, 5120, 64, 8, 128, 25600, 151936, False),
    )
}


def make_model(shape: Shape, ops: Ops, seed: int = 0) -> Decoder:
    """A decoder whose weights are normal, 0.02 wide, and whose norms are 1."""
    generator = torch.Generator(DEVICE).manual_seed(seed)
    dtype = torch.float32 if IS_REHEARSAL else torch.bfloat16
    config = shape.config()
    weights = {}
    for name, sizes in expected_tensors(config).items():
        tensor = torch.empty(sizes, dtype=dtype, device=DEVICE)
        weights[name] = tensor.fill_(1) if len(sizes) == 1 else tensor.normal_(0, 0.02, generator=generator)
    return Decoder(config, weights, ops)


def make_text(vocab_size: int) -> Text:
    """A byte-level vocabulary of invented words, without merges or end token; every hundredth ends a step."""
    letters = bytes_to_unicode()
    words = [f" w{i}" + ".\n\n" * (i % 100 == 0) for i in range(vocab_size - len(letters))]
    tokens = [*letters.values(), *("".join(letters[byte] for byte in word.encode()) for word in words)]
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return Text(tokenizer, ChatFormat(), vocab_size, [])


def make_loaded(shape: Shape, ops: Ops, text: Text, seed: int = 0) -> LoadedModel:
    """A model that an engine takes."""
    return LoadedModel(make_model(shape, ops, seed), text)


def make_attention(num_sequences: int, new_tokens: int, context: int) -> tuple[Attention, int]:
    """Sequences that end at `context`, on pages in random order; and the number of pages."""
    pages_each = -(-context // PAGE_SIZE)
    num_pages = num_sequences * pages_each
    page_table = torch.randperm(num_pages).view(num_sequences, pages_each)
    positions = torch.arange(context - new_tokens, context).repeat(num_sequences)
    sequence = torch.arange(num_sequences).repeat_interleave(new_tokens)
    slots = page_table[sequence, positions // PAGE_SIZE] * PAGE_SIZE + positions % PAGE_SIZE
    batch = Attention(
        positions=positions.to(DEVICE),
        slots=slots.to(DEVICE),
        query_start=(torch.arange(num_sequences + 1) * new_tokens).to(DEVICE, torch.int32),
        page_table=page_table.to(DEVICE, torch.int32),
        kv_len=torch.full((num_sequences,), context, dtype=torch.int32, device=DEVICE),
    )
    return batch, num_pages


def make_sampling(num_rows: int, **values: float) -> Sampling:
    """One set of parameters for all rows, with a seed of its own each."""
    dtypes = {"seed": torch.int64, "position": torch.int64}
    dtypes |= dict.fromkeys(("top_k", "sequence_index", "listed_only"), torch.int32)
    neutral = {"top_p": 1.0, "repetition_penalty": 1.0}
    columns = {
        name: torch.full(
            (num_rows,), values.get(name, neutral.get(name, 0)), dtype=dtypes.get(name, torch.float32), device=DEVICE
        )
        for name in Sampling.__dataclass_fields__
        if not name.startswith(("seen_", "bias_", "token_"))
    }
    columns["seed"] += torch.arange(num_rows, device=DEVICE)
    return Sampling(
        **columns,
        seen_start=torch.zeros(num_rows + 1, dtype=torch.int32, device=DEVICE),
        seen_ids=torch.empty(0, dtype=torch.int64, device=DEVICE),
        seen_counts=torch.empty(0, dtype=torch.int32, device=DEVICE),
        bias_start=torch.zeros(num_rows + 1, dtype=torch.int32, device=DEVICE),
        bias_ids=torch.empty(0, dtype=torch.int64, device=DEVICE),
        bias_values=torch.empty(0, device=DEVICE),
        token_mask=torch.empty(0, 0, dtype=torch.int32, device=DEVICE),
    )
