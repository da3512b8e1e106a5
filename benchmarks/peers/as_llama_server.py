#!/usr/bin/env python3
"""`glimp serve` with the flags of llama-server, for that server's own tests: the demo pair, whatever model they name.

LLAMA_SERVER_BIN_PATH=benchmarks/peers/as_llama_server.py pytest tools/server/tests/unit/test_security.py
"""

import argparse
import sys

from glimp_engine.cli.main import main
from glimp_engine.demo_pair import LARGE, SMALL

NAMES = ("tinyllama-2", "gpt-3.5-turbo", "gpt-3.5-turbo-instruct", "davinci-002", "codellama70b", "test")


def command() -> list[str]:
    """The arguments of `glimp`; flags that say nothing to it are passed over."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for flag in ("--host", "--port", "--alias", "--ctx-size", "--parallel", "--api-key", "--cors-origins"):
        parser.add_argument(flag)
    known, _ = parser.parse_known_args()
    names = dict.fromkeys([known.alias or NAMES[0], *NAMES])
    told = ["serve", "--small", str(SMALL), "--large", str(LARGE), "--num-threads", "1"]
    told += ["--max-thinking-tokens", "0"]  # as the models of these tests, which don't think
    told += ["--host", known.host, "--port", known.port, "--served-model-name", *names, "--kv-cache-bytes", "100000000"]
    if known.api_key:
        told += ["--api-key", known.api_key]
    told += ["--allowed-origins", *(known.cors_origins or "*").split(",")]
    return told


if __name__ == "__main__":
    sys.exit(main(command()))
