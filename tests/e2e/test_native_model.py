"""The decoder on the native ops: against the reference's on the same weights, and bit for bit however a text is cut."""

import pytest
import torch
from models import CASES, LENGTH, SIZES, VOCAB_SIZE, Growing, make_checkpoint, random_ids, whole

from glimp_engine import Engine, SamplingParams
from glimp_engine.checkpoints.checkpoint import load_checkpoint, open_checkpoint
from glimp_engine.checkpoints.stored_tensor import dequantize_rows
from glimp_engine.kernels.native import NativeOps
from glimp_engine.kernels.reference import ReferenceOps
from glimp_engine.models.decoder import Decoder
from glimp_engine.models.native_decoder import NativeDecoder
from glimp_engine.models.native_weights import WORD_MATRICES, read_weights
from glimp_engine.models.quantize import quantize_rows

# rows of whole groups of 32; calmer than the others, as each layer makes the rounding of the one before larger
GROUPED = {**SIZES, "hidden_size": 64, "intermediate_size": 96, "initializer_range": 0.12}
ARCHITECTURES = ["llama-biases", "llama-tied", "qwen2-yarn", "qwen3"]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Paths by case and sizes, each made once."""
    made = {}

    def make(case, sizes=GROUPED):
        key = (case, sizes["hidden_size"])
        if key not in made:
            made[key] = make_checkpoint(tmp_path_factory.mktemp(case), case, sizes)
        return made[key]

    return make


def load(path, dtype=None, quantization=None, num_threads=2):
    config, tensors = open_checkpoint(path)
    ops = NativeOps(num_threads)
    return NativeDecoder(config, read_weights(path, tensors, ops, dtype, quantization), ops)


def rounded_weights(weights, quantization):
    """What the quantised matrices stand for, in float64."""
    rounded = {}
    for name, weight in weights.items():
        if weight.dim() == 2 and weight.shape[1] % 32 == 0:
            kind = "Q4_1" if quantization == "int4" and name not in WORD_MATRICES else "Q8_0"
            weight = dequantize_rows(quantize_rows(weight.float(), kind)[0], kind)
        rounded[name] = weight.double()
    return rounded


class Int8Ops(ReferenceOps):
    """What the quantised ops do, in float64: each linear's input rounded to int8 in groups of 32, K/V in float16."""

    def linear(self, x, weight, bias=None):
        if weight.shape[1] % 32 == 0:
            groups = x.view(len(x), -1, 32)
            scale = groups.abs().amax(-1, keepdim=True) / 127
            x = ((groups / scale).round() * scale).view_as(x)
        return super().linear(x, weight, bias)

    def rope_and_store(self, q, k, v, cos_sin, batch, k_cache, v_cache, *norm):
        q = super().rope_and_store(q, k, v, cos_sin, batch, k_cache, v_cache, *norm)
        for cache in (k_cache, v_cache):
            cache.copy_(cache.half())
        return q


def error(out, exact):
    return float((out.double() - exact).norm() / exact.norm())


@pytest.mark.parametrize("case", CASES)
def test_float32_comes_near_the_reference(checkpoints, case):
    ids, path = random_ids(LENGTH, seed=1), checkpoints(case, SIZES)
    exact, plain = (
        whole(Decoder(*load_checkpoint(path, dtype, torch.device("cpu")), ReferenceOps()), ids)
        for dtype in (torch.float64, torch.float32)
    )
    native = load(path, "F32")
    assert native.kv_layout.dtype == torch.float32
    assert error(whole(native, ids), exact) <= 3 * error(plain, exact)


@pytest.mark.parametrize("dtype", ["BF16", "F16"])
def test_half_weights_come_near_the_reference_on_the_same_weights(checkpoints, dtype):
    ids, path = random_ids(LENGTH, seed=2), checkpoints("qwen3", SIZES)
    config, weights = load_checkpoint(path, torch.float64, torch.device("cpu"))
    half = torch.bfloat16 if dtype == "BF16" else torch.float16
    rounded = {
        name: weight.to(half if weight.dim() == 2 else torch.float32).double() for name, weight in weights.items()
    }
    exact = whole(Decoder(config, rounded, ReferenceOps()), ids)
    found = error(whole(load(path, dtype), ids), exact)
    if dtype == "F16":
        assert found < 2e-3  # K/V in float16
    else:  # where the processor multiplies bfloat16, rows are rounded to it; PyTorch keeps all in it
        plain = {name: weight.bfloat16() for name, weight in weights.items()}
        assert found < error(whole(Decoder(config, plain, ReferenceOps()), ids), exact)


