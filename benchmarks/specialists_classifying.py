"""Detector, grounding checker and routers, beside TF-IDF with logistic regression.

Needs scikit-learn in the interpreter for that column.
"""

import random
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.answer_quality import auroc, calibration_error
from benchmarks.datasets import squad_articles
from benchmarks.intervals import Figure, mean, measured, percentile_95
from benchmarks.peers import load_peers
from numpy.typing import NDArray
from recipes.specialists import grounding
from recipes.specialists.injection import ATTACK
from recipes.specialists.router import OUT_OF_SCOPE
from recipes.specialists.squad import Measure, prepared, rarity_of, read_jsonl

from pharos.core import Embedder
from pharos.core.findings import Specialists
from pharos.data.examples import label_names
from pharos.data.records import Record, read_records
from pharos.data.tokenizer import Tokenizer
from pharos.models.encoder_heads import EncoderHead
from pharos.models.load import load_model
from pharos.models.resolve import DEFAULT_ENCODER, find_model
from pharos.specialists import SentenceEncoder, load_shared_encoder
from pharos.specialists.adapter_features import AdapterFeatures
from pharos.specialists.router import Router
from pharos.specialists.shared_encoder import merged_head

Scores = NDArray[np.float64]
FALSE_POSITIVES = 0.01
BATCH = 64
FEW = 10
MAX_TOKENS = 128


# -- baseline


def linear_classifier(texts: Sequence[str], labels: Sequence[str]) -> Any:
    """TF-IDF of words and pairs of words, with logistic regression; None without scikit-learn."""
    if load_peers(("scikit-learn",)) is None:
        return None
    text, linear, pipeline = (
        import_module(f"sklearn.{part}")
        for part in ("feature_extraction.text", "linear_model", "pipeline")
    )
    vectors = text.TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2)
    fitted = pipeline.make_pipeline(vectors, linear.LogisticRegression(C=10.0, max_iter=300))
    return fitted.fit(list(texts), list(labels))


# -- detector


def injection_figures(team: Specialists, records: Path) -> Iterator[Figure]:
    assert team.guard is not None
    test = list(read_jsonl(records / "injection_test.jsonl"))
    texts = [record["text"] for record in test]
    is_attack = np.array([record["label"] == ATTACK for record in test])
    risks = {"ours": np.array(team.guard.risks(texts))}
    train = list(read_jsonl(records / "injection_train.jsonl"))
    linear = linear_classifier([r["text"] for r in train], [r["label"] for r in train])
    if linear is not None:
        risks["TF-IDF, linear"] = linear.predict_proba(texts)[
            :, list(linear.classes_).index(ATTACK)
        ]
    set_ = "attacks and harmless"
    for system, risk in risks.items():
        yield measured("injection", set_, "recall at 1% FP", system, recall_at_fp, risk, is_attack)
        yield measured("injection", set_, "AUROC", system, auroc, risk, is_attack)
        yield measured("injection", set_, "ECE", system, calibration_error, risk, is_attack)
    is_flagged = (risks["ours"] >= team.guard.threshold).astype(float)
    for source in sorted({record["source"] for record in test}):
        of_source = np.array([record["source"] == source for record in test])
        kind = "recall" if is_attack[of_source][0] else "false positives"
        yield measured(
            "injection", source, f"{kind} at threshold", "ours", mean, is_flagged[of_source]
        )
    jailbreaks = np.array([record["source"] == "jailbreak" for record in test]) | ~is_attack
    for system, risk in risks.items():
        yield measured(
            "injection",
            "jailbreaks alone",
            "recall at 1% FP",
            system,
            recall_at_fp,
            risk[jailbreaks],
            is_attack[jailbreaks],
        )


def recall_at_fp(risk: Scores, is_attack: NDArray[np.bool_]) -> float:
    """Recall where one harmless text in a hundred is flagged."""
    if is_attack.all() or not is_attack.any():
        return float("nan")
    threshold = np.quantile(risk[~is_attack], 1 - FALSE_POSITIVES)
    return float((risk[is_attack] > threshold).mean())


# -- grounding checker


def grounding_figures(team: Specialists, records: Path, data: Path, count: int) -> Iterator[Figure]:
    assert team.grounding is not None
    raw = squad_articles(data)
    rarity = rarity_of(p["context"] for article in raw for p in article["paragraphs"])
    made = grounding.examples(prepared(raw, rarity), count, Measure(), seed=0)
    test = list(made)
    labels = np.array([record["label"] for record in test])
    found = team.grounding.check([(record["text"], record["text_b"]) for record in test])
    words = {"yes": "supported", "no": "unsupported", "contradicts": "contradicted"}
    said = {"ours": np.array([words[one.verdict] for one in found])}
    train = list(read_jsonl(records / "grounding_train.jsonl"))
    linear = linear_classifier([_both(r) for r in train], [r["label"] for r in train])
    if linear is not None:
        said["TF-IDF, linear"] = linear.predict([_both(record) for record in test])
    set_ = "SQuAD dev, statements"
    for system, verdicts in said.items():
        yield measured(
            "grounding", set_, "balanced accuracy", system, balanced_accuracy, verdicts, labels
        )
    for label in sorted(set(labels)):
        is_right = (said["ours"] == labels)[labels == label].astype(float)
        yield measured("grounding", set_, f"recall of {label}", "ours", mean, is_right)
    for label in ("supported", "contradicted"):
        p = np.array([getattr(one, label) for one in found])
        yield measured(
            "grounding", set_, f"ECE of {label}", "ours", calibration_error, p, labels == label
        )
        yield measured("grounding", set_, f"AUROC of {label}", "ours", auroc, p, labels == label)


