"""The options that say which pair of models runs, and how; and the engine that they make."""

import argparse
from typing import TYPE_CHECKING, Any

from glimp_engine.cli.paths import model_source
from glimp_engine.cli.values import integer, json_object
from glimp_engine.speculation import SPECULATION_SPECS

if TYPE_CHECKING:
    from glimp_engine.engine import Engine

__all__ = ["add_chat_options", "add_engine_options", "engine_arguments", "make_engine"]


def add_engine_options(parser: argparse.ArgumentParser, is_required: bool = True) -> None:
    """Add the pair's options to a command."""
    parser.add_argument(
        "--small", type=model_source, required=is_required, help="directory, .gguf file or hub id of the small model"
    )
    parser.add_argument(
        "--large", type=model_source, help="... of the large model; without one the small model writes everything"
    )
    for name in ("small", "large"):
        parser.add_argument(
            f"--{name}-tokenizer",
            type=model_source,
            metavar="DIR",
            help=f"directory whose tokenizer.json is read in place of what the {name} model's checkpoint has",
        )
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--ops", default="auto")
    parser.add_argument("--quantization", help="int8 or int4: quantise float weights when they are loaded")
    parser.add_argument("--num-threads", type=integer, help="of the native ops; PyTorch's number if it isn't given")
    parser.add_argument(
        "--speculation",
        default="auto",
        metavar="SPEC",
        help=f"who proposes tokens to the model that writes, which changes times and no token: {SPECULATION_SPECS}",
    )


def add_chat_options(parser: argparse.ArgumentParser) -> None:
    """Add what is told to both models' chat templates, and how long they may think."""
    parser.add_argument(
        "--chat-template-kwargs",
        type=json_object,
        default={},
        metavar="JSON",
        help="variables of the chat templates, as '{\"enable_thinking\": false}'",
    )
    parser.add_argument("--max-thinking-tokens", type=integer, default=8192, help="then it is ended; 0: no thinking")


def make_engine(options: argparse.Namespace, **more: Any) -> "Engine":
    """The engine of the options, and of what a command asks for besides."""
    from glimp_engine.engine import Engine  # torch and transformers take seconds to import

    return Engine(**engine_arguments(options, **more))


def engine_arguments(options: argparse.Namespace, **more: Any) -> dict[str, Any]:
    """What the options, and a command besides, give to Engine."""
    names = (
        *("small", "large", "device", "dtype", "ops", "quantization", "num_threads", "speculation"),
        *("small_tokenizer", "large_tokenizer"),
    )
    return {name: getattr(options, name) for name in names} | more
