"""llama.cpp's vocabularies: each is read as its test vectors say, or refused by its name."""

import time

import pytest
from llama_cpp import find_models, with_vectors

from glimp_engine import CheckpointError
from glimp_engine.checkpoints.gguf_header import read_gguf_header
from glimp_engine.text.gguf_tokenizer import build_gguf_tokenizer

pytestmark = pytest.mark.slow

REFUSED = {
    "aquila": "tokenizer.ggml.pre: expected one of",
    "gpt-neox": "tokenizer.ggml.pre: expected one of",
    "bert-bge": "tokenizer.ggml.model is 'bert'",
    "nomic-bert-moe": "tokenizer.ggml.model is 't5'",
}
NEITHER = {"baichuan"}  # it can be read, and has no vectors
SECONDS = 1.0  # that building one may take of a processor


@pytest.fixture(scope="module")
def directory():
    return find_models()


def name_of(path):
    return path.stem.removeprefix("ggml-vocab-")


def test_every_vocabulary_is_as_its_vectors_say_or_refused_by_name(directory):
    wrong, seconds, seen = {}, {}, set()
    for path in sorted(directory.glob("ggml-vocab-*.gguf")):
        name, metadata = name_of(path), read_gguf_header(path).metadata
        seen.add(name)
        if name in REFUSED:
            with pytest.raises(CheckpointError, match="tokenizer=DIR") as caught:
                build_gguf_tokenizer(metadata, path)
            assert f"{path}: {REFUSED[name]}" in str(caught.value)
            continue
        start = time.process_time()
        tokenizer = build_gguf_tokenizer(metadata, path)
        seconds[name] = time.process_time() - start
        if seconds[name] > SECONDS / 2:  # it may have been held up
            seconds[name] = min(seconds[name], seconds_to_build(metadata, path))
        wrong[name] = [
            text for text, ids in vectors(path) if tokenizer.encode(text, add_special_tokens=False).ids != ids
        ]
    assert seen >= {*REFUSED, *NEITHER}
    assert {name_of(path) for path in with_vectors(directory)} - REFUSED.keys() <= wrong.keys()
    assert {name: texts for name, texts in wrong.items() if texts} == {}
    assert {name: took for name, took in seconds.items() if took > SECONDS} == {}


def seconds_to_build(metadata, path):
    start = time.process_time()
    build_gguf_tokenizer(metadata, path)
    return time.process_time() - start


def vectors(path):
    """(text, its ids) of a vocabulary; none where it has no vectors."""
    inputs, outputs = path.with_name(f"{path.name}.inp"), path.with_name(f"{path.name}.out")
    if not inputs.exists():
        return []
    texts = inputs.read_bytes().decode().split("\n__ggml_vocab_test__\n")
    lines = outputs.read_text().split("\n")
    assert len(texts) > 40
    assert len(lines) - len(texts) in (0, 1)
    assert not any(lines[len(texts) :])
    return [(text, [int(i) for i in line.split()]) for text, line in zip(texts, lines, strict=False)]
