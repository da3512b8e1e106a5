"""flash-attn's versions, played by stand-ins with their signatures: they get the batch as it is."""

import sys
from types import ModuleType

import pytest
import torch
from on_gpu import DEVICE
from paged import REFERENCE, Case

from glimp_engine.kernels import Attention
from glimp_engine.kernels.gpu import flash

PAGE_SIZE = 256


def reference(q, k_pages, v_pages, cu_seqlens_q, kv_len, page_table, softmax_scale):
    """What flash-attn computes, from pages [P, S, Hk, D]."""
    batch = Attention(torch.empty(0), torch.empty(0), cu_seqlens_q, page_table, kv_len)
    caches = (pages.transpose(1, 2).contiguous() for pages in (k_pages, v_pages))
    return REFERENCE.paged_attention(q, *caches, batch, softmax_scale)


def flash_attn_with_kvcache(
    q, k_cache, v_cache, *, cache_seqlens, page_table, cu_seqlens_q, max_seqlen_q, softmax_scale, causal
):
    assert causal
    assert max_seqlen_q >= int(cu_seqlens_q.diff().max())
    return reference(q, k_cache, v_cache, cu_seqlens_q, cache_seqlens, page_table, softmax_scale)


def varlen_of_4(
    q, k, v, *, cu_seqlens_q, seqused_k, max_seqlen_q, max_seqlen_k, page_table, softmax_scale, causal
):  # fmt: skip
    assert causal
    assert max_seqlen_k >= int(seqused_k.max())
    return reference(q, k, v, cu_seqlens_q, seqused_k, page_table, softmax_scale), None


def varlen_of_2(
    q, k, v, *, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, softmax_scale, causal, block_table
):  # fmt: skip
    assert causal
    assert k.shape[1] % 256 == 0
    assert cu_seqlens_k.dtype == torch.int32
    return reference(q, k, v, cu_seqlens_q, cu_seqlens_k.diff(), block_table, softmax_scale)


VERSIONS = {
    "flash_attn_interface": ("flash_attn_with_kvcache", flash_attn_with_kvcache),
    "flash_attn.cute": ("flash_attn_varlen_func", varlen_of_4),
    "flash_attn": ("flash_attn_varlen_func", varlen_of_2),
}


@pytest.fixture
def install(monkeypatch):
    """Makes one version, or none, importable."""

    def make(*names):
        for name in VERSIONS:
            monkeypatch.setitem(sys.modules, name, None)  # importing it fails
        for name in names:
            module = ModuleType(name)
            setattr(module, *VERSIONS[name])
            monkeypatch.setitem(sys.modules, name, module)

    return make


@pytest.mark.parametrize("name", VERSIONS)
def test_each_version_is_given_the_batch(install, name):
    install(name)
    attend = flash.find_flash_attention(PAGE_SIZE)
    case = Case([300, 5], [400, 260], 4, 2, 16)

    class Flash:
        def paged_attention(self, q, k_cache, v_cache, batch, scale):
            return attend(q, k_cache.mT.contiguous(), v_cache, batch, scale, 512)

    assert case.agrees(case.run(Flash(), PAGE_SIZE), PAGE_SIZE)


def test_which_one_is_found(install):
    install()
    assert flash.find_flash_attention(PAGE_SIZE) is None
    install("flash_attn")
    assert flash.find_flash_attention(16) is None  # version 2 takes large pages only
    install(*VERSIONS)
    found = flash.find_flash_attention(16)
    assert found.__qualname__.startswith("version_3")


@pytest.mark.parametrize(
    ("num_tokens", "num_sequences", "head_dim", "dtype", "expected"),
    [
        (512, 1, 128, torch.bfloat16, True),
        (512, 4, 128, torch.bfloat16, False),
        (16, 1, 128, torch.bfloat16, False),
        (512, 1, 128, torch.float32, False),
        (512, 1, 84, torch.bfloat16, False),
        (512, 1, 264, torch.float16, False),
    ],
)
def test_what_suits_it(num_tokens, num_sequences, head_dim, dtype, expected):
    assert flash.suits(torch.empty(num_tokens, 2, head_dim, dtype=dtype, device=DEVICE), num_sequences) == expected
