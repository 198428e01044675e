"""Decoders in fewer bits say nearly what they said before.

Shapes: B sequences, T tokens, N rows, O outputs.
"""

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import cosine_similarity, cross_entropy

from pharos.core import SamplingParams
from pharos.core.errors import ModelError
from pharos.models.doubles import tiny_bert, tiny_llama
from pharos.models.generation import Generation
from pharos.models.heads import CausalLM
from pharos.models.load import build_model, new_model
from pharos.quant import METHODS, W8A8Linear, W8A16Linear, convert
from pharos.quant.decoders import EightBitEmbedding
from pharos.quant.w8a8 import LastInput

SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
SHAPES: dict[str, dict[str, Any]] = {
    "llama": SIZES | {"model_type": "llama", "tie_word_embeddings": False},
    "llama, tied": SIZES | {"model_type": "llama", "tie_word_embeddings": True},
    "qwen2, with biases": SIZES | {"model_type": "qwen2", "tie_word_embeddings": True},
    "mixtral": SIZES | {"model_type": "mixtral"},
}
EIGHT_BITS = ["w8a8", "w8a16"]
LINEARS: dict[str, type[nn.Module]] = {"w8a8": W8A8Linear, "w8a16": W8A16Linear}
eight_bits = pytest.mark.parametrize("method", EIGHT_BITS)


def decoder(shape: str) -> CausalLM:
    torch.manual_seed(0)
    model = build_model(SHAPES[shape], "causal_lm").eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.copy_(torch.randn_like(parameter) * 0.1 + (parameter.ndim == 1))
    assert isinstance(model, CausalLM)
    return model


IDS_BT = torch.randint(64, (2, 24), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("method", ["bf16", *EIGHT_BITS])
@torch.inference_mode()
def test_logits_point_the_same_way(shape: str, method: str) -> None:
    expected = decoder(shape)(IDS_BT)
    found = convert(decoder(shape), method)(IDS_BT).float()
    similar = cosine_similarity(found, expected, dim=-1)
    assert similar.median() > 0.999
    if shape != "mixtral":  # there a token may meet another expert
        assert similar.min() > 0.997


def trained() -> CausalLM:
    """It has learned to count in steps that differ, so that its perplexity means something."""
    torch.manual_seed(0)
    model = new_model(SHAPES["llama, tied"], "causal_lm")
    assert isinstance(model, CausalLM)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for step in range(50):
        loss = loss_of(model, seed=step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval().requires_grad_(False)


def loss_of(model: CausalLM, *, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    starts_B1, steps_B1 = torch.randint(1, 64, (2, 32, 1), generator=generator)
    ids_BT = (starts_B1 + steps_B1 % 4 * torch.arange(24)) % 64
    return cross_entropy(model(ids_BT)[:, :-1].flatten(0, 1).float(), ids_BT[:, 1:].flatten())


@pytest.fixture(scope="module")
def counting() -> tuple[dict[str, torch.Tensor], float]:
    model = trained()
    return model.state_dict(), float(loss_of(model, seed=-1).exp())


@pytest.mark.parametrize("method", ["bf16", *EIGHT_BITS])
@torch.inference_mode()
def test_perplexity_hardly_grows(
    method: str, counting: tuple[dict[str, torch.Tensor], float]
) -> None:
    weights, before = counting
    model = decoder("llama, tied")
    model.load_state_dict(weights)
    after = float(loss_of(convert(model, method), seed=-1).exp())
    assert before < 4
    assert after < before * 1.01


@eight_bits
@torch.inference_mode()
def test_few_rows_and_many_are_multiplied_alike(method: str) -> None:
    linear = nn.Linear(128, 80).requires_grad_(False).bfloat16()
    converted = LINEARS[method](linear)
    x_NI = torch.randn(40, 128).bfloat16()
    many_NO = converted(x_NI)
    assert cosine_similarity(many_NO.float(), linear(x_NI).float()).min() > 0.9995
    for count in (1, 3, 12, 13):
        few_NO = converted(x_NI[None, :count])[0]
        torch.testing.assert_close(few_NO, many_NO[:count], rtol=2e-2, atol=2e-2)
        if method == "w8a8":
            assert torch.equal(few_NO, many_NO[:count])


@eight_bits
@torch.inference_mode()
def test_weights_come_back_within_half_a_step(method: str) -> None:
    linear = nn.Linear(64, 48, bias=False).requires_grad_(False)
    converted: Any = LINEARS[method](linear)
    steps_O = linear.weight.abs().amax(dim=1, keepdim=True) / 127
    found_OI = converted.dequantize(torch.float32)
    assert ((found_OI - linear.weight).abs() <= 0.52 * steps_O).all()


@eight_bits
@torch.inference_mode()
def test_every_weight_of_a_decoder_takes_a_byte(method: str) -> None:
    model = convert(decoder("llama, tied"), method)
    kinds = {type(module) for module in model.modules() if not list(module.children())}
    assert nn.Linear not in kinds
    assert isinstance(model.body.embedding, EightBitEmbedding)
    matrices = [p for p in model.parameters() if p.ndim == 2]
    assert {p.dtype for p in matrices} == {torch.int8}
    rows = model.body.embedding(IDS_BT).float()
    expected = decoder("llama, tied").body.embedding(IDS_BT)
    assert cosine_similarity(rows, expected, dim=-1).min() > 0.999


@eight_bits
def test_routers_stay_as_they_are(method: str) -> None:
    model = convert(decoder("mixtral"), method)
    routers = [m for name, m in model.named_modules() if name.endswith("router")]
    assert [type(router) for router in routers] == [nn.Linear] * 2


@pytest.mark.parametrize("method", METHODS)
def test_a_converted_model_writes(method: str) -> None:
    model = convert(decoder("llama, tied"), method)
    tokens = list(Generation(model, [[1, 2, 3], [4]], SamplingParams(max_tokens=4)))
    assert len(tokens) == 8


@torch.inference_mode()
def test_linears_that_share_an_input_quantize_it_once_and_no_other() -> None:
    last = LastInput()
    one, two = (W8A8Linear(nn.Linear(64, 32).requires_grad_(False), last) for _ in range(2))
    x_NI, other_NI = torch.randn(2, 3, 64)
    expected = [linear(x_NI.clone()) for linear in (one, two, one)]
    found = [one(x_NI), two(x_NI), one(x_NI)]
    assert last.quantized(x_NI)[0] is last.quantized(x_NI)[0]
    assert not torch.equal(one(other_NI), found[0])
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours, theirs)


@torch.inference_mode()
def test_without_hardware_for_it_w8a8_computes_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    linear, x_NI = nn.Linear(64, 32).requires_grad_(False), torch.randn(5, 64)
    here = W8A8Linear(linear)(x_NI)
    monkeypatch.setattr("pharos.quant.w8a8.has_vnni", lambda: False)
    elsewhere = W8A8Linear(linear)
    assert not elsewhere.fast
    torch.testing.assert_close(elsewhere(x_NI), here, atol=1e-4, rtol=1e-4)


def test_what_cannot_be_converted_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown method 'int4'; choose from bf16, w8a8"):
        convert(tiny_llama(), "int4")
    with pytest.raises(ModelError, match="a Bert is no decoder; convert_int8"):
        convert(tiny_bert(), "w8a8")  # type: ignore[arg-type]
    tied = decoder("llama, tied")
    with pytest.raises(ModelError, match="a EightBitEmbedding already"):
        convert(convert(tied, "w8a16"), "w8a16")
