import torch
from torch import nn

from pharos.quant.swap import swap_linears


class Recorded(nn.Module):
    def __init__(self, linear: nn.Linear, gelu: bool) -> None:
        super().__init__()
        self.linear = [linear]
        self.gelu = gelu

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.linear[0](x)
        return nn.functional.gelu(y) if self.gelu else y


def test_a_linear_takes_over_the_gelu_after_it_and_the_model_computes_the_same() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 4))
    x = torch.randn(3, 4)
    before = model(x)
    swap_linears(model, Recorded)
    assert [type(module) for module in model] == [Recorded, nn.Identity, Recorded]
    assert [module.gelu for module in model if isinstance(module, Recorded)] == [True, False]
    torch.testing.assert_close(model(x), before)


def test_an_approximate_gelu_stays_where_it_is() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.GELU(approximate="tanh"))
    swap_linears(model, Recorded)
    assert isinstance(model[1], nn.GELU)


def test_linears_deep_in_the_model_are_found() -> None:
    model = nn.ModuleDict({"a": nn.ModuleList([nn.Sequential(nn.Linear(2, 2))]), "b": nn.ReLU()})
    swap_linears(model, Recorded)
    assert not any(isinstance(module, nn.Linear) for module in model.modules())
