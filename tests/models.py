"""Tiny random checkpoints of every architecture, and texts that grow on pages in random order."""

import torch
from on_gpu import moved
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from glimp_engine.kernels import Attention
from glimp_engine.models.kv_store import KVStore

VOCAB_SIZE = 97
LENGTH = 60  # longer than the original context of the scaled ones
SIZES = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.4,
    "tie_word_embeddings": False,
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
LLAMA, MISTRAL, QWEN2, QWEN3 = (
    (LlamaConfig, LlamaForCausalLM),
    (MistralConfig, MistralForCausalLM),
    (Qwen2Config, Qwen2ForCausalLM),
    (Qwen3Config, Qwen3ForCausalLM),
)
CASES = {
    "llama": (LLAMA, {}),
    "llama-tied": (LLAMA, {"tie_word_embeddings": True}),
    "llama-biases": (LLAMA, {"attention_bias": True, "mlp_bias": True}),
    "llama-head-dim": (LLAMA, {"head_dim": 10}),
    "llama-without-gqa": (LLAMA, {"num_key_value_heads": 4}),
    "llama-one-kv-head": (LLAMA, {"num_key_value_heads": 1}),
    "llama-eps": (LLAMA, {"rms_norm_eps": 0.1}),
    "llama-linear": (LLAMA, {"rope": {"rope_type": "linear", "factor": 4.0}}),
    "llama-llama3": (LLAMA, {"rope": LLAMA3, "rope_theta": 500.0, "head_dim": 16}),
    "qwen2": (QWEN2, {}),
    "qwen2-tied": (QWEN2, {"tie_word_embeddings": True}),
    "qwen2-theta": (QWEN2, {"rope_theta": 37.0}),
    "qwen2-yarn": (QWEN2, {"rope": YARN, "head_dim": 16}),
    "qwen2-yarn-attention": (QWEN2, {"rope": {**YARN, "attention_factor": 0.7, "beta_fast": 8.0, "beta_slow": 2.0}}),
    "qwen2-yarn-card": (QWEN2, {"rope": YARN, "head_dim": 16, "max_position_embeddings": 32}),
    "qwen2-yarn-mscale": (QWEN2, {"rope": {**YARN, "mscale": 0.7, "mscale_all_dim": 1.9}, "head_dim": 16}),
    "qwen2-yarn-untruncated": (QWEN2, {"rope": {**YARN, "truncate": False, "beta_fast": 3.0}, "head_dim": 16}),
    "mistral": (MISTRAL, {"sliding_window": None, "head_dim": 8}),
    "qwen3": (QWEN3, {"head_dim": 8}),
    "qwen3-tied-biases": (QWEN3, {"head_dim": 6, "tie_word_embeddings": True, "attention_bias": True}),
    "qwen3-yarn": (QWEN3, {"head_dim": 16, "rope": YARN, "rope_theta": 1e6}),
}
# whose rotation depends on how long the texts are: original context 32
DIVISORS = {"short_factor": [1.0, 1.1, 1.3], "long_factor": [1.0, 2.0, 7.5]}
BY_LENGTH = {
    "llama-dynamic": (LLAMA, {"rope": {"rope_type": "dynamic", "factor": 4.0}, "max_position_embeddings": 32}),
    "qwen2-dynamic-theta": (
        QWEN2,
        {"rope": {"rope_type": "dynamic", "factor": 2.0}, "max_position_embeddings": 32, "rope_theta": 37.0},
    ),
    "llama-longrope": (
        LLAMA,
        {"rope": {"rope_type": "longrope", **DIVISORS, "original_max_position_embeddings": 32}},
    ),
    "qwen3-longrope-factors": (
        QWEN3,
        {
            "rope": {
                "rope_type": "longrope",
                **DIVISORS,
                "original_max_position_embeddings": 32,
                "attention_factor": 1.7,
                "factor": 3.0,
            },
            "head_dim": 6,
        },
    ),
}


def make_checkpoint(path, case, sizes=SIZES, **how):
    """A random model in float64; its norms and biases too are random, so that each of them matters."""
    (config_class, model_class), options = {**CASES, **BY_LENGTH}[case]
    options = dict(options)
    rope = {"rope_type": "default", **options.pop("rope", {}), "rope_theta": options.pop("rope_theta", 10000.0)}
    torch.manual_seed(len(case))
    model = model_class(config_class(**{**sizes, **options, "rope_parameters": rope})).double().eval()
    for name, parameter in model.named_parameters():
        if "norm" in name or "bias" in name:
            torch.nn.init.normal_(parameter, float("norm" in name), 0.4)
    model.save_pretrained(path, **how)
    return path


class Growing:
    """K/V of some sequences on pages in random order, NaN until stored; each sequence gives its logits as it grows."""

    def __init__(self, decoder, token_ids, page_size, max_model_len=None, num_logits=None):
        self.decoder, self.token_ids, self.page_size, self.num_logits = decoder, token_ids, page_size, num_logits
        num_pages = [-(-len(ids) // page_size) for ids in token_ids]
        order = torch.randperm(sum(num_pages)).tolist()
        self.tables = [[order.pop() for _ in range(n)] for n in num_pages]
        self.lengths = [0] * len(token_ids)
        self.kv = KVStore(
            *(decoder.config, sum(num_pages), page_size, decoder.kv_layout, decoder.device),
            max_model_len or decoder.config.max_positions,
        )
        for tensor in (tensor for pair in self.kv.layers for tensor in pair):
            tensor.fill_(torch.nan)
        self.logits = [[] for _ in token_ids]

    def forward(self, new_tokens):
        """Run each sequence's next few tokens together."""
        spans = [(b, self.lengths[b], self.lengths[b] + new) for b, new in enumerate(new_tokens) if new]
        positions = [(b, p) for b, start, end in spans for p in range(start, end)]
        widest = max(len(table) for table in self.tables)
        batch = Attention(
            positions=torch.tensor([p for _, p in positions]),
            slots=torch.tensor(
                [self.tables[b][p // self.page_size] * self.page_size + p % self.page_size for b, p in positions]
            ),
            query_start=torch.tensor([0, *(end - start for _, start, end in spans)]).cumsum(0).int(),
            page_table=torch.tensor([self.tables[b] + [0] * (widest - len(self.tables[b])) for b, _, _ in spans]).int(),
            kv_len=torch.tensor([end for _, _, end in spans]).int(),
        )
        ids = torch.tensor([self.token_ids[b][p] for b, p in positions])
        device = self.decoder.device
        asked = torch.arange(len(ids)).to(device)
        rows = self.decoder.forward(ids.to(device), moved(batch, device), asked, self.kv, self.num_logits)
        for (b, _), row in zip(positions, rows.cpu(), strict=True):
            self.logits[b].append(row.clone())
            self.lengths[b] += 1

    def run_in_pieces(self, longest):
        """Run all to their ends, each by 0 ... longest tokens a forward."""
        while any(length < len(ids) for length, ids in zip(self.lengths, self.token_ids, strict=True)):
            left = [len(ids) - length for length, ids in zip(self.lengths, self.token_ids, strict=True)]
            news = [min(int(torch.randint(longest + 1, ())), n) for n in left]
            if any(news):
                self.forward(news)


def whole(decoder, token_ids, page_size=16, max_model_len=None):
    """Logits of every position of a text, in one forward."""
    growing = Growing(decoder, [token_ids], page_size, max_model_len)
    growing.forward([len(token_ids)])
    return torch.stack(growing.logits[0])


def random_ids(length, seed):
    return torch.randint(VOCAB_SIZE, (length,), generator=torch.Generator().manual_seed(seed)).tolist()
