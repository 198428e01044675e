"""Guesses are those a search would find, are made as long as they pay, and change no text."""

from collections.abc import Sequence as Seq

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pharos.core import SamplingParams
from pharos.models.doubles import tiny_llama
from pharos.models.heads import CausalLM
from pharos.serve.engine.block_pool import BlockPool
from pharos.serve.engine.draft_model import DraftModelProposer
from pharos.serve.engine.engine import Engine
from pharos.serve.engine.paged_kv import PagedKV
from pharos.serve.engine.request import Output, Request, Sequence
from pharos.serve.engine.runner import Runner
from pharos.serve.engine.scheduler import Scheduler, SchedulerConfig
from pharos.serve.engine.speculation import (
    AdaptiveLength,
    NgramProposer,
    Proposer,
    Speculation,
    count_right,
)

VOCAB = 50
BLOCK = 4


def sequence_of(tokens: list[int], *, max_tokens: int = 100) -> Sequence:
    params = SamplingParams(max_tokens=max_tokens)
    return Sequence(Request(id="a", prompt=tuple(tokens), params=params), 0, list(tokens))


# n-grams


def searched(tokens: list[int], shortest: int, longest: int, count: int) -> list[int]:
    """What followed the longest ending that stands in the text already, the last time it did."""
    for size in range(longest, shortest - 1, -1):
        for end in range(len(tokens) - 1, size - 1, -1):
            if tokens[end - size : end] == tokens[-size:]:
                text = list(tokens)
                for i in range(count):
                    text.append(text[end + i])
                return text[len(tokens) :]
    return []


@given(
    tokens=st.lists(st.integers(0, 3), min_size=1, max_size=60),
    num_prompt=st.integers(1, 60),
    sizes=st.tuples(st.integers(1, 3), st.integers(0, 3)),
    count=st.integers(1, 8),
)
def test_ngrams_find_what_a_search_finds_as_the_text_grows(
    tokens: list[int], num_prompt: int, sizes: tuple[int, int], count: int
) -> None:
    shortest, longest = sizes[0], sum(sizes)
    proposer = NgramProposer(shortest=shortest, longest=longest)
    sequence = sequence_of(tokens[:num_prompt])
    for token in [None, *tokens[num_prompt:]]:
        if token is not None:
            sequence.tokens.append(token)
        expected = searched(sequence.tokens, shortest, longest, count)
        assert proposer.propose([sequence], [count]) == [expected]


def test_a_copy_that_meets_the_end_goes_round() -> None:
    proposer = NgramProposer(shortest=2, longest=4)
    assert proposer.propose([sequence_of([1, 2, 3, 1, 2, 3])], [7]) == [[1, 2, 3, 1, 2, 3, 1]]


def test_sequences_do_not_learn_from_each_other() -> None:
    proposer = NgramProposer()
    one, other = sequence_of([1, 2, 3, 1, 2]), sequence_of([1, 2])
    assert proposer.propose([one, other], [1, 1]) == [[3], []]
    proposer.forget(one)
    assert proposer.propose([one], [0]) == [[]]


def test_ngrams_of_no_size_are_refused() -> None:
    with pytest.raises(ValueError, match="3 to 2"):
        NgramProposer(shortest=3, longest=2)


# Lengths


def followed(lengths: AdaptiveLength, sequence: Sequence, is_right: bool) -> int:
    """A step: as many drafts as are wanted, all of them right or all wrong; how many."""
    (count,) = lengths.lengths([sequence])
    lengths.note(sequence, [1] * count)
    sequence.tokens += [1] * (count + 1) if is_right else [2]
    return count


def test_right_guesses_make_more_of_them_and_wrong_ones_fewer() -> None:
    lengths = AdaptiveLength(most=6, probe_every=10)
    sequence = sequence_of([0])
    assert [followed(lengths, sequence, True) for _ in range(20)][-1] == 6
    counts = [followed(lengths, sequence, False) for _ in range(60)]
    assert counts[-41:] != [0] * 41
    assert sum(counts[-40:]) == 4
    assert [followed(lengths, sequence, True) for _ in range(30)][-1] == 6


