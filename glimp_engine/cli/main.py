"""The `glimp` command line."""

import argparse
import io
import os
import sys
from contextlib import suppress
from typing import NoReturn

from glimp_engine.cli import calibrate, demo, doctor, eval, run, serve, trace
from glimp_engine.errors import GlimpError

__all__ = ["main"]

COMMANDS = (demo, run, serve, trace, eval, calibrate, doctor)  # modules with add_parser(commands)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; 0 if all went well, 1 on an error, 2 on arguments that are none, 130 on an interrupt.

    What was wrong is one line on stderr. A reader of stdout that has gone away is no error to tell of.
    """
    prepare_streams()
    told: str | None = None
    try:
        status = run_command(arguments)
    except GlimpError as error:
        status, told = 1, str(error)
    except BrokenPipeError:
        status = 1
    except OSError as error:
        status, told = 1, what_of(error)
    except KeyboardInterrupt:
        status, told = 130, "interrupted"
    try:
        if sys.stdout is not None:
            sys.stdout.flush()  # else Python does when it ends, where nobody catches what that raises
    except OSError as error:
        silence_stdout()
        status = status or 1
        told = told if isinstance(error, BrokenPipeError) else f"stdout: {error.strerror}"
    if told is not None:
        tell(told)
    return status


def run_command(arguments: list[str] | None) -> int:
    """The command's status, or argparse's own."""
    top = OneLineParser(prog="glimp", description="Two language models write one answer, step by step.")
    commands = top.add_subparsers(required=True)
    for command in COMMANDS:
        command.add_parser(commands)
    try:
        options = top.parse_args(arguments)
    except SystemExit as ended:  # after --help, or an error that it has told
        return int(ended.code or 0)
    return int(options.command(options))


class OneLineParser(argparse.ArgumentParser):
    """Tells an error in one line, where argparse puts the usage before it. Its commands' parsers are such, too."""

    def error(self, message: str) -> NoReturn:
        tell(f"{message} (see {self.prog} --help)")
        self.exit(2)


def tell(message: str) -> None:
    """One line on stderr, whatever is in the message; nothing where stderr can't be written to."""
    with suppress(OSError, ValueError):
        if sys.stderr is not None:
            print("glimp:", " ".join(message.split()), file=sys.stderr, flush=True)


def what_of(error: OSError) -> str:
    """The file, if it's about one, and what is wrong with it."""
    what = error.strerror or str(error)
    named = "stdout or a file" if error.filename is None else repr(error.filename)  # a write says no name
    return f"{named}: {what}"


def prepare_streams() -> None:
    """Standard streams that are closed, or can't show a character, are no reason to fail."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes this number, which the next file to be opened would have else
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  progress bars write to it without asking


def silence_stdout() -> None:
    """What is left in its buffer goes nowhere, so that Python doesn't try again when it ends."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