def _both(record: dict[str, Any]) -> str:
    return f"{record['text']} || {record['text_b']}"


def balanced_accuracy(said: NDArray[Any], labels: NDArray[Any]) -> float:
    """The mean of the classes' recalls."""
    return float(np.mean([(said == label)[labels == label].mean() for label in set(labels)]))


# -- routers


def router_figures(runs: Path, records: Path, data: Path) -> Iterator[Figure]:
    """A router over the vectors of the sentence encoder, of few examples and of all; and each that
    was trained, with LoRA or in full: its own classifier and, of adapters, a router over its
    vectors."""
    shared = load_shared_encoder()
    encoder = SentenceEncoder(shared, max_tokens=MAX_TOKENS)
    for few in (FEW, None):
        system = "vectors" if few is None else f"vectors, {few} each"
        yield from routed_figures(system, encoder, records, data, few=few)
    for run in sorted(runs.glob("router_*")):
        if (run / "adapter").is_dir():
            of_adapter = AdapterFeatures(shared, run / "adapter", max_tokens=MAX_TOKENS)
            yield from routed_figures(f"{run.name}, vectors", of_adapter, records, data)
        if (run / "adapter").is_dir() or (run / "model").is_dir():
            is_clinc = "clinc150" in run.name
            yield from clinc_figures(run, records) if is_clinc else banking_figures(run, data)
    yield from baseline_figures(records, data)


def routed_figures(
    system: str, embedder: Embedder, records: Path, data: Path, *, few: int | None = None
) -> Iterator[Figure]:
    """Of a router over vectors, on the sets that the vectors are for."""
    if "banking77" not in system:
        yield from routed_clinc(system, embedder, records, few)
    if "clinc150" not in system:
        yield from routed_banking(system, embedder, data, few)


def routed_clinc(
    system: str, embedder: Embedder, records: Path, few: int | None
) -> Iterator[Figure]:
    train = some_of(read_records(records / "clinc150_train.jsonl"), "label", few)
    test = read_records(records / "clinc150_test.jsonl")
    texts = [record["text"] for record in test]
    router = Router.train(pairs_of(train, "label"), embedder)
    found = router.route_all(texts)
    true = np.array([record["label"] for record in test])
    in_scope = true != OUT_OF_SCOPE
    is_right = np.array([route.intent for route in found])[in_scope] == true[in_scope]
    p = np.array([route.probability for route in found])[in_scope]
    belongs = np.array([route.in_scope for route in found])
    told = partial(measured, "router", "CLINC150")
    yield told("in-scope accuracy", system, mean, is_right.astype(float))
    yield told("AUROC of scope", system, auroc, belongs, in_scope)
    yield told("ECE", system, calibration_error, p, is_right)
    yield latency(system, router, texts[:300])


def routed_banking(
    system: str, embedder: Embedder, data: Path, few: int | None
) -> Iterator[Figure]:
    train = some_of(read_records(data / "banking77" / "train.csv"), "category", few)
    test = read_records(data / "banking77" / "test.csv")
    router = Router.train(pairs_of(train, "category"), embedder)
    found = router.route_all([record["text"] for record in test])
    true = np.array([record["category"] for record in test])
    is_right = np.array([route.intent for route in found]) == true
    p = np.array([route.probability for route in found])
    told = partial(measured, "router", "BANKING77")
    yield told("accuracy", system, mean, is_right.astype(float))
    yield told("ECE", system, calibration_error, p, is_right)


def pairs_of(records: Sequence[Record], column: str) -> list[tuple[str, str]]:
    return [(r["text"], r[column]) for r in records if r[column] != OUT_OF_SCOPE]


def some_of(records: Sequence[Record], column: str, few: int | None) -> list[Record]:
    """At most `few` examples of each label, drawn at random."""
    if few is None:
        return list(records)
    by_label: dict[str, list[Record]] = defaultdict(list)
    for record in random.Random(0).sample(list(records), len(records)):
        by_label[record[column]].append(record)
    return [record for some in by_label.values() for record in some[:few]]