def test_the_first_guesses_say_the_most() -> None:
    stranger, known = sequence_of([0]), sequence_of([1])
    lengths = AdaptiveLength()
    for _ in range(20):
        followed(lengths, known, True)
    assert [followed(lengths, stranger, False) > 0 for _ in range(5)] == [True] * 3 + [False] * 2
    assert all(followed(lengths, known, False) > 0 for _ in range(5))


def test_an_expensive_draft_must_be_right_more_often() -> None:
    cheap, dear = AdaptiveLength(cost=0.02), AdaptiveLength(cost=0.3)
    assert cheap.lengths([sequence_of([0])])[0] > dear.lengths([sequence_of([0])])[0] > 0


def test_many_sequences_get_no_drafts() -> None:
    lengths = AdaptiveLength(max_batch=2)
    sequences = [sequence_of([0]) for _ in range(3)]
    assert all(lengths.lengths(sequences[:2]))
    assert lengths.lengths(sequences) == [0, 0, 0]


def test_drafts_that_were_not_checked_say_nothing() -> None:
    lengths = AdaptiveLength(first_share=0.5)
    known, other = sequence_of([0]), sequence_of([0])
    expected = lengths.lengths([known, other])
    lengths.note(known, [1, 2, 3])
    assert lengths.lengths([known, other]) == expected


@pytest.mark.parametrize("setting", ["most", "max_batch", "probe_every", "cost"])
def test_lengths_that_cannot_be_are_refused(setting: str) -> None:
    with pytest.raises(ValueError, match=setting):
        AdaptiveLength(**{setting: 0})


@pytest.mark.parametrize(
    ("drafts", "tokens", "right"),
    [([], [1], 0), ([1, 2], [1, 2, 3], 2), ([1, 2], [1, 3], 1), ([1, 2], [1], 1), ([1], [], 0)],
)
def test_drafts_are_right_up_to_the_first_that_is_not(
    drafts: list[int], tokens: list[int], right: int
) -> None:
    assert count_right(drafts, tokens) == right


def test_nobody_gets_more_drafts_than_can_be_of_use() -> None:
    sequence = sequence_of([1, 1, 1, 1], max_tokens=3)
    Speculation(NgramProposer()).propose([sequence])
    assert sequence.drafts == [1, 1]
    sequence.tokens += [1, 1]
    Speculation(NgramProposer()).propose([sequence])
    assert sequence.drafts == []


# With the engine

GREEDY = SamplingParams(max_tokens=24)
WARM = SamplingParams(max_tokens=24, temperature=0.8, top_p=0.9)
PENALIZED = SamplingParams(max_tokens=24, temperature=1.0, repetition_penalty=1.3, logprobs=2)
PROMPTS = ([1, 2, 3, 4, 1, 2, 3, 4, 1, 2], [7], [9, 9, 9, 9, 9], [5, 6, 5, 7, 5, 6])


@pytest.fixture(scope="module")
def model() -> CausalLM:
    return tiny_llama(vocab_size=VOCAB)


def written(
    model: CausalLM, proposer: Proposer | None, *, num_blocks: int = 200
) -> tuple[dict[str, list[int]], Engine]:
    """What the engine writes to the prompts, each with each of the parameters."""
    pool = BlockPool(num_blocks, BLOCK)
    kv = PagedKV(model.body.attention_shapes(), num_blocks=num_blocks, block_size=BLOCK)
    always = AdaptiveLength(most=4, cost=0.01, max_batch=100)
    engine = Engine(
        Scheduler(SchedulerConfig(), pool),
        Runner(model, kv),
        speculation=None if proposer is None else Speculation(proposer, always),
    )
    for i, prompt in enumerate(PROMPTS):
        for j, params in enumerate((GREEDY, WARM, PENALIZED)):
            engine.add(Request(id=f"{i}{j}", prompt=prompt, params=params, seed=i))
    texts: dict[str, list[int]] = {}
    while engine.has_work:
        for news in engine.step():
            assert isinstance(news, Output)
            texts.setdefault(news.request_id, []).extend(token.id for token in news.tokens)
        engine.check()
    return texts, engine


@pytest.fixture(scope="module")
def alone(model: CausalLM) -> dict[str, list[int]]:
    return written(model, None)[0]


