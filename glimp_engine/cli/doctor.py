"""`glimp doctor`: what this machine will use, and what is missing."""

import argparse
import importlib.metadata
import os
import platform
import shutil

from rich.console import Console
from rich.table import Table

from glimp_engine.errors import GlimpError

__all__ = ["add_parser"]

PACKAGES = ("torch", "transformers", "safetensors", "gguf", "triton", "flash-attn")


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `glimp doctor`."""
    doctor = commands.add_parser("doctor", help="what this machine will use, and what is missing")
    doctor.set_defaults(command=command)


def command(options: argparse.Namespace) -> int:
    """Print what `auto` stands for here, and what is missing."""
    import torch

    from glimp_engine.config import EngineConfig, available_devices
    from glimp_engine.kernels.native import load_library

    config, table, problems = EngineConfig(), Table(title="glimp doctor"), []
    table.add_column("what")
    table.add_column("found")
    table.add_row("python", f"{platform.python_version()} on {platform.platform()}")
    for name in PACKAGES:
        try:
            table.add_row(name, importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            table.add_row(name, "not installed" + (" (optional)" if name in ("triton", "flash-attn") else ""))
    table.add_row("processor", f"{os.cpu_count()} cores, torch uses {torch.get_num_threads()} threads")
    table.add_row("devices", ", ".join(available_devices()))
    try:
        load_library()
        table.add_row("native ops", "built")
    except GlimpError as error:
        table.add_row("native ops", "missing")
        problems.append(str(error))
    table.add_row("C++ compiler", next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), "not found"))
    table.add_row("nvcc", shutil.which("nvcc") or "not found (optional)")
    ops = "native" if config.is_native else "reference"
    table.add_row("auto", f"device {config.torch_device}, dtype the checkpoint's own, ops {ops}")
    Console().print(table)
    for problem in problems:
        print(f"missing: {problem}")
    return 1 if problems else 0
