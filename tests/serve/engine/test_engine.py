"""The engine writes what `Generation` writes, whatever else it does at the same time."""

import random
from collections.abc import Sequence as Seq
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pharos.adapt import Adapters, LoraConfig, save_adapter
from pharos.core import SamplingParams
from pharos.data.tokenizer import Tokenizer
from pharos.models.doubles import tiny_llama
from pharos.models.generation import Generation
from pharos.models.heads import CausalLM
from pharos.serve.engine.build import EngineConfig, engine_over
from pharos.serve.engine.engine import Engine
from pharos.serve.engine.grammar import GrammarCompiler
from pharos.serve.engine.pace import Pace
from pharos.serve.engine.request import Grammar, Output, Refusal, Request, Sequence
from pharos.serve.engine.scheduler import SchedulerConfig
from pharos.serve.engine.speculation import AdaptiveLength, NgramProposer, Proposer, Speculation

EOS = 3
MODEL = tiny_llama()
VOCAB = 50


def params(**values: Any) -> SamplingParams:
    return SamplingParams(**{"max_tokens": 16} | values)


def request(number: int, prompt: Seq[int], sampling: SamplingParams, **values: Any) -> Request:
    return Request(
        id=str(number),
        prompt=prompt,
        params=sampling,
        seed=number if sampling.seed is None else sampling.seed,
        eos_ids=frozenset({EOS}),
        **values,
    )


def engine_with(
    *,
    model: CausalLM = MODEL,
    chunk: int = 64,
    seats: int = 8,
    speculation: Speculation | None = None,
    tokenizer: Tokenizer | None = None,
    **values: Any,
) -> Engine:
    scheduling = SchedulerConfig(max_num_seqs=min(seats, chunk), max_num_batched_tokens=chunk)
    config = EngineConfig(scheduler=scheduling, **{"num_blocks": 64, "block_size": 4} | values)
    return engine_over(model, tokenizer, config, speculation=speculation)


def drain(engine: Engine) -> dict[str, list[Output]]:
    """Steps until all is done, and checks each time that everything adds up."""
    outputs: dict[str, list[Output]] = {}
    while engine.has_work:
        for news in engine.step():
            assert isinstance(news, Output)
            outputs.setdefault(news.request_id, []).append(news)
        engine.check()
    assert engine.scheduler.pool.num_used == 0
    for told in outputs.values():
        assert [output.finish_reason is None for output in told] == [True] * (len(told) - 1) + [
            False
        ], "a request ends once"
    return outputs


def ids_of(outputs: Seq[Output]) -> list[int]:
    return [token.id for output in outputs for token in output.tokens]


def generated(request: Request, model: CausalLM = MODEL) -> list[int]:
    """What `Generation` writes, without the end."""
    sampling = SamplingParams(
        **{name: getattr(request.params, name) for name in SamplingParams.__slots__}
        | {"seed": request.seed}
    )
    tokens = Generation(model, [request.prompt], sampling, eos_ids=sorted(request.eos_ids))
    return [token.id for token in tokens if token.finish_reason != "stop"]


class HalfRight:
    """Knows how texts go on, and errs now and then."""

    def __init__(self, texts: dict[str, list[int]], *, seed: int) -> None:
        self._texts = texts
        self._random = random.Random(seed)

    def propose(self, sequences: Seq[Sequence], room: Seq[int]) -> list[list[int]]:
        return [self._drafts(*each) for each in zip(sequences, room, strict=True)]

    def forget(self, sequence: Sequence) -> None:
        pass

    def _drafts(self, sequence: Sequence, count: int) -> list[int]:
        known = self._texts[sequence.id][sequence.num_generated :][:count]
        return [id_ if self._random.random() < 0.7 else (id_ + 1) % VOCAB for id_ in known]


def always(proposer: Proposer) -> Speculation:
    return Speculation(proposer, AdaptiveLength(most=4, cost=0.001, max_batch=100))


class FixedPace(Pace):
    """A machine that takes so many seconds for a block, whatever a clock says."""

    def __init__(self, move_s: float, read_s: float) -> None:
        super().__init__(block_size=1)
        super().note_moves(1, move_s)
        super().note_reading(1, read_s)

    def note_moves(self, num_blocks: int, seconds: float) -> None:
        pass

    def note_reading(self, num_tokens: int, seconds: float) -> None:
        pass


