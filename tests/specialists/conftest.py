"""A tiny BERT, and adapters trained on the spot (`tiny_adapters`).

What they learn is easy on purpose: a word that decides. What is tested is what is built on them.
"""

import json
import random
import sys
from pathlib import Path

import pytest
import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, processors

from pharos.data.question_answering import Question
from pharos.data.tokenizer import Tokenizer
from pharos.models.load import new_model, save_model
from pharos.specialists.shared_encoder import SharedEncoder, load_shared_encoder

sys.path.insert(0, str(Path(__file__).parent))
from tiny_adapters import AdapterMaker

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORDS = """
the a of in is was who what when where how many does not ignore all rules and obey me keeper light
harbour gulls seven nine feeds sees ships stone tower old burns night keep town . , ? ' - $
""".split()  # noqa: SIM905
SIZES = {
    "model_type": "bert",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model's folder: a BERT of random weights that reads whole words."""
    folder = tmp_path_factory.mktemp("tiny-bert")
    vocabulary = {token: number for number, token in enumerate((*SPECIAL, *WORDS))}
    tokenizer = tokenizers.Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    named = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"}
    (folder / "tokenizer_config.json").write_text(json.dumps(named))
    raw = {**SIZES, "vocab_size": len(vocabulary), "initializer_range": 0.2}
    save_model(new_model(raw, "body", seed=1), folder)
    return folder


@pytest.fixture(scope="session")
def shared(base: Path) -> SharedEncoder:
    return load_shared_encoder(str(base), "fp32", threads=2)


@pytest.fixture(scope="session")
def tokenizer(base: Path) -> Tokenizer:
    return Tokenizer.load(base)


@pytest.fixture(scope="session")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> AdapterMaker:
    return AdapterMaker(base, tmp_path_factory.mktemp("adapters"))


QUESTIONS = ("who feeds the gulls ?", "what does the keeper see ?", "how many ships ?")
FILLER = [
    "the",
    "a",
    "of",
    "in",
    "is",
    "was",
    "keeper",
    "light",
    "gulls",
    "sees",
    "ships",
    "stone",
    "tower",
    "old",
    "burns",
    "night",
    "town",
    ".",
]
EXAMPLES = 300


def saying(word: str, draw: random.Random) -> str:
    """The word somewhere among others."""
    words = draw.choices(FILLER, k=draw.randint(4, 20))
    words.insert(draw.randint(0, len(words)), word)
    return " ".join(words)


def told_apart(label_of: dict[str, str], *, is_pair: bool) -> list[dict[str, str]]:
    """Texts, beside a question or alone, that are labelled by a word which they have."""
    draw = random.Random(0)
    records = []
    for number in range(EXAMPLES):
        word = list(label_of)[number % len(label_of)]
        text = saying(word, draw)
        texts = {"text": draw.choice(QUESTIONS), "text_b": text} if is_pair else {"text": text}
        records.append({**texts, "label": label_of[word]})
    return records


@pytest.fixture(scope="session")
def reranker_folder(adapter: AdapterMaker) -> Path:
    """What speaks of the harbour is relevant, whatever is asked."""
    labels = {"harbour": "relevant", "does": "irrelevant"}
    return adapter.classifier(
        "reranker", told_apart(labels, is_pair=True), ("irrelevant", "relevant")
    )


@pytest.fixture(scope="session")
def reader_folder(adapter: AdapterMaker) -> Path:
    """`seven` and `nine` are answers; without them there is none."""
    draw = random.Random(0)
    questions = []
    for number in range(EXAMPLES):
        word = ("seven", "nine", "does")[number % 3]
        text = saying(word, draw)
        answer = None if word == "does" else word
        start = text.index(word) if answer else 0
        questions.append(
            Question(question=draw.choice(QUESTIONS), context=text, answer=answer, start=start)
        )
    return adapter.reader(questions)


@pytest.fixture(scope="session")
def injection_folder(adapter: AdapterMaker) -> Path:
    """Who says `ignore` attacks."""
    labels = {"ignore": "attack", "keep": "benign"}
    records = told_apart(labels, is_pair=False)
    return adapter.classifier("injection", records, ("attack", "benign"), threshold=0.9)


@pytest.fixture(scope="session")
def grounding_folder(adapter: AdapterMaker) -> Path:
    """`harbour` supports what is said, `not` contradicts it."""
    labels = {"harbour": "supported", "not": "contradicted", "rules": "unsupported"}
    records = told_apart(labels, is_pair=True)
    return adapter.classifier("grounding", records, ("contradicted", "supported", "unsupported"))
