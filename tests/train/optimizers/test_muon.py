from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from pharos.train.optimizers import Muon
from pharos.train.optimizers.muon import orthogonalize


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def matrices(weight: Tensor, **settings: float) -> Muon:
    return Muon([{"params": [weight], "orthogonal": True, **settings}])


def step(optimizer: Muon, weight: nn.Parameter, gradient: Tensor) -> None:
    weight.grad = gradient.clone()
    optimizer.step()


@pytest.mark.parametrize("shape", [(32, 32), (48, 16), (16, 48), (3, 16, 32)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_all_singular_values_come_near_one(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    singular = torch.linalg.svdvals(orthogonalize(random(*shape).to(dtype)).float())
    assert singular.min() > 0.3
    assert singular.max() < 1.3


def test_directions_are_those_of_the_decomposition() -> None:
    matrix = random(24, 40)
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    near = orthogonalize(matrix)
    cosine = (near * (u @ vh)).sum() / (near.norm() * (u @ vh).norm())
    assert cosine > 0.97


def test_a_matrix_of_zeros_stays_one() -> None:
    assert not orthogonalize(torch.zeros(4, 6)).any()


def test_the_size_of_the_gradient_does_not_matter() -> None:
    small, large = nn.Parameter(random(8, 8)), nn.Parameter(random(8, 8))
    step(matrices(small), small, random(8, 8, seed=1))
    step(matrices(large), large, random(8, 8, seed=1) * 1e4)
    torch.testing.assert_close(small, large)


def test_the_step_of_a_tall_matrix_grows_with_the_root_of_its_shape() -> None:
    tall, wide = nn.Parameter(torch.zeros(64, 16)), nn.Parameter(torch.zeros(16, 64))
    gradient = random(64, 16)
    step(matrices(tall), tall, gradient)
    step(matrices(wide), wide, gradient.T)
    torch.testing.assert_close(tall, 2 * wide.T)


def test_weights_decay_by_their_own_size() -> None:
    weight = nn.Parameter(random(8, 8))
    expected = weight.detach() * (1 - 0.1 * 0.5)
    step(matrices(weight, lr=0.1, weight_decay=0.5), weight, torch.zeros(8, 8))
    torch.testing.assert_close(weight.detach(), expected)


def test_momentum_looks_ahead_as_nesterov_does() -> None:
    weight, first, second = nn.Parameter(torch.zeros(6, 6)), random(6, 6), random(6, 6, seed=1)
    optimizer = matrices(weight, lr=1.0, momentum=0.9)
    step(optimizer, weight, first)
    before = weight.detach().clone()
    step(optimizer, weight, second)
    mean = 0.9 * 0.1 * first + 0.1 * second
    ahead = 0.1 * second + 0.9 * mean
    torch.testing.assert_close(before - weight.detach(), orthogonalize(ahead), rtol=1e-4, atol=1e-4)


def test_what_is_no_matrix_takes_the_step_of_adamw() -> None:
    ours, theirs = nn.Parameter(random(50)), nn.Parameter(random(50))
    settings: dict[str, Any] = {"lr": 1e-2, "betas": (0.9, 0.95), "weight_decay": 0.1}
    optimizers = Muon([{"params": [ours], **settings}]), torch.optim.AdamW([theirs], **settings)
    for seed in range(5):
        ours.grad = random(50, seed=seed)
        theirs.grad = random(50, seed=seed)
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_saved_state_goes_on_bit_for_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    def made(matrix: Tensor, vector: Tensor) -> tuple[list[nn.Parameter], Muon]:
        weights = [nn.Parameter(matrix.clone()), nn.Parameter(vector.clone())]
        matrices: dict[str, Any] = {"params": weights[:1], "orthogonal": True}
        return weights, Muon([matrices, {"params": weights[1:]}])

    def train(weights: list[nn.Parameter], optimizer: Muon, seeds: range) -> None:
        for seed in seeds:
            for weight in weights:
                weight.grad = random(*weight.shape, seed=seed).to(dtype)
            optimizer.step()

    weights, optimizer = made(random(8, 4).to(dtype), random(9).to(dtype))
    train(weights, optimizer, range(4))
    torch.save(optimizer.state_dict(), tmp_path / "state.pt")
    resumed, after = made(*(weight.detach() for weight in weights))
    after.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    train(weights, optimizer, range(4, 8))
    train(resumed, after, range(4, 8))
    assert all(torch.equal(a, b) for a, b in zip(weights, resumed, strict=True))


def test_a_network_learns() -> None:
    torch.set_num_threads(1)
    x, target = random(256, 16), random(256, 16, seed=1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(16, 64), nn.GELU(), nn.Linear(64, 16))
    groups = [
        {"params": [p for p in network.parameters() if p.ndim == 2], "orthogonal": True},
        {"params": [p for p in network.parameters() if p.ndim < 2], "lr": 1e-3},
    ]
    optimizer = Muon(groups)
    before = mse_loss(network(x), target).item()
    for _ in range(60):
        optimizer.zero_grad()
        mse_loss(network(x), target).backward()
        optimizer.step()
    assert mse_loss(network(x), target).item() < 0.7 * before
