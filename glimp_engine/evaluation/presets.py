"""The tasks that GlimpRouter is reported on: prompts, rows in each data set's own format, graders.

Each reads the file that its data set is published as, from the hub or from disk.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from glimp_engine.errors import ConfigError
from glimp_engine.evaluation import rows
from glimp_engine.evaluation.problems import Problem, ReadRow, Row, rows_of_file

__all__ = ["PRESETS", "Preset", "find_preset", "rows_of_preset"]

STEPS = "Reason step by step, and separate the steps with a blank line. "
MATH = f"Solve the following problem. {STEPS}Put your final answer within \\boxed{{}}.\n\n"
CHOICE = (
    f'Answer the following multiple-choice question. {STEPS}End with a line "Answer: X", where X is the letter.\n\n'
)
CODE = (
    f"Solve the following programming problem in Python. {STEPS}End with the whole program in one ```python block.\n\n"
)
TABLE = (
    f"Answer the question about the table. {STEPS}"
    'End with a line "Answer: " and the answer; several are separated by |.\n\n'
)
FACT = f'Is the statement true of the table? {STEPS}End with a line "Answer: true" or "Answer: false".\n\n'


@dataclass(frozen=True)
class HubFile:
    """A file of a data set on the hub."""

    repo: str
    file: str
    revision: str = "main"


@dataclass(frozen=True)
class Preset:
    """A task: how its rows become problems, and how answers to them are graded."""

    instruction: str
    grader: str
    read: Callable[[Row, int, str], Problem]  # (row, its number, the instruction)
    hub: HubFile | None  # None: it isn't there in its own format
    home: str = ""  # where the file is to be had from then
    is_used: Callable[[Row], bool] = field(default=lambda row: True)

    def reader(self) -> ReadRow:
        """Reads the data set's own rows."""
        return lambda row, number: self.read(row, number, self.instruction)


PARQUET = "refs/convert/parquet"
PRESETS = {
    "aime24": Preset(MATH, "boxed", rows.math, HubFile("HuggingFaceH4/aime_2024", "data/train-00000-of-00001.parquet")),
    "aime25": Preset(MATH, "boxed", rows.math, HubFile("math-ai/aime25", "test.jsonl")),
    "math500": Preset(MATH, "boxed", rows.math, HubFile("HuggingFaceH4/MATH-500", "test.jsonl")),
    "gpqa-diamond": Preset(CHOICE, "choice", rows.gpqa, HubFile("Idavidrein/gpqa", "gpqa_diamond.csv")),
    "livecodebench-v5": Preset(
        CODE, "code", rows.livecodebench, HubFile("livecodebench/code_generation_lite", "test5.jsonl")
    ),
    "livecodebench-v6": Preset(
        CODE, "code", rows.livecodebench, HubFile("livecodebench/code_generation_lite", "test6.jsonl")
    ),
    "wikitq": Preset(
        TABLE,
        "table",
        rows.wikitq,
        HubFile("stanfordnlp/wikitablequestions", "random-split-1/test/0000.parquet", PARQUET),
    ),
    "tabfact": Preset(FACT, "exact", rows.tabfact, HubFile("wenhu/tab_fact", "tab_fact/test/0000.parquet", PARQUET)),
    "hitab": Preset(TABLE, "table", rows.hitab, None, "data/test_samples.jsonl of github.com/microsoft/HiTab"),
    "finqa": Preset(TABLE, "finance", rows.finqa, None, "dataset/test.json of github.com/czyssrs/FinQA"),
    "tablebench": Preset(
        TABLE,
        "table",
        rows.tablebench,
        HubFile("Multilingual-Multimodal-NLP/TableBench", "TableBench_DP.jsonl"),
        is_used=lambda row: row.get("qtype") != "Visualization",  # which asks for a chart
    ),
    "gsm8k": Preset(MATH, "number", rows.gsm8k, HubFile("openai/gsm8k", "main/test-00000-of-00001.parquet")),
}


def find_preset(name: str) -> Preset:
    """The preset of that name.

    Raises: ConfigError on a name that is none.
    """
    if name not in PRESETS:
        raise ConfigError(f"preset is {name!r}; allowed: {', '.join(PRESETS)}")
    return PRESETS[name]


def rows_of_preset(preset: Preset, path: Path | None) -> Iterator[tuple[str, Any]]:
    """(where, row, or what is wrong with it) of the preset's file; from the hub if there is no path.

    Raises: ConfigError when the file isn't there, or can't be had.
    """
    found = rows_of_file(hub_file(preset) if path is None else path)
    for where, row in found:
        if isinstance(row, str):
            yield where, row
        elif preset.is_used(row):
            yield where, {**row, rows.WHERE: where}


def hub_file(preset: Preset) -> Path:
    """The preset's file, downloaded once."""
    if preset.hub is None:
        raise ConfigError(f"problems isn't given, and the hub doesn't have them in their own format: use {preset.home}")
    from huggingface_hub import hf_hub_download

    hub = preset.hub
    try:
        return Path(hf_hub_download(hub.repo, hub.file, repo_type="dataset", revision=hub.revision))
    except Exception as error:  # the hub's errors are of many types
        raise ConfigError(
            f"{hub.repo}: {hub.file} can't be had from the hub ({error}); give the file itself"
        ) from error
