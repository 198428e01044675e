"""Sampling beside plain twins, one row at a time, and beside `transformers`."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from pharos.core import SamplingParams
from pharos.ops import sampling
from pharos.ops.sampling import (
    Seen,
    bias_of,
    biased,
    draw,
    likeliest,
    mask_scores,
    penalized,
    probabilities,
    sample,
    uniform,
)

pytestmark = pytest.mark.usefixtures("either_way")
VOCAB = 12
SCORES = st.lists(
    st.floats(-8, 8, allow_subnormal=False).map(lambda x: round(x, 2)),
    min_size=VOCAB,
    max_size=VOCAB,
    unique=True,
)
ROWS = st.lists(SCORES, min_size=1, max_size=4)


def logits_of(rows: Sequence[Sequence[float]]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float32)


def random_logits(rows: int, vocab: int = 50, *, seed: int = 0) -> Tensor:
    return 3 * torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed))


def kept(row: Tensor) -> set[int]:
    return set(row.nonzero()[:, 0].tolist())


def softmax(scores: Sequence[float]) -> list[float]:
    weights = [math.exp(score - max(scores)) for score in scores]
    return [weight / sum(weights) for weight in weights]


def ranked(scores: Sequence[float]) -> list[int]:
    return sorted(range(len(scores)), key=lambda i: -scores[i])


def packed(is_legal_BV: NDArray[np.bool_]) -> NDArray[np.int32]:
    """A mask of a vocabulary whose size words of 32 tokens divide."""
    return np.packbits(is_legal_BV, axis=1, bitorder="little").view(np.int32)


# Which tokens are left


@settings(deadline=None)
@given(rows=ROWS, top_k=st.integers(0, VOCAB + 3))
def test_top_k_keeps_the_k_likeliest(rows: list[list[float]], top_k: int) -> None:
    shares = probabilities(logits_of(rows), [SamplingParams(top_k=top_k)] * len(rows))
    for row, scores in zip(shares, rows, strict=True):
        assert kept(row) == set(ranked(scores)[: top_k or VOCAB])


@settings(deadline=None)
@given(rows=ROWS, top_p=st.floats(0.01, 1.0))
def test_top_p_keeps_the_fewest_that_reach_it(rows: list[list[float]], top_p: float) -> None:
    shares = probabilities(logits_of(rows), [SamplingParams(top_p=top_p)] * len(rows))
    for row, scores in zip(shares, rows, strict=True):
        found, share = kept(row), softmax(scores)
        assert found == set(ranked(scores)[: len(found)])
        reached = math.fsum(share[i] for i in found)
        least = min(share[i] for i in found)
        assert reached >= top_p - 1e-5
        assert len(found) == 1 or reached - least < top_p + 1e-5


@settings(deadline=None)
@given(rows=ROWS, min_p=st.floats(0.01, 1.0))
def test_min_p_keeps_those_near_the_likeliest(rows: list[list[float]], min_p: float) -> None:
    shares = probabilities(logits_of(rows), [SamplingParams(min_p=min_p)] * len(rows))
    for row, scores in zip(shares, rows, strict=True):
        ratios = [math.exp(score - max(scores)) for score in scores]
        surely = {i for i, ratio in enumerate(ratios) if ratio >= min_p * (1 + 1e-5)}
        perhaps = {i for i, ratio in enumerate(ratios) if ratio >= min_p * (1 - 1e-5)}
        assert surely <= kept(row) <= perhaps


@settings(deadline=None)
@given(
    rows=ROWS,
    temperature=st.floats(0.1, 5.0),
    top_k=st.integers(0, VOCAB),
    top_p=st.floats(0.05, 1.0),
    min_p=st.floats(0.0, 1.0),
)
def test_those_kept_keep_their_proportions(
    rows: list[list[float]], temperature: float, top_k: int, top_p: float, min_p: float
) -> None:
    params = SamplingParams(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    shares = probabilities(logits_of(rows), [params] * len(rows))
    assert torch.allclose(shares.sum(-1), torch.ones(len(rows)), atol=1e-5)
    for row, scores in zip(shares, rows, strict=True):
        found = sorted(kept(row))
        assert ranked(scores)[0] in found
        expected = softmax([scores[i] / temperature for i in found])
        assert row[found].tolist() == pytest.approx(expected, abs=1e-5)


def test_of_equally_likely_tokens_the_first_are_kept() -> None:
    shares = probabilities(torch.zeros(1, 6), [SamplingParams(top_k=2)])
    assert kept(shares[0]) == {0, 1}


@pytest.mark.parametrize("temperature", [1e-320, 1e-39, 1e-30, 1e-6])
def test_next_to_no_temperature_leaves_the_likeliest_alone(temperature: float) -> None:
    shares = probabilities(
        logits_of([[-80.0, 90.0, 3.0]]), [SamplingParams(temperature=temperature)]
    )
    assert shares.tolist() == [[0.0, 1.0, 0.0]]


# The draw


@settings(deadline=None)
@given(rows=ROWS)
def test_the_share_of_draws_is_the_probability(rows: list[list[float]]) -> None:
    """Over an even grid of uniform numbers the counts are exact but for one at each end."""
    grid = 1000
    for scores in rows:
        shares = probabilities(logits_of([scores]), [SamplingParams()])
        drawn = draw(shares.expand(grid, -1), [(i + 0.5) / grid for i in range(grid)])
        counts = drawn.bincount(minlength=VOCAB)
        assert (counts - grid * shares[0]).abs().max() <= 1.001


@settings(deadline=None)
@given(rows=ROWS, top_k=st.integers(1, VOCAB), at=st.floats(0, 1, exclude_max=True))
def test_what_was_taken_out_is_never_drawn(rows: list[list[float]], top_k: int, at: float) -> None:
    shares = probabilities(logits_of(rows), [SamplingParams(top_k=top_k)] * len(rows))
    for chance in (0.0, at, math.nextafter(1.0, 0.0)):
        drawn = draw(shares, [chance] * len(rows))
        assert (shares.gather(1, drawn[:, None]) > 0).all()


@given(
    weights=st.lists(st.integers(0, 3), min_size=1, max_size=40).filter(any),
    block=st.sampled_from([1, 3, 64]),
    at=st.floats(0, 1, exclude_max=True),
)
def test_a_draw_by_blocks_is_where_the_sum_of_all_passes(
    weights: list[int], block: int, at: float
) -> None:
    """Whole numbers, so that sums are exact."""
    total = sum(weights)
    ends = np.cumsum(weights)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sampling, "BLOCK", block)
        for uniform_ in (0.0, at, math.nextafter(1.0, 0.0)):
            drawn = draw(torch.tensor([weights], dtype=torch.float32), [uniform_])
            passed = min(uniform_ * total, math.nextafter(total, 0.0))
            assert drawn == np.searchsorted(ends, passed, side="right")


@given(
    rows=st.lists(
        st.lists(st.sampled_from([0.0, -1.0, 2.0, -math.inf, math.nan]), min_size=9, max_size=9),
        min_size=1,
        max_size=3,
    ),
    block=st.sampled_from([1, 2, 4, 64]),
)
def test_the_likeliest_by_blocks_is_the_first_of_all(rows: list[list[float]], block: int) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sampling, "BLOCK", block)
        assert torch.equal(likeliest(logits_of(rows)), logits_of(rows).argmax(dim=-1))


@pytest.mark.parametrize(("top_k", "top_p"), [(0, 1.0), (2, 1.0), (0, 0.5)])
def test_of_no_numbers_a_token_of_the_vocabulary_is_drawn(
    top_k: int, top_p: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what stands beside them is drawn as always."""
    monkeypatch.setattr(sampling, "MOST_SORTED", 1)
    monkeypatch.setattr(sampling, "BLOCK", 4)
    logits = random_logits(3, vocab=70)
    params = [SamplingParams(temperature=1.0, top_k=top_k, top_p=top_p)] * 2 + [SamplingParams()]
    expected = sample(logits, params, [0.5] * 3)
    logits[0] = math.nan
    drawn = sample(logits, params, [0.5] * 3)
    assert 0 <= drawn[0] < 70
    assert torch.equal(drawn[1:], expected[1:])


