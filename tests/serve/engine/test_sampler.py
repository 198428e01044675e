from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

from pharos.core import SamplingParams
from pharos.models.doubles import tiny_llama
from pharos.models.generation import Generation
from pharos.ops.sampling import Seen, penalized, penalized_at
from pharos.serve.engine.plan import Part, Plan
from pharos.serve.engine.request import Request, Sequence, Token
from pharos.serve.engine.sampler import Row, Sampler, accepted, rows_of

pytestmark = pytest.mark.usefixtures("either_way")
VOCAB = 50
PARAMS = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.0, 0.7, 1.3]),
    top_k=st.sampled_from([0, 5]),
    top_p=st.sampled_from([1.0, 0.8]),
    min_p=st.sampled_from([0.0, 0.1]),
    repetition_penalty=st.sampled_from([1.0, 1.4]),
    presence_penalty=st.sampled_from([0.0, 0.5]),
    frequency_penalty=st.sampled_from([0.0, -0.5]),
    logit_bias=st.sampled_from([{}, {3: 2.0, 7: -100.0}]),
    min_tokens=st.sampled_from([0, 4]),
    logprobs=st.sampled_from([None, 0, 3]),
)


def sequence_of(
    number: int, params: SamplingParams, *, generated: list[int] | None = None
) -> Sequence:
    prompt = [number + 1, 4, 4]
    request = Request(
        id=str(number), prompt=prompt, params=params, seed=number, eos_ids=frozenset({9, 60})
    )
    return Sequence(request, number, prompt + (generated or []))


def logits_of(rows: int, *, seed: int = 0) -> torch.Tensor:
    return 3 * torch.randn(rows, VOCAB, generator=torch.Generator().manual_seed(seed))


@settings(deadline=None)
@given(
    params=st.lists(PARAMS, min_size=1, max_size=5),
    at_a_time=st.integers(1, 6),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
)
def test_a_row_gets_the_same_token_whatever_is_beside_it(
    params: list[SamplingParams], at_a_time: int, dtype: torch.dtype
) -> None:
    logits = logits_of(len(params)).to(dtype)
    rows = [Row(sequence_of(i, p, generated=[5, 4]), 0) for i, p in enumerate(params)]
    legal = [{3, 4, 5, i} if i % 2 else None for i in range(len(rows))]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("pharos.serve.engine.sampler.ROWS_AT_A_TIME", at_a_time)
        together = Sampler().sample(logits.clone(), rows, mask_of(legal))
    for i, row in enumerate(rows):
        alone = logits[i : i + 1].float()
        assert Sampler().sample(alone, [row], mask_of(legal[i : i + 1])) == [together[i]]


@settings(deadline=None)
@given(params=PARAMS, drafts=st.lists(st.integers(0, VOCAB - 1), max_size=4))
def test_what_is_drawn_after_a_draft_is_what_is_drawn_after_that_token(
    params: SamplingParams, drafts: list[int]
) -> None:
    logits = logits_of(len(drafts) + 1)
    drafted = sequence_of(1, params, generated=[5])
    drafted.drafts = drafts
    rows = [Row(drafted, i) for i in range(len(drafts) + 1)]
    found = Sampler().sample(logits, rows)
    one_by_one, sampler = sequence_of(1, params, generated=[5]), Sampler()
    for i, draft in enumerate([*drafts, 0]):
        assert sampler.sample(logits[i : i + 1], [Row(one_by_one, 0)]) == [found[i]]
        one_by_one.tokens.append(draft)


@settings(deadline=None)
@given(
    counts=st.lists(
        st.dictionaries(st.integers(0, VOCAB - 1), st.integers(0, 3)), min_size=1, max_size=4
    ),
    data=st.data(),
)
def test_penalties_where_tokens_were_seen_are_penalties_everywhere(
    counts: list[dict[int, int]], data: st.DataObject
) -> None:
    params = [data.draw(PARAMS) for _ in counts]
    logits = logits_of(len(counts))
    prompt, output = torch.zeros(2, len(counts), VOCAB, dtype=torch.long)
    for row, seen in enumerate(counts):
        for id_, count in seen.items():
            prompt[row, id_], output[row, id_] = 1, count
    everywhere = penalized(logits, params, Seen(prompt, output))
    assert torch.equal(penalized_at(logits, params, counts), everywhere)


