"""Learn a vocabulary from texts: byte-level BPE, WordPiece, Unigram with byte fallback, or their
characters.

- **bpe** (Sennrich et al. 2016, arXiv:1508.07909; on bytes: Radford et al. 2019): begins with the
  256 bytes and merges the most frequent pair of neighbours, again and again. Words are cut by
  Llama 3's expression, so no token spans two words, and numbers come in threes of digits. Nothing
  is unknown, and `decode(encode(text)) == text`.
- **wordpiece** (BERT, Devlin et al. 2018, arXiv:1810.04805): the same merges on the characters of
  words that BERT's normaliser has cleaned, lower-cased and freed of accents; the rest of a word is
  marked `##`. A word with a character that was not learned is `[UNK]`.
- **unigram** (Kudo 2018, arXiv:1804.10959; SentencePiece): begins with all frequent substrings,
  each with a probability, and drops those that the likelihood of the text misses least. A blank is
  the character `▁`; a character that was not learned is written in bytes, `<0xF0>`, so nothing is
  unknown here either.
- **characters**: each that occurs is a token, in the order of their code points (Karpathy's
  char-rnn and nanoGPT; Shakespeare has 65). A character that was not learned is an error.

One corpus and one configuration give one vocabulary, always. The trainers of the `tokenizers`
library do not promise that (they walk hash tables in random order): see `_train_wordpiece` and
`_settled_scores` for how it is made so.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress, islice
from pathlib import Path
from typing import Literal, get_args

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend
from tokenizers.processors import TemplateProcessing

from pharos.core import DocumentError, ModelError, PharosError
from pharos.data.tokenizer import SpecialRole, Tokenizer

Kind = Literal["bpe", "wordpiece", "unigram", "characters"]
SPECIAL_TOKENS: dict[Kind, dict[SpecialRole, str]] = {
    "bpe": {"bos": "<|endoftext|>", "eos": "<|endoftext|>", "pad": "<|endoftext|>"},
    "wordpiece": {
        "pad": "[PAD]",
        "unk": "[UNK]",
        "cls": "[CLS]",
        "sep": "[SEP]",
        "mask": "[MASK]",
    },
    "unigram": {"unk": "<unk>", "bos": "<s>", "eos": "</s>", "pad": "<pad>"},
    "characters": {},
}
NUM_BYTES = 256
MAX_ALPHABET = 1000
"""Characters that a WordPiece vocabulary has: the most frequent; a rarer one is `[UNK]`."""
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How Llama 3 (and GPT-4 before it) cuts a text into what no token may span."""
TEXTS_AT_ONCE = 1000
NO_TEXT = "there is no text to learn from; give files that hold more than blanks"
BYTE_PENALTY = 10.0
"""How much less likely than the rarest piece (in nats) a byte is held to be."""
SCORE_DIGITS = 6
STEP = 1e-4


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizerConfig:
    """`vocab_size` counts all: bytes, learned tokens, special ones. A pair (bpe, wordpiece) that
    occurs less than `min_frequency` times becomes no token. `special_tokens` are more of them than
    the kind has anyway (`SPECIAL_TOKENS`), for a chat template say. `lowercase` is for wordpiece,
    and takes the accents off too. Of characters all become tokens, however rare."""

    kind: Kind = "bpe"
    vocab_size: int = 32_000
    min_frequency: int = 2
    special_tokens: tuple[str, ...] = ()
    lowercase: bool = True

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"kind is {self.kind!r}; choose from {', '.join(get_args(Kind))}")
        has_bytes = self.kind in ("bpe", "unigram")
        least = len(self.all_special_tokens) + (NUM_BYTES if has_bytes else 0) + 1
        if self.vocab_size < least:
            raise ValueError(
                f"vocab_size is {self.vocab_size}; {self.kind} with these special tokens needs at "
                f"least {least}, and some thousands to be of use"
            )
        if self.min_frequency < 1:
            raise ValueError(f"min_frequency is {self.min_frequency}; it must be at least 1")
        if "" in self.special_tokens:
            raise ValueError("a special token is empty; give it a name such as <|end|>")

    @property
    def all_special_tokens(self) -> tuple[str, ...]:
        """Those of the kind, then those asked for, each once; their ids are 0, 1, 2, …"""
        return tuple(dict.fromkeys([*SPECIAL_TOKENS[self.kind].values(), *self.special_tokens]))


