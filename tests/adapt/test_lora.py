"""Low-rank updates by themselves, on models that need no other library; on a GPU too.

Shapes: B sequences, T tokens.
"""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from pharos.adapt import Adapters, LoraConfig, load_adapter, save_adapter
from pharos.adapt.lora import LoraPart, scale_of
from pharos.models.doubles import tiny_llama
from pharos.models.heads import CausalLM
from pharos.quant import convert_nf4

IDS_BT = torch.tensor([[3, 1, 4, 1, 5, 9], [2, 6, 5, 3, 5, 8]])
METHODS: dict[str, dict[str, Any]] = {
    "lora": {"config": LoraConfig(r=4)},
    "dora": {"config": LoraConfig(r=4, use_dora=True)},
    "qlora": {"config": LoraConfig(r=4), "nf4": True},
    "with its head": {"config": LoraConfig(r=4, modules_to_save=("lm_head",))},
}


def adapted(config: LoraConfig, *, nf4: bool = False, device: str = "cpu") -> Adapters:
    """B does not begin as zero, so that all of it has gradients from the first step on."""
    model = convert_nf4(tiny_llama()) if nf4 else tiny_llama()
    adapters = Adapters(model.to(device))
    adapters.add(config, seed=1)
    generator = torch.Generator().manual_seed(2)
    for part in adapters.parts():
        if isinstance(part, LoraPart):
            part.lora_B.data.copy_(0.1 * torch.randn(part.lora_B.shape, generator=generator))
    return adapters


def lora_parts(config: LoraConfig) -> dict[str, LoraPart]:
    adapters = Adapters(tiny_llama())
    adapters.add(config)
    return {part.name: part for part in adapters.parts() if isinstance(part, LoraPart)}


def loss_of(model: CausalLM) -> torch.Tensor:
    ids = IDS_BT.to(next(model.parameters()).device)
    logits = model(ids)[:, :-1].float()
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())


def losses_of(adapters: Adapters, *, steps: int = 4) -> list[float]:
    trained = [p for part in adapters.parts() for p in part.parameters()]
    optimizer = torch.optim.AdamW(trained, lr=1e-2, weight_decay=0.0)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = loss_of(adapters.model)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def test_the_scale_is_alpha_over_r_or_over_its_root() -> None:
    assert scale_of(LoraConfig(r=4, lora_alpha=8), "q_proj", 4) == 2
    assert scale_of(LoraConfig(r=4, lora_alpha=8, use_rslora=True), "q_proj", 4) == 4


def test_every_linear_of_the_body_is_adapted_unless_told_otherwise() -> None:
    names = lora_parts(LoraConfig())
    assert len(names) == 2 * 7
    assert not any("lm_head" in name or "embed" in name for name in names)


def test_layers_may_have_ranks_and_alphas_of_their_own() -> None:
    patterns = {"rank_pattern": {"layers.1.self_attn.v_proj": 2}, "alpha_pattern": {"up_proj": 6.0}}
    parts = lora_parts(LoraConfig(r=4, lora_alpha=8, **patterns))
    ranks = {name: len(part.lora_A) for name, part in parts.items()}
    assert [name for name, rank in ranks.items() if rank == 2] == [
        "model.layers.1.self_attn.v_proj"
    ]
    assert set(ranks.values()) == {2, 4}
    assert parts["model.layers.1.self_attn.v_proj"].scale == 8 / 2
    assert parts["model.layers.0.mlp.up_proj"].scale == 6 / 4


def test_an_update_adds_scaled_b_a_to_the_weight() -> None:
    (part,) = lora_parts(LoraConfig(r=4, target_modules=("layers.0.self_attn.q_proj",))).values()
    part.lora_B.data.normal_()
    weight = torch.randn(part.lora_B.shape[0], part.lora_A.shape[1])
    expected = weight + part.scale * part.lora_B @ part.lora_A
    with torch.no_grad():
        part.merge_into(weight)
    torch.testing.assert_close(weight, expected)


def test_doras_rows_begin_as_long_as_the_weights() -> None:
    adapters = adapted(LoraConfig(r=4, use_dora=True, target_modules=("layers.0.mlp.down_proj",)))
    (part,) = (part for part in adapters.parts() if isinstance(part, LoraPart))
    weight = tiny_llama().body.blocks[0].mlp.down.weight
    assert part.magnitude_O is not None
    torch.testing.assert_close(part.magnitude_O.data, weight.norm(dim=1))


@pytest.mark.parametrize("method", METHODS)
def test_a_few_steps_lower_the_loss(method: str) -> None:
    losses = losses_of(adapted(**METHODS[method]))
    assert all(math.isfinite(loss) for loss in losses)
    assert losses[-1] < losses[0]


needs_gpu = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_gpu)])
@pytest.mark.parametrize("method", METHODS)
def test_wherever_it_was_trained_its_files_give_the_same_model(
    method: str, device: str, tmp_path: Path
) -> None:
    adapters = adapted(**METHODS[method], device=device)
    losses = losses_of(adapters)
    assert losses == pytest.approx(losses_of(adapted(**METHODS[method])), rel=1e-3)
    save_adapter(adapters, tmp_path)
    nf4 = METHODS[method].get("nf4", False)
    again = Adapters(convert_nf4(tiny_llama()) if nf4 else tiny_llama())
    load_adapter(again, tmp_path)
    with torch.no_grad():
        expected = adapters.model(IDS_BT.to(device)).cpu()
        torch.testing.assert_close(again.model(IDS_BT), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_gpu)])
@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_in_bfloat16_it_learns_as_in_float32(method: str, device: str) -> None:
    plain = losses_of(adapted(**METHODS[method]))
    adapters = adapted(**METHODS[method], device=device)
    with torch.autocast(device, dtype=torch.bfloat16):
        losses = losses_of(adapters)
    assert losses == pytest.approx(plain, rel=0.05)
    assert {p.dtype for part in adapters.parts() for p in part.parameters()} == {torch.float32}
