import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pharos.core import LanguageModel, Message, ModelError, SamplingParams
from pharos.models.generation import Generation
from pharos.serve.local import LocalModel, LocalSeq2Seq, Piece, load_local

PROMPT = "The keeper of the light"
CHAT = [Message(role="user", content="Who feeds the gulls?")]


def params(**values: object) -> SamplingParams:
    return SamplingParams(**{"max_tokens": 30, "temperature": 1.0, "seed": 1} | values)


def text_of(pieces: list[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


@pytest.fixture(scope="module")
def model(llama_folder: Path) -> LocalModel:
    loaded = load_local(llama_folder, template="chatml")
    assert isinstance(loaded, LocalModel)
    return loaded


@pytest.fixture(scope="module")
def seq2seq(t5_folder: Path) -> LocalSeq2Seq:
    loaded = load_local(t5_folder)
    assert isinstance(loaded, LocalSeq2Seq)
    return loaded


def copied(folder: Path, into: Path, **settings: object) -> Path:
    """A copy of a model's folder whose `config.json` says otherwise."""
    shutil.copytree(folder, into)
    raw = json.loads((into / "config.json").read_text(encoding="utf-8")) | settings
    (into / "config.json").write_text(json.dumps(raw), encoding="utf-8")
    return into


# Texts


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 10**6), max_tokens=st.integers(1, 40))
def test_the_pieces_add_up_to_the_text_of_the_tokens(
    model: LocalModel, seed: int, max_tokens: int
) -> None:
    pieces = list(model.generate(PROMPT, params(seed=seed, max_tokens=max_tokens)))
    ids = [piece.token.id for piece in pieces if piece.token is not None]
    assert text_of(pieces) == model.tokenizer.decode(ids)
    assert len(ids) == len(pieces) - 1
    assert [piece.finish_reason for piece in pieces[:-1]] == [None] * len(ids)
    assert pieces[-1].finish_reason in ("stop", "length")


def test_the_tokens_are_those_of_generation(model: LocalModel) -> None:
    ids = model.tokenizer.encode(PROMPT)
    expected = [token.id for token in Generation(model.model, [ids], params())]
    pieces = list(model.generate(PROMPT, params()))
    assert [piece.token.id for piece in pieces if piece.token is not None] == expected


def test_a_text_without_tokens_begins_with_the_bos(model: LocalModel) -> None:
    assert model.text_ids("") == [model.tokenizer.bos_id]
    assert len(list(model.generate("", params(max_tokens=3)))) == 4


@settings(deadline=None, max_examples=25)
@given(data=st.data(), seed=st.integers(0, 50))
def test_a_text_ends_before_the_first_stop_string(
    model: LocalModel, data: st.DataObject, seed: int
) -> None:
    free = text_of(list(model.generate(PROMPT, params(seed=seed))))
    assume(free)  # an eos may come first
    start = data.draw(st.integers(0, len(free) - 1))
    stop = [free[start : start + data.draw(st.integers(1, 6))], "never written"]
    pieces = list(model.generate(PROMPT, params(seed=seed, stop=stop)))
    assert text_of(pieces) == free[: free.index(stop[0])]
    assert pieces[-1].finish_reason == "stop"


def test_an_eos_ends_the_text_and_is_not_in_it(llama_folder: Path, tmp_path: Path) -> None:
    free = load_local(llama_folder)
    assert isinstance(free, LocalModel)
    ids = [piece.token.id for piece in free.generate(PROMPT, params()) if piece.token is not None]
    model = load_local(copied(llama_folder, tmp_path / "ends", eos_token_id=ids[7]))
    assert isinstance(model, LocalModel)
    pieces = list(model.generate(PROMPT, params()))
    assert pieces[-1].finish_reason == "stop"
    written = ids[: ids.index(ids[7])]
    assert text_of(pieces) == free.tokenizer.decode(written)


def test_what_ends_a_text_is_in_it_if_it_is_to_be(model: LocalModel) -> None:
    free = text_of(list(model.generate(PROMPT, params())))
    stop = params(stop=[free[5:8]], include_stop=True)
    assert text_of(list(model.generate(PROMPT, stop))) == free[: free.index(free[5:8]) + 3]


def test_a_stop_string_within_min_tokens_ends_nothing(model: LocalModel) -> None:
    pieces = list(model.generate(PROMPT, params(ignore_eos=True)))
    first = text_of(pieces[:10])
    stop = params(ignore_eos=True, stop=[first[2:4]], min_tokens=10)
    found = text_of(list(model.generate(PROMPT, stop)))
    assert found.startswith(first)
    later = text_of(pieces)[len(first) :]
    assert found == first + later.partition(first[2:4])[0]


# Conversations