@dataclass(frozen=True, slots=True)
class TextFiles:
    """The lines of UTF-8 files, each with its line end; can be read again and again. `on_bytes` is
    told how many bytes were read since it was last called."""

    paths: Sequence[Path]
    on_bytes: Callable[[int], None] | None = None

    def __iter__(self) -> Iterator[str]:
        for path in self.paths:
            with path.open("rb") as file:
                while lines := list(islice(file, TEXTS_AT_ONCE)):
                    if self.on_bytes:
                        self.on_bytes(sum(map(len, lines)))
                    yield from self._decoded(lines, path)

    def _decoded(self, lines: list[bytes], path: Path) -> list[str]:
        try:
            return [line.decode() for line in lines]
        except UnicodeDecodeError as error:
            raise DocumentError(
                f"{path} is not a text in UTF-8 ({error.reason}); convert it, with iconv for "
                "example, or leave it out"
            ) from error


def train_tokenizer(texts: Iterable[str], config: TokenizerConfig) -> Tokenizer:
    """A tokenizer learned from `texts`: a list of strings, `TextFiles`, anything that can be walked
    twice. (wordpiece does; for the others, an iterator will do.)"""
    if config.kind == "wordpiece" and isinstance(texts, Iterator):
        raise ValueError(
            "texts is an iterator, which can be walked once, and wordpiece walks them twice: give "
            "a list, TextFiles(paths), or an object whose __iter__ begins anew"
        )
    backend = _TRAINERS[config.kind](texts, config)
    roles = SPECIAL_TOKENS[config.kind]
    eos_id = backend.token_to_id(roles["eos"]) if "eos" in roles else None
    return Tokenizer(backend, dict(roles), () if eos_id is None else (eos_id,))


def _train_bpe(texts: Iterable[str], config: TokenizerConfig) -> Backend:
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocab_size,
        min_frequency=config.min_frequency,
        special_tokens=_added(config),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    _learn(backend, texts, trainer)
    return backend


def _train_wordpiece(texts: Iterable[str], config: TokenizerConfig) -> Backend:
    """The trainer numbers `##a`, `##b`, … as it meets them in a hash table, and breaks ties between
    pairs by number. Numbered beforehand, as special tokens, they are the same every time."""
    learner = _bert_backend(models.WordPiece(unk_token="[UNK]"), config)
    alphabet = _frequent_characters(learner, texts)
    inner = [f"##{c}" for c in alphabet if _stands_in_a_word(learner, c)]
    trainer = trainers.WordPieceTrainer(
        vocab_size=config.vocab_size,
        min_frequency=config.min_frequency,
        special_tokens=[*config.all_special_tokens, *inner],
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        show_progress=False,
    )
    _learn(learner, texts, trainer)
    vocab = learner.get_vocab(with_added_tokens=True)
    backend = _bert_backend(models.WordPiece(vocab=vocab, unk_token="[UNK]"), config)
    backend.add_special_tokens(_added(config))
    backend.post_processor = _around(backend, "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1")
    return backend


def _bert_backend(model: models.Model, config: TokenizerConfig) -> Backend:
    backend = Backend(model)
    backend.normalizer = normalizers.BertNormalizer(lowercase=config.lowercase)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    return backend


def _frequent_characters(backend: Backend, texts: Iterable[str]) -> list[str]:
    """The characters that normalised texts are made of, those of most use, sorted."""
    raw = Counter[str]()
    for text in texts:
        raw.update(text)
    counts = Counter[str]()
    for character, count in raw.items():
        for normal in backend.normalizer.normalize_str(character):
            counts[normal] += 0 if normal.isspace() else count
    ranked = sorted(+counts, key=lambda character: (-counts[character], character))
    return sorted(ranked[:MAX_ALPHABET])


def _stands_in_a_word(backend: Backend, character: str) -> bool:
    """Letters and digits do; punctuation and Chinese characters are words by themselves."""
    word = backend.normalizer.normalize_str(f"a{character}a")
    return len(backend.pre_tokenizer.pre_tokenize_str(word)) == 1


