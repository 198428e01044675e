"""Linear attention: the softmax gives way to a kernel, and the N x N weights are never formed.

With a positive feature map f, the weight of a key is `f(q)·f(k)`, and

    out_i = sum_j (f(q_i)·f(k_j)) v_j / sum_j f(q_i)·f(k_j)
          = f(q_i) (sum_j f(k_j)ᵀ v_j) / f(q_i)·(sum_j f(k_j)):

two sums over the keys serve every query. In the causal form they are running sums, which makes the
layer a recurrent network whose state does not grow (`LinearAttentionState`). In parallel the
sequence is cut into chunks: within a chunk the weights are written out, before it the sums serve.
Katharopoulos et al. (2020, arXiv:2006.16236); f is their `elu(x) + 1`.

Shapes: B sequences, H heads, T queries, S keys, K width of a query, V width of a value, X chunks,
C tokens in a chunk. Everything is summed in float32.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

CHUNK = 64


def linear_attention(
    q_BHTK: Tensor,
    k_BHSK: Tensor,
    v_BHSV: Tensor,
    *,
    causal: bool,
    valid_BS: Tensor | None = None,
    chunk: int = CHUNK,
) -> Tensor:
    """Time and memory grow with T + S, not with T · S: the causal form holds `chunk` weights per
    token and one state of K · V numbers per chunk. `valid_BS` is false for padding, which is not
    seen; a query that sees nothing gets zeros.

    Raises `ValueError` when the causal form gets more or fewer queries than keys.
    """
    _check(q_BHTK, k_BHSK, causal)
    if chunk < 1:
        raise ValueError(f"a chunk of {chunk} tokens: it must hold at least 1")
    q, k, v = features(q_BHTK), *_seen(k_BHSK, v_BHSV, valid_BS)
    sums = _causal_sums(q, k, v, chunk) if causal else (q @ (k.mT @ v), q @ k.sum(2)[..., None])
    return _divided(*sums).to(q_BHTK.dtype)


def plain_linear_attention(
    q_BHTK: Tensor,
    k_BHSK: Tensor,
    v_BHSV: Tensor,
    *,
    causal: bool,
    valid_BS: Tensor | None = None,
) -> Tensor:
    """The same with its T x S weights written out."""
    _check(q_BHTK, k_BHSK, causal)
    k_BHSK, v_BHSV = _seen(k_BHSK, v_BHSV, valid_BS)
    weights_BHTS = features(q_BHTK) @ k_BHSK.mT
    if causal:
        weights_BHTS = weights_BHTS.tril()
    sums = weights_BHTS @ v_BHSV, weights_BHTS.sum(dim=-1, keepdim=True)
    return _divided(*sums).to(q_BHTK.dtype)


class LinearAttentionState(NamedTuple):
    """All that later tokens need of the earlier ones: the two sums over their keys, in float32."""

    values_BHKV: Tensor
    keys_BHK: Tensor

    @classmethod
    def after(
        cls, k_BHSK: Tensor, v_BHSV: Tensor, valid_BS: Tensor | None = None
    ) -> "LinearAttentionState":
        """The state behind these tokens; behind none (S = 0) it is the empty one."""
        k_BHSK, v_BHSV = _seen(k_BHSK, v_BHSV, valid_BS)
        return cls(k_BHSK.mT @ v_BHSV, k_BHSK.sum(dim=2))

    def step(
        self, q_BHK: Tensor, k_BHK: Tensor, v_BHV: Tensor, valid_B: Tensor | None = None
    ) -> tuple[Tensor, "LinearAttentionState"]:
        """The output `[B, H, V]` of one more token, and the state behind it. A sequence where
        `valid_B` is false has no token here: its state stays."""
        valid_B1 = None if valid_B is None else valid_B[:, None]
        token = self.after(k_BHK[:, :, None], v_BHV[:, :, None], valid_B1)
        state = LinearAttentionState(
            self.values_BHKV + token.values_BHKV, self.keys_BHK + token.keys_BHK
        )
        q_BH1K = features(q_BHK)[:, :, None]
        out_BH1V = _divided(q_BH1K @ state.values_BHKV, q_BH1K @ state.keys_BHK[..., None])
        return out_BH1V[:, :, 0].to(q_BHK.dtype), state


def features(x: Tensor) -> Tensor:
    """`elu(x) + 1` in float32. Written with `exp`, it stays positive where that sum would round to
    zero."""
    x = x.float()
    return torch.where(x > 0, x + 1, x.clamp(max=0).exp())


def _check(q_BHTK: Tensor, k_BHSK: Tensor, causal: bool) -> None:
    num_queries, num_keys = q_BHTK.shape[2], k_BHSK.shape[2]
    if causal and num_queries != num_keys:
        raise ValueError(
            f"{num_queries} queries and {num_keys} keys: causal linear attention needs as many of "
            "both; to go on behind earlier tokens, use LinearAttentionState"
        )


def _seen(k_BHSK: Tensor, v_BHSV: Tensor, valid_BS: Tensor | None) -> tuple[Tensor, Tensor]:
    """The features of the keys, and the values: zeros where there is padding, whatever it holds."""
    k_BHSK, v_BHSV = features(k_BHSK), v_BHSV.float()
    if valid_BS is None:
        return k_BHSK, v_BHSV
    padding_B1S1 = ~valid_BS[:, None, :, None]
    return k_BHSK.masked_fill(padding_B1S1, 0.0), v_BHSV.masked_fill(padding_B1S1, 0.0)


def _causal_sums(q: Tensor, k: Tensor, v: Tensor, chunk: int) -> tuple[Tensor, Tensor]:
    """For each token, the sum of the values it sees and of their weights."""
    length = q.shape[2]
    q_BHXCK, k_BHXCK, v_BHXCV = (_chunks(x, min(chunk, max(length, 1))) for x in (q, k, v))
    weights_BHXCC = (q_BHXCK @ k_BHXCK.mT).tril()
    values_BHXKV = _before(k_BHXCK.mT @ v_BHXCV)
    keys_BHXK = _before(k_BHXCK.sum(dim=3))
    values_BHXCV = weights_BHXCC @ v_BHXCV + q_BHXCK @ values_BHXKV
    total_BHXC1 = weights_BHXCC.sum(dim=-1, keepdim=True) + q_BHXCK @ keys_BHXK[..., None]
    return values_BHXCV.flatten(2, 3)[:, :, :length], total_BHXC1.flatten(2, 3)[:, :, :length]


def _chunks(x_BHTK: Tensor, chunk: int) -> Tensor:
    filled_BHTK = pad(x_BHTK, (0, 0, 0, -x_BHTK.shape[2] % chunk))
    return filled_BHTK.view(*x_BHTK.shape[:2], -1, chunk, x_BHTK.shape[3])


def _before(x_BHX: Tensor) -> Tensor:
    """Of every chunk, the sum over the chunks before it. The first has none: shifted, rather than
    subtracted from the running sum, it is exactly zero."""
    first_BH1 = torch.zeros_like(x_BHX[:, :, :1])
    return torch.cat((first_BH1, x_BHX[:, :, :-1]), dim=2).cumsum(dim=2)


def _divided(values_BHTV: Tensor, total_BHT1: Tensor) -> Tensor:
    return values_BHTV / total_BHT1.where(total_BHT1 > 0, 1.0)