@settings(deadline=None)
@given(
    st.lists(
        st.none() | st.sets(st.integers(0, 49), min_size=1, max_size=49),
        min_size=1,
        max_size=4,
    )
)
def test_only_legal_tokens_keep_their_scores(legal: list[set[int] | None]) -> None:
    scores, before = random_logits(len(legal)), random_logits(len(legal))
    is_legal = [[ids is None or id_ in ids for id_ in range(64)] for ids in legal]
    mask_scores(scores, packed(np.array(is_legal)))
    for row, ids in enumerate(legal):
        kept = set(torch.nonzero(scores[row].isfinite())[:, 0].tolist())
        assert kept == (set(range(50)) if ids is None else ids)
        assert torch.equal(scores[row, list(kept)], before[row, list(kept)])


@pytest.mark.parametrize("temperature", [1e-320, 1e-30, 1e30, 1e39, 1.7e308])
def test_at_any_temperature_legal_tokens_alone_are_drawn(temperature: float) -> None:
    """At none the likeliest of them, at the highest any of them."""
    legal = [7, 33, 49]
    params = [SamplingParams(temperature=temperature)] * 99
    uniforms = [(i + 0.5) / 99 for i in range(99)]
    mask = packed(np.isin(np.arange(64), legal)[None].repeat(99, axis=0))
    drawn = sample(random_logits(99), params, uniforms, mask_BW=mask)
    if temperature < 1:
        assert drawn.tolist() == [max(legal, key=row.__getitem__) for row in random_logits(99)]
    else:
        assert drawn.tolist() == [id_ for id_ in legal for _ in range(33)]


