"""Attention among neighbours found by hashing (Reformer, Kitaev et al. 2020, arXiv:2001.04451).

Softmax attention is ruled by the keys closest to the query. Queries and keys are the same vectors
here (keys scaled to length one, the score is `q·k/|k|`), so tokens that look at each other are
close, and close vectors likely fall into the same bucket of a random rotation: the axis, with its
sign, to which the rotated vector is closest. In each of several rounds with other rotations:

1. the tokens are sorted by bucket, then by position, and cut into chunks;
2. a token sees those of its bucket that stand in its own chunk or the one before.

The rounds are joined into one softmax over the tokens met in any of them. A pair that n rounds met
has n terms of 1/n of its weight (the paper's formula 7). A token sees itself only when it met
nobody else: its own key would win every softmax.

With `causal` no token sees a later one. But as in the paper, where the chunks are cut depends on
the size of every bucket, so later tokens have a say in which of the earlier ones meet.

Shapes: B sequences, H heads, T tokens, K width of a query, V width of a value, R rounds, N chunks,
C tokens in a chunk, W = 2C tokens in a chunk and the one before.
"""

import torch
from torch import Tensor
from torch.nn.functional import normalize, pad

NONE = -1
HIDDEN = -1e9
TO_ITSELF = -1e5
"""Scores: far below any other, and that of a pair that may not be seen far below that."""


