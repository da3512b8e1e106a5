"""Problems from a file with one row each, whatever the fields are called; rows that can't be read are named."""

import csv
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glimp_engine.errors import ConfigError
from glimp_engine.evaluation.graders import Grader

__all__ = ["BadLine", "Problem", "ReadRow", "Row", "read_by_fields", "read_problems", "rows_of_file"]

FIELDS = ("id", "problem", "answer")


@dataclass(frozen=True)
class Problem:
    """One problem: `prompt` is the user's whole message, `answer` what the grader compares with."""

    id: str
    prompt: str
    answer: Any


@dataclass(frozen=True)
class BadLine:
    """A row that can't be used: where it stands, and what is wrong with it."""

    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


Row = Mapping[str, Any]
ReadRow = Callable[[Row, int], Problem]  # (row, its number from 0 on); raises KeyError or ValueError


def read_by_fields(fields: str | None, instruction: str) -> ReadRow:
    """Reads rows whose fields are named by "id=uid,problem=question,answer=gold"; those not given keep their names.

    Raises: ConfigError on a text that names no fields.
    """
    names = dict(zip(FIELDS, FIELDS, strict=True))
    for part in fields.split(",") if fields else []:
        ours, _, theirs = part.partition("=")
        if ours not in FIELDS or not theirs:
            raise ConfigError(f"fields is {fields!r}; allowed: id=NAME,problem=NAME,answer=NAME, or some of them")
        names[ours] = theirs

    def read(row: Row, number: int) -> Problem:
        given = row.get(names["id"])
        problem = row[names["problem"]]
        if not isinstance(problem, str) or not problem.strip():
            raise ValueError(f"{names['problem']} is {problem!r}; expected text")
        return Problem(str(number if given is None else given), instruction + problem, row[names["answer"]])

    return read


def read_problems(
    rows: Iterator[tuple[str, Row | str]], read: ReadRow, grader: Grader, limit: int | None = None
) -> tuple[list[Problem], list[BadLine]]:
    """(the problems, the rows that are none): malformed ones, missing fields, answers the grader can't read."""
    problems: dict[str, Problem] = {}
    bad: list[BadLine] = []
    for number, (where, row) in enumerate(rows):
        if limit is not None and len(problems) == limit:
            break
        if isinstance(row, str):
            bad.append(BadLine(where, row))
            continue
        try:
            problem = read(row, number)
            grader.check_reference(problem.answer)
            check_storable(problem)
        except KeyError as error:
            bad.append(BadLine(where, f"expected a field {error}; found {', '.join(sorted(row)) or 'none'}"))
        except (ValueError, TypeError, AttributeError, IndexError, OSError) as error:  # a field of another kind
            bad.append(BadLine(where, str(error)))
        else:
            if problem.id in problems:
                bad.append(BadLine(where, f"id {problem.id!r} was there before"))
            else:
                problems[problem.id] = problem
    return list(problems.values()), bad


def check_storable(problem: Problem) -> None:
    """Raise ValueError or TypeError unless the problem can be written to a file of results."""
    try:
        json.dumps(vars(problem), ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"found {error.object[error.start]!a}, half of a character; expected text") from None


def rows_of_file(path: Path) -> Iterator[tuple[str, Row | str]]:
    """(file and line, row, or what is wrong with it) of a .jsonl, .json, .csv, .tsv or .parquet file.

    Raises: ConfigError when there is no such file, or of another kind, or nothing in it can be read.
    """
    readers = {".jsonl": json_lines, ".json": json_list, ".csv": separated, ".tsv": separated, ".parquet": parquet}
    if path.suffix not in readers:
        raise ConfigError(f"problems is {str(path)!r}; allowed: a file that ends with {', '.join(readers)}")
    if not path.is_file():
        raise ConfigError(f"problems is {str(path)!r}, and there is no such file")
    yield from readers[path.suffix](path)


def json_lines(path: Path) -> Iterator[tuple[str, Row | str]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield f"{path}:{number}", parsed_line(line)


def parsed_line(encoded: bytes) -> Row | str:
    line = encoded.decode(errors="backslashreplace")
    try:
        row = json.loads(encoded.decode())
    except (ValueError, RecursionError) as error:
        return f"expected a JSON object, found {line.strip()[:60]!r} ({error})"
    return row if isinstance(row, dict) else f"expected a JSON object, found {line.strip()[:60]!r}"


def json_list(path: Path) -> Iterator[tuple[str, Row | str]]:
    """A list of rows, or an object of rows by their ids."""
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: expected JSON, found {error}") from None
    if not isinstance(loaded, (dict, list)):
        raise ConfigError(f"{path}: expected a list of rows, or an object of rows, found {str(loaded)[:60]!r}")
    items = loaded.items() if isinstance(loaded, dict) else enumerate(loaded)
    for key, row in items:
        is_row = isinstance(row, dict)
        yield f"{path}:[{key!r}]", {"id": key, **row} if is_row else f"expected an object, found {str(row)[:60]!r}"


def separated(path: Path) -> Iterator[tuple[str, Row | str]]:
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ",")
        try:
            for row in reader:
                yield f"{path}:{reader.line_num}", {key: value for key, value in row.items() if key}
        except (csv.Error, UnicodeDecodeError) as error:  # behind which there are no lines to go on with
            raise ConfigError(
                f"{path}: expected rows of text in UTF-8, found after line {reader.line_num}: {error}"
            ) from None


def parquet(path: Path) -> Iterator[tuple[str, Row | str]]:
    try:
        from pyarrow.parquet import read_table
    except ImportError:
        raise ConfigError(f"{path}: reading parquet takes pyarrow: pip install 'glimp_engine[eval]'") from None
    try:
        rows = read_table(path).to_pylist()
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: expected a parquet file, found {error}") from None
    for number, row in enumerate(rows, start=1):
        yield f"{path}:{number}", row