@pytest.mark.parametrize("quantization", ["int8", "int4"])
@pytest.mark.parametrize("case", ARCHITECTURES)
def test_quantised_weights_give_what_the_reference_gives_on_the_same_weights(checkpoints, case, quantization):
    ids, path = random_ids(LENGTH, seed=3), checkpoints(case)
    config, weights = load_checkpoint(path, torch.float64, torch.device("cpu"))
    exact, expected = (
        whole(Decoder(config, rounded_weights(weights, quantization), ops), ids) for ops in (ReferenceOps(), Int8Ops())
    )
    native = load(path, quantization=quantization)
    out = whole(native, ids)
    # float32 and float64 round a few values to different int8, which the rows behind them see
    assert sorted(error(a, b) for a, b in zip(out, expected, strict=True))[LENGTH // 4] < 1e-5
    assert error(out, expected) < 0.5 * error(expected, exact)
    assert 0 < native.weights.quantization_error < (0.01 if quantization == "int8" else 0.08)


@pytest.mark.parametrize("how", [("F32", None), ("BF16", None), (None, "int8"), (None, "int4")], ids=str)
@pytest.mark.parametrize("case", ARCHITECTURES)
def test_a_row_is_a_row(checkpoints, case, how):
    texts = [random_ids(length, seed=length) for length in (LENGTH, 17, 1, 32)]
    decoders = [load(checkpoints(case), *how, num_threads=n) for n in (1, 2)]
    for page_size in (1, 3, 16):
        expected = [whole(decoders[0], ids, page_size) for ids in texts]
        torch.manual_seed(page_size)
        for decoder in decoders:
            for longest in (1, 5, 23, LENGTH):
                growing = Growing(decoder, texts, page_size)
                growing.run_in_pieces(longest)
                for rows, whole_rows in zip(growing.logits, expected, strict=True):
                    assert torch.equal(torch.stack(rows), whole_rows)


@pytest.mark.parametrize("num_logits", [1, 15, 16, 33, VOCAB_SIZE - 1, VOCAB_SIZE])
def test_the_first_logits_are_those_of_the_whole_vocabulary(checkpoints, num_logits):
    ids = random_ids(5, seed=4)
    reference = Decoder(*load_checkpoint(checkpoints("qwen3"), torch.float64, torch.device("cpu")), ReferenceOps())
    for decoder in (reference, load(checkpoints("qwen3"), "F32"), load(checkpoints("qwen3"), quantization="int4")):
        growing = Growing(decoder, [ids], 3, num_logits=num_logits)
        growing.run_in_pieces(3)
        first = whole(decoder, ids, 3)[:, :num_logits]
        same = torch.equal if isinstance(decoder, NativeDecoder) else torch.allclose
        assert same(torch.stack(growing.logits[0]), first)


@pytest.mark.slow
def test_a_long_context(tmp_path):
    sizes = {**SIZES, "max_position_embeddings": 16384, "num_hidden_layers": 1, "initializer_range": 0.2}
    path = make_checkpoint(tmp_path, "llama", sizes)
    ids = random_ids(16384, seed=6)
    exact = Growing(Decoder(*load_checkpoint(path, torch.float64, torch.device("cpu")), ReferenceOps()), [ids], 16)
    natives = [Growing(load(path, "F32", num_threads=n), [ids], 16) for n in (1, 2)]
    for growing, longest in zip([exact, *natives], (512, 3000, 700), strict=True):
        while growing.lengths[0] < len(ids):
            growing.forward([min(longest, len(ids) - growing.lengths[0])])
    expected, first, second = (torch.stack(growing.logits[0]) for growing in (exact, *natives))
    assert torch.equal(first, second)
    assert error(first[-100:], expected[-100:]) < 1e-5


def test_pages_of_another_size_change_no_bit(checkpoints):
    ids, decoder = random_ids(LENGTH, seed=5), load(checkpoints("qwen3"), quantization="int8")
    first, *others = [whole(decoder, ids, page_size) for page_size in (1, 3, 16, 64)]
    assert all(torch.equal(first, other) for other in others)


def test_a_tied_embedding_is_held_once_and_counted_once(checkpoints):
    tied, untied = (load(checkpoints(case), quantization="int8") for case in ("llama-tied", "llama-eps"))
    embedding = untied.weights.by_name["model.embed_tokens.weight"].data.nbytes
    assert tied.weight_bytes == untied.weight_bytes
    assert sum(weight.data.nbytes for weight in tied.weights.by_name.values()) == tied.weight_bytes
    assert sum(weight.data.nbytes for weight in untied.weights.by_name.values()) == untied.weight_bytes + embedding


def test_what_is_not_there_is_refused(checkpoints):
    decoder = load(checkpoints("qwen2"))
    with pytest.raises(ValueError, match="forward: "):
        whole(decoder, [1, VOCAB_SIZE])


@pytest.mark.parametrize("how", [{"quantization": "int8"}, {"quantization": "int4"}, {"dtype": "bfloat16"}], ids=str)
def test_an_engine_gives_the_same_in_any_company_and_on_any_threads(small_path, large_path, how):
    prompts = ["How many apples", "A baker sells loaves.\n\n", "w"]
    outputs = []
    for num_threads, page_size in ((1, 16), (2, 16), (2, 3)):
        engine = Engine(small_path, large_path, num_threads=num_threads, page_size=page_size, **how)
        for batch in (prompts, *([prompt] for prompt in prompts)):
            sampling = SamplingParams(temperature=0.8, seed=4, max_tokens=24)
            outputs.append([o.outputs[0].token_ids for o in engine.generate(batch, sampling, use_tqdm=False)])
    for i in range(0, len(outputs), 4):
        assert outputs[i] == outputs[0]
        assert [each[0] for each in outputs[i + 1 : i + 4]] == outputs[0]
