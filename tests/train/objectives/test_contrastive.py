import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.functional import logsigmoid, normalize

from pharos.core.errors import TrainingError
from pharos.models.two_towers import SIGLIP_BIAS, SIGLIP_SCALE, TextTower, TwoTowers
from pharos.train.objectives import new_objective
from pharos.train.objectives.contrastive import ContrastiveConfig, InfoNCE, SigmoidPairs
from pharos.train.objectives.vocabulary import Vocabulary

PAIRS = 8
CONFIG = ContrastiveConfig()
VOCABULARY = Vocabulary(size=61)


class Fixed(nn.Module):
    """A tower whose vectors are a matrix of the inputs."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(torch.randn(6, 4, generator=generator))

    def forward(self, points: torch.Tensor) -> torch.Tensor:
        return points @ self.weight


def make(objective: Any) -> Any:
    return (
        InfoNCE(CONFIG, VOCABULARY) if objective == "info_nce" else SigmoidPairs(CONFIG, VOCABULARY)
    )


def fixed_towers(objective: str) -> TwoTowers:
    if objective == "info_nce":
        return TwoTowers(Fixed(0), Fixed(1))
    return TwoTowers(Fixed(0), Fixed(1), scale=SIGLIP_SCALE, bias=-2.0)


def points() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    first, second = torch.randn(2, PAIRS, 6, generator=generator)
    return {"first_points": first, "second_points": second}


def text_pairs(text: Any) -> list[Any]:
    return [{"first_ids": text(5 + i % 3, i), "second_ids": text(9 - i, 50 + i)} for i in range(6)]


def test_info_nce_is_the_mean_of_both_choices() -> None:
    model, batch = fixed_towers("info_nce"), points()
    x, y = model({"points": batch["first_points"]}, {"points": batch["second_points"]})
    logits = x @ y.T / 0.07
    expected = torch.zeros(())
    for i in range(PAIRS):
        expected = expected - logits[i].log_softmax(0)[i] / 2 - logits[:, i].log_softmax(0)[i] / 2
    torch.testing.assert_close(
        InfoNCE(CONFIG, VOCABULARY).losses(model, batch)["info_nce"], expected
    )
    assert InfoNCE(CONFIG, VOCABULARY).count(batch) == {"info_nce": PAIRS}


def test_the_sigmoid_loss_asks_of_each_pairing_by_itself() -> None:
    model, batch = fixed_towers("siglip"), points()
    x = normalize(batch["first_points"] @ model.first.weight, dim=-1)
    y = normalize(batch["second_points"] @ model.second.weight, dim=-1)
    expected = torch.zeros(())
    for i in range(PAIRS):
        for j in range(PAIRS):
            sign = 1 if i == j else -1
            expected = expected - logsigmoid(sign * (10 * x[i] @ y[j] - 2.0))
    torch.testing.assert_close(
        SigmoidPairs(CONFIG, VOCABULARY).losses(model, batch)["sigmoid_pairs"], expected
    )


def test_towers_that_cannot_tell_pairs_apart_start_at_ln_b() -> None:
    batch = {name: torch.ones(PAIRS, 6) for name in ("first_points", "second_points")}
    loss = InfoNCE(CONFIG, VOCABULARY).losses(fixed_towers("info_nce"), batch)["info_nce"] / PAIRS
    assert loss.item() == pytest.approx(math.log(PAIRS), abs=1e-6)


def test_the_scale_stops_at_100_and_comes_back() -> None:
    model = TwoTowers(Fixed(0), scale=150.0)
    assert model.scale().item() == pytest.approx(100.0)
    (-model.scale()).backward()
    assert model.log_scale.grad.item() == 0, "nothing pushes it further up"
    model.log_scale.grad = None
    model.scale().backward()
    assert model.log_scale.grad.item() == pytest.approx(100.0), "but it can be pulled down"
    below = TwoTowers(Fixed(0), scale=50.0)
    (-below.scale()).backward()
    assert below.log_scale.grad.item() == pytest.approx(-50.0)


@pytest.mark.parametrize("pooling", ["mean", "first", "last"])
@pytest.mark.parametrize("kind", ["bert", "llama", "t5"])
def test_padding_does_not_change_a_texts_vector(
    kind: str, pooling: Any, tiny: Any, text: Any, make_batch: Any
) -> None:
    body = tiny(kind, "encoder" if kind == "t5" else "body")
    towers = TwoTowers(TextTower(body, width=16, pooling=pooling)).eval()
    rows = text_pairs(text)
    batch = make_batch(InfoNCE(CONFIG, VOCABULARY), rows)
    together = towers.first(batch["first_ids"], batch["first_valid"])
    assert together.shape == (len(rows), 16)
    for i, row in enumerate(rows):
        ids = torch.from_numpy(row["first_ids"]).long()[None]
        alone = towers.first(ids, torch.ones_like(ids, dtype=torch.bool))
        torch.testing.assert_close(together[i], alone[0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("objective", ["info_nce", "siglip"])
@pytest.mark.parametrize("kinds", [("bert",), ("bert", "llama"), ("t5", "gpt2")])
def test_pairs_are_learnt_by_heart(
    objective: str, kinds: tuple[str, ...], tiny: Any, text: Any, make_batch: Any, learn: Any
) -> None:
    towers = [
        TextTower(tiny(kind, "encoder" if kind == "t5" else "body"), width=16, seed=i)
        for i, kind in enumerate(kinds)
    ]
    bias = {} if objective == "info_nce" else {"scale": SIGLIP_SCALE, "bias": SIGLIP_BIAS}
    model = TwoTowers(*towers, **bias)
    batch = make_batch(make(objective), text_pairs(text))
    losses = learn(make(objective), model, batch, steps=80)
    assert losses[-1] < 0.3 * losses[0]
    assert make(objective).losses(model, batch)["correct"] == 6


def test_a_shared_tower_has_its_parameters_once(tiny: Any) -> None:
    towers = TwoTowers(TextTower(tiny("bert", "body")))
    assert {name.split(".")[0] for name in towers.state_dict()} == {"first", "log_scale"}


@pytest.mark.parametrize("objective", ["info_nce", "sigmoid_pairs"])
def test_an_objective_makes_its_towers_of_one_body(
    objective: str, tiny: Any, text: Any, make_batch: Any, learn: Any
) -> None:
    made = new_objective(objective, {"pooling": "first", "width": 16}, VOCABULARY)
    assert isinstance(made, InfoNCE | SigmoidPairs)
    model = made.towers(tiny("bert", made.task))
    batch = make_batch(made, text_pairs(text))
    assert model(
        *({"ids": batch[f"{s}_ids"], "valid": batch[f"{s}_valid"]} for s in ("first", "second"))
    ).first_BE.shape == (6, 16)
    losses = learn(made, model, batch, steps=60)
    assert losses[-1] < losses[0]


def test_what_is_no_two_towers_or_lacks_its_bias_is_refused(tiny: Any) -> None:
    with pytest.raises(TrainingError, match="needs two towers, and the model is a Bert"):
        InfoNCE(CONFIG, VOCABULARY).losses(tiny("bert", "body"), points())
    with pytest.raises(TrainingError, match="scale=10 and bias=-10"):
        SigmoidPairs(CONFIG, VOCABULARY).losses(fixed_towers("info_nce"), points())


def test_images_come_as_they_are(make_batch: Any) -> None:
    rows = [
        {"first_pixels": np.full((3, 2, 2), i, np.float32), "second_ids": np.arange(i + 1)}
        for i in range(3)
    ]
    batch = make_batch(InfoNCE(CONFIG, VOCABULARY), rows)
    assert batch["first_pixels"].shape == (3, 3, 2, 2)
    assert set(batch) == {"first_pixels", "second_ids", "second_valid"}


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes wrote that had half of the pairs each (`run_rank`)."""
    folder = tmp_path_factory.mktemp("ranks")
    ranks = [
        subprocess.Popen([sys.executable, __file__, str(rank), str(folder)]) for rank in range(2)
    ]
    assert [rank.wait(timeout=120) for rank in ranks] == [0, 0]
    return folder


