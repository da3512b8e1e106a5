"""`glimp trace`: one answer as a page."""

import argparse
from pathlib import Path

from glimp_engine.cli.trace_page import trace_page
from glimp_engine.errors import ConfigError

__all__ = ["add_parser"]


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `glimp trace`."""
    parser = commands.add_parser("trace", help="draw an answer: who wrote what, how sure it was, when each model ran")
    parser.set_defaults(command=command)
    parser.add_argument("run", type=Path, help="what `glimp run --json` has printed")
    parser.add_argument("-o", "--out", type=Path, required=True, help="the page, HTML")


def command(options: argparse.Namespace) -> int:
    """Write the page. Raises: ConfigError when there's no run, or the page can't be written."""
    page = trace_page(options.run)
    try:
        options.out.write_text(page, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--out is {options.out}: {error.strerror}; allowed: a file that can be written") from None
    print(f"written: {options.out}")
    return 0
