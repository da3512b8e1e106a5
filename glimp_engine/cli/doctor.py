"""`glimp doctor`: what this machine will use, how fast it could be and is, and what is missing."""

import argparse
import importlib.metadata
import os
import platform
import shutil
import time
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from glimp_engine.cli.engine_options import add_engine_options, make_engine
from glimp_engine.errors import ConfigError, GlimpError

if TYPE_CHECKING:
    import torch

    from glimp_engine.engine import Engine
    from glimp_engine.routing import Model

__all__ = ["add_parser"]

PACKAGES = ("torch", "transformers", "safetensors", "gguf", "triton", "flash-attn")
CODE_PATHS = {
    **{"portable": "portable C++", "avx2": "AVX2", "avx512": "AVX-512", "avx512_vnni": "AVX-512 with VNNI"},
    "avx512_bf16": "AVX-512 with VNNI and BF16",
}
BUFFER_BYTES = 1 << 28  # more than any cache holds
SECONDS = 1.0  # that the memory is measured for
NUM_TOKENS = 64  # of a short run


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `glimp doctor`."""
    doctor = commands.add_parser(
        "doctor", help="what this machine will use, how fast it could be and is, and what is missing"
    )
    add_engine_options(doctor, is_required=False)
    doctor.set_defaults(command=command)


def command(options: argparse.Namespace) -> int:
    """Print what `auto` stands for here, what is missing, and the speed of the models, if any are given."""
    from glimp_engine.config import EngineConfig

    if options.large and not options.small:
        raise ConfigError("large is given without small; allowed: small alone, or both")
    config = EngineConfig(device=options.device, ops=options.ops, num_threads=options.num_threads)
    table = Table(title="glimp doctor")
    table.add_column("what")
    table.add_column("found")
    problems = add_parts(table, config.num_threads)
    ops = "native" if config.is_native else ("triton" if config.is_triton else "reference")
    table.add_row("auto", f"device {config.torch_device}, dtype the checkpoint's own, ops {ops}")
    bandwidth = measure_bandwidth(config.torch_device)
    table.add_row("memory", f"{bandwidth / 1e9:.1f} GB/s read, on device {config.torch_device}")
    if options.small and not problems:
        add_models(table, options, bandwidth)
    Console().print(table)
    for problem in problems:
        print(f"missing: {problem}")
    return 1 if problems else 0


def add_parts(table: Table, num_threads: int | None) -> list[str]:
    """Rows of what is installed and built; what is missing comes back."""
    import torch

    from glimp_engine.config import available_devices
    from glimp_engine.kernels import native

    problems = []
    table.add_row("python", f"{platform.python_version()} on {platform.platform()}")
    for name in PACKAGES:
        try:
            table.add_row(name, importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            table.add_row(name, "not installed" + (" (optional)" if name in ("triton", "flash-attn") else ""))
    table.add_row("processor", f"{os.cpu_count()} cores, torch uses {torch.get_num_threads()} threads")
    table.add_row("devices", ", ".join(available_devices()))
    try:
        table.add_row("native ops", f"built; this processor runs {CODE_PATHS[native.NativeOps(num_threads).path]}")
    except GlimpError as error:
        table.add_row("native ops", "missing")
        problems.append(str(error))
    table.add_row("C++ compiler", next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), "not found"))
    table.add_row("nvcc", shutil.which("nvcc") or "not found (optional)")
    return problems


def measure_bandwidth(device: "torch.device") -> float:
    """Bytes a second that the device reads of its memory, the best of a second's tries."""
    import torch

    buffer = torch.zeros(BUFFER_BYTES // 8, dtype=torch.int64, device=device)
    best, end = float("inf"), time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        began = time.perf_counter()
        buffer.max().item()  # of PyTorch's reductions the one that computes least
        best = min(best, time.perf_counter() - began)
    return BUFFER_BYTES / best


def add_models(table: Table, options: argparse.Namespace, bandwidth: float) -> None:
    """Rows of what each model's bytes allow, and what it reaches when it writes a short text alone."""
    from glimp_engine.routing import Model

    engine = make_engine(options)
    for model in (Model.SMALL, Model.LARGE) if options.large else (Model.SMALL,):
        num_bytes = engine.weight_bytes(model)
        allowed, reached = bandwidth / num_bytes, decode_speed(engine, model)
        table.add_row(
            f"the {model} model",
            f"{num_bytes / 1e9:.2f} GB a token allow {allowed:.1f} tokens/s; "
            f"it writes {reached:.1f}, {100 * reached / allowed:.0f}%"
            + (": some of it stays in the processor's cache" if reached > allowed else ""),
        )


def decode_speed(engine: "Engine", model: "Model") -> float:
    """Tokens a second of one answer that the model writes alone, without proposals."""
    from glimp_engine.outputs import Token
    from glimp_engine.routing import LargeOnly, Model, RoutingParams, SmallOnly
    from glimp_engine.sampling import SamplingParams

    sampling = SamplingParams(temperature=0, max_tokens=NUM_TOKENS, ignore_eos=True)
    router = LargeOnly() if model is Model.LARGE else SmallOnly()
    routing = RoutingParams(router=router, speculation="off", stop_repeated_steps=False)
    for _ in range(2):  # the first warms up
        times = []
        for event in engine.stream("Count from one to a hundred.", sampling, routing):
            if isinstance(event, Token):
                times.append(time.perf_counter())
    return (len(times) - 1) / (times[-1] - times[0])
