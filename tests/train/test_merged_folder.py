import pytest
import torch

from pharos.core.errors import ModelError
from pharos.train.merged_folder import check_agreement

SAID = torch.linspace(-3, 3, 64)


def test_what_rounding_explains_is_no_difference() -> None:
    check_agreement(SAID.bfloat16().float(), SAID, torch.bfloat16)
    check_agreement(SAID + 1e-5, SAID, torch.float32)
    check_agreement(torch.zeros(3), torch.zeros(3), torch.float32)


@pytest.mark.parametrize(
    ("merged", "dtype"),
    [
        (1.2 * SAID, torch.bfloat16),
        (1.01 * SAID, torch.float32),
        (SAID.log(), torch.bfloat16),  # no numbers
        (SAID + torch.inf, torch.float16),
    ],
)
def test_a_model_that_says_something_else_once_merged_is_refused(
    merged: torch.Tensor, dtype: torch.dtype
) -> None:
    with pytest.raises(ModelError, match=r"rounding to .* explains .* side by side"):
        check_agreement(merged, SAID, dtype)
