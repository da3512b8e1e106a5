"""That no token depends on speculation: every answer with it off, auto, and at depths 1, 4, 16 and any, bit for bit.

Greedy and sampled (T 0.6, top-p 0.95), with thresholds 0, 1.0 and inf. Prints how many answers were compared, and the
first that differs; its exit status says whether any does.
"""

import argparse
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

from gsm8k import INSTRUCTION
from harness import RESULTS, commit, machine
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from proposers import Whims

from glimp_engine import Engine, GlimpRouter, RequestOutput, RoutingParams, SamplingParams

SAMPLINGS = {"greedy": {"temperature": 0.0, "seed": 0}, "sampled": {"temperature": 0.6, "top_p": 0.95, "seed": 7}}
THRESHOLDS = (0.0, 1.0, math.inf)
WAYS: dict[str, dict[str, Any] | None] = {
    "auto": None,
    "depth 1": {"depth": 1, "is_random": False, "share_small": 1.0},
    "depth 4": {"depth": 4, "is_random": False, "share_small": 1.0},
    "depth 16": {"depth": 16, "is_random": False, "share_small": 1.0},
    "any depth": {"depth": 16, "share_small": 0.7, "patience": 0.995},
}


def told(output: RequestOutput) -> Any:
    """What must be the same: tokens, routes, entropies, and how it ended."""
    (completion,) = output.outputs
    steps = [(step.model, step.entropy, step.token_start, step.token_end) for step in completion.steps]
    return completion.token_ids, completion.text, completion.finish_reason, steps


def main() -> int:
    """All ways beside off, problem by problem, as many at once as the engine takes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", required=True)
    parser.add_argument("--large", required=True)
    parser.add_argument("--problems", type=Path, required=True, help="JSON lines with `problem`")
    parser.add_argument("--instruction", default=INSTRUCTION, help="before each problem")
    parser.add_argument("--num-problems", type=int, default=200)
    parser.add_argument("--max-tokens", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--name", default="speculation-exact", help="of the result file")
    args = parser.parse_args()
    items = [json.loads(line) for line in args.problems.read_text().splitlines()[: args.num_problems]]
    prompts = [[{"role": "user", "content": args.instruction + item["problem"]}] for item in items]
    engine = Engine(args.small, args.large, device="cpu", max_batch_size=args.batch_size)
    vocab_size = min(runner.model.config.vocab_size for runner in engine._loop.runners)
    pays, num_compared, num_tokens, different, began = engine._loop.scheduler.proposing, 0, 0, [], time.perf_counter()
    with tqdm(total=len(SAMPLINGS) * len(THRESHOLDS) * (1 + len(WAYS)), unit="way") as progress:
        for name, options in SAMPLINGS.items():
            for threshold in THRESHOLDS:
                sampling = SamplingParams(max_tokens=args.max_tokens, **options)
                expected = None
                for way, whims in {"off": None, **WAYS}.items():
                    policy = pays if whims is None else Whims(num_compared, **whims, vocab_size=vocab_size)
                    engine._loop.scheduler.proposing = policy
                    asked = RoutingParams(router=GlimpRouter(threshold), speculation="off" if way == "off" else "auto")
                    answers = [told(each) for each in engine.generate(prompts, sampling, asked, use_tqdm=False)]
                    progress.update()
                    if expected is None:
                        expected = answers
                        continue
                    num_compared += len(answers)
                    num_tokens += sum(len(answer[0]) for answer in answers)
                    for i, (ours, theirs) in enumerate(zip(answers, expected, strict=True)):
                        if ours != theirs:
                            different.append(f"problem {i}, {name}, threshold {threshold}, {way}")
    stats = engine.stats()
    result = {
        "name": args.name,
        "commit": commit(),
        "machine": machine(),
        "models": [Path(args.small).name, Path(args.large).name],
        "num_problems": len(prompts),
        "max_tokens": args.max_tokens,
        "num_answers_compared": num_compared,
        "num_tokens_compared": num_tokens,
        "num_different": len(different),
        "first_different": different[:5],
        "recomputed_tokens": stats.recomputed_tokens,
        "all_pages_came_back": stats.num_free_pages + stats.num_cached_pages == stats.num_pages,
        "seconds": time.perf_counter() - began,
    }
    (RESULTS / f"{args.name}.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))
    return bool(different)


if __name__ == "__main__":
    sys.exit(main())
