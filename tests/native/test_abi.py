"""The C ABI as an embedder meets it: codes, not crashes."""

import re
from pathlib import Path

import pytest

from glimp_engine.errors import ConfigError
from glimp_engine.kernels.native import ABI_VERSION, load_library

NULL_POINTER, BAD_SIZE = 1, 2


@pytest.fixture
def library():
    return load_library()


def sample(library, num_rows, vocab_size, stride):
    return library.glimp_sample(None, num_rows, vocab_size, stride, None, None, None, None, None, None)


def test_nothing_to_do_is_no_error(library):
    assert sample(library, 0, 5, 5) == 0


def test_null_pointers(library):
    assert sample(library, 1, 5, 5) == NULL_POINTER
    assert library.glimp_philox(None, None, None) == NULL_POINTER


@pytest.mark.parametrize(("num_rows", "vocab_size", "stride"), [(-1, 5, 5), (1, 0, 5), (1, 5, 4)])
def test_bad_sizes(library, num_rows, vocab_size, stride):
    assert sample(library, num_rows, vocab_size, stride) == BAD_SIZE


def test_every_code_has_a_text(library):
    texts = [library.glimp_error_string(code) for code in range(-1, 6)]
    assert all(texts)
    assert texts[0] == texts[-1] == b"unknown error"
    assert len(set(texts[1:6])) == 5


def test_the_version_is_the_headers():
    header = Path(__file__).parents[2] / "csrc" / "glimp.h"
    assert re.search(rf"GLIMP_ABI_VERSION {ABI_VERSION}\b", header.read_text())


def test_a_missing_or_foreign_library_is_a_config_error(tmp_path):
    with pytest.raises(ConfigError, match="pip install -e"):
        load_library(tmp_path / "libglimp.so")
    (tmp_path / "libglimp.so").write_bytes(b"no library")
    with pytest.raises(ConfigError, match="reference"):
        load_library(tmp_path / "libglimp.so")