@pytest.mark.parametrize("objective", ["info_nce", "siglip"])
def test_two_ranks_are_one_big_batch(objective: str, two_ranks: Path) -> None:
    """Pitfall 32: the partners of a rank's rows stand behind those of the ranks before it, and the
    gradients of gathered vectors go home."""
    ranks = [torch.load(two_ranks / f"{objective}-{rank}.pt") for rank in range(2)]
    model, batch = fixed_towers(objective), points()
    sums = make(objective).losses(model, batch)
    (term,) = make(objective).weights
    sums[term].backward()
    torch.testing.assert_close(ranks[0]["loss"] + ranks[1]["loss"], sums[term].detach())
    assert ranks[0]["correct"] + ranks[1]["correct"] == sums["correct"]
    for name, parameter in model.named_parameters():
        summed = ranks[0]["gradients"][name] + ranks[1]["gradients"][name]
        torch.testing.assert_close(summed, parameter.grad)


def run_rank(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    meeting = f"file://{folder}/meeting"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
    for objective in ("info_nce", "siglip"):
        half = {name: rows.chunk(2)[rank] for name, rows in points().items()}
        model = fixed_towers(objective)
        sums = make(objective).losses(model, half)
        (term,) = make(objective).weights
        sums[term].backward()
        gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
        result = {"loss": sums[term].detach(), "correct": sums["correct"], "gradients": gradients}
        torch.save(result, folder / f"{objective}-{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    run_rank(int(sys.argv[1]), Path(sys.argv[2]))
