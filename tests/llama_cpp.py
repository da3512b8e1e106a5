"""Where llama.cpp's models/ directory is: test vectors of vocabularies, and chat templates. They aren't kept here."""

import os
from pathlib import Path

import pytest


def find_models():
    """The directory; a test that needs it is skipped where it isn't."""
    directory = os.environ.get("GLIMP_LLAMA_CPP_MODELS")
    if directory is None:
        pytest.skip("GLIMP_LLAMA_CPP_MODELS isn't set: the models/ directory of llama.cpp's sources")
    return Path(directory)
