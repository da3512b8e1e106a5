"""From a row in a data set's own format to a problem, one function a data set.

Each takes (row, its number in the file, the instruction), and raises KeyError or ValueError where the row isn't one.
"""

import base64
import io
import json
import pickle
import random
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from glimp_engine.evaluation.problems import Problem, Row

__all__ = ["WHERE", "finqa", "gpqa", "gsm8k", "hitab", "livecodebench", "math", "tabfact", "tablebench", "wikitq"]

MAX_TESTS_BYTES = 1 << 29
WHERE = "(where)"  # the key under which a row has its file and line


def math(row: Row, number: int, instruction: str) -> Problem:
    """AIME and MATH-500: `problem`, `answer`, and one of several names for the id."""
    given = row.get("unique_id", row.get("id", number))
    return Problem(str(given), instruction + str(row["problem"]), str(row["answer"]))


def gsm8k(row: Row, number: int, instruction: str) -> Problem:
    """The answer stands behind #### at the end of the solution."""
    before, mark, answer = str(row["answer"]).rpartition("####")
    if not mark:
        raise ValueError(f"answer is {before[-40:]!r}; expected a solution that ends with #### and a number")
    return Problem(f"gsm8k-{number}", instruction + str(row["question"]), answer.strip())


def gpqa(row: Row, number: int, instruction: str) -> Problem:
    """The four choices in an order that the record's id settles, so that it's the same in every run."""
    record = str(row.get("Record ID") or number)
    right = str(row["Correct Answer"]).strip()
    choices = [right, *(str(row[f"Incorrect Answer {i}"]).strip() for i in (1, 2, 3))]
    random.Random(record).shuffle(choices)
    listed = "\n".join(f"({letter}) {choice}" for letter, choice in zip("ABCD", choices, strict=True))
    return Problem(record, f"{instruction}{str(row['Question']).strip()}\n\n{listed}", "ABCD"[choices.index(right)])


def livecodebench(row: Row, number: int, instruction: str) -> Problem:
    """Public and private tests; those of LeetCode call a function, the others read and print."""
    metadata = row.get("metadata") or "{}"
    function = (json.loads(metadata) if isinstance(metadata, str) else metadata).get("func_name")
    tests = [*json.loads(row["public_test_cases"]), *private_tests(row["private_test_cases"])]
    how = (
        f"Complete this:\n```python\n{row['starter_code']}\n```"
        if row.get("starter_code")
        else "The program reads its input from stdin and prints to stdout."
    )
    answer = {"tests": [{"input": test["input"], "output": test["output"]} for test in tests]}
    prompt = f"{instruction}{row['question_content']}\n\n{how}"
    return Problem(str(row["question_id"]), prompt, {**answer, "function": function} if function else answer)


class PlainUnpickler(pickle.Unpickler):
    """Reads strings and containers, and nothing that could run code."""

    def find_class(self, module: str, name: str) -> Any:
        raise ValueError(f"private_test_cases has a {module}.{name}; expected plain text")


def inflated(packed: bytes) -> bytes:
    """Raises: ValueError on more than any data set's tests come to: a few bytes can stand for gigabytes."""
    inflater = zlib.decompressobj()
    unpacked = inflater.decompress(packed, MAX_TESTS_BYTES)
    if inflater.unconsumed_tail:
        raise ValueError(f"private_test_cases has more than {MAX_TESTS_BYTES} bytes")
    return unpacked


def private_tests(packed: str) -> list[dict[str, str]]:
    """JSON, or JSON that is pickled, compressed, and in base64."""
    try:
        loaded = json.loads(packed)
    except ValueError:
        try:
            unpacked = PlainUnpickler(io.BytesIO(inflated(base64.b64decode(packed)))).load()
        except (zlib.error, pickle.UnpicklingError, EOFError) as error:
            raise ValueError(f"private_test_cases can't be unpacked: {error}") from None
        loaded = json.loads(unpacked)
    return list(loaded)


def wikitq(row: Row, number: int, instruction: str) -> Problem:
    table = row["table"]
    return table_problem(
        row, number, instruction, table["header"], table["rows"], str(row["question"]), list(row["answers"])
    )


def tabfact(row: Row, number: int, instruction: str) -> Problem:
    """The table is text: lines, and cells separated by #."""
    header, *body = [line.split("#") for line in str(row["table_text"]).strip().splitlines()]
    title = f"{row['table_caption']}\n\n" if row.get("table_caption") else ""
    label = row["label"]
    if label not in (0, 1):
        raise ValueError(f"label is {label!r}; expected 0 or 1")
    statement = f"{title}Statement: {row['statement']}"
    return table_problem(row, number, instruction, header, body, statement, "true" if label else "false")


def hitab(row: Row, number: int, instruction: str) -> Problem:
    """The table is a file of its own, tables/raw/ID.json beside the samples."""
    path = Path(str(row[WHERE]).rpartition(":")[0]).parent / "tables" / "raw" / f"{row['table_id']}.json"
    if not path.is_file():
        raise ValueError(f"table_id is {row['table_id']!r}; expected its table in {path}")
    table = json.loads(path.read_text(encoding="utf-8"))
    header, *body = table["texts"]
    question = f"{table['title']}\n\n{row['question']}" if table.get("title") else str(row["question"])
    return table_problem(row, number, instruction, header, body, question, list(row["answer"]))


def finqa(row: Row, number: int, instruction: str) -> Problem:
    """A table between the texts of a report; the answer is what the annotated program gives, or else as written."""
    asked = row.get("qa", row)
    answer = asked.get("exe_ans")
    header, *body = row["table"]
    texts = (" ".join(row.get(part) or []) for part in ("pre_text", "post_text"))
    question = "\n\n".join([*texts, str(asked["question"])])
    return table_problem(
        row, number, instruction, header, body, question, asked["answer"] if answer is None else answer
    )


def tablebench(row: Row, number: int, instruction: str) -> Problem:
    table = row["table"]
    table = json.loads(table) if isinstance(table, str) else table
    answers = [part.strip() for part in str(row["answer"]).split(",")]
    is_list = len(answers) > 1 and not all(part.replace(".", "").isdigit() for part in answers)
    answer = answers if is_list else str(row["answer"])
    return table_problem(row, number, instruction, table["columns"], table["data"], str(row["question"]), answer)


def table_problem(
    row: Row,
    number: int,
    instruction: str,
    header: Sequence[Any],
    body: Sequence[Sequence[Any]],
    asked: str,
    answer: Any,
) -> Problem:
    """The table as Markdown, then what is asked of it."""
    lines = [header, ["---"] * len(header), *body]
    table = "\n".join("| " + " | ".join(str(cell).replace("\n", " ") for cell in line) + " |" for line in lines)
    return Problem(str(row.get("id", number)), f"{instruction}{table}\n\n{asked}", answer)