def test_it_is_a_language_model(model: LocalModel) -> None:
    assert isinstance(model, LanguageModel)
    assert model.name == "tiny-llama"


def test_a_reply_streamed_is_the_reply_completed(model: LocalModel) -> None:
    streamed = list(model.stream(CHAT, params()))
    completion = model.complete(CHAT, params())
    assert "".join(streamed) == completion.text
    assert all(streamed)
    assert completion.finish_reason == "length"
    assert completion.completion_tokens == 30
    assert completion.prompt_tokens == len(model.prompt_ids(CHAT))


def test_a_conversation_is_what_its_template_makes_of_it(model: LocalModel) -> None:
    text = model.tokenizer.decode(model.prompt_ids(CHAT), skip_special=False)
    assert text == "<|im_start|>user\nWho feeds the gulls?<|im_end|>\n<|im_start|>assistant\n"


def test_a_models_own_template_is_used_unless_another_is_named(
    llama_folder: Path, tmp_path: Path
) -> None:
    folder = copied(llama_folder, tmp_path / "own")
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }}!", encoding="utf-8")
    for name, start in ((None, "Who feeds the gulls?!"), ("alpaca", "Below is an instruction")):
        model = load_local(folder, template=name)
        assert isinstance(model, LocalModel)
        assert model.tokenizer.decode(model.prompt_ids(CHAT)).startswith(start)


def test_a_model_without_a_template_says_how_to_go_on(llama_folder: Path) -> None:
    model = load_local(llama_folder)
    assert isinstance(model, LocalModel)
    with pytest.raises(ModelError, match=r"tiny-llama has no chat template.*--template chatml"):
        model.complete(CHAT, params())


# Encoder-decoders


def test_an_encoder_decoder_searches_as_its_files_say(seq2seq: LocalSeq2Seq) -> None:
    found = seq2seq.generate("Good morning.")
    assert len(found) == 2
    assert found[0].score >= found[1].score
    assert all(len(target.ids) <= 9 for target in found)


def test_what_is_asked_for_overrules_the_files(seq2seq: LocalSeq2Seq) -> None:
    assert len(seq2seq.generate("Good morning.", num_beams=3)) == 3
    (target,) = seq2seq.generate("Good morning.", num_beams=1, max_tokens=4)
    assert len(target.ids) <= 4
    assert seq2seq.decode(target) == seq2seq.tokenizer.decode(target.ids)


def test_an_encoder_decoder_needs_a_text(seq2seq: LocalSeq2Seq) -> None:
    with pytest.raises(ValueError, match="the text has no tokens"):
        seq2seq.generate("")


# Loading


def test_a_model_that_generates_nothing_is_refused(bert_folder: Path) -> None:
    with pytest.raises(ModelError, match=r"tiny-bert is a .*; text is generated by a model whose"):
        load_local(bert_folder)


def test_the_weights_are_computed_in_the_type_asked_for(llama_folder: Path) -> None:
    for dtype in ("float32", "bfloat16", "float16"):
        model = load_local(llama_folder, dtype=dtype)
        assert isinstance(model, LocalModel)
        assert model.model.body.embedding.weight.dtype == getattr(torch, dtype)
        assert len(list(model.generate(PROMPT, params(max_tokens=2)))) == 3
    stored = load_local(llama_folder)
    assert stored.model.body.embedding.weight.dtype == torch.float32


@pytest.mark.parametrize("device", ["nosuch", "cpu:x", "meta:999x"])
def test_a_device_that_is_none_is_refused(llama_folder: Path, device: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"the device '{device}' cannot be used")):
        load_local(llama_folder, device=device)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused(llama_folder: Path) -> None:
    with pytest.raises(ValueError, match=r"the device 'cuda' cannot be used.*choose cpu, or auto"):
        load_local(llama_folder, device="cuda")


def test_an_unknown_template_names_the_known_ones(llama_folder: Path) -> None:
    with pytest.raises(ValueError, match="'nosuch'; choose from alpaca, chatml"):
        load_local(llama_folder, template="nosuch")


def test_eight_bit_weights_write_nearly_the_same(model: LocalModel, llama_folder: Path) -> None:
    quantized = load_local(llama_folder, quantization="w8a8")
    assert isinstance(quantized, LocalModel)
    assert torch.int8 in {p.dtype for p in quantized.model.parameters()}
    ids_BT = torch.tensor([model.text_ids(PROMPT)])
    expected, found = model.model(ids_BT), quantized.model(ids_BT).float()
    assert torch.cosine_similarity(found, expected, dim=-1).median() > 0.99


def test_eight_bits_are_for_decoders(t5_folder: Path) -> None:
    with pytest.raises(ModelError, match="no decoder, and w8a16 is for decoders; leave it out"):
        load_local(t5_folder, quantization="w8a16")
