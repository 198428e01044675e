import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import pharos
from pharos.models.heads import CausalLM
from pharos.models.load import new_model
from pharos.train.optimizers import AdamW8bit
from pharos.train.optimizers.adamw8bit import CHUNKS, SMALL
from pharos.train.optimizers.dynamic_map import BLOCK

TEXT = (Path(pharos.__file__).parent / "data" / "chunking.py").read_bytes()


def parameter(*shape: int, seed: int = 0, scale: float = 1.0) -> nn.Parameter:
    generator = torch.Generator().manual_seed(seed)
    return nn.Parameter(torch.randn(*shape, generator=generator) * scale)


def give_gradient(weight: nn.Parameter, seed: int, scale: float = 1e-2) -> None:
    weight.grad = parameter(*weight.shape, seed=seed, scale=scale).detach().to(weight.dtype)


def train(weight: nn.Parameter, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        give_gradient(weight, seed=step)
        optimizer.step()


def small_gpt() -> CausalLM:
    raw = {"model_type": "gpt2", "vocab_size": 128, "n_positions": 64, "n_embd": 64, "n_layer": 1}
    raw |= {"n_head": 4, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    model = new_model(raw, "causal_lm", seed=0)
    assert isinstance(model, CausalLM)
    return model


def fit(optimizer_class: type[torch.optim.Optimizer], steps: int = 120) -> float:
    """The mean loss over the last steps of learning a file of Python, character by character."""
    torch.set_num_threads(1)
    model = small_gpt().train().requires_grad_(True)
    optimizer = optimizer_class(model.parameters(), lr=2e-3, weight_decay=0.1)  # type: ignore[call-arg]
    ids = torch.tensor(list(TEXT)).clamp(max=127)
    generator = torch.Generator().manual_seed(1)
    losses = []
    for _ in range(steps):
        starts = torch.randint(0, len(ids) - 65, (4, 1), generator=generator)
        rows = ids[starts + torch.arange(65)]
        loss: Tensor = cross_entropy(model(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    mean: float = sum(losses[-40:]) / 40
    return mean


def test_a_language_model_learns_as_well_as_with_32_bits() -> None:
    assert fit(AdamW8bit) == pytest.approx(fit(torch.optim.AdamW), rel=0.01)


def test_one_step_is_that_of_adamw() -> None:
    ours, theirs = parameter(64, 128), parameter(64, 128)
    train(ours, AdamW8bit([ours], lr=1e-2), range(1))
    train(theirs, torch.optim.AdamW([theirs], lr=1e-2), range(1))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)


def test_a_small_parameter_keeps_32_bits_and_follows_adamw() -> None:
    ours, theirs = parameter(SMALL - 1), parameter(SMALL - 1)
    train(ours, AdamW8bit([ours], lr=1e-2), range(20))
    train(theirs, torch.optim.AdamW([theirs], lr=1e-2), range(20))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_the_state_of_a_model_takes_at_most_two_point_one_bytes_a_parameter() -> None:
    model = nn.Sequential(nn.Embedding(1000, 192), nn.Linear(192, 768), nn.LayerNorm(768))
    optimizer = AdamW8bit(model.parameters())
    for weight in model.parameters():
        give_gradient(weight, seed=0)
    optimizer.step()
    tensors = [
        value
        for state in optimizer.state_dict()["state"].values()
        for value in state.values()
        if isinstance(value, torch.Tensor)
    ]
    num_bytes = sum(tensor.nbytes for tensor in tensors)
    assert num_bytes / sum(weight.numel() for weight in model.parameters()) <= 2.1


def test_a_parameter_of_many_chunks_is_updated_as_its_parts_would_be() -> None:
    half = CHUNKS["cpu"] * BLOCK
    whole, first, second = parameter(2 * half + 300), parameter(1), parameter(1)
    first.data, second.data = whole.data[:half].clone(), whole.data[half:].clone()
    optimizers = [AdamW8bit([weight]) for weight in (whole, first, second)]
    for step in range(3):
        give_gradient(whole, seed=step)
        assert whole.grad is not None
        first.grad, second.grad = whole.grad[:half], whole.grad[half:]
        for optimizer in optimizers:
            optimizer.step()
    assert torch.equal(whole, torch.cat((first, second)))


@pytest.mark.parametrize("shape", [(SMALL,), (SMALL + 1,), (100, 77), (2, 3, 1000)])
def test_any_shape_is_trained(shape: tuple[int, ...]) -> None:
    weight = parameter(*shape)
    before = weight.detach().clone()
    train(weight, AdamW8bit([weight]), range(3))
    assert ((weight - before) != 0).float().mean() > 0.99


def test_a_parameter_that_is_not_contiguous_is_updated_in_place() -> None:
    stored = parameter(80, 100).detach()
    weight, straight = nn.Parameter(stored.T), nn.Parameter(stored.T.contiguous())
    train(weight, AdamW8bit([weight]), range(2))
    train(straight, AdamW8bit([straight]), range(2))
    assert torch.equal(weight, straight)
    assert weight.data_ptr() == stored.data_ptr()


def test_a_parameter_in_bfloat16_is_trained() -> None:
    weight = nn.Parameter(parameter(100, 100).detach().bfloat16())
    before = weight.detach().clone()
    train(weight, AdamW8bit([weight], lr=0.1), range(2))
    assert weight.dtype == torch.bfloat16
    assert (weight != before).float().mean() > 0.9


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [SMALL - 1, 2 * SMALL + 5])
def test_a_saved_state_goes_on_bit_for_bit(tmp_path: Path, dtype: torch.dtype, size: int) -> None:
    weight = nn.Parameter(parameter(size).detach().to(dtype))
    optimizer = AdamW8bit([weight])
    train(weight, optimizer, range(5))
    resumed = nn.Parameter(weight.detach().clone())
    torch.save(optimizer.state_dict(), tmp_path / "state.pt")
    after = AdamW8bit([resumed])
    after.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    train(weight, optimizer, range(5, 10))
    train(resumed, after, range(5, 10))
    assert torch.equal(weight, resumed)


def test_a_loaded_state_is_a_copy() -> None:
    weight = parameter(SMALL)
    optimizer = AdamW8bit([weight])
    train(weight, optimizer, range(2))
    saved = optimizer.state_dict()
    kept = copy.deepcopy(saved)
    other = AdamW8bit([parameter(SMALL)])
    other.load_state_dict(saved)
    train(other.param_groups[0]["params"][0], other, range(2))
    assert torch.equal(saved["state"][0]["exp_avg"], kept["state"][0]["exp_avg"])


def test_a_row_with_rare_and_small_gradients_is_not_thrown_away() -> None:
    """In the block of a row whose gradients are a hundred thousand times larger: its mean of
    squares lies ten decades below theirs. Stored as it is, it would be zero, and the step lr/ε."""
    weight = nn.Parameter(torch.zeros(SMALL))
    optimizer = AdamW8bit([weight], lr=1e-3, weight_decay=0.0, eps=1e-12)
    for step in range(5):
        weight.grad = torch.ones(SMALL)
        weight.grad[1::2] = 1e-5 if step == 0 else 0.0
        optimizer.step()
    assert weight.abs().max() < 0.01


def test_paging_changes_nothing_on_a_cpu() -> None:
    plain, paged = parameter(100, 100), parameter(100, 100)
    train(plain, AdamW8bit([plain]), range(3))
    train(paged, AdamW8bit([paged], paged=True), range(3))
    assert torch.equal(plain, paged)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_paged_state_stays_with_the_host_and_changes_nothing() -> None:
    plain = nn.Parameter(parameter(5000, 4000).detach().cuda())
    paged = nn.Parameter(plain.detach().clone())
    plain_optimizer, optimizer = AdamW8bit([plain]), AdamW8bit([paged], paged=True)
    for step in range(5):
        generator = torch.Generator("cuda").manual_seed(step)
        plain.grad = torch.randn(plain.shape, generator=generator, device="cuda")
        paged.grad = plain.grad.clone()
        plain_optimizer.step()
        optimizer.step()
    assert torch.equal(plain, paged)
    state = optimizer.state_dict()["state"][0]
    assert state["exp_avg"].is_pinned()
    assert torch.equal(state["exp_avg"], plain_optimizer.state[plain]["exp_avg"].cpu())


def test_a_parameter_without_a_gradient_is_left_alone() -> None:
    weight = parameter(SMALL)
    before = weight.detach().clone()
    AdamW8bit([weight]).step()
    assert torch.equal(weight, before)
