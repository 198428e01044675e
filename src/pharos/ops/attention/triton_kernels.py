"""FlashAttention-2 (Dao 2023, arXiv:2307.08691) as Triton kernels that visit only the blocks a mask
leaves: the forward pass, the gradient of queries (and of a bias), that of keys and values.

Needs `triton` at import; the way here is through `triton.py` beside this file. Scores are in units
of log 2, because the hardware's exponential is `exp2`: the scale and the bias arrive multiplied by
log₂ e. All tensors are contiguous; rows beyond the last are read as zeros and not written.

Shapes: T queries, S keys, K width of queries and keys, V of values, N rows of W numbers; a block
has Q queries and C keys.
"""

# Triton's language has types of its own.
# mypy: disable-error-code="no-untyped-def,untyped-decorator,import-untyped,import-not-found"

from typing import Any, NamedTuple

import triton
import triton.language as tl


class Problem(NamedTuple):
    num_heads: int
    num_groups: int
    num_queries: int
    num_keys: int
    scale: float


class Bias(NamedTuple):
    """`num_distances` numbers a head, that of distance 0 at `zero`. (Not `values`: Triton's tuples
    have an attribute of that name.)"""

    table: Any
    zero: int
    num_distances: int


class Lists(NamedTuple):
    """The blocks that each row of blocks meets: entries `starts[row]` to `starts[row + 1]`. Full
    blocks need no mask; of a partial one, `tiles` says which of `masks` tells the allowed pairs.
    The first row of a sequence's head is at `sequence * of_sequence + head * of_head`."""

    full_starts: Any
    full_blocks: Any
    partial_starts: Any
    partial_blocks: Any
    partial_tiles: Any
    masks: Any
    of_sequence: int
    of_head: int


@triton.jit
def _load_rows(start, row_N, num_rows, W: tl.constexpr):
    inside = (row_N < num_rows)[:, None]
    return tl.load(start + row_N[:, None] * W + tl.arange(0, W)[None, :], mask=inside, other=0.0)


@triton.jit
def _store_rows(start, x_NW, row_N, num_rows, W: tl.constexpr):
    to = start + row_N[:, None] * W + tl.arange(0, W)[None, :]
    tl.store(to, x_NW.to(start.dtype.element_ty), mask=(row_N < num_rows)[:, None])


@triton.jit
def _scores(
    q_QK, k_CK, row_Q, key_C, p, bias, head, lists, entry, MASKED: tl.constexpr, DOT: tl.constexpr
):
    scores_QC = tl.dot(q_QK, tl.trans(k_CK), input_precision=DOT) * p.scale
    if bias is not None:
        place_QC = key_C[None, :] - row_Q[:, None] + bias.zero
        inside = (place_QC >= 0) & (place_QC < bias.num_distances)
        table = bias.table + head * bias.num_distances
        scores_QC += tl.load(table + place_QC, mask=inside, other=0.0)
    if MASKED:
        Q: tl.constexpr = q_QK.shape[0]
        C: tl.constexpr = k_CK.shape[0]
        mask = lists.masks + tl.load(lists.partial_tiles + entry).to(tl.int64) * (Q * C)
        pair_QC = tl.arange(0, Q)[:, None] * C + tl.arange(0, C)[None, :]
        allowed_QC = (tl.load(mask + pair_QC) != 0) & (key_C < p.num_keys)[None, :]
        scores_QC = tl.where(allowed_QC, scores_QC, float("-inf"))
    return scores_QC


@triton.jit
def _attend(
    mean_QV, sum_Q, top_Q, q_QK, row_Q, k, v, p, bias, head, lists, row, MASKED: tl.constexpr,
    C: tl.constexpr, DOT: tl.constexpr,
):  # fmt: skip
    """The online softmax over the full blocks of a row of the lists, or over the partial ones."""
    starts = lists.partial_starts if MASKED else lists.full_starts
    blocks = lists.partial_blocks if MASKED else lists.full_blocks
    for entry in range(tl.load(starts + row), tl.load(starts + row + 1)):
        key_C = tl.load(blocks + entry) * C + tl.arange(0, C)
        k_CK = _load_rows(k, key_C, p.num_keys, q_QK.shape[1])
        scores_QC = _scores(q_QK, k_CK, row_Q, key_C, p, bias, head, lists, entry, MASKED, DOT)
        new_top_Q = tl.maximum(top_Q, tl.max(scores_QC, axis=1))
        p_QC = tl.exp2(scores_QC - new_top_Q[:, None])
        fade_Q = tl.exp2(top_Q - new_top_Q)
        sum_Q = sum_Q * fade_Q + tl.sum(p_QC, axis=1)
        v_CV = _load_rows(v, key_C, p.num_keys, mean_QV.shape[1])
        mean_QV = mean_QV * fade_Q[:, None]
        mean_QV = tl.dot(p_QC.to(v_CV.dtype), v_CV, mean_QV, input_precision=DOT)
        top_Q = new_top_Q
    return mean_QV, sum_Q, top_Q


