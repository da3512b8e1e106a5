"""`glimp trace`: one answer as a page."""

import argparse

from glimp_engine.cli.paths import file_path, writing
from glimp_engine.cli.trace_page import trace_page

__all__ = ["add_parser"]


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `glimp trace`."""
    parser = commands.add_parser("trace", help="draw an answer: who wrote what, how sure it was, when each model ran")
    parser.set_defaults(command=command)
    parser.add_argument("run", type=file_path, help="what `glimp run --json` has printed")
    parser.add_argument("-o", "--out", type=file_path, required=True, help="the page, HTML")


def command(options: argparse.Namespace) -> int:
    """Write the page. Raises: ConfigError when there's no run, or the page can't be written."""
    page = trace_page(options.run)
    with writing("--out", options.out):
        options.out.write_text(page, encoding="utf-8")
    print(f"written: {options.out}")
    return 0
