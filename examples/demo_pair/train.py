"""Trains the demo pair from nothing and writes it to glimp_engine/demo_pair/: `python examples/demo_pair/train.py`.

Both models are Qwen3s that read the same text. The small one reads trips as users would ask for them, so it meets each
rare road seldom; the large one, of 26 times as many parameters, reads mostly rare ones. Matrices are trained with
Muon, all else with AdamW. A run that was stopped goes on from its last checkpoint in build/demo_pair/.
"""

import argparse
import json
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import torch
from problems import NUM_LEGS, PLACES, Problem, RoadMap
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.optim import AdamW, Muon
from torch.optim.lr_scheduler import LambdaLR
from tqdm import trange
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

ROOT = Path(__file__).parents[2]
BUILD, PACKAGE = ROOT / "build" / "demo_pair", ROOT / "glimp_engine" / "demo_pair"
NUM_PROBLEMS = {"validation": 500, "test": 1000}
CHECKPOINT_EVERY = 100  # steps
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)
IGNORED = -100  # a label that costs nothing


@dataclass(frozen=True)
class Recipe:
    """One model's size and training."""

    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    known_share: float  # of the legs it reads
    num_steps: int
    batch_size: int
    muon_rate: float
    adamw_rate: float
    seed: int


RECIPES = {
    "small": Recipe(64, 192, 3, 4, 2, 16, 0.98, 4000, 64, 0.02, 3e-3, seed=1),
    "large": Recipe(256, 768, 6, 8, 4, 32, 0.2, 1500, 64, 0.02, 2e-3, seed=2),
}


def text_of(problem: Problem) -> tuple[str, str]:
    """(what is asked, what is to be written), in the chat's form."""
    asked = f"<|im_start|>user\n{problem.question}<|im_end|>\n<|im_start|>assistant\n<think>\n"
    thoughts = "".join(f"{thought}\n\n" for thought in problem.thoughts)
    return asked, f"{thoughts}</think>\n\n{problem.answer}<|im_end|>"


def make_tokenizer(roads: RoadMap) -> PreTrainedTokenizerFast:
    """A byte-level BPE in which a place, a digit and a blank line are one token each."""
    tokenizer = Tokenizer(models.BPE())
    pieces = pre_tokenizers.Split(Regex(r"\n\n|\d| ?[^\s\d]+|\s"), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pieces, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1024, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    corpus = ["".join(text_of(problem)) for problem in islice(roads.draw_split("train", "text"), 5000)]
    tokenizer.train_from_iterator(corpus, trainer)
    special = [AddedToken(token, special=True, normalized=False) for token in ("<|im_start|>", "<|im_end|>")]
    tokenizer.add_tokens([*special, *(AddedToken(token, normalized=False) for token in ("<think>", "</think>"))])
    for word in [*PLACES, *(f" {place}" for place in PLACES), "\n\n"]:
        assert len(tokenizer.encode(word).ids) == 1, word
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|im_end|>", chat_template=TEMPLATE
    )


def make_model(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    """An untrained model of the recipe's size."""
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=recipe.hidden_size,
        intermediate_size=recipe.intermediate_size,
        num_hidden_layers=recipe.num_layers,
        num_attention_heads=recipe.num_heads,
        num_key_value_heads=recipe.num_kv_heads,
        head_dim=recipe.head_dim,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
    )
    return Qwen3ForCausalLM(config)


def make_batch(problems: list[Problem], tokenizer: PreTrainedTokenizerFast) -> tuple[Tensor, Tensor]:
    """Token ids and labels, [B, T]; what is asked, and the padding, has no label."""
    rows = []
    for problem in problems:
        asked, written = (tokenizer.encode(text, add_special_tokens=False) for text in text_of(problem))
        rows.append((asked + written, [IGNORED] * len(asked) + written))
    longest = max(len(ids) for ids, _ in rows)
    ids = torch.tensor([ids + [0] * (longest - len(ids)) for ids, _ in rows])
    labels = torch.tensor([labels + [IGNORED] * (longest - len(labels)) for _, labels in rows])
    return ids, labels


