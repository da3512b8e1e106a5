"""Word problems from a file with one JSON object a line: `problem`, and `answer`, a number as text."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

INSTRUCTION = (
    "Solve the following math problem. Reason step by step, and separate the logical steps with two newlines "
    "(a blank line between steps). Put your final answer within \\boxed{}.\n\n"
)


@dataclass(frozen=True)
class Problem:
    text: str
    answer: float

    @property
    def message(self) -> str:
        """What a user would ask."""
        return INSTRUCTION + self.text


def load_problems(path: Path, num_problems: int | None = None) -> list[Problem]:
    """The first problems of the file, or all."""
    items = [json.loads(line) for line in path.read_text().splitlines()[:num_problems]]
    return [Problem(item["problem"], float(item["answer"].replace(",", ""))) for item in items]


def final_number(text: str) -> float | None:
    """The last number, of the last \\boxed{} if there is one; None if there is none."""
    boxed = re.findall(r"\\boxed\{((?:[^{}]|\{[^{}]*\})*)\}", text)
    found = re.findall(r"-?\d[\d,]*(?:\.\d+)?", boxed[-1] if boxed else text)
    return float(found[-1].replace(",", "")) if found else None