@torch.no_grad()
def write_adapter(folder: Path, *, seed: int) -> CausalLM:
    """A LoRA of random weights; the model with it alone."""
    adapters = Adapters(model := tiny_llama())
    adapters.add(LoraConfig(r=4))
    generator = torch.Generator().manual_seed(seed)
    for part in adapters.parts():
        for parameter in part.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    save_adapter(adapters, folder)
    return model


class Adapted(NamedTuple):
    folder: Path
    alone: CausalLM


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Adapted]:
    folder = tmp_path_factory.mktemp("adapters")
    return {
        name: Adapted(folder / name, write_adapter(folder / name, seed=seed))
        for seed, name in enumerate("ab")
    }


# Parity

PROMPTS = st.lists(
    st.tuples(
        st.integers(0, 3),
        st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=12),
        st.sampled_from([None, "a", "b"]),
    ),
    min_size=1,
    max_size=6,
)
SHARED = list(range(5, 19))


@settings(deadline=None, max_examples=25)
@given(
    prompts=PROMPTS,
    chunk=st.sampled_from([1, 3, 7, 64]),
    num_blocks=st.sampled_from([12, 20, 64]),
    num_host_blocks=st.sampled_from([0, 24]),
    prefix_cache=st.booleans(),
    temperature=st.sampled_from([0.0, 1.0]),
    move_s=st.sampled_from([0.1, 0.7, 2.0]),
    drafter=st.sampled_from(["none", "ngram", "half right"]),
    seed=st.integers(0, 5),
)
def test_a_request_gets_the_text_that_it_gets_alone(
    adapted: dict[str, Adapted],
    prompts: list[tuple[int, list[int], str | None]],
    chunk: int,
    num_blocks: int,
    num_host_blocks: int,
    prefix_cache: bool,
    temperature: float,
    move_s: float,
    drafter: str,
    seed: int,
) -> None:
    requests = [
        request(
            i,
            SHARED[: 5 * shared] + own,
            params(temperature=temperature, seed=seed + i),
            adapter=adapter,
        )
        for i, (shared, own, adapter) in enumerate(prompts)
    ]
    alone = {None: MODEL} | {name: model for name, (_, model) in adapted.items()}
    expected = {each.id: generated(each, alone[each.adapter]) for each in requests}
    proposers: dict[str, Proposer] = {
        "ngram": NgramProposer(shortest=1),
        "half right": HalfRight(expected, seed=seed),
    }
    engine = engine_with(
        model=tiny_llama(),
        chunk=chunk,
        num_blocks=num_blocks,
        num_host_blocks=num_host_blocks,
        prefix_cache=prefix_cache,
        speculation=None if drafter == "none" else always(proposers[drafter]),
    )
    engine.scheduler.pool.pace = FixedPace(move_s, read_s=1.0)
    for name in {each.adapter for each in requests if each.adapter is not None}:
        engine.load_adapter(name, adapted[name].folder)
    for each in requests:
        engine.add(each)
    outputs = drain(engine)
    assert {id_: ids_of(told) for id_, told in outputs.items()} == expected


@pytest.mark.parametrize(("num_host_blocks", "move_s"), [(0, 0.1), (64, 0.1), (64, 0.7), (64, 2.0)])
def test_preemption_does_not_change_a_text(num_host_blocks: int, move_s: float) -> None:
    engine = engine_with(num_blocks=14, num_host_blocks=num_host_blocks)
    engine.scheduler.pool.pace = FixedPace(move_s, read_s=1.0)
    requests = [request(i, [i + 1, 7], params(max_tokens=40, temperature=1.0)) for i in range(4)]
    for each in requests:
        engine.add(each)
    outputs = drain(engine)
    assert engine.stats.num_preemptions > 0
    for each in requests:
        assert ids_of(outputs[each.id]) == generated(each)


