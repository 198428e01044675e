"""Is a text like those that were learned from at all? Two signs, from the vectors of the examples.

- `relative`: how much nearer a text is to one of the classes than to all texts on average: the
  Mahalanobis distance to the nearest class, less that to the mean of all (Lee et al. 2018,
  arXiv:1807.03888; relative: Ren et al. 2021, arXiv:2106.09022). Classes share one covariance.
- `nearest`: the cosine to the nearest example.

On CLINC150, with the vectors of the default encoder, the area under the curve that tells 1,000
texts of none of the 150 intents from 4,500 of them, and with 10 examples an intent (with 100):
`relative` .960 (.974), `nearest` .942 (.963), both .958 (.976); the probability of the likeliest
intent .944, the energy of its logits .952. A logistic model fitted to more signs with intents left
out in turn as negatives was worse than its parts (.943), so the two are added, each by how much it
varies among texts that belong, and only their sum is calibrated.

Shapes: N texts, E examples, D width, C classes.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pharos.core.logistic import Logistic
from pharos.specialists.logistic_head import Array, fit_head

SIGNS = ("relative", "nearest")
SHRINKAGE = 3.0
"""How much of a sphere of the same size is added to a covariance, which a few examples estimate
badly."""
FOLDS = 4
RIDGE = 1e-3
REFUSED = 0.05

Vectors = NDArray[np.float32]
Labels = NDArray[np.intp]


@dataclass(frozen=True, eq=False, slots=True)
class Scope:
    """`of_class` and `of_all` turn differences into ones whose length is the distance; `white` are
    the means of the classes, turned by `of_class`."""

    examples_ED: Vectors
    white_CD: Vectors
    center_D: Vectors
    of_class_DD: Vectors
    of_all_DD: Vectors

    @classmethod
    def fit(cls, x_ED: Vectors, label_E: Labels, num_classes: int) -> "Scope":
        means_CD = np.stack([x_ED[label_E == c].mean(axis=0) for c in range(num_classes)])
        center_D = x_ED.mean(axis=0)
        of_class_DD = whitening(x_ED - means_CD[label_E], len(x_ED) - num_classes)
        return cls(
            examples_ED=x_ED,
            white_CD=means_CD @ of_class_DD,
            center_D=center_D,
            of_class_DD=of_class_DD,
            of_all_DD=whitening(x_ED - center_D, len(x_ED) - 1),
        )

    def signs(self, x_ND: Vectors) -> Array:
        """`[N, 2]`, in the order of SIGNS."""
        x_white = x_ND @ self.of_class_DD
        to_each = ((x_white**2).sum(axis=1)[:, None] - 2.0 * x_white @ self.white_CD.T) + (
            self.white_CD**2
        ).sum(axis=1)
        to_class = to_each.min(axis=1)
        to_all = (((x_ND - self.center_D) @ self.of_all_DD) ** 2).sum(axis=1)
        nearest = (x_ND @ self.examples_ED.T).max(axis=1)
        return np.stack([to_all - to_class, nearest], axis=1).astype(np.float64)


def whitening(x_ED: Vectors, degrees: int) -> Vectors:
    """A matrix whose product with a difference is as long as its Mahalanobis distance; the
    covariance of `x_ED` is shrunk towards a sphere."""
    covariance = x_ED.astype(np.float64).T @ x_ED / max(1, degrees)
    size = float(np.trace(covariance)) / len(covariance)
    covariance += max(SHRINKAGE * size, 1e-9) * np.eye(len(covariance))
    whole: Vectors = np.linalg.cholesky(np.linalg.inv(covariance)).astype(np.float32)
    return whole


def calibrate(inside: Array, outside: Array) -> Logistic:
    """The probability to belong, from the signs of texts that do and that do not; both kinds count
    alike."""
    center, spread = inside.mean(axis=0), inside.std(axis=0) + 1e-6
    sums = [((signs - center) / spread).sum(axis=1) for signs in (inside, outside)]
    label = np.repeat([1, 0], [len(inside), len(outside)])
    head = fit_head(np.concatenate(sums)[:, None], label, 2, ridge=RIDGE)
    slope = max(0.0, float(head.weight_CD[1, 0] - head.weight_CD[0, 0]))
    bias = float(head.bias_C[1] - head.bias_C[0])
    weights = slope / spread
    return Logistic(
        weights=dict(zip(SIGNS, weights.tolist(), strict=True)),
        bias=bias - float(weights @ center),
    )


def held_out_signs(x_ED: Vectors, label_E: Labels, num_classes: int) -> Array:
    """Of each example, with the others as examples."""
    fold_E = folds_of(label_E)
    signs = np.zeros((len(x_ED), len(SIGNS)))
    for fold in range(FOLDS):
        held = fold_E == fold
        if held.any():
            signs[held] = Scope.fit(x_ED[~held], label_E[~held], num_classes).signs(x_ED[held])
    return signs


def left_out_signs(x_ED: Vectors, label_E: Labels, num_classes: int) -> Iterator[Array]:
    """Of the examples of classes that are left out in turn, as if they belonged to none; nothing
    where there are only two."""
    num_groups = min(FOLDS, num_classes)
    for group in range(num_groups if num_classes > 2 else 0):
        known = [c for c in range(num_classes) if c % num_groups != group]
        is_known = np.isin(label_E, known)
        labels = np.searchsorted(known, label_E[is_known])
        yield Scope.fit(x_ED[is_known], labels, len(known)).signs(x_ED[~is_known])


def folds_of(label_E: Labels) -> Labels:
    """A number below FOLDS for each example; the examples of a class have different ones, so no
    fold has all of a class that has two."""
    fold_E = np.zeros(len(label_E), dtype=np.intp)
    for label in np.unique(label_E):
        members = np.flatnonzero(label_E == label)
        fold_E[members] = np.arange(len(members)) % FOLDS
    return fold_E


def keeping(scope: Logistic, inside: Array) -> float:
    """The probability from which on all but one in twenty of the texts that belong are let in."""
    return float(np.quantile([scope.probability(named(row)) for row in inside], REFUSED))


def named(row: Array) -> dict[str, float]:
    return dict(zip(SIGNS, row.tolist(), strict=True))
