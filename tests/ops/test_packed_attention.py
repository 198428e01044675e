import pytest
import torch

from pharos.ops import pack, packed_attention, plain_packed_attention


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)], ids=["fp32", "bf16"]
)
@pytest.mark.parametrize("lengths", [[1], [16, 16], [40, 33, 33, 17, 5, 1]])
def test_attention_equals_its_plain_twin_at_every_token(
    lengths: list[int], dtype: torch.dtype, tolerance: float
) -> None:
    batch = pack([[1] * length for length in lengths])
    qkv_N3HK = torch.randn(len(batch.ids), 3, 2, 8, generator=torch.Generator().manual_seed(0))
    qkv_N3HK = qkv_N3HK.to(dtype)
    tokens = batch.ids > 0
    torch.testing.assert_close(
        packed_attention(qkv_N3HK, batch.runs)[tokens],
        plain_packed_attention(qkv_N3HK, batch.runs)[tokens],
        atol=tolerance,
        rtol=tolerance,
    )


def test_a_text_attends_to_itself_only() -> None:
    batch = pack([[1] * 20, [1] * 7])
    qkv_N3HK = torch.randn(len(batch.ids), 3, 2, 8)
    before = packed_attention(qkv_N3HK, batch.runs)
    qkv_N3HK[batch.runs[1].rows] += 1.0
    after = packed_attention(qkv_N3HK, batch.runs)
    torch.testing.assert_close(after[batch.runs[0].rows], before[batch.runs[0].rows])
