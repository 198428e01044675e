from pathlib import Path

import pytest

from pharos.core import ModelError, SamplingParams
from pharos.data.tokenizer import Tokenizer
from pharos.models.doubles import tiny_llama
from pharos.models.generation import Generation
from pharos.models.heads import CausalLM
from pharos.models.load import load_model, new_model, save_model
from pharos.serve.engine import build
from pharos.serve.engine.build import EngineConfig, SpeculationConfig, build_engine, engine_over
from pharos.serve.engine.decode_graphs import GraphSizes
from pharos.serve.engine.engine import Engine
from pharos.serve.engine.paged_kv import block_bytes
from pharos.serve.engine.request import Output, Request
from pharos.serve.engine.scheduler import SchedulerConfig


def text_of(engine: Engine, request: Request) -> str:
    engine.add(request)
    text = ""
    while engine.has_work:
        for news in engine.step():
            assert isinstance(news, Output)
            text += news.text
    return text


def test_an_engine_is_made_of_a_models_folder(llama_folder: Path) -> None:
    engine = build_engine(llama_folder, EngineConfig(num_blocks=20))
    model, tokenizer = load_model(llama_folder), Tokenizer.load(llama_folder)
    prompt, params = tokenizer.encode("The keeper"), SamplingParams(max_tokens=20)
    expected = [token.id for token in Generation(model, [prompt], params)]
    request = Request(id="a", prompt=prompt, params=params)
    assert text_of(engine, request) == tokenizer.decode(expected)


@pytest.mark.parametrize("drafts", ["ngrams", "model"])
def test_drafts_are_made_as_the_config_asks_for(llama_folder: Path, drafts: str) -> None:
    asked = SpeculationConfig(draft_model=llama_folder if drafts == "model" else None)
    plain = build_engine(llama_folder, EngineConfig(num_blocks=20))
    engine = build_engine(llama_folder, EngineConfig(num_blocks=20, speculation=asked))
    repeated = [5, 6, 7, 8] * 5
    request = Request(id="a", prompt=repeated, params=SamplingParams(max_tokens=40))
    assert text_of(engine, request) == text_of(plain, request)
    assert engine.stats.num_draft_tokens > 0
    if drafts == "model":
        assert engine.stats.num_accepted_tokens == engine.stats.num_draft_tokens


def test_the_memory_that_there_is_has_room_for_all_that_may_run_and_no_more() -> None:
    scheduling = SchedulerConfig(max_num_seqs=3, max_model_len=100)
    engine = engine_over(tiny_llama(), None, EngineConfig(scheduler=scheduling))
    assert engine.scheduler.pool.num_blocks == 3 * 7
    assert engine.max_len == 100


def test_what_cuda_graphs_hold_is_not_given_to_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_llama()
    graphs = GraphSizes.up_to(8, max_len=512)
    size = block_bytes(model.body.attention_shapes(), block_size=16)
    budget = 200 * size + graphs.num_bytes(model, 16)
    monkeypatch.setattr(build, "free_memory", lambda device: budget)
    engine = engine_over(model, None, EngineConfig(), graphs=graphs)
    assert engine.scheduler.pool.num_blocks == 200


def test_cuda_graphs_that_the_memory_does_not_hold_are_refused_by_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, graphs = tiny_llama(), GraphSizes.up_to(8, max_len=512)
    monkeypatch.setattr(build, "free_memory", lambda device: graphs.num_bytes(model, 16) - 1)
    with pytest.raises(ValueError, match=r"CUDA graphs take .*--no-cuda-graphs"):
        engine_over(model, None, EngineConfig(), graphs=graphs)


def test_cuda_graphs_are_for_gpus() -> None:
    assert engine_over(tiny_llama(), None, EngineConfig(num_blocks=20)).runner.graphs is None


def test_the_longest_sequence_is_what_the_model_was_made_for() -> None:
    engine = engine_over(tiny_llama(), None, EngineConfig(num_blocks=1000))
    assert engine.max_len == 2048
    small = engine_over(tiny_llama(), None, EngineConfig(num_blocks=10))
    assert small.max_len == 160


def test_more_than_a_model_has_positions_for_is_refused() -> None:
    sizes = {"n_embd": 16, "n_layer": 1, "n_head": 2, "vocab_size": 50, "n_positions": 32}
    model = new_model({"model_type": "gpt2", **sizes}, "causal_lm")
    with pytest.raises(ValueError, match="max_model_len is 33; the model has 32 positions"):
        engine_over(model, None, EngineConfig(scheduler=SchedulerConfig(max_model_len=33)))


def test_drafts_end_where_the_model_that_makes_them_has_no_more_positions() -> None:
    sizes = {"n_embd": 16, "n_layer": 1, "n_head": 2, "vocab_size": 50, "n_positions": 32}
    draft_model = new_model({"model_type": "gpt2", **sizes}, "causal_lm")
    assert isinstance(draft_model, CausalLM)
    config = EngineConfig(num_blocks=20, speculation=SpeculationConfig())
    engine = engine_over(tiny_llama(), None, config, draft_model=draft_model)
    engine.add(Request(id="a", prompt=[5] * 20, params=SamplingParams(max_tokens=40)))
    num_tokens = 0
    while engine.has_work:
        for news in engine.step():
            assert isinstance(news, Output)
            num_tokens += len(news.tokens)
    assert num_tokens == 40
    assert engine.stats.num_draft_tokens > 0


def test_no_blocks_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one block"):
        engine_over(tiny_llama(), None, EngineConfig(num_blocks=0))


def test_what_is_not_a_decoder_is_refused(t5_folder: Path, bert_folder: Path) -> None:
    with pytest.raises(ModelError, match="is an encoder-decoder, and the engine is for decoders"):
        build_engine(t5_folder, EngineConfig())
    with pytest.raises(ModelError, match="text is generated by a model whose architecture"):
        build_engine(bert_folder, EngineConfig())


def test_a_draft_model_of_another_vocabulary_is_refused(llama_folder: Path, tmp_path: Path) -> None:
    save_model(tiny_llama(vocab_size=50), tmp_path)
    Tokenizer.load(llama_folder).save(tmp_path)
    asked = SpeculationConfig(draft_model=tmp_path)
    with pytest.raises(ValueError, match="vocabulary of 50 tokens"):
        build_engine(llama_folder, EngineConfig(num_blocks=20, speculation=asked))


@pytest.mark.parametrize("setting", ["max_drafts", "max_batch"])
def test_speculation_without_drafts_is_refused_in_its_own_words(setting: str) -> None:
    with pytest.raises(ValueError, match=f"{setting} (is )?0"):
        SpeculationConfig(**{setting: 0})  # type: ignore[arg-type]