def hash_buckets(
    qk_BHTK: Tensor,
    *,
    num_buckets: int,
    num_rounds: int,
    generator: torch.Generator | None = None,
    valid_BT: Tensor | None = None,
) -> Tensor:
    """The bucket of each token in each round, `[B, H, R, T]`: of the axes of a random rotation and
    their opposites the closest. Padding, where `valid_BT` is false, gets a bucket of its own behind
    all others. `ValueError` for an odd number of buckets."""
    if num_buckets < 2 or num_buckets % 2:
        raise ValueError(f"{num_buckets} buckets: they come in pairs, an axis and its opposite")
    shape = (num_rounds, qk_BHTK.shape[3], num_buckets // 2)
    axes_RKP = torch.randn(shape, generator=generator).to(qk_BHTK.device)
    along_BHRTP = qk_BHTK.detach().float()[:, :, None] @ axes_RKP
    buckets_BHRT = torch.cat((along_BHRTP, -along_BHRTP), dim=-1).argmax(dim=-1)
    if valid_BT is None:
        return buckets_BHRT
    return buckets_BHRT.where(valid_BT[:, None, None], num_buckets)


def lsh_attention(
    qk_BHTK: Tensor, v_BHTV: Tensor, *, buckets_BHRT: Tensor, chunk: int, causal: bool
) -> Tensor:
    """Each token over those that meet it in some round (same bucket, its own chunk or the one
    before): `[B, H, T, V]`, in the dtype of `qk`. Memory grows with R · T · chunk."""
    order_BHRT = buckets_BHRT.argsort(dim=-1, stable=True)
    place_BHRT = order_BHRT.argsort(dim=-1)
    q_BHRNC, k_BHRNW = _chunks_and_windows(order_BHRT, chunk)
    meetings = _meetings(buckets_BHRT, place_BHRT // chunk, q_BHRNC, k_BHRNW)
    allowed = _alike(buckets_BHRT, q_BHRNC, k_BHRNW)
    if causal:
        allowed &= k_BHRNW[..., None, :] <= q_BHRNC[..., :, None]
    scores = _take(qk_BHTK.float(), q_BHRNC) @ _take(keys_of(qk_BHTK), k_BHRNW).mT
    scores = scores.where(k_BHRNW[..., None, :] != q_BHRNC[..., :, None], TO_ITSELF)
    scores = (scores - meetings.clamp(min=1).log()).where(allowed, HIDDEN)
    log_sum = scores.logsumexp(dim=-1, keepdim=True)
    out = (scores - log_sum).exp() @ _take(v_BHTV.float(), k_BHRNW)
    out_BHRTV, log_sum_BHRT1 = (
        x.flatten(3, 4).take_along_dim(place_BHRT[..., None], dim=3) for x in (out, log_sum)
    )
    return (log_sum_BHRT1.softmax(dim=2) * out_BHRTV).sum(dim=2).to(qk_BHTK.dtype)


def plain_lsh_attention(
    qk_BHTK: Tensor, v_BHTV: Tensor, *, buckets_BHRT: Tensor, chunk: int, causal: bool
) -> Tensor:
    """The twin: softmax over every pair that meets in some round."""
    chunk_BHRT = buckets_BHRT.argsort(dim=-1, stable=True).argsort(dim=-1) // chunk
    apart_BHRTT = chunk_BHRT[..., :, None] - chunk_BHRT[..., None, :]
    alike_BHRTT = buckets_BHRT[..., :, None] == buckets_BHRT[..., None, :]
    allowed_BHTT = (alike_BHRTT & (apart_BHRTT >= 0) & (apart_BHRTT <= 1)).any(dim=2)
    if causal:
        allowed_BHTT = allowed_BHTT.tril()
    scores_BHTT = qk_BHTK.float() @ keys_of(qk_BHTK).mT
    itself_TT = torch.eye(qk_BHTK.shape[2], dtype=torch.bool, device=qk_BHTK.device)
    scores_BHTT = scores_BHTT.masked_fill(itself_TT, TO_ITSELF).where(allowed_BHTT, HIDDEN)
    return (scores_BHTT.softmax(dim=-1) @ v_BHTV.float()).to(qk_BHTK.dtype)


def keys_of(qk_BHTK: Tensor) -> Tensor:
    """The shared vectors as keys: of length 1, so that no key is near to every query."""
    return normalize(qk_BHTK.float(), dim=-1)


def _chunks_and_windows(order_BHRT: Tensor, chunk: int) -> tuple[Tensor, Tensor]:
    """The tokens of each chunk, and with those of the chunk before; `NONE` fills up."""
    filled = pad(order_BHRT, (0, -order_BHRT.shape[-1] % chunk), value=NONE)
    token_BHRNC = filled.view(*filled.shape[:-1], -1, chunk)
    before_BHRNC = pad(token_BHRNC[..., :-1, :], (0, 0, 1, 0), value=NONE)
    return token_BHRNC, torch.cat((before_BHRNC, token_BHRNC), dim=-1)


def _take(x_BHTK: Tensor, token_BHRNC: Tensor) -> Tensor:
    """The vectors of these tokens, `[B, H, R, N, C, K]`; that of token 0 for `NONE`."""
    index_BHX1 = token_BHRNC.clamp(min=0).flatten(2)[..., None]
    taken_BHXK = x_BHTK.take_along_dim(index_BHX1, dim=2)
    return taken_BHXK.view(*token_BHRNC.shape, x_BHTK.shape[3])


def _alike(buckets_BHRT: Tensor, q_BHRNC: Tensor, k_BHRNW: Tensor) -> Tensor:
    """In each round, are the two in one bucket of that round?"""
    q, k = (
        buckets_BHRT.take_along_dim(token.clamp(min=0).flatten(3), dim=3).view(token.shape)
        for token in (q_BHRNC, k_BHRNW)
    )
    return (q[..., :, None] == k[..., None, :]) & (k_BHRNW != NONE)[..., None, :]


def _meetings(buckets_BHRT: Tensor, chunk_BHRT: Tensor, q_BHRNC: Tensor, k_BHRNW: Tensor) -> Tensor:
    """In how many rounds the two meet, `[B, H, R, N, C, W]`."""
    count = torch.zeros((), device=buckets_BHRT.device)
    for where_BHT2 in torch.stack((buckets_BHRT, chunk_BHRT), dim=-1).unbind(dim=2):
        q, k = _take(where_BHT2, q_BHRNC), _take(where_BHT2, k_BHRNW)
        apart = q[..., :, None, :] - k[..., None, :, :]
        count = count + ((apart[..., 0] == 0) & (apart[..., 1] >= 0) & (apart[..., 1] <= 1))
    return count