class Failing(NgramProposer):
    """Guesses well for a while."""

    def __init__(self, *, calls: int, where: str) -> None:
        super().__init__(shortest=1)
        self._calls_left = calls
        self._where = where

    def propose(self, sequences: Seq[Sequence], room: Seq[int]) -> list[list[int]]:
        proposed = super().propose(sequences, room)
        if self._where == "propose":
            self._fail_at_last()
        return proposed[1:] if self._where == "too few" and self._is_last() else proposed

    def forget(self, sequence: Sequence) -> None:
        super().forget(sequence)
        if self._where == "forget":
            self._fail_at_last()

    def _is_last(self) -> bool:
        self._calls_left -= 1
        return self._calls_left < 0

    def _fail_at_last(self) -> None:
        if self._is_last():
            raise RuntimeError("the draft model has no memory")


@pytest.mark.parametrize("where", ["propose", "forget", "too few"])
@pytest.mark.parametrize("calls", [0, 5])
def test_a_proposer_that_fails_is_asked_no_more_and_changes_no_text(
    model: CausalLM,
    alone: dict[str, list[int]],
    caplog: pytest.LogCaptureFixture,
    where: str,
    calls: int,
) -> None:
    texts, engine = written(model, Failing(calls=calls, where=where))
    assert texts == alone
    assert [record.message for record in caplog.records] == [
        "no more drafts are made: making them has failed"
    ]
    assert calls == 0 or engine.stats.num_draft_tokens > 0


def draft_model(model: CausalLM, *, num_blocks: int = 200, max_read: int = 64) -> Proposer:
    kv = PagedKV(model.body.attention_shapes(), num_blocks=num_blocks, block_size=BLOCK)
    return DraftModelProposer(Runner(model, kv), vocab_size=VOCAB, max_read=max_read)


@pytest.mark.parametrize("num_blocks", [200, 24])
def test_ngrams_change_no_text(
    model: CausalLM, alone: dict[str, list[int]], num_blocks: int
) -> None:
    """With few blocks, sequences are preempted while they have drafts."""
    texts, engine = written(model, NgramProposer(shortest=1), num_blocks=num_blocks)
    assert texts == alone
    assert 0 < engine.stats.num_accepted_tokens < engine.stats.num_draft_tokens


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(("num_blocks", "max_read"), [(200, 64), (20, 64), (200, 3)])
def test_a_draft_model_changes_no_text(
    model: CausalLM, alone: dict[str, list[int]], seed: int, num_blocks: int, max_read: int
) -> None:
    """Neither one that knows the text nor one that does not, short of room or slow to read."""
    draft = tiny_llama(vocab_size=VOCAB, seed=seed)
    texts, engine = written(model, draft_model(draft, num_blocks=num_blocks, max_read=max_read))
    assert texts == alone
    assert engine.stats.num_draft_tokens > 0


def test_a_model_foresees_itself_also_where_tokens_are_drawn(model: CausalLM) -> None:
    _, engine = written(model, draft_model(model))
    assert engine.stats.num_accepted_tokens == engine.stats.num_draft_tokens > 100


def test_a_draft_model_gives_all_its_blocks_back(model: CausalLM) -> None:
    proposer = draft_model(model)
    assert isinstance(proposer, DraftModelProposer)
    written(model, proposer)
    assert proposer.num_used_blocks == 0


def test_a_draft_model_is_corrected_and_may_be_passed_over(model: CausalLM) -> None:
    proposer, fresh = draft_model(model), draft_model(model)
    sequence = sequence_of([3, 1, 4])
    (first,) = proposer.propose([sequence], [4])
    wrong = (first[1] + 1) % VOCAB
    sequence.tokens += [first[0], wrong]
    assert proposer.propose([sequence], [0]) == [[]]
    assert proposer.propose([sequence], [4]) == fresh.propose([sequence], [4])


def test_a_draft_model_of_another_vocabulary_is_refused(model: CausalLM) -> None:
    kv = PagedKV(model.body.attention_shapes(), num_blocks=4, block_size=BLOCK)
    with pytest.raises(ValueError, match="vocabulary of 50"):
        DraftModelProposer(Runner(model, kv), vocab_size=60)
