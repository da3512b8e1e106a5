"""What quantised arithmetic costs in quality, ours and llama.cpp's on the same file.

The measure is the model with its weights dequantised to float32, run by the reference ops. Text: the Kullback-Leibler
divergence of each one's next-token distribution from it, and how often both find the same token most likely, at every
position of the text. Answers: how often the final number of a greedy answer is the same.
"""

import contextlib
import tempfile
from pathlib import Path
from typing import Any

import contestant
import numpy as np
from contestant import Contestant
from gsm8k import Problem, final_number, load_problems
from harness import Case, arguments, report
from tqdm import tqdm

WINDOW = 512
CAPACITY = 16384
ROWS = 64  # of a vocabulary in float64 at once
REFERENCE = {"ops": "reference", "dtype": "float32"}


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Log-probabilities, in float64: logits [R, V]."""
    z = logits.astype(np.float64)
    z -= z.max(-1, keepdims=True)
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


def divergences(expected: np.ndarray, found: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """KL(expected || found) in nats and whether the most likely token is the same, for each row of logits [T, V]."""
    kl, same = [], []
    for start in range(0, len(expected), ROWS):
        p, q = log_softmax(expected[start : start + ROWS]), log_softmax(found[start : start + ROWS])
        kl.append((np.exp(p) * (p - q)).sum(-1))
        same.append(p.argmax(-1) == q.argmax(-1))
    return np.concatenate(kl), np.concatenate(same)


def logits_of(each: Contestant, token_ids: list[int], directory: str) -> np.ndarray:
    """Logits [T, V] at every position of the tokens."""
    path = Path(directory) / "logits.npy"
    each.call("logits", token_ids=token_ids, path=str(path))
    logits: np.ndarray = np.load(path)
    path.unlink()
    return logits


def bench_text(reference: Contestant, others: list[Contestant], windows: list[list[int]], progress: tqdm) -> list[Case]:
    """Mean divergence and agreement of each over all windows."""
    found: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {each.name: [] for each in others}
    with tempfile.TemporaryDirectory() as directory:
        for window in windows:
            expected = logits_of(reference, window, directory)
            progress.update()
            for each in others:
                vocab_size = expected.shape[1]
                found[each.name].append(divergences(expected, logits_of(each, window, directory)[:, :vocab_size]))
                progress.update()
    cases = []
    for name, pairs in found.items():
        kl, same = (np.concatenate(column) for column in zip(*pairs, strict=True))
        cases.append(
            {
                "contestant": name,
                "num_tokens": len(kl),
                "mean_kl_nats": float(kl.mean()),
                "kl_standard_error": float(kl.std() / np.sqrt(len(kl))),
                "p99_kl_nats": float(np.percentile(kl, 99)),
                "same_most_likely": float(same.mean()),
            }
        )
    return cases


def bench_answers(
    contestants: list[Contestant], problems: list[Problem], max_tokens: int, progress: tqdm
) -> dict[str, Case]:
    """For each contestant how many final numbers are the reference's (the first one's), and how many are right."""
    encode = contestants[0].call
    prompts = [encode("encode", text=problem.message, is_chat=True)["token_ids"] for problem in problems]
    numbers: dict[str, list[float | None]] = {}
    for each in contestants:
        texts = each.call("answers", prompts=prompts, max_tokens=max_tokens)["texts"]
        numbers[each.name] = [final_number(text) for text in texts]
        progress.update(len(prompts))
    expected = numbers[contestants[0].name]
    return {
        name: {
            "num_problems": len(problems),
            "same_number": sum(a == b for a, b in zip(own, expected, strict=True)),
            "num_correct": sum(a == problem.answer for a, problem in zip(own, problems, strict=True)),
        }
        for name, own in numbers.items()
    }


def bench_model(path: Path, makers: list[Any], args: Any, problems: list[Problem], progress: tqdm) -> list[Case]:
    """Text and answers of one model."""
    with contextlib.ExitStack() as stack:
        contestants = [stack.enter_context(make()) for make in makers]
        contestants[0].name = "float32"
        for index, each in enumerate(contestants):
            each.open([path], args.threads, CAPACITY, **(REFERENCE if index == 0 else {}))
        text = "\n\n".join(problem.text for problem in load_problems(args.problems))
        ids = contestants[0].call("encode", text=text)["token_ids"]
        windows = [ids[i * WINDOW :][:WINDOW] for i in range(args.num_windows)]
        cases = bench_text(contestants[0], contestants[1:], windows, progress)
        answers = bench_answers(contestants, problems, args.max_tokens, progress) if problems else {}
    correct = answers.get("float32", {}).get("num_correct")
    return [
        {"model": path.name, **case, **answers.get(case["contestant"], {}), "num_correct_float32": correct}
        for case in cases
    ]


def row(case: Case) -> Case:
    """The case as a line of the table."""
    return {key: value for key, value in case.items() if key != "kl_standard_error"}


def main() -> None:
    """All models, one after the other."""
    parser = arguments(__doc__, repeats=None)
    parser.add_argument("--problems", type=Path, required=True, help="JSON lines with `problem` and `answer`")
    parser.add_argument("--num-problems", type=int, default=20, help="to be answered; 0: none")
    parser.add_argument("--num-windows", type=int, default=4, help=f"of {WINDOW} tokens of the problems' text")
    parser.add_argument("--max-tokens", type=int, default=400)
    parser.add_argument("--answer-models", nargs="*", default=["qwen"], help="parts of names: models that answer")
    args = parser.parse_args()
    makers = [contestant.glimp, contestant.glimp]
    if args.peer_python:
        makers.append(lambda: contestant.llama_cpp(args.peer_python))
    cases = []
    for path in args.models:
        answers = args.num_problems and any(part in path.name for part in args.answer_models)
        problems = load_problems(args.problems, args.num_problems) if answers else []
        with tqdm(total=len(makers) * (args.num_windows + len(problems)), desc=path.name) as progress:
            cases += bench_model(path, makers, args, problems, progress)
    report(args.name or "quality", cases, {}, [row(case) for case in cases], threads=args.threads)


if __name__ == "__main__":
    main()
