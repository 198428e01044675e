"""The tokenizer of a model's folder, made to do what the caller says and not what its file says."""

from pathlib import Path

from tokenizers import Tokenizer

from pharos.core import ModelError


def load_tokenizer(path: Path, *, max_tokens: int | None = None) -> Tokenizer:
    """The tokenizer in a `tokenizer.json`, which never pads, and cuts at `max_tokens` or nowhere.
    (The file may ask for both: that of all-MiniLM-L6-v2 does, at 128.)"""
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise ModelError(f"{path} cannot be read as a tokenizer: {error}") from error
    tokenizer.no_padding()
    if max_tokens is None:
        tokenizer.no_truncation()
    else:
        tokenizer.enable_truncation(max_tokens)
    return tokenizer