def _train_unigram(texts: Iterable[str], config: TokenizerConfig) -> Backend:
    special = config.all_special_tokens
    learner = _sentencepiece_backend(models.Unigram())
    trainer = trainers.UnigramTrainer(
        vocab_size=config.vocab_size - NUM_BYTES,
        special_tokens=list(special),
        unk_token="<unk>",
        show_progress=False,
    )
    _learn(learner, texts, trainer)
    scores = json.loads(learner.model.__getstate__())["vocab"]
    learned = _settled_scores({piece: score for piece, score in scores if piece not in special})
    rarest = round(learned[-1][1] - BYTE_PENALTY, SCORE_DIGITS)
    vocab = [(token, 0.0) for token in special]
    vocab += [(f"<0x{byte:02X}>", rarest) for byte in range(NUM_BYTES)]
    backend = _sentencepiece_backend(models.Unigram([*vocab, *learned], 0, byte_fallback=True))
    backend.add_special_tokens(_added(config))
    backend.post_processor = _around(backend, "<s> $A", "<s> $A <s>:1 $B:1")
    return backend


def _sentencepiece_backend(model: models.Model) -> Backend:
    """Blanks are `▁`, and belong to the word behind them. None is put before the first word (as
    Llama 2 does and Gemma does not), so that texts come back as they were."""
    backend = Backend(model)
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=True)
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return backend


def _train_characters(texts: Iterable[str], config: TokenizerConfig) -> Backend:
    """Each character is a word of its own, with the line ends, and `WordLevel` looks it up. (BPE
    without merges is faster, and leaves out what it does not know without a word.)"""
    found = set[str]()
    for text in texts:
        found.update(text)
    if not any(map(str.strip, found)):
        raise ModelError(NO_TEXT)
    tokens = dict.fromkeys([*config.all_special_tokens, *sorted(found)])
    if len(tokens) > config.vocab_size:
        raise ModelError(
            f"vocab_size is {config.vocab_size:,}, and the texts have {len(found):,} different "
            f"characters: raise it to {len(tokens):,}, or clean the texts"
        )
    vocabulary = {token: id_ for id_, token in enumerate(tokens)}
    backend = Backend(models.WordLevel(vocabulary, unk_token="<unk>"))  # which is no token: raises
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    backend.decoder = decoders.Fuse()
    backend.add_special_tokens(_added(config))
    return backend


def _settled_scores(scores: Mapping[str, float]) -> list[tuple[str, float]]:
    """The log-probabilities in an order, and with values, that do not change from run to run.

    The trainer adds them up in random order, so the last digits differ: they are cut off. And it
    keeps every character: those that it had dropped get the least score and 0, 1, 2, … times
    `STEP`, in random order. Here they get these scores in the characters' order.
    """
    settled = {piece: round(score, SCORE_DIGITS) for piece, score in scores.items()}
    characters = sorted((score, piece) for piece, score in settled.items() if len(piece) == 1)
    least = characters[0][0]
    steps = [(score - least) / STEP for score, _ in characters]
    is_step = [abs(step - round(step)) < 0.05 and step < len(steps) for step in steps]
    kept = list(compress(characters, is_step))
    pieces = sorted(piece for _, piece in kept)
    settled |= {piece: score for piece, (score, _) in zip(pieces, kept, strict=True)}
    return sorted(settled.items(), key=lambda item: (-item[1], item[0]))


def _learn(backend: Backend, texts: Iterable[str], trainer: trainers.Trainer) -> None:
    """Raises ModelError where the texts are blank, or the library finds too little in them."""
    is_blank = True

    def batches() -> Iterator[list[str]]:
        nonlocal is_blank
        remaining = iter(texts)
        while batch := list(islice(remaining, TEXTS_AT_ONCE)):
            is_blank = is_blank and not any(map(str.strip, batch))
            yield batch

    try:
        backend.train_from_iterator(batches(), trainer)
    except (PharosError, OSError):
        raise
    except Exception as error:  # the library raises nothing narrower
        raise ModelError(f"no vocabulary could be learned from these texts: {error}") from error
    if is_blank:
        raise ModelError(NO_TEXT)


def _added(config: TokenizerConfig) -> list[AddedToken]:
    return [AddedToken(t, normalized=False, special=True) for t in config.all_special_tokens]


def _around(backend: Backend, single: str, pair: str) -> TemplateProcessing:
    """What stands around one text and around two."""
    named = [part.partition(":")[0] for part in single.split() if not part.startswith("$")]
    tokens = [(token, backend.token_to_id(token)) for token in dict.fromkeys(named)]
    return TemplateProcessing(single=single, pair=pair, special_tokens=tokens)


_TRAINERS: dict[Kind, Callable[[Iterable[str], TokenizerConfig], Backend]] = {
    "bpe": _train_bpe,
    "wordpiece": _train_wordpiece,
    "unigram": _train_unigram,
    "characters": _train_characters,
}