def test_the_engine_measures_what_it_moves_and_reads() -> None:
    engine = engine_with(num_blocks=14, num_host_blocks=64)
    for number in range(4):
        engine.add(request(number, [number + 1] * 9, params(max_tokens=40, temperature=1.0)))
    drain(engine)
    pace = engine.scheduler.pool.pace
    assert pace.move_s is not None and pace.move_s > 0.0
    assert pace.read_s is not None and pace.read_s > 0.0


def test_penalties_and_biases_hold_through_preemption_and_drafts() -> None:
    sampling = params(
        max_tokens=40,
        temperature=0.8,
        top_p=0.9,
        frequency_penalty=0.4,
        repetition_penalty=1.2,
        logit_bias={4: 3.0},
        min_tokens=10,
    )
    requests = [request(i, [i + 1, 7], sampling) for i in range(4)]
    expected = {each.id: generated(each) for each in requests}
    engine = engine_with(num_blocks=16, speculation=always(HalfRight(expected, seed=1)))
    for each in requests:
        engine.add(each)
    outputs = drain(engine)
    assert {id_: ids_of(told) for id_, told in outputs.items()} == expected
    stats = engine.stats
    assert stats.num_preemptions > 0
    assert 0 < stats.num_accepted_tokens < stats.num_draft_tokens


def test_requests_may_come_at_any_time() -> None:
    engine = engine_with(chunk=8)
    requests = [request(i, [i + 1] * (3 * i + 1), params()) for i in range(6)]
    outputs: dict[str, list[Output]] = {}
    waiting = list(requests)
    while engine.has_work or waiting:
        if waiting:
            engine.add(waiting.pop())
        for news in engine.step():
            assert isinstance(news, Output)
            outputs.setdefault(news.request_id, []).append(news)
    assert {id_: ids_of(told) for id_, told in outputs.items()} == {
        each.id: generated(each) for each in requests
    }


def test_logprobs_are_those_of_generation() -> None:
    sampling = params(temperature=1.0, seed=3, logprobs=2)
    engine = engine_with(chunk=4)
    engine.add(request(0, [1, 2, 3, 4, 5, 6], sampling))
    engine.add(request(1, [6, 5], params()))
    outputs = drain(engine)
    tokens = [token for output in outputs["0"] for token in output.tokens]
    expected = list(Generation(MODEL, [[1, 2, 3, 4, 5, 6]], sampling, eos_ids=[EOS]))
    assert [t.logprob for t in tokens] == pytest.approx([t.logprob for t in expected], abs=1e-4)
    assert [c.id for t in tokens for c in t.candidates] == [
        c.id for t in expected for c in t.candidates
    ]
    assert not any(token.candidates for output in outputs["1"] for token in output.tokens)


def test_a_prefix_that_is_known_is_not_computed_again() -> None:
    engine = engine_with()
    for number in range(2):
        engine.add(request(number, SHARED, params()))
        (last,) = (output for output in drain(engine)[str(number)] if output.finish_reason)
        assert last.num_cached == (0, 12)[number]
        assert last.num_prompt == 14
    assert engine.stats.prefix_hits == 12


# Adapters


def test_each_request_is_written_by_its_adapter_through_preemptions_and_drafts(
    adapted: dict[str, Adapted],
) -> None:
    alone = {name: model for name, (_, model) in adapted.items()}
    requests = [
        request(i, SHARED[:9], params(max_tokens=30), adapter=adapter)
        for i, adapter in enumerate([None, "a", "b", "a"])
    ]
    expected = {each.id: generated(each, alone.get(each.adapter or "", MODEL)) for each in requests}
    scheduling = SchedulerConfig(max_num_seqs=4, max_num_batched_tokens=8)
    config = EngineConfig(scheduler=scheduling, num_blocks=20, block_size=4)
    speculation = always(HalfRight(expected, seed=1))
    engine = engine_over(tiny_llama(), None, config, speculation=speculation)
    for name, (folder, _) in adapted.items():
        engine.load_adapter(name, folder)
    for each in requests:
        engine.add(each)
    engine.unload_adapter("a")
    found = {id_: ids_of(told) for id_, told in drain(engine).items()}
    assert found == expected
    assert engine.stats.num_preemptions > 0
    assert found["1"] == found["3"] != found["2"] != found["0"]
    with pytest.raises(ValueError, match="there is no adapter 'a'; loaded are b"):
        engine.add(requests[1])


