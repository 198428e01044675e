"""Generation beside `transformers`, and alone: any batch gives the same text."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import SIZES, Pair, pair_of, random_ids, transformers

from pharos.core import SamplingParams
from pharos.models import generation as generation_module
from pharos.models.doubles import tiny_llama
from pharos.models.generation import Generated, Generation
from pharos.models.heads import CausalLM
from pharos.models.load import build_model

WIDE = SIZES | {"initializer_range": 0.3}
LLAMA = WIDE | {
    "intermediate_size": 48,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
DYNAMIC = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 1e4}
CONFIGS = {
    "llama": transformers.LlamaConfig(**LLAMA),
    "llama, stretched as it grows": transformers.LlamaConfig(**LLAMA, rope_parameters=DYNAMIC),
    "mistral, window of 7": transformers.MistralConfig(**LLAMA, sliding_window=7),
    "qwen3": transformers.Qwen3Config(**LLAMA, head_dim=16),
    "mixtral": transformers.MixtralConfig(**LLAMA, num_local_experts=4),
    "gpt2": transformers.GPT2Config(
        vocab_size=99, n_embd=32, n_layer=2, n_head=4, n_positions=256, initializer_range=0.3
    ),
    "falcon": transformers.FalconConfig(**WIDE, tie_word_embeddings=False),
    "falcon, grouped": transformers.FalconConfig(
        **WIDE, tie_word_embeddings=False, new_decoder_architecture=True, num_kv_heads=2
    ),
}
SMALL = [[5, 6, 7], [8], [9, 10, 11, 12]]
PROMPTS = [[5, 6, 7, 8, 9], [1, 2, 3], [4] * 12]


def params(**values: Any) -> SamplingParams:
    return SamplingParams(**{"max_tokens": 40} | values)


def ids_of(
    model: CausalLM, prompts: Sequence[Sequence[int]], sampling: Any, **options: Any
) -> list[list[int]]:
    """What each prompt is continued with."""
    ids: list[list[int]] = [[] for _ in prompts]
    for token in Generation(model, prompts, sampling, **options):
        ids[token.sequence].append(token.id)
    return ids


def their_ids(pair: Pair, prompt: Sequence[int], count: int, **options: Any) -> list[int]:
    output = pair.theirs.generate(
        torch.tensor([prompt]),
        max_new_tokens=count,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
        **options,
    )
    found: list[int] = output[0, len(prompt) :].tolist()
    return found


@pytest.fixture(params=CONFIGS, scope="module")
def pair(request: pytest.FixtureRequest) -> Pair:
    return pair_of(CONFIGS[request.param])


@pytest.fixture(scope="module")
def model() -> CausalLM:
    return tiny_llama()


# The reference


def test_greedy_text_is_the_references_for_200_tokens(pair: Pair) -> None:
    (found,) = ids_of(pair.ours, PROMPTS[:1], params(max_tokens=200))
    assert found == their_ids(pair, PROMPTS[0], 200)
    assert len(set(found)) > 5, "a text that repeats itself proves little"


def test_a_batch_of_unequal_prompts_gets_the_references_texts(pair: Pair) -> None:
    expected = [their_ids(pair, prompt, 60) for prompt in PROMPTS]
    assert ids_of(pair.ours, PROMPTS, params(max_tokens=60)) == expected


def test_the_repetition_penalty_is_the_references(pair: Pair) -> None:
    found = ids_of(pair.ours, PROMPTS[:1], params(repetition_penalty=1.3))
    assert found == [their_ids(pair, PROMPTS[0], 40, repetition_penalty=1.3)]


# Batches


@settings(deadline=None, max_examples=10)
@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=5),
    temperature=st.sampled_from([0.0, 1.0]),
    penalty=st.sampled_from([0.0, 1.0]),
)
def test_a_sequence_gets_the_same_text_in_any_batch(
    model: CausalLM, lengths: list[int], temperature: float, penalty: float
) -> None:
    prompts = [random_ids(1, n, vocab=50, seed=i)[0].tolist() for i, n in enumerate(lengths)]
    sampling = [
        params(
            max_tokens=5 + 3 * i,
            temperature=temperature,
            seed=i,
            top_p=0.9,
            frequency_penalty=penalty,
        )
        for i in range(len(lengths))
    ]
    together = ids_of(model, prompts, sampling, eos_ids=[3])
    for prompt, row, found in zip(prompts, sampling, together, strict=True):
        assert ids_of(model, [prompt], row, eos_ids=[3]) == [found]


def test_a_seed_repeats_the_text_and_another_gives_another(model: CausalLM) -> None:
    texts = [ids_of(model, [[1, 2]], params(temperature=1.0, seed=seed)) for seed in (7, 7, 8)]
    assert texts[0] == texts[1] != texts[2]
    unseeded = [ids_of(model, [[1, 2]], params(temperature=1.0)) for _ in range(2)]
    assert unseeded[0] != unseeded[1]


def test_a_prompt_read_in_chunks_is_continued_alike(
    model: CausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = [list(range(1, 31)), list(range(5, 12))]
    expected = ids_of(model, prompts, params())
    monkeypatch.setattr(generation_module, "PREFILL_CHUNK", 8)
    assert ids_of(model, prompts, params()) == expected


# Ends


def test_a_sequence_ends_at_an_eos_and_says_so(model: CausalLM) -> None:
    (free,) = ids_of(model, [[1, 2]], params())
    eos = free[9]
    tokens = list(Generation(model, [[1, 2]], params(), eos_ids=(eos,)))
    assert [token.id for token in tokens] == free[: free.index(eos) + 1]
    assert [token.finish_reason for token in tokens[-2:]] == [None, "stop"]


def test_a_sequence_ends_after_max_tokens_and_says_so(model: CausalLM) -> None:
    tokens = list(Generation(model, [[1, 2]], params(max_tokens=6)))
    assert [token.finish_reason for token in tokens] == [None] * 5 + ["length"]


def test_an_eos_that_is_ignored_ends_nothing(model: CausalLM) -> None:
    (free,) = ids_of(model, [[1, 2]], params())
    assert ids_of(model, [[1, 2]], params(ignore_eos=True), eos_ids=[free[9]]) == [free]


def test_a_stop_token_ends_a_sequence(model: CausalLM) -> None:
    (free,) = ids_of(model, [[1, 2]], params())
    stop = params(stop_token_ids=[free[9]], ignore_eos=True)
    assert ids_of(model, [[1, 2]], stop) == [free[: free.index(free[9]) + 1]]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_no_end_comes_within_min_tokens(model: CausalLM, temperature: float) -> None:
    ends = list(range(0, 50, 2))
    sampling = params(temperature=temperature, seed=1, min_tokens=20)
    (found,) = ids_of(model, [[1, 2]], sampling, eos_ids=ends)
    assert not set(found[:20]) & set(ends)
    assert 20 < len(found) < 40


def test_a_bias_can_force_a_token_or_forbid_it(model: CausalLM) -> None:
    (free,) = ids_of(model, [[1, 2]], params())
    assert ids_of(model, [[1, 2]], params(logit_bias={7: 100.0})) == [[7] * 40]
    (found,) = ids_of(model, [[1, 2]], params(logit_bias={free[0]: -100.0}))
    assert free[0] not in found


def test_the_others_go_on_when_one_has_ended(model: CausalLM) -> None:
    sampling = [params(max_tokens=n) for n in (3, 9, 1)]
    found = ids_of(model, SMALL, sampling)
    assert [len(ids) for ids in found] == [3, 9, 1]
    assert found[1] == ids_of(model, SMALL[1:2], sampling[1])[0]


def test_a_stopped_sequence_gets_no_more_tokens(model: CausalLM) -> None:
    expected = ids_of(model, SMALL, params())
    generation = Generation(model, SMALL, params())
    found: list[list[int]] = [[], [], []]
    for token in generation:
        found[token.sequence].append(token.id)
        if token.sequence == 1 and len(found[1]) == 4:
            generation.stop(1)
    assert found == [expected[0], expected[1][:4], expected[2]]


def test_nothing_comes_after_all_are_stopped(model: CausalLM) -> None:
    generation = Generation(model, [[1]], params())
    assert len(generation.step()) == 1
    generation.stop(0)
    assert generation.step() == []
    assert list(generation) == []


def test_a_batch_of_none_is_over_at_once(model: CausalLM) -> None:
    assert list(Generation(model, [], params())) == []


# Log-probabilities


def test_logprobs_are_the_log_softmax_of_the_logits(model: CausalLM) -> None:
    sampling = params(max_tokens=12, logprobs=4, temperature=1.7, seed=1, top_k=9)
    prompt = [1, 2, 3]
    tokens = list(Generation(model, [prompt], sampling))
    ids = [token.id for token in tokens]
    expected = model(torch.tensor([prompt + ids]))[0].log_softmax(-1)[len(prompt) - 1 : -1]
    for token, row in zip(tokens, expected, strict=True):
        best = row.topk(4)
        assert token.logprob == pytest.approx(row[token.id].item(), abs=1e-4)
        assert [candidate.id for candidate in token.candidates] == best.indices.tolist()
        found = [candidate.logprob for candidate in token.candidates]
        assert found == pytest.approx(best.values.tolist(), abs=1e-4)


def test_logprobs_are_for_the_sequences_that_asked(model: CausalLM) -> None:
    sampling = [params(max_tokens=2), params(max_tokens=2, logprobs=0)]
    found: dict[int, list[Generated]] = {0: [], 1: []}
    for token in Generation(model, [[1], [2]], sampling):
        found[token.sequence].append(token)
    assert [(token.logprob, token.candidates) for token in found[0]] == [(None, ())] * 2
    assert all(token.logprob is not None and not token.candidates for token in found[1])


def test_more_candidates_than_tokens_are_all_of_them(model: CausalLM) -> None:
    (token,) = Generation(model, [[1]], params(max_tokens=1, logprobs=100))
    assert sorted(candidate.id for candidate in token.candidates) == list(range(50))


# What is refused


def test_a_prompt_without_tokens_is_refused(model: CausalLM) -> None:
    with pytest.raises(ValueError, match="begin with the model's bos token"):
        Generation(model, [[1], []], params())


@pytest.mark.parametrize("id_", [-1, 50])
def test_an_id_outside_the_vocabulary_is_refused(model: CausalLM, id_: int) -> None:
    with pytest.raises(ValueError, match=f"{id_}.*from 0 to 49: is this the model's tokenizer"):
        Generation(model, [[id_]], params())


@pytest.mark.parametrize("named", [{"stop_token_ids": [3, 50]}, {"logit_bias": {50: 1.0}}])
def test_parameters_that_name_no_token_are_refused(model: CausalLM, named: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="names token 50; the vocabulary goes from 0 to 49"):
        Generation(model, [[1]], params(**named))


def test_a_bias_is_bounded_and_min_tokens_by_max_tokens() -> None:
    with pytest.raises(ValueError, match=r"logit_bias is 101.0 for token 3; it must be at least"):
        params(logit_bias={3: 101.0})
    with pytest.raises(ValueError, match="min_tokens is 41; it must be at least 0 and at most 40"):
        params(min_tokens=41)


def test_more_tokens_than_the_model_has_positions_are_refused() -> None:
    raw = {"model_type": "gpt2", "vocab_size": 9, "n_embd": 8, "n_layer": 1, "n_head": 2}
    model = build_model(raw | {"n_positions": 16}, "causal_lm")
    assert isinstance(model, CausalLM)
    with pytest.raises(ValueError, match="10 tokens and max_tokens 7 exceed the 16 positions"):
        Generation(model, [[1] * 10], params(max_tokens=7))


def test_parameters_are_one_for_all_or_one_each(model: CausalLM) -> None:
    with pytest.raises(ValueError, match="2 prompts and 1 sets of parameters"):
        Generation(model, [[1], [2]], [params()])
