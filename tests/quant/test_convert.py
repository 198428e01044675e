from collections.abc import Callable

import pytest
import torch
from torch import nn

from pharos.models.bert import Bert
from pharos.models.doubles import tiny_bert
from pharos.ops import pack
from pharos.quant import Int8Linear, convert_bf16, convert_int8

Convert = Callable[[Bert], Bert]


@pytest.mark.parametrize("convert", [convert_bf16, convert_int8])
@torch.inference_mode()
def test_a_converted_model_computes_nearly_the_same(convert: Convert) -> None:
    batch = pack([[3, 4, 5], [6] * 20])
    tokens = batch.ids > 0
    expected = tiny_bert().encode(batch)[tokens]
    found = convert(tiny_bert()).encode(batch)[tokens].float()
    assert nn.functional.cosine_similarity(found, expected).min() > 0.999


@pytest.mark.parametrize("convert", [convert_bf16, convert_int8])
def test_no_plain_linear_is_left(convert: Convert) -> None:
    if convert is convert_bf16 and not torch._C._has_mkldnn:
        pytest.skip("this build of torch packs no weights")
    modules = list(convert(tiny_bert()).modules())
    assert not any(isinstance(module, nn.Linear | nn.GELU) for module in modules)


def test_int8_without_hardware_for_it_computes_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    linear, x_NI = nn.Linear(64, 32).requires_grad_(False), torch.randn(5, 64)
    here = Int8Linear(linear, gelu=True)(x_NI)
    monkeypatch.setattr("pharos.quant.int8.has_vnni", lambda: False)
    elsewhere = Int8Linear(linear, gelu=True)
    assert not elsewhere.fast
    torch.testing.assert_close(elsewhere(x_NI), here, atol=1e-4, rtol=1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("convert", [convert_bf16, convert_int8])
@torch.inference_mode()
def test_on_a_gpu_a_converted_model_computes_nearly_the_same(convert: Convert) -> None:
    texts = [[3, 4, 5], [6] * 20]
    batch = pack(texts, device=torch.device("cuda"))
    found = convert(tiny_bert().cuda()).encode(batch).float().cpu()
    expected = tiny_bert().encode(pack(texts))
    tokens = pack(texts).ids > 0
    assert nn.functional.cosine_similarity(found[tokens], expected[tokens]).min() > 0.999