# Embeddings


def test_what_is_embedded_is_answered_beside_what_is_written() -> None:
    engine = engine_with()
    texts = [[1, 2, 3], [4], [5, 6, 7, 8]]
    engine.add(request(9, [1, 2], params()))
    for number, text in enumerate(texts):
        engine.add(request(number, text, params(), kind="embed"))
    outputs = drain(engine)
    for number, text in enumerate(texts):
        (output,) = outputs[str(number)]
        x = MODEL.body(torch.tensor([text]))[0, -1]
        assert output.vector == pytest.approx((x / x.norm()).tolist(), abs=1e-5)
        assert output.finish_reason == "stop"
    assert ids_of(outputs["9"]) == generated(request(9, [1, 2], params()))


# Ends


def test_an_abort_ends_a_request_wherever_it_is() -> None:
    for num_steps in range(8):
        engine = engine_with(chunk=4, seats=1, num_blocks=16)
        for number in range(2):
            engine.add(request(number, SHARED, params(max_tokens=3)))
        for _ in range(num_steps):
            engine.step()
        engine.abort("1")
        engine.abort("0")
        engine.abort("0")
        engine.check()
        assert engine.scheduler.pool.num_used == 0
        ended = [n.request_id for n in engine.step() if isinstance(n, Output) and n.finish_reason]
        assert ended in (["1", "0"], ["1"], [])
        assert not engine.has_work


def test_neighbours_of_an_aborted_request_do_not_notice() -> None:
    engine = engine_with(chunk=4)
    requests = [request(i, SHARED[i:], params()) for i in range(4)]
    for each in requests:
        engine.add(each)
    told = [engine.step() for _ in range(5)]
    engine.abort("1")
    while engine.has_work:
        told.append(engine.step())
    outputs = [news for step in told for news in step if isinstance(news, Output)]
    for each in (requests[0], *requests[2:]):
        assert ids_of([o for o in outputs if o.request_id == each.id]) == generated(each)
    (aborted,) = (o for o in outputs if o.request_id == "1" and o.finish_reason)
    assert aborted.finish_reason == "abort"


def test_a_step_that_fails_ends_its_requests_and_the_engine_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = engine_with()
    engine.add(request(0, SHARED, params()))
    with monkeypatch.context() as patched:
        patched.setattr(engine.runner, "run", _out_of_memory)
        (failed,) = engine.step()
    assert isinstance(failed, Output)
    assert (failed.finish_reason, failed.error) == ("error", "RuntimeError: out of memory")
    engine.check()
    engine.add(request(0, SHARED, params()))
    assert ids_of(drain(engine)["0"]) == generated(request(0, SHARED, params()))


def test_steps_that_fail_one_after_the_other_end_the_engine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = engine_with()
    monkeypatch.setattr(engine.runner, "run", _out_of_memory)
    engine.add(request(0, SHARED, params()))
    engine.step()
    engine.add(request(1, SHARED, params()))
    with pytest.raises(RuntimeError, match="out of memory"):
        engine.step()


def _out_of_memory(*_: object) -> None:
    raise RuntimeError("out of memory")


# What is refused


@pytest.mark.parametrize(
    ("prompt", "values", "reason"),
    [
        ([], {}, "the prompt has no tokens"),
        ([7, 50], {}, "the prompt has token 50; the vocabulary goes from 0 to 49"),
        ([7], {"params": params(stop_token_ids=[99])}, "stop_token_ids names token 99"),
        ([7], {"params": params(max_tokens=5000)}, "exceed the 2048 tokens that the model reads"),
        ([7], {"params": params(max_tokens=300)}, "need more than the 256 tokens that the cache"),
        ([7], {"params": params(stop=["x"])}, "stop strings need a text"),
        ([7], {"grammar": Grammar(kind="json_object")}, "cannot be held to a grammar"),
        ([7], {"adapter": "legal"}, "there is no adapter 'legal'; loaded are none"),
    ],
)
def test_what_can_never_be_answered_is_refused(
    prompt: list[int], values: dict[str, Any], reason: str
) -> None:
    engine = engine_with()
    with pytest.raises(ValueError, match=reason):
        engine.add(Request(**{"id": "0", "prompt": prompt, "params": params()} | values))
    assert not engine.has_work
    engine.check()


