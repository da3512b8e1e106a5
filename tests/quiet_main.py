"""The `glimp` command in a process whose progress bars nobody wants to see."""

import os
import sys

from glimp_engine.cli.main import main

__all__ = ["quiet_main"]


def quiet_main(arguments):
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    sys.exit(main(arguments))