@triton.jit
def forward_kernel(
    q, k, v, out, log_sum, p, bias, lists, K: tl.constexpr, V: tl.constexpr, Q: tl.constexpr,
    C: tl.constexpr, DOT: tl.constexpr,
):  # fmt: skip
    """A program: one block of queries of one head. The last blocks, which see most, go first."""
    block = tl.num_programs(0) - 1 - tl.program_id(0)
    sequence, head = tl.program_id(1) // p.num_heads, tl.program_id(1) % p.num_heads
    group = sequence * p.num_groups + head // (p.num_heads // p.num_groups)
    first_key = group.to(tl.int64) * p.num_keys
    first_query = tl.program_id(1).to(tl.int64) * p.num_queries
    row = sequence * lists.of_sequence + head * lists.of_head + block
    k += first_key * K
    v += first_key * V

    row_Q = block * Q + tl.arange(0, Q)
    q_QK = _load_rows(q + first_query * K, row_Q, p.num_queries, K)
    mean_QV = tl.zeros([Q, V], tl.float32)
    sum_Q = tl.zeros([Q], tl.float32)
    top_Q = tl.full([Q], -1e30, tl.float32)  # finite: -inf - -inf is no number
    mean_QV, sum_Q, top_Q = _attend(
        mean_QV, sum_Q, top_Q, q_QK, row_Q, k, v, p, bias, head, lists, row, False, C, DOT
    )
    mean_QV, sum_Q, top_Q = _attend(
        mean_QV, sum_Q, top_Q, q_QK, row_Q, k, v, p, bias, head, lists, row, True, C, DOT
    )

    some = sum_Q > 0
    sum_Q = tl.where(some, sum_Q, 1.0)
    _store_rows(out + first_query * V, mean_QV / sum_Q[:, None], row_Q, p.num_queries, V)
    log_sum_Q = tl.where(some, top_Q + tl.log2(sum_Q), float("inf"))
    tl.store(log_sum + first_query + row_Q, log_sum_Q, mask=row_Q < p.num_queries)


@triton.jit
def _query_gradient(
    dq_QK, q_QK, do_QV, log_sum_Q, delta_Q, row_Q, k, v, dvalues, p, bias, head, lists, row,
    MASKED: tl.constexpr, C: tl.constexpr, DOT: tl.constexpr,
):  # fmt: skip
    starts = lists.partial_starts if MASKED else lists.full_starts
    blocks = lists.partial_blocks if MASKED else lists.full_blocks
    for entry in range(tl.load(starts + row), tl.load(starts + row + 1)):
        key_C = tl.load(blocks + entry) * C + tl.arange(0, C)
        k_CK = _load_rows(k, key_C, p.num_keys, q_QK.shape[1])
        v_CV = _load_rows(v, key_C, p.num_keys, do_QV.shape[1])
        scores_QC = _scores(q_QK, k_CK, row_Q, key_C, p, bias, head, lists, entry, MASKED, DOT)
        p_QC = tl.exp2(scores_QC - log_sum_Q[:, None])
        dp_QC = tl.dot(do_QV, tl.trans(v_CV), input_precision=DOT)
        ds_QC = p_QC * (dp_QC - delta_Q[:, None])
        dq_QK = tl.dot(ds_QC.to(k_CK.dtype), k_CK, dq_QK, input_precision=DOT)
        if dvalues is not None:
            place_QC = head * bias.num_distances + key_C[None, :] - row_Q[:, None] + bias.zero
            inside = (row_Q < p.num_queries)[:, None] & (key_C < p.num_keys)[None, :]
            tl.atomic_add(dvalues + place_QC, ds_QC, mask=inside, sem="relaxed")
    return dq_QK


