"""A model's tokenizer: from text to ids and back, and which ids are special.

`Tokenizer.load` reads a model's folder in Hugging Face layout, where each of several files knows a
part:

- `tokenizer.json`: everything that turns text into ids and ids into text, what is put around a text
  too (the `add_bos_token` of other files is from before there was this one, and not read);
- `tokenizer_config.json`, `special_tokens_map.json`: which token is `bos`, `eos`, `pad`, …;
- `generation_config.json`, `config.json`: the ids that end a generation (Llama 3 has three).

A chat template is a matter of its own: see `data.chat_template`.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, Self, get_args

import tokenizers

from pharos.core import ModelError
from pharos.core.json_files import check_size, read_object, write_object

SpecialRole = Literal["bos", "eos", "pad", "unk", "sep", "cls", "mask"]
ROLES: tuple[SpecialRole, ...] = get_args(SpecialRole)
MAX_TOKENIZER_BYTES = 256 << 20
"""Of a `tokenizer.json`: seven times that of Gemma, whose vocabulary of 262,144 is the largest."""

MISSING_UNKNOWN = "Missing [UNK] token from the vocabulary"


def load_tokenizer(path: Path, *, max_tokens: int | None = None) -> tokenizers.Tokenizer:
    """The bare tokenizer in a `tokenizer.json`, which never pads, and cuts at `max_tokens` or
    nowhere. (The file may ask for both: that of all-MiniLM-L6-v2 does, at 128.)"""
    check_size(path, MAX_TOKENIZER_BYTES)
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(path))
    except BaseException as error:
        raise library_error(f"{path} cannot be read as a tokenizer", error) from error
    tokenizer.no_padding()
    if max_tokens is None:
        tokenizer.no_truncation()
    else:
        tokenizer.enable_truncation(max_tokens)
    return tokenizer


def library_error(what: str, error: BaseException) -> ModelError:
    """What the library raises for a file that makes no sense is an Exception, or no Exception at
    all: where its Rust code panics. Anything else is raised again."""
    is_panic = type(error).__name__ == "PanicException"
    if isinstance(error, TypeError) or not (is_panic or isinstance(error, Exception)):
        raise error
    if str(error).endswith(MISSING_UNKNOWN):
        return ModelError(
            f"{what}: its vocabulary has no token for what was not learned; learn one from all of "
            "the text, or take a tokenizer that knows every byte (bpe)"
        )
    return ModelError(
        f"{what}: {error}; download tokenizer.json again, or write it anew with `save_pretrained` "
        "of transformers"
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """A token as it stands in a text: `text[start:end]`. Tokens that share a character (bytes of
    one emoji) share its place; a token that was added (`<s>`) has none, `start == end`."""

    id: int
    token: str
    start: int
    end: int


@dataclass(frozen=True, eq=False)
class Tokenizer:
    """Text to ids and back. `special_tokens` has the tokens by role (`{"eos": "</s>"}`); one that
    the model's files name but the vocabulary lacks has no id. `eos_ids` end a generation. The
    `backend` stays as it is: what was asked of it once is remembered."""

    backend: tokenizers.Tokenizer
    special_tokens: Mapping[SpecialRole, str] = field(default_factory=dict)
    eos_ids: tuple[int, ...] = ()

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The tokenizer of a model's folder. Raises ModelError naming the file at fault."""
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise ModelError(_missing_message(folder))
        backend = load_tokenizer(path)
        special_tokens = _special_tokens(_merged_config(folder), folder)
        eos_ids = _eos_ids(folder, backend, special_tokens.get("eos"))
        return cls(backend, MappingProxyType(special_tokens), eos_ids)

    @property
    def kind(self) -> str:
        """`BPE`, `WordPiece`, `Unigram` or `WordLevel`."""
        return type(self.backend.model).__name__

    @property
    def vocab_size(self) -> int:
        """How many tokens there are, added ones included. (A model may have more rows.)"""
        return self.backend.get_vocab_size(with_added_tokens=True)

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """Those that `decode` leaves out with `skip_special`."""
        added = self.backend.get_added_tokens_decoder()
        return frozenset(id_ for id_, token in added.items() if token.special)

    @cached_property
    def decoder_parts(self) -> list[dict[str, Any]]:
        """The steps from tokens to a text, as `tokenizer.json` has them."""
        if self.backend.decoder is None:
            return []
        state: dict[str, Any] = json.loads(self.backend.decoder.__getstate__())
        return state["decoders"] if state["type"] == "Sequence" else [state]

    def special_id(self, role: SpecialRole) -> int | None:
        token = self.special_tokens.get(role)
        return None if token is None else self.backend.token_to_id(token)

    @property
    def bos_id(self) -> int | None:
        return self.special_id("bos")

    @property
    def eos_id(self) -> int | None:
        return self.special_id("eos")

    @property
    def pad_id(self) -> int | None:
        return self.special_id("pad")

    @property
    def unk_id(self) -> int | None:
        """The id of what is not in the vocabulary; the model's own where no file names a role."""
        if "unk" in self.special_tokens:
            return self.special_id("unk")
        token = getattr(self.backend.model, "unk_token", None)
        return None if token is None else self.backend.token_to_id(token)

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """The ids of a text, with `<s>`, `[CLS]` and the like around it unless told otherwise.

        A rendered chat template already contains them: encode that with
        `add_special_tokens=False`, or it begins with two.
        """
        return self._encoded(text, add_special_tokens).ids

    def encode_batch(
        self, texts: Sequence[str], *, add_special_tokens: bool = True
    ) -> list[list[int]]:
        """The ids of each text, by itself: nothing is padded. Uses all cores, unless the variable
        TOKENIZERS_PARALLELISM forbids it."""
        try:
            encodings = self.backend.encode_batch_fast(
                list(texts), add_special_tokens=add_special_tokens
            )
        except BaseException as error:
            raise library_error("the tokenizer cannot encode these texts", error) from error
        return [encoding.ids for encoding in encodings]

    def pieces(self, text: str, *, add_special_tokens: bool = True) -> list[Piece]:
        """The tokens of a text, each with its place."""
        encoding = self._encoded(text, add_special_tokens)
        found = zip(encoding.ids, encoding.tokens, encoding.offsets, strict=True)
        return [Piece(id=id_, token=token, start=s, end=e) for id_, token, (s, e) in found]

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        """The text of ids; an id that is no token's has none. For a stream: `StreamDecoder`."""
        try:
            return self.backend.decode(ids, skip_special_tokens=skip_special)
        except BaseException as error:
            raise library_error("the tokenizer cannot decode these ids", error) from error

    def text_of(self, id_: int) -> str:
        """The text of one token by itself, special or not; remembered."""
        if id_ not in self._texts:
            self._texts[id_] = self.decode([id_], skip_special=False)
        return self._texts[id_]

    @cached_property
    def _texts(self) -> dict[int, str]:
        return {}

    def token(self, id_: int) -> str | None:
        """The token as the vocabulary writes it (`Ġhouse`, `##ing`, `<0x0A>`)."""
        return self.backend.id_to_token(id_)

    def token_id(self, token: str) -> int | None:
        return self.backend.token_to_id(token)

    def _encoded(self, text: str, add_special_tokens: bool) -> tokenizers.Encoding:
        try:
            return self.backend.encode(text, add_special_tokens=add_special_tokens)
        except BaseException as error:
            raise library_error("the tokenizer cannot encode this text", error) from error

    def with_special_tokens(self, tokens: Sequence[str]) -> Self:
        """Another one that knows these too, with the next ids: each is a token by itself wherever a
        text has it. Raises ModelError for one that is there already."""
        if not tokens:
            return self
        known = self.vocabulary()
        for token in tokens:
            if token in known:
                raise ModelError(
                    f"the tokenizer has the token {token!r} already; leave it out of the new ones"
                )
        backend = tokenizers.Tokenizer.from_str(self.backend.to_str())
        backend.add_special_tokens(list(tokens))
        return replace(self, backend=backend)

    def save(self, folder: Path) -> None:
        """Write `tokenizer.json`, `tokenizer_config.json` and `special_tokens_map.json`, which
        `transformers.AutoTokenizer` loads too."""
        folder.mkdir(parents=True, exist_ok=True)
        self.backend.save(str(folder / "tokenizer.json"))
        roles = {f"{role}_token": token for role, token in self.special_tokens.items()}
        config = {"tokenizer_class": "PreTrainedTokenizerFast", **roles}
        write_object(folder / "special_tokens_map.json", roles)
        write_object(folder / "tokenizer_config.json", config)

    def vocabulary(self) -> dict[str, int]:
        return self.backend.get_vocab(with_added_tokens=True)