def mask_of(legal: list[set[int] | None]) -> NDArray[np.int32]:
    """None is no mask."""
    mask = np.zeros((len(legal), 2), dtype=np.uint32)
    for row, ids in enumerate(legal):
        for id_ in range(64) if ids is None else ids:
            mask[row, id_ // 32] |= np.uint32(1 << id_ % 32)
    return mask.view(np.int32)


class Copies(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The largest tensor of scores that was made anew."""

    largest = 0

    def __torch_dispatch__(
        self, func: OpOverload, types: object, args: Any = (), kwargs: Any = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        stored = {x.untyped_storage().data_ptr() for x in args if isinstance(x, torch.Tensor)}
        if isinstance(made, torch.Tensor) and made.untyped_storage().data_ptr() not in stored:
            self.largest = max(self.largest, made.numel())
        return made


def test_a_mask_of_one_row_does_not_copy_the_others() -> None:
    rows = [Row(sequence_of(i, SamplingParams()), 0) for i in range(6)]
    logits = torch.randn(len(rows), 640)
    mask = np.tile(mask_of([None]), (len(rows), 10))
    mask[1] = np.tile(mask_of([set()]), 10)
    mask[1, 0] = 1 << 7
    Sampler().sample(logits[1:2], rows[1:2], mask[1:2])  # what is made once
    with Copies() as copies:  # type: ignore[no-untyped-call]
        tokens = Sampler().sample(logits, rows, mask)
    assert tokens[1].id == 7
    assert 0 < copies.largest <= 640


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_also_of_scores_that_are_no_numbers_a_legal_token_is_drawn(
    broken: float, temperature: float
) -> None:
    params = SamplingParams(temperature=temperature)
    rows = [Row(sequence_of(i, params), 0) for i in range(4)]
    logits = torch.full((4, VOCAB), broken)
    logits[2:, ::2] = 1.0
    legal: list[set[int] | None] = [{7, 8}, None, {9}, {9, 10}]
    together = Sampler().sample(logits.clone(), rows, mask_of(legal))
    for i, ids in enumerate(legal):
        alone = Sampler().sample(logits[i : i + 1].clone(), [rows[i]], mask_of(legal[i : i + 1]))
        assert alone == [together[i]]
        assert ids is None or together[i].id in ids


def test_a_mask_does_not_change_what_is_told_of_the_model() -> None:
    params = SamplingParams(logprobs=1)
    logits = logits_of(1)
    expected = logits.log_softmax(-1)[0]
    (token,) = Sampler().sample(logits, [Row(sequence_of(0, params), 0)], mask_of([{7}]))
    assert token.id == 7
    assert token.logprob == pytest.approx(float(expected[7]))
    assert [c.id for c in token.candidates] == [int(expected.argmax())]


def test_logprobs_are_the_models_own_and_for_those_who_asked() -> None:
    params = [
        SamplingParams(logprobs=2, logit_bias={7: 100.0}, temperature=0.5),
        SamplingParams(),
        SamplingParams(logprobs=0),
    ]
    logits = logits_of(3)
    rows = [Row(sequence_of(i, p), 0) for i, p in enumerate(params)]
    biased, silent, asking = Sampler().sample(logits, rows)
    logprobs = logits.log_softmax(-1)
    assert biased.id == 7
    assert biased.logprob == pytest.approx(float(logprobs[0, 7]))
    best = logprobs[0].topk(2)
    assert [c.id for c in biased.candidates] == best.indices.tolist()
    assert [c.logprob for c in biased.candidates] == pytest.approx(best.values.tolist())
    assert silent == Token(id=int(logits[1].argmax()))
    assert asking.candidates == ()
    assert asking.logprob == pytest.approx(float(logprobs[2].max()))


def test_an_end_waits_for_min_tokens() -> None:
    logits = torch.zeros(1, VOCAB)
    logits[0, 9] = 50.0
    sequence = sequence_of(1, SamplingParams(min_tokens=2), generated=[5])
    assert Sampler().sample(logits, [Row(sequence, 0)])[0].id != 9
    assert Sampler().sample(logits, [Row(sequence, 1)])[0].id == 9


def test_a_sequence_goes_on_up_to_the_first_draft_that_was_wrong() -> None:
    sequence = sequence_of(1, SamplingParams())
    sequence.drafts = [5, 6, 7]

    def ids(*drawn: int) -> list[int]:
        return [token.id for token in accepted(sequence, [Token(id=id_) for id_ in drawn])]

    assert ids(5, 6, 7, 8) == [5, 6, 7, 8]
    assert ids(5, 9, 7, 8) == [5, 9]
    assert ids(9, 6, 7, 8) == [9]
    assert ids() == []


def test_there_is_a_row_for_each_position_whose_logits_are_wanted() -> None:
    first, second = (sequence_of(i, SamplingParams()) for i in range(2))
    plan = Plan([Part(first, 0, 3, 0), Part(second, 2, 3, 3)])
    assert rows_of(plan) == [Row(second, 0), Row(second, 1), Row(second, 2)]


def test_what_is_forgotten_is_not_kept() -> None:
    sampler, sequence = Sampler(), sequence_of(1, SamplingParams(repetition_penalty=1.2))
    sampler.sample(logits_of(1), [Row(sequence, 0)])
    assert set(sampler.known) == {sequence}
    sampler.forget(sequence)
    assert not sampler.known


@pytest.mark.parametrize("values", [{}, {"temperature": 1.0, "top_p": 0.9}, {"top_k": 4}])
def test_a_text_is_drawn_as_generation_draws_it(values: dict[str, Any]) -> None:
    model = tiny_llama()
    params = SamplingParams(
        max_tokens=12, seed=3, frequency_penalty=0.5, logit_bias={4: 1.0}, logprobs=2, **values
    )
    expected = [(token.id, token.logprob) for token in Generation(model, [[4, 4, 4]], params)]
    sampler, sequence = Sampler(), sequence_of(3, params)
    for id_, logprob in expected:
        with torch.inference_mode():
            logits = model(torch.tensor([sequence.tokens]))[0, -1:]
        (token,) = sampler.sample(logits, [Row(sequence, 0)])
        assert token.id == id_
        assert token.logprob == pytest.approx(logprob, abs=1e-5)
        sequence.tokens.append(token.id)