@triton.jit
def query_gradient_kernel(
    q, k, v, do, log_sum, delta, dq, dvalues, dq_scale, p, bias, lists, K: tl.constexpr,
    V: tl.constexpr, Q: tl.constexpr, C: tl.constexpr, DOT: tl.constexpr,
):  # fmt: skip
    """A program: one block of queries of one head."""
    block = tl.num_programs(0) - 1 - tl.program_id(0)
    sequence, head = tl.program_id(1) // p.num_heads, tl.program_id(1) % p.num_heads
    group = sequence * p.num_groups + head // (p.num_heads // p.num_groups)
    first_key = group.to(tl.int64) * p.num_keys
    first_query = tl.program_id(1).to(tl.int64) * p.num_queries
    row = sequence * lists.of_sequence + head * lists.of_head + block
    k += first_key * K
    v += first_key * V

    row_Q = block * Q + tl.arange(0, Q)
    inside_Q = row_Q < p.num_queries
    q_QK = _load_rows(q + first_query * K, row_Q, p.num_queries, K)
    do_QV = _load_rows(do + first_query * V, row_Q, p.num_queries, V)
    log_sum_Q = tl.load(log_sum + first_query + row_Q, mask=inside_Q, other=float("inf"))
    delta_Q = tl.load(delta + first_query + row_Q, mask=inside_Q, other=0.0)
    dq_QK = tl.zeros([Q, K], tl.float32)
    dq_QK = _query_gradient(
        dq_QK, q_QK, do_QV, log_sum_Q, delta_Q, row_Q, k, v, dvalues, p, bias, head, lists, row,
        False, C, DOT,
    )  # fmt: skip
    dq_QK = _query_gradient(
        dq_QK, q_QK, do_QV, log_sum_Q, delta_Q, row_Q, k, v, dvalues, p, bias, head, lists, row,
        True, C, DOT,
    )  # fmt: skip
    _store_rows(dq + first_query * K, dq_QK * dq_scale, row_Q, p.num_queries, K)


@triton.jit
def _key_gradient(
    dk_CK, dv_CV, k_CK, v_CV, key_C, q, do, log_sum, delta, p, bias, head, lists, row,
    MASKED: tl.constexpr, Q: tl.constexpr, DOT: tl.constexpr,
):  # fmt: skip
    starts = lists.partial_starts if MASKED else lists.full_starts
    blocks = lists.partial_blocks if MASKED else lists.full_blocks
    for entry in range(tl.load(starts + row), tl.load(starts + row + 1)):
        row_Q = tl.load(blocks + entry) * Q + tl.arange(0, Q)
        inside_Q = row_Q < p.num_queries
        q_QK = _load_rows(q, row_Q, p.num_queries, k_CK.shape[1])
        do_QV = _load_rows(do, row_Q, p.num_queries, v_CV.shape[1])
        log_sum_Q = tl.load(log_sum + row_Q, mask=inside_Q, other=float("inf"))
        delta_Q = tl.load(delta + row_Q, mask=inside_Q, other=0.0)
        scores_QC = _scores(q_QK, k_CK, row_Q, key_C, p, bias, head, lists, entry, MASKED, DOT)
        p_QC = tl.exp2(scores_QC - log_sum_Q[:, None])
        dv_CV = tl.dot(tl.trans(p_QC.to(do_QV.dtype)), do_QV, dv_CV, input_precision=DOT)
        dp_QC = tl.dot(do_QV, tl.trans(v_CV), input_precision=DOT)
        ds_QC = p_QC * (dp_QC - delta_Q[:, None])
        dk_CK = tl.dot(tl.trans(ds_QC.to(q_QK.dtype)), q_QK, dk_CK, input_precision=DOT)
    return dk_CK, dv_CV


@triton.jit
def key_gradient_kernel(
    q, k, v, do, log_sum, delta, dk, dv, dk_scale, p, bias, lists, K: tl.constexpr,
    V: tl.constexpr, Q: tl.constexpr, C: tl.constexpr, DOT: tl.constexpr,
):  # fmt: skip
    """A program: one block of keys, with the queries of all heads that share them."""
    block = tl.program_id(0)
    sequence, group = tl.program_id(1) // p.num_groups, tl.program_id(1) % p.num_groups
    heads_per_group = p.num_heads // p.num_groups
    first_key = tl.program_id(1).to(tl.int64) * p.num_keys
    key_C = block * C + tl.arange(0, C)
    k_CK = _load_rows(k + first_key * K, key_C, p.num_keys, K)
    v_CV = _load_rows(v + first_key * V, key_C, p.num_keys, V)
    dk_CK = tl.zeros([C, K], tl.float32)
    dv_CV = tl.zeros([C, V], tl.float32)
    for head in range(group * heads_per_group, (group + 1) * heads_per_group):
        first_query = (sequence * p.num_heads + head).to(tl.int64) * p.num_queries
        row = sequence * lists.of_sequence + head * lists.of_head + block
        dk_CK, dv_CV = _key_gradient(
            dk_CK, dv_CV, k_CK, v_CV, key_C, q + first_query * K, do + first_query * V,
            log_sum + first_query, delta + first_query, p, bias, head, lists, row, False, Q, DOT,
        )  # fmt: skip
        dk_CK, dv_CV = _key_gradient(
            dk_CK, dv_CV, k_CK, v_CV, key_C, q + first_query * K, do + first_query * V,
            log_sum + first_query, delta + first_query, p, bias, head, lists, row, True, Q, DOT,
        )  # fmt: skip
    _store_rows(dk + first_key * K, dk_CK * dk_scale, key_C, p.num_keys, K)
    _store_rows(dv + first_key * V, dv_CV, key_C, p.num_keys, V)