def _missing_message(folder: Path) -> str:
    if not folder.is_dir():
        return f"{folder} is not a folder; give the folder that holds the model's tokenizer.json"
    if any((folder / name).is_file() for name in ("tokenizer.model", "vocab.json", "vocab.txt")):
        return (
            f"{folder} has its tokenizer in an older form; write tokenizer.json with transformers: "
            f"AutoTokenizer.from_pretrained({str(folder)!r}).save_pretrained({str(folder)!r})"
        )
    return f"{folder} has no tokenizer.json; download the model again, with its *.json files"


def _merged_config(folder: Path) -> dict[str, Any]:
    """What the two files say together; `tokenizer_config.json` is the newer and has the last
    word."""
    config: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            config |= read_object(folder / name)
    return config


def _special_tokens(config: Mapping[str, Any], folder: Path) -> dict[SpecialRole, str]:
    """`eos_token: "</s>"`, or in the older form `eos_token: {"content": "</s>", …}`, or null."""
    tokens: dict[SpecialRole, str] = {}
    for role in ROLES:
        value = config.get(f"{role}_token")
        content = value.get("content") if isinstance(value, dict) else value
        if isinstance(content, str):
            tokens[role] = content
        elif value is not None:
            raise ModelError(
                f"{folder}: {role}_token is {value!r} in the tokenizer's configuration; "
                'it must be a string or {"content": "..."}'
            )
    return tokens


def _eos_ids(folder: Path, backend: tokenizers.Tokenizer, eos_token: str | None) -> tuple[int, ...]:
    """What ends a generation: what the model's configuration says, and the tokenizer's `eos`."""
    ids: list[int] = []
    for name in ("generation_config.json", "config.json"):
        if (folder / name).is_file() and not ids:
            ids += _ids_of(read_object(folder / name).get("eos_token_id"), folder / name)
    own = None if eos_token is None else backend.token_to_id(eos_token)
    return tuple(dict.fromkeys(ids if own is None else [*ids, own]))


def _ids_of(value: object, path: Path) -> Iterable[int]:
    if value is None:
        return []
    ids: list[Any] = value if isinstance(value, list) else [value]
    if any(type(id_) is not int or id_ < 0 for id_ in ids):
        raise ModelError(f"{path}: eos_token_id is {value!r}; it must be an id or a list of ids")
    return ids