def make_optimizers(model: Qwen3ForCausalLM, recipe: Recipe) -> list[tuple[torch.optim.Optimizer, LambdaLR]]:
    """Muon for the layers' matrices, AdamW for the embedding and the norms; rates rise quickly and fall to zero."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    optimizers = [
        Muon(matrices, lr=recipe.muon_rate, weight_decay=0.01),
        AdamW(others, lr=recipe.adamw_rate, betas=(0.9, 0.98), weight_decay=0.0),
    ]

    def rate(step: int) -> float:
        return min((step + 1) / 50, 1.0) * min(1.0, (recipe.num_steps - step) / (0.6 * recipe.num_steps))

    return [(optimizer, LambdaLR(optimizer, rate)) for optimizer in optimizers]


def train(name: str, recipe: Recipe, tokenizer: PreTrainedTokenizerFast, roads: RoadMap) -> Qwen3ForCausalLM:
    """The trained model; its loss is in build/demo_pair/NAME.jsonl."""
    torch.manual_seed(recipe.seed)
    model = make_model(recipe, tokenizer)
    optimizers = make_optimizers(model, recipe)
    checkpoint, start = BUILD / f"{name}.pt", 0
    if checkpoint.exists():
        saved = torch.load(checkpoint)
        if saved["recipe"] == asdict(recipe):
            start = saved["step"]
            model.load_state_dict(saved["model"])
            for (optimizer, schedule), states in zip(optimizers, saved["optimizers"], strict=True):
                optimizer.load_state_dict(states[0])
                schedule.load_state_dict(states[1])
    with (BUILD / f"{name}.jsonl").open("a") as log, trange(start, recipe.num_steps, initial=start, desc=name) as steps:
        for step in steps:
            num_legs = NUM_LEGS[step % len(NUM_LEGS)]  # one length a batch: less padding
            problems = roads.draw_split("train", f"{recipe.seed}/{step}", (num_legs,), recipe.known_share)
            ids, labels = make_batch(list(islice(problems, recipe.batch_size)), tokenizer)
            logits = model(input_ids=ids, use_cache=False).logits
            loss = cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED)
            loss.backward()
            for optimizer, schedule in optimizers:
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
            if step % 10 == 0:
                steps.set_postfix(loss=f"{loss.item():.4f}")
                print(json.dumps({"step": step, "loss": loss.item()}), file=log, flush=True)
            if (step + 1) % CHECKPOINT_EVERY == 0:
                states = [(optimizer.state_dict(), schedule.state_dict()) for optimizer, schedule in optimizers]
                saved = {"recipe": asdict(recipe), "step": step + 1, "model": model.state_dict(), "optimizers": states}
                torch.save(saved, checkpoint.with_suffix(".new"))
                checkpoint.with_suffix(".new").replace(checkpoint)
    return model


def write_problems(roads: RoadMap) -> None:
    """The problems that no model was trained on."""
    for split, count in NUM_PROBLEMS.items():
        with (PACKAGE / f"{split}.jsonl").open("w") as file:
            for i, problem in enumerate(islice(roads.draw_split(split, 0), count)):
                line = {"id": f"{split}-{i}", "problem": problem.question, "answer": problem.answer}
                print(json.dumps(line), file=file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=list(RECIPES), help="small, large; both if none is given")
    names = parser.parse_args().models
    BUILD.mkdir(parents=True, exist_ok=True)
    roads = RoadMap()
    tokenizer = make_tokenizer(roads)
    for name in names:
        model = train(name, RECIPES[name], tokenizer, roads).bfloat16()
        model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id)
        model.save_pretrained(PACKAGE / name)
        tokenizer.save_pretrained(PACKAGE / name)
    write_problems(roads)


if __name__ == "__main__":
    main()