def test_no_rows_are_no_tokens() -> None:
    assert sample(torch.empty(0, 7), [], []).shape == (0,)


@settings(deadline=None)
@given(seed=st.integers(-(2**70), 2**70), step=st.integers(0, 2**32))
def test_a_uniform_depends_on_seed_and_step_alone(seed: int, step: int) -> None:
    first = uniform(seed, step)
    uniform(seed + 1, step + 1)
    assert uniform(seed, step) == first
    assert 0.0 <= first < 1.0


@settings(deadline=None)
@given(seed=st.integers(0, 2**64 - 1), step=st.integers(0, 2**40))
def test_uniforms_are_those_of_numpys_philox(seed: int, step: int) -> None:
    theirs = np.random.Generator(np.random.Philox(key=seed, counter=[step, 0, 0, 0]))
    assert uniform(seed, step) == theirs.random()


def test_uniforms_of_neighbouring_seeds_and_steps_spread_evenly() -> None:
    for numbers in (
        [uniform(7, step) for step in range(2000)],
        [uniform(seed, 0) for seed in range(2000)],
    ):
        assert len(set(numbers)) == 2000
        counts = torch.histc(torch.tensor(numbers), bins=10, min=0.0, max=1.0)
        chi_squared = ((counts - 200) ** 2 / 200).sum()
        assert chi_squared < 27.9  # of nine degrees of freedom; the numbers are always the same


def sorted_out(logits: Tensor, top_k: int, top_p: float) -> Tensor:
    """The plain way: all are sorted, the first of equal ones first."""
    values, order = logits.sort(dim=-1, descending=True, stable=True)
    values = values.clone()
    if top_k:
        values[top_k:] = -torch.inf
    shares = values.double().softmax(-1)
    if top_p < 1.0:
        values[1:][(shares.cumsum(-1) - shares)[1:] >= top_p] = -torch.inf
    return torch.empty_like(logits).scatter_(-1, order, values)


@settings(deadline=None)
@given(
    rows=st.lists(
        st.tuples(st.sampled_from([0, 1, 7, 40]), st.sampled_from([1.0, 0.9, 0.3])),
        min_size=1,
        max_size=4,
    ),
    most=st.sampled_from([1, 5, 30, 1000]),
    block=st.sampled_from([1, 4, 64]),
    is_coarse=st.booleans(),
    seed=st.integers(0, 99),
)
def test_however_many_are_sorted_the_same_ones_are_kept(
    rows: list[tuple[int, float]], most: int, block: int, is_coarse: bool, seed: int
) -> None:
    logits = 2 * random_logits(len(rows), seed=seed)
    logits = logits.round() if is_coarse else logits
    params = [SamplingParams(temperature=1.0, top_k=k, top_p=p) for k, p in rows]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sampling, "MOST_SORTED", most)
        patched.setattr(sampling, "BLOCK", block)
        shares = probabilities(logits, params)
    for row, (top_k, top_p) in enumerate(rows):
        assert kept(shares[row]) == kept(sorted_out(logits[row], top_k, top_p).softmax(-1))


# Rows


@settings(deadline=None)
@given(
    params=st.lists(
        st.builds(
            SamplingParams,
            temperature=st.sampled_from([0.0, 0.5, 1.3]),
            top_k=st.sampled_from([0, 3, 40]),
            top_p=st.sampled_from([1.0, 0.7]),
            min_p=st.sampled_from([0.0, 0.1]),
            repetition_penalty=st.sampled_from([1.0, 1.4]),
            presence_penalty=st.sampled_from([0.0, 0.5]),
            frequency_penalty=st.sampled_from([0.0, -0.5]),
        ),
        min_size=1,
        max_size=5,
    )
)
def test_a_row_gets_the_same_token_whatever_is_beside_it(params: list[SamplingParams]) -> None:
    count = len(params)
    logits, seen = random_logits(count), seen_of(count)
    uniforms = [uniform(1, row) for row in range(count)]
    together = sample(logits, params, uniforms, seen)
    for i, row in enumerate(params):
        only = slice(i, i + 1)
        alone = Seen(seen.prompt_BV[only], seen.output_BV[only])
        assert sample(logits[only], [row], uniforms[only], alone)[0] == together[i]


def seen_of(rows: int, vocab: int = 50) -> Seen:
    generator = torch.Generator().manual_seed(1)
    counts = torch.randint(-3, 3, (2, rows, vocab), generator=generator).clamp(min=0)
    return Seen(*counts)


