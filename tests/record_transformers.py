"""What transformers writes and reads with the real checkpoints, recorded for the tests, as it takes minutes.

python tests/record_transformers.py ~/.cache/glimp-models
"""

import hashlib
import json
import sys
from pathlib import Path

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2Config, Qwen2ForCausalLM
from transformers.models.qwen2.modeling_qwen2 import Qwen2RotaryEmbedding

from glimp_engine import Engine
from glimp_engine.checkpoints.checkpoint import open_checkpoint

RECORDED = Path(__file__).parent / "fixtures" / "transformers_greedy.json"
NAMES = {
    "smollm2": "smollm2-135m-instruct-q4_1.gguf",
    "qwen-small": "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
    "qwen-large": "qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
}
PROMPTS = [
    "The capital of France is",
    "def fibonacci(n):\n",
    "Natalia sold 48 clips in April and half as many in May. Altogether she sold",
    "Water boils at",
    "Once upon a time there was a",
]
NUM_TOKENS = 64
# where transformers cuts text as the model's own tokenizer does: not SmolLM2's digits, nor Qwen's accents
LINES = [
    "The cat sat on the mat.\n\nThen it slept.",
    "x y = z, so x = w.\n\n",
    "語の猫 é ü 👩‍🔬 \tß中한ค",
    "def f(x):\n    return x'LL don't",
    "\r\n  ...!?",
]
TEXTS = [*LINES, "".join(LINES)]
CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello there"}]


def model_of(name, path):
    """transformers' model: SmolLM2 as it reads the file, which takes it minutes with larger vocabularies.

    So of the 0.5B it reads only the tensors, and of the 1.5B nothing.
    """
    options = {"dtype": torch.float32}
    if name == "smollm2":
        return AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, **options)
    ours, tensors = open_checkpoint(path)
    config = Qwen2Config(
        vocab_size=ours.vocab_size,
        hidden_size=ours.hidden_size,
        intermediate_size=ours.intermediate_size,
        num_hidden_layers=ours.num_layers,
        num_attention_heads=ours.num_heads,
        num_key_value_heads=ours.num_kv_heads,
        rms_norm_eps=ours.rms_norm_eps,
        max_position_embeddings=ours.max_positions,
        rope_parameters={"rope_type": "default", "rope_theta": ours.rope_theta},
        tie_word_embeddings=ours.tied_embeddings,
    )
    if name == "qwen-small":
        return Qwen2ForCausalLM.from_pretrained(path.parent, gguf_file=path.name, config=config, **options)
    weights = {tensor_name: tensor.read() for tensor_name, tensor in tensors.items()}
    with torch.device("meta"):  # 6 GB that are drawn at random would be thrown away
        model = Qwen2ForCausalLM(config)
    model.load_state_dict(weights, strict=not ours.tied_embeddings, assign=True)
    model.tie_weights()
    model.model.rotary_emb = Qwen2RotaryEmbedding(config)
    return model.eval()


def greedy(model, ids, end_token_ids):
    """The likeliest token behind each, 64 times, or up to an end token."""
    written, cache, new = [], None, ids
    while len(written) < NUM_TOKENS and not (written and written[-1] in end_token_ids):
        with torch.inference_mode():
            out = model(torch.tensor([new]), past_key_values=cache, use_cache=True)
        cache, new = out.past_key_values, [int(out.logits[0, -1].argmax())]
        written += new
    return written


def read(path):
    """The ids of the texts, and of a chat."""
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    chat = tokenizer.apply_chat_template(CHAT, add_generation_prompt=True, return_dict=False)
    return {"texts": [tokenizer(text)["input_ids"] for text in TEXTS], "chat": chat}


def sha256(path):
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main(directory):
    """All checkpoints, all prompts."""
    record = {"transformers": transformers.__version__, "torch": torch.__version__, "models": {}}
    for name, file in NAMES.items():
        path = Path(directory).expanduser() / file
        text = Engine(path, kv_cache_bytes=64 << 20)._voices[0].text
        prompts = [text.encode(prompt, allow_special=True) for prompt in PROMPTS]
        model = model_of(name, path)
        written = [greedy(model, ids, text.end_token_ids) for ids in prompts]
        record["models"][name] = {"sha256": sha256(path), "prompts": prompts, "written": written, **read(path)}
        print(name, [len(each) for each in written], flush=True)
    RECORDED.write_text(json.dumps(record) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
