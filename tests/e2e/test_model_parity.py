"""The decoder against transformers' on tiny random checkpoints of every architecture, however a text is cut."""

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from glimp_engine.checkpoint import load_checkpoint
from glimp_engine.kernels import Attention
from glimp_engine.kernels.reference import ReferenceOps
from glimp_engine.model import Decoder

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
LLAMA, QWEN2, QWEN3 = (
    (LlamaConfig, LlamaForCausalLM),
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
    "qwen3": (QWEN3, {"head_dim": 8}),
    "qwen3-tied-biases": (QWEN3, {"head_dim": 6, "tie_word_embeddings": True, "attention_bias": True}),
    "qwen3-yarn": (QWEN3, {"head_dim": 16, "rope": YARN, "rope_theta": 1e6}),
}


def make_checkpoint(path, case, **how):
    """A random model in float64; its norms and biases too are random, so that each of them matters."""
    (config_class, model_class), options = CASES[case]
    options = dict(options)
    rope = {"rope_type": "default", **options.pop("rope", {}), "rope_theta": options.pop("rope_theta", 10000.0)}
    torch.manual_seed(len(case))
    model = model_class(config_class(**{**SIZES, **options, "rope_parameters": rope})).double().eval()
    for name, parameter in model.named_parameters():
        if "norm" in name or "bias" in name:
            torch.nn.init.normal_(parameter, float("norm" in name), 0.4)
    model.save_pretrained(path, **how)
    return path


def load(path, dtype=torch.float64):
    config, weights = load_checkpoint(path, dtype, torch.device("cpu"))
    return Decoder(config, weights, ReferenceOps())


class Arena:
    """K/V of some sequences on pages in random order, NaN until stored; each sequence gives its logits as it grows."""

    def __init__(self, decoder, token_ids, page_size):
        self.decoder, self.token_ids, self.page_size = decoder, token_ids, page_size
        num_pages = [-(-len(ids) // page_size) for ids in token_ids]
        order = torch.randperm(sum(num_pages)).tolist()
        self.tables = [[order.pop() for _ in range(n)] for n in num_pages]
        self.lengths = [0] * len(token_ids)
        config = decoder.config
        shape = (sum(num_pages), config.num_kv_heads, page_size, config.head_dim)
        self.kv = [tuple(torch.full(shape, torch.nan, dtype=decoder.dtype) for _ in "kv") for _ in decoder.layers]
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
        rows = self.decoder.forward(ids, batch, torch.arange(len(ids)), self.kv)
        for (b, _), row in zip(positions, rows, strict=True):
            self.logits[b].append(row)
            self.lengths[b] += 1


def random_ids(length, seed):
    return torch.randint(VOCAB_SIZE, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def hf_logits(path, ids):
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float64)
    with torch.inference_mode():
        return model(torch.tensor([ids])).logits[0]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Paths by case, each made once."""
    made = {}

    def make(case):
        if case not in made:
            made[case] = make_checkpoint(tmp_path_factory.mktemp(case), case)
        return made[case]

    return make


def close(ours, theirs):
    """Weights are float64, but transformers' norms and softmax, and everybody's rotation angles, are float32."""
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("case", CASES)
def test_logits_equal_those_of_transformers(checkpoints, case):
    ids = random_ids(LENGTH, seed=1)
    expected = hf_logits(checkpoints(case), ids)
    assert expected.std() > 0.3
    arena = Arena(load(checkpoints(case)), [ids], page_size=16)
    arena.forward([LENGTH])
    close(torch.stack(arena.logits[0]), expected)


@pytest.mark.parametrize("page_size", [1, 3, 16])
@pytest.mark.parametrize("case", ["llama-biases", "qwen2-yarn", "qwen3"])
def test_however_a_text_is_cut_the_rows_are_the_same(checkpoints, case, page_size):
    decoder = load(checkpoints(case))
    texts = [random_ids(length, seed=length) for length in (LENGTH, 17, 1, 32)]
    whole = []
    for ids in texts:
        arena = Arena(decoder, [ids], page_size)
        arena.forward([len(ids)])
        whole.append(torch.stack(arena.logits[0]))
    torch.manual_seed(page_size)
    for longest in (1, 5, 23):  # one token a forward; small chunks; large ones, as of catch-ups
        arena = Arena(decoder, texts, page_size)
        while any(length < len(ids) for length, ids in zip(arena.lengths, texts, strict=True)):
            left = [len(ids) - length for length, ids in zip(arena.lengths, texts, strict=True)]
            news = [min(int(torch.randint(longest + 1, ())), n) for n in left]
            if any(news):
                arena.forward(news)
        for rows, expected in zip(arena.logits, whole, strict=True):
            torch.testing.assert_close(torch.stack(rows), expected, rtol=1e-9, atol=1e-9)


def test_asked_rows_only(checkpoints):
    decoder, ids = load(checkpoints("qwen3")), random_ids(20, seed=4)
    arena = Arena(decoder, [ids], 16)
    arena.forward([20])
    rows, forward = torch.tensor([19, 3]), decoder.forward
    again = Arena(decoder, [ids], 16)
    decoder.forward = lambda token_ids, batch, _, kv: forward(token_ids, batch, rows, kv).repeat(10, 1)
    again.forward([20])
    torch.testing.assert_close(torch.stack(again.logits[0][:2]), torch.stack(arena.logits[0])[rows])


@pytest.mark.parametrize("case", ["llama-tied", "qwen3"])
def test_shards_are_one_checkpoint(tmp_path, checkpoints, case):
    make_checkpoint(tmp_path, case, max_shard_size="20KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    _, single = load_checkpoint(checkpoints(case), None, torch.device("cpu"))
    _, sharded = load_checkpoint(tmp_path, None, torch.device("cpu"))
    assert single.keys() == sharded.keys()
    assert all(torch.equal(single[name], sharded[name]) for name in single)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_narrower_weights_come_near(checkpoints, dtype):
    ids = random_ids(LENGTH, seed=2)
    expected = hf_logits(checkpoints("qwen3"), ids)
    arena = Arena(load(checkpoints("qwen3"), dtype), [ids], 16)
    arena.forward([LENGTH])
    ours = torch.stack(arena.logits[0])
    assert ours.dtype == torch.float32
    error = (ours - expected).norm() / expected.norm()
    assert error < (1e-5 if dtype == torch.float32 else 0.1)
