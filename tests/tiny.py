"""Tiny models for the tests: a vocabulary with many boundaries in it, random checkpoints, a model that is a script."""

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM
from transformers.convert_slow_tokenizer import bytes_to_unicode

from glimp_engine import LoadedModel
from glimp_engine.checkpoints.config import ModelConfig
from glimp_engine.models.kv_store import KVLayout
from glimp_engine.text.chat import ChatFormat
from glimp_engine.text.tokenizer import Text

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# a template of a model that thinks unless it is told not to, and begins to by itself
THINKING_TEMPLATE = (
    CHAT_TEMPLATE + "{% if add_generation_prompt and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}"
)
WORDS = [f" w{i}" for i in range(40)] + [f" w{i}.\n\n" for i in range(30)] + ["\n\n", ".\n\n"]
SPECIAL = ["<|im_start|>", "<|im_end|>"]
THINKING = ["<think>", "</think>"]


def make_tokenizer(special=(*SPECIAL, *THINKING), words=tuple(WORDS), template=CHAT_TEMPLATE):
    """A byte-level tokenizer without merges: text becomes bytes, and only a model can write the words."""
    letters = bytes_to_unicode()
    vocabulary = {letter: i for i, letter in enumerate(letters.values())}
    for word in words:
        vocabulary["".join(letters[byte] for byte in word.encode())] = len(vocabulary)
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens([AddedToken(token, special=token not in THINKING, normalized=False) for token in special])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", chat_template=template)


def make_text(**options):
    tokenizer = make_tokenizer(**options)
    return Text(tokenizer.backend_tokenizer, chat_format(tokenizer), len(tokenizer), [tokenizer.eos_token_id])


def chat_format(tokenizer):
    """What a tokenizer of transformers knows of chats."""
    return ChatFormat(tokenizer.chat_template, tokenizer.special_tokens_map)


def save_checkpoint(directory, tokenizer, seed, num_layers=2, hidden_size=32, heads=(4, 2)):
    """A tiny random Qwen2 whose next-token distributions differ a lot from place to place."""
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=2 * hidden_size,
        num_hidden_layers=num_layers,
        num_attention_heads=heads[0],
        num_key_value_heads=heads[1],
        max_position_embeddings=512,
        initializer_range=0.6,
        tie_word_embeddings=False,
        eos_token_id=tokenizer.eos_token_id,
    )
    model = Qwen2ForCausalLM(config)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


class ScriptedModel:
    """Logits by a function of (position, token id): no weights, and K/V that nobody reads."""

    device = torch.device("cpu")
    kv_layout = KVLayout(torch.float32)
    weight_bytes = 100

    def __init__(self, logits_at, vocab_size, max_positions=512):
        self.config = ModelConfig(
            vocab_size=vocab_size,
            hidden_size=2,
            intermediate_size=2,
            num_layers=1,
            num_heads=1,
            num_kv_heads=1,
            head_dim=2,
            rms_norm_eps=1e-6,
            max_positions=max_positions,
            rope_theta=1e4,
            rope_scaling=None,
            tied_embeddings=True,
            qkv_bias=False,
            output_bias=False,
            mlp_bias=False,
            qk_norm=False,
        )
        self.logits_at = logits_at
        self.forwards = []  # the token ids of each
        self.nums_logits = []  # ... and how many were asked for

    def forward(self, token_ids, batch, logit_rows, kv, num_logits=None):
        self.forwards.append(token_ids.tolist())
        self.nums_logits.append(num_logits)
        rows = [self.logits_at(int(batch.positions[row]), int(token_ids[row])) for row in logit_rows]
        return torch.stack(rows)[:, :num_logits] if rows else torch.empty(0, self.config.vocab_size)


class Script:
    """Writes given pieces of text one after the other, each first token with a given number of equal choices."""

    def __init__(self, text):
        self.text = text
        self.vocab_size = text.num_tokens

    def id_of(self, piece):
        return [self.text.bytes_of(i) for i in range(self.vocab_size)].index(piece.encode())

    def logits(self, token_id, num_equal=1):
        """Logits with entropy ln(num_equal); the given token is the one that greedy takes."""
        logits = torch.full((self.vocab_size,), -torch.inf)
        logits[token_id] = 0.0
        others = [i for i in range(self.vocab_size) if i > token_id][: num_equal - 1]
        assert len(others) == num_equal - 1, "too few ids above the token's own"
        logits[others] = 0.0
        return logits

    def model(self, prompt_len, pieces, num_equal=None):
        """Says pieces[i] at the i-th place after the prompt, whatever stands before; then the end token."""
        ids = [self.id_of(piece) for piece in pieces]
        num_equal = num_equal or {}

        def logits_at(position, token_id):
            i = position + 1 - prompt_len
            return self.logits(ids[i] if i < len(ids) else self.id_of("<|im_end|>"), num_equal.get(i, 1))

        return LoadedModel(ScriptedModel(logits_at, self.vocab_size), self.text)
