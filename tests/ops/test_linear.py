import os
import subprocess
import sys

import pytest
import torch

from pharos.ops import can_pack, pack_weight, packed_linear, plain_linear


@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("rows", [1, 16, 300])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)], ids=["fp32", "bf16"]
)
def test_a_packed_linear_equals_its_plain_twin(
    gelu: bool, rows: int, dtype: torch.dtype, tolerance: float
) -> None:
    weight_OI = torch.randn(96, 64).to(dtype) / 8
    if not can_pack(weight_OI):
        pytest.skip("this build of torch has no packed linear")
    x_NI, bias_O = torch.randn(rows, 64).to(dtype), torch.randn(96).to(dtype)
    with torch.inference_mode():
        torch.testing.assert_close(
            packed_linear(x_NI, pack_weight(weight_OI), bias_O, gelu=gelu),
            plain_linear(x_NI, weight_OI, bias_O, gelu=gelu),
            atol=tolerance,
            rtol=tolerance,
        )


def test_bf16_is_left_alone_where_onednn_refuses_it() -> None:
    """As on a processor without AVX-512."""
    code = (
        "import torch; from torch import nn; from pharos.ops import can_pack, multiplies_bf16\n"
        "from pharos.quant import convert_bf16\n"
        "assert not multiplies_bf16() and not can_pack(torch.zeros(8, 8).bfloat16())\n"
        "assert type(convert_bf16(nn.Sequential(nn.Linear(8, 8)))[0]) is nn.Linear\n"
    )
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, timeout=120)
