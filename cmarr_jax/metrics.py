"""Recognition metrics of one confusion matrix, as the field reports them."""

from typing import NamedTuple

import numpy as np


class Scores(NamedTuple):
    """Shares in [0, 1]."""

    war: float  # weighted average recall = accuracy
    uar: float  # unweighted average recall
    macro_f1: float


def confusion_matrix(labels: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """`[C, C]` counts; rows are the true classes."""
    pairs = labels.astype(np.int64) * num_classes + predicted
    return np.bincount(pairs.reshape(-1), minlength=num_classes**2).reshape(2 * (num_classes,))


def scores(confusion: np.ndarray) -> Scores:
    """WAR, UAR and macro F1 of a confusion matrix `[C, C]`.

    UAR and F1 average over the classes that occur among the true labels: a class that was
    never to be found has no recall. NaN for an empty matrix.
    """
    hits, support = np.diag(confusion), confusion.sum(axis=1)
    occurs = support > 0
    if not occurs.any():
        return Scores(np.nan, np.nan, np.nan)
    f1 = 2 * hits[occurs] / (support + confusion.sum(axis=0))[occurs]
    recall = hits[occurs] / support[occurs]
    return Scores(hits.sum() / support.sum(), recall.mean(), f1.mean())


def recalls(confusion: np.ndarray) -> np.ndarray:
    """`[C]` recall of each class of a confusion matrix; NaN of one that never occurs."""
    support = confusion.sum(axis=1)
    with np.errstate(invalid="ignore"):
        return np.diag(confusion) / np.where(support, support, np.nan)


def weighted_f1(confusion: np.ndarray) -> float:
    """F1 of each class by its share of the true labels; NaN for an empty matrix."""
    hits, support = np.diag(confusion), confusion.sum(axis=1)
    if not support.any():
        return float("nan")
    f1 = 2 * hits / np.maximum(support + confusion.sum(axis=0), 1)
    return float(support @ f1 / support.sum())


def cross_entropy(posteriors: np.ndarray, labels: np.ndarray) -> float:
    """Mean over the classes of the mean negative log posterior of their utterances, in nats.

    Each class counts alike, as in UAR and in training with balanced classes.

    Args:
      posteriors: `[n, C]`, finite.
      labels: `[n]`; classes without an utterance do not count.
    """
    tiny = np.finfo(np.float32).tiny  # a posterior that was rounded to 0 is not infinitely wrong
    surprise = -np.log(np.maximum(posteriors[np.arange(len(labels)), labels], tiny))
    return float(np.mean([surprise[labels == c].mean() for c in np.unique(labels)]))