def clinc_figures(run: Path, records: Path) -> Iterator[Figure]:
    train = read_records(records / "clinc150_train.jsonl")
    test = read_records(records / "clinc150_test.jsonl")
    labels = label_names(train, "label")
    head = head_of(run, tuple(labels))
    logits = logits_of(head, [record["text"] for record in test])
    known = np.array([name != OUT_OF_SCOPE for name in labels])
    true = np.array([record["label"] for record in test])
    yield from scope_figures(run.name, logits, np.array(labels), known, true)


def scope_figures(
    system: str, logits: Scores, labels: NDArray[Any], known: NDArray[np.bool_], true: NDArray[Any]
) -> Iterator[Figure]:
    set_ = "CLINC150"
    in_scope = true != OUT_OF_SCOPE
    intents = labels[known][logits[:, known].argmax(axis=1)]
    is_right = (intents == true).astype(float)
    yield measured("router", set_, "in-scope accuracy", system, mean, is_right[in_scope])
    p = softmax(logits)
    scores = {
        "max softmax": p[:, known].max(axis=1),
        "energy": np.logaddexp.reduce(logits[:, known], axis=1),
        "1 - p(out)": 1 - p[:, ~known].sum(axis=1),
    }
    for name, score in scores.items():
        figure = f"AUROC of scope, {name}"
        yield measured("router", set_, figure, system, auroc, score, in_scope)
    top = p[:, known].max(axis=1)
    yield measured("router", set_, "ECE", system, calibration_error, top, (intents == true))


def banking_figures(run: Path, data: Path) -> Iterator[Figure]:
    train = read_records(data / "banking77" / "train.csv")
    test = read_records(data / "banking77" / "test.csv")
    labels = label_names(train, "category")
    logits = logits_of(head_of(run, tuple(labels)), [record["text"] for record in test])
    said = np.array(labels)[logits.argmax(axis=1)]
    is_right = said == np.array([record["category"] for record in test])
    yield measured("router", "BANKING77", "accuracy", run.name, mean, is_right.astype(float))
    top = softmax(logits).max(axis=1)
    yield measured("router", "BANKING77", "ECE", run.name, calibration_error, top, is_right)


def baseline_figures(records: Path, data: Path) -> Iterator[Figure]:
    system = "TF-IDF, linear"
    train = read_records(records / "clinc150_train.jsonl")
    test = read_records(records / "clinc150_test.jsonl")
    linear = linear_classifier([r["text"] for r in train], [r["label"] for r in train])
    if linear is None:
        return
    logits = linear.predict_log_proba([record["text"] for record in test])
    names = np.array(linear.classes_)
    true = np.array([record["label"] for record in test])
    yield from scope_figures(system, logits, names, names != OUT_OF_SCOPE, true)
    train, test = (read_records(data / "banking77" / f"{part}.csv") for part in ("train", "test"))
    linear = linear_classifier([r["text"] for r in train], [r["category"] for r in train])
    said = linear.predict([record["text"] for record in test])
    is_right = said == np.array([record["category"] for record in test])
    yield measured("router", "BANKING77", "accuracy", system, mean, is_right.astype(float))


def head_of(run: Path, labels: tuple[str, ...]) -> EncoderHead:
    """A classifier from the folder of its run, trained in full or with an adapter."""
    if (run / "model").is_dir():
        model = load_model(run / "model", task="sequence_classification")
        assert isinstance(model, EncoderHead)
        return model.float().eval()
    base = find_model(DEFAULT_ENCODER).path
    head = merged_head(base, run / "adapter", "sequence_classification", labels)
    return head.float().eval()


@torch.inference_mode()
def logits_of(head: EncoderHead, texts: Sequence[str]) -> Scores:
    """`[len(texts), C]`, in batches of texts of about one length."""
    tokenizer = Tokenizer.load(find_model(DEFAULT_ENCODER).path)
    ids = tokenizer.encode_batch(list(texts), add_special_tokens=True)
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    found: dict[int, Scores] = {}
    for first in range(0, len(order), BATCH):
        batch = order[first : first + BATCH]
        longest = max(len(ids[i]) for i in batch)
        padded_BT = torch.tensor([[*ids[i], *[0] * (longest - len(ids[i]))] for i in batch])
        lengths_B = torch.tensor([len(ids[i]) for i in batch])
        valid_BT = torch.arange(longest) < lengths_B[:, None]
        found |= zip(batch, head(padded_BT, valid_BT=valid_BT).double().numpy(), strict=True)
    return np.stack([found[i] for i in range(len(texts))])


def latency(system: str, router: Router, texts: Sequence[str]) -> Figure:
    milliseconds = []
    for text in texts:
        started = time.perf_counter()
        router.route(text)
        milliseconds.append((time.perf_counter() - started) * 1000)
    taken = np.array(milliseconds)
    return measured("router", "CLINC150", "one query, P95, ms", system, percentile_95, taken)


def softmax(logits: Scores) -> Scores:
    shares: Scores = np.exp(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True))
    return shares