def test_two_requests_of_one_id_are_refused() -> None:
    engine = engine_with()
    engine.add(request(0, [1], params()))
    with pytest.raises(ValueError, match="a request '0' runs already"):
        engine.add(request(0, [1], params()))


# Texts and grammars


@pytest.fixture(scope="module")
def worded(llama_folder: Path) -> tuple[Tokenizer, Any]:
    from pharos.models.load import load_model

    return Tokenizer.load(llama_folder), load_model(llama_folder)


def texts_of(outputs: dict[str, list[Output]]) -> dict[str, str]:
    return {id_: "".join(output.text for output in told) for id_, told in outputs.items()}


def test_a_text_ends_at_its_stop_string_with_drafts_and_without(
    worded: tuple[Tokenizer, Any],
) -> None:
    tokenizer, model = worded
    prompt = tokenizer.encode("The keeper")
    config = EngineConfig(num_blocks=64)
    free = engine_over(model, tokenizer, config)
    free.add(Request(id="0", prompt=prompt, params=params(max_tokens=30)))
    outputs = drain(free)
    text, ids = texts_of(outputs)["0"], ids_of(outputs["0"])
    for start in range(len(text) - 3):
        stop = text[start : start + 3]
        drafted = always(HalfRight({"0": ids}, seed=start))
        for speculation in (drafted, None)[: 1 if start % 4 else 2]:
            engine = engine_over(model, tokenizer, config, speculation=speculation)
            stopped = params(max_tokens=30, stop=[stop])
            engine.add(Request(id="0", prompt=prompt, params=stopped))
            told = drain(engine)
            assert texts_of(told)["0"] == text[: text.index(stop)]
            assert told["0"][-1].stopped_by == stop


def test_a_grammar_that_cannot_be_enforced_refuses_its_request_and_no_other(
    worded: tuple[Tokenizer, Any],
) -> None:
    tokenizer, model = worded
    tokenizer = Tokenizer(tokenizer.backend, tokenizer.special_tokens, (1,))
    engine = engine_over(model, tokenizer, EngineConfig(num_blocks=64))
    sampling = params(max_tokens=8, temperature=1.0)
    broken = Grammar(kind="regex", text="(")
    digits = Grammar(kind="regex", text="[0-9]{4}")
    for id_, grammar in (("broken", broken), ("digits", digits), ("free", None)):
        engine.add(
            Request(
                id=id_,
                prompt=[5],
                params=sampling,
                grammar=grammar,
                eos_ids=frozenset(tokenizer.eos_ids),
            )
        )
    told = []
    while engine.has_work:
        told += engine.step()
        engine.check()
    (refused,) = (news for news in told if isinstance(news, Refusal))
    assert refused.request_id == "broken" and "regex" in refused.reason
    outputs = [news for news in told if isinstance(news, Output)]
    text = "".join(output.text for output in outputs if output.request_id == "digits")
    assert len(text) == 4 and text.isdecimal()
    ended = {output.request_id: output.finish_reason for output in outputs if output.finish_reason}
    assert ended.keys() == {"digits", "free"}
    assert ended["digits"] == "stop"


def test_a_grammar_that_the_library_fails_at_takes_nobody_down(
    worded: tuple[Tokenizer, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer, model = worded
    tokenizer = Tokenizer(tokenizer.backend, tokenizer.special_tokens, (1,))
    engine = engine_over(model, tokenizer, EngineConfig(num_blocks=64))
    monkeypatch.setattr(GrammarCompiler, "_compile", _out_of_memory)
    engine.add(Request(id="a", prompt=[5], params=params(), grammar=Grammar(kind="json_object")))
    engine.add(Request(id="b", prompt=[5], params=params()))
    told = []
    while engine.has_work:
        told += engine.step()
    (refused,) = (news for news in told if isinstance(news, Refusal))
    assert "its grammar could not be compiled: RuntimeError: out of memory" in refused.reason
    assert [n.finish_reason for n in told if isinstance(n, Output)][-1] == "length"
