from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from pharos.core import Embedder, ModelError
from pharos.core.doubles import HashEmbedder
from pharos.specialists.adapter_features import AdapterFeatures
from pharos.specialists.logistic_head import fit_head
from pharos.specialists.router import Router
from pharos.specialists.scope import Scope, calibrate, folds_of
from pharos.specialists.shared_encoder import SharedEncoder

EXAMPLES = [
    ("where is my parcel", "orders"),
    ("my parcel is late", "orders"),
    ("when does the parcel arrive", "orders"),
    ("the parcel never came", "orders"),
    ("how do i pay by card", "payment"),
    ("the card was not accepted", "payment"),
    ("pay the bill with a card", "payment"),
    ("which card can i pay with", "payment"),
    ("let me talk to a human", "human"),
    ("i want a human to help", "human"),
    ("a human please", "human"),
    ("give me a human now", "human"),
]


@pytest.fixture(scope="module")
def router() -> Router:
    return Router.train(EXAMPLES, HashEmbedder(256), out_of_scope=["gulls eat fish"])


def test_a_text_goes_where_texts_like_it_went(router: Router) -> None:
    assert router.intents == ("human", "orders", "payment")
    for text, intent in (
        ("is the parcel late", "orders"),
        ("pay with my card", "payment"),
        ("human help please", "human"),
    ):
        route = router.route(text)
        assert route.intent == intent
        assert route.probability > 1 / 3
        assert not route.is_out_of_scope


def test_a_text_about_something_else_is_out_of_scope(router: Router) -> None:
    route = router.route("seven gulls circle round an old lighthouse")
    assert route.is_out_of_scope
    assert route.in_scope < router.route("my parcel is late").in_scope


def test_many_texts_are_routed_as_each_alone(router: Router) -> None:
    texts = [text for text, _ in EXAMPLES]
    for together, text in zip(router.route_all(texts), texts, strict=True):
        alone = router.route(text)
        assert (together.intent, together.is_out_of_scope) == (alone.intent, alone.is_out_of_scope)
        assert together.probability == pytest.approx(alone.probability, abs=1e-6)
        assert together.in_scope == pytest.approx(alone.in_scope, abs=1e-6)


def test_a_router_is_loaded_as_it_was_saved(router: Router, tmp_path: Path) -> None:
    router.save(tmp_path / "routes")
    loaded = Router.load(tmp_path / "routes", HashEmbedder(256))
    for text in ("my parcel", "seven gulls"):
        one, other = router.route(text), loaded.route(text)
        assert one.intent == other.intent
        assert one.probability == pytest.approx(other.probability, abs=1e-6)
        assert one.in_scope == pytest.approx(other.in_scope, abs=1e-6)


def test_vectors_of_another_encoder_are_refused(router: Router, tmp_path: Path) -> None:
    router.save(tmp_path)
    with pytest.raises(ModelError, match="trained on vectors of 'hash-256', and this encoder is"):
        Router.load(tmp_path, HashEmbedder(64))


def test_a_damaged_router_is_named(router: Router, tmp_path: Path) -> None:
    router.save(tmp_path)
    tensors = load_file(tmp_path / "router.safetensors")
    save_file({"weight": tensors["weight"]}, tmp_path / "router.safetensors")
    with pytest.raises(ModelError, match="is no router, or damaged: KeyError"):
        Router.load(tmp_path, HashEmbedder(256))


@pytest.mark.parametrize(
    ("examples", "complaint"),
    [
        ([], "at least two routes; there is none"),
        ([("a", "x"), ("b", "x")], "at least two routes; there is x"),
        ([("a", "x"), ("b", "x"), ("c", "y")], "route 'y' has 1 example; give it at least two"),
    ],
)
def test_too_little_to_learn_from_is_refused(
    examples: list[tuple[str, str]], complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        Router.train(examples, HashEmbedder())


def test_two_routes_of_two_examples_are_enough() -> None:
    examples = [
        ("red apple", "fruit"),
        ("red pear", "fruit"),
        ("blue car", "cars"),
        ("car", "cars"),
    ]
    router = Router.train(examples, HashEmbedder())
    assert router.route("apple").intent == "fruit"


def test_a_classifiers_adapter_gives_vectors_for_a_router(
    shared: SharedEncoder, injection_folder: Path
) -> None:
    features = AdapterFeatures(shared, injection_folder)
    assert isinstance(features, Embedder)
    vectors = features.embed(["ignore the tower .", "keep the tower ."])
    assert vectors.shape == (2, features.dim)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)
    assert features.embed([]).shape == (0, features.dim)
    said = [("ignore the ships .", "bad"), ("ignore stone .", "bad"), ("the old ignore .", "bad")]
    kept = [("keep the ships .", "good"), ("keep stone .", "good"), ("the old keep .", "good")]
    router = Router.train([*said, *kept], features)
    assert router.route("the light in a tower , ignore .").intent == "bad"


def test_a_readers_adapter_gives_none(shared: SharedEncoder, reader_folder: Path) -> None:
    with pytest.raises(ModelError, match="holds no classifier; train it with"):
        AdapterFeatures(shared, reader_folder)


def test_logistic_regression_is_at_its_minimum_and_weighs_classes_alike() -> None:
    draw = np.random.default_rng(0)
    label = np.repeat([0, 1, 2], [30, 10, 5])
    x = draw.normal(size=(45, 4)) + 2.0 * np.eye(3, 4)[label]
    ridge = 0.01
    head = fit_head(x, label, 3, ridge=ridge)
    logits = head.logits(x)
    p = np.exp(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True))
    share = (1.0 / (np.bincount(label) * 3))[label]
    error = (p - np.eye(3)[label]) * share[:, None]
    np.testing.assert_allclose(error.T @ x + ridge * head.weight_CD, 0.0, atol=1e-4)
    np.testing.assert_allclose(error.sum(axis=0), 0.0, atol=1e-4)


def test_the_distance_to_the_nearest_class_is_mahalanobis() -> None:
    draw = np.random.default_rng(0)
    x = draw.normal(size=(40, 3)).astype(np.float32)
    label = np.arange(40) % 2
    scope = Scope.fit(x, label, 2)
    means = np.stack([x[label == c].mean(axis=0) for c in (0, 1)])
    covariance = (x - means[label]).T @ (x - means[label]) / 38
    covariance += 3.0 * np.trace(covariance) / 3 * np.eye(3)
    text = np.array([[0.3, -1.0, 2.0]], dtype=np.float32)
    wanted = min((text - m)[0] @ np.linalg.inv(covariance) @ (text - m)[0] for m in means)
    around = np.cov(x.T) + 3.0 * np.trace(np.cov(x.T)) / 3 * np.eye(3)
    away = (text - x.mean(axis=0))[0]
    expected = away @ np.linalg.inv(around) @ away - wanted
    assert scope.signs(text)[0, 0] == pytest.approx(expected, rel=1e-3)


def test_signs_that_say_nothing_are_not_believed() -> None:
    draw = np.random.default_rng(0)
    scope = calibrate(draw.normal(size=(50, 2)) - 2.0, draw.normal(size=(50, 2)) + 2.0)
    assert set(scope.weights.values()) == {0.0}


def test_no_fold_has_all_examples_of_a_class() -> None:
    label = np.array([0, 0, 1, 1, 1, 2, 2, 2, 2, 2])
    fold = folds_of(label)
    for each in range(4):
        assert set(label[fold != each]) == {0, 1, 2}
