"""The `glimp` command line."""

import argparse
import sys

from glimp_engine.cli import calibrate, demo, doctor, eval, run, trace
from glimp_engine.errors import GlimpError

__all__ = ["main"]

COMMANDS = (demo, run, trace, eval, calibrate, doctor)  # modules with add_parser(commands)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; 0 if all went well, 1 on an error, 130 on an interrupt."""
    top = argparse.ArgumentParser(prog="glimp", description="Two language models write one answer, step by step.")
    commands = top.add_subparsers(required=True)
    for command in COMMANDS:
        command.add_parser(commands)
    options = top.parse_args(arguments)
    try:
        return int(options.command(options))
    except GlimpError as error:
        print(f"glimp: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("glimp: interrupted", file=sys.stderr)
        return 130