@settings(deadline=None)
@given(rows=ROWS)
def test_a_temperature_of_zero_takes_the_likeliest(rows: list[list[float]]) -> None:
    logits = logits_of(rows)
    params = [SamplingParams(top_k=3, top_p=0.5, min_p=0.2)] * len(rows)
    assert torch.equal(sample(logits, params, [0.99] * len(rows)), logits.argmax(-1))
    mixed = [SamplingParams(temperature=1.0), *params[1:]]
    assert torch.equal(sample(logits, mixed, [0.99] * len(rows))[1:], logits.argmax(-1)[1:])


# Biases


@settings(deadline=None)
@given(
    scores=SCORES,
    bias=st.dictionaries(st.integers(0, VOCAB - 1), st.floats(-100.0, 100.0), max_size=VOCAB),
)
def test_biases_are_added_to_their_tokens(scores: list[float], bias: dict[int, float]) -> None:
    found = biased(logits_of([scores, scores]), [bias, {}])
    expected = torch.tensor([score + bias.get(id_, 0.0) for id_, score in enumerate(scores)])
    torch.testing.assert_close(found[0], expected)
    assert torch.equal(found[1], logits_of([scores])[0])


def test_an_end_comes_early_only_where_nothing_else_may() -> None:
    params = SamplingParams(min_tokens=2, logit_bias={0: 1.0})
    assert bias_of(params, 2, {3}) == {0: 1.0}
    bias = bias_of(params, 1, {3})
    free = biased(torch.tensor([[0.0, 0.0, 0.0, 90.0]]), [bias])
    assert free.argmax() == 0
    bound = biased(torch.tensor([[-torch.inf, -torch.inf, -torch.inf, 0.0]]), [bias])
    hot = SamplingParams(temperature=1.0, top_p=0.5, top_k=2)
    assert sample(bound, [hot], [0.5]) == 3


# Penalties


@settings(deadline=None)
@given(
    scores=SCORES,
    prompt=st.lists(st.integers(0, VOCAB - 1), max_size=6),
    output=st.lists(st.integers(0, VOCAB - 1), max_size=6),
    repetition=st.floats(0.5, 2.0),
    presence=st.floats(-2.0, 2.0),
    frequency=st.floats(-2.0, 2.0),
)
def test_penalties_are_what_their_papers_say(
    scores: list[float],
    prompt: list[int],
    output: list[int],
    repetition: float,
    presence: float,
    frequency: float,
) -> None:
    params = SamplingParams(
        repetition_penalty=repetition, presence_penalty=presence, frequency_penalty=frequency
    )
    counts = [
        torch.bincount(torch.tensor(ids, dtype=torch.long), minlength=VOCAB)[None]
        for ids in (prompt, output)
    ]
    found = penalized(logits_of([scores]), [params], Seen(*counts))[0].tolist()
    for id_, score in enumerate(scores):
        if id_ in prompt + output:
            score = score / repetition if score > 0 else score * repetition
        score -= frequency * output.count(id_) + presence * (id_ in output)
        assert found[id_] == pytest.approx(score, abs=1e-4)


# The reference


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
@pytest.mark.parametrize(
    ("top_k", "top_p", "min_p"),
    [
        (0, 1.0, 0.0),
        (5, 1.0, 0.0),
        (0, 0.8, 0.0),
        (0, 1.0, 0.1),
        (20, 0.6, 0.0),
        (10, 0.9, 0.05),
    ],
)
def test_the_distribution_is_the_references(
    temperature: float, top_k: int, top_p: float, min_p: float
) -> None:
    transformers = pytest.importorskip("transformers")
    logits = random_logits(8)
    params = SamplingParams(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    processors = [transformers.TemperatureLogitsWarper(temperature)]
    if top_k:
        processors.append(transformers.TopKLogitsWarper(top_k))
    if top_p < 1.0:
        processors.append(transformers.TopPLogitsWarper(top_p))
    if min_p:
        processors.append(transformers.MinPLogitsWarper(min_p))
    scores = transformers.LogitsProcessorList(processors)(None, logits)
    torch.testing.assert_close(probabilities(logits, [params] * 8), scores.softmax(-1))


@pytest.mark.parametrize("penalty", [0.7, 1.3])
def test_the_repetition_penalty_is_the_references(penalty: float) -> None:
    transformers = pytest.importorskip("transformers")
    logits = random_logits(4)
    ids = torch.randint(0, 50, (4, 20), generator=torch.Generator().manual_seed(2))
    counts = torch.stack([row.bincount(minlength=50) for row in ids])
    params = [SamplingParams(repetition_penalty=penalty)] * 4
    expected = transformers.RepetitionPenaltyLogitsProcessor(penalty)(ids, logits)
    found = penalized(logits, params, Seen(counts, torch.zeros_like(counts)))
    torch.testing.assert_close(found, expected)
