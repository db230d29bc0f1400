"""95 % confidence intervals of a sweep's scores.

Of several folds: a t interval over the folds' scores, each the mean of its seeds (seeds retrain
on the same data and are no sample of it). Folds share training data, so that the variance of
their mean is taken as (1 / F + test / train) times that of the folds
(Nadeau and Bengio, *Inference for the Generalization Error*, 2003), as the tables' paired test
does. It speaks of other speakers, and of other training sets of that size.

Of one fold: a bootstrap over its test utterances, within each class. It speaks of other
utterances of these speakers alone, and is too narrow where one speaker's utterances are alike.
"""

import warnings

import numpy as np
import scipy.stats


def half_width(scores: np.ndarray, ratio: float) -> np.ndarray:
    """Half the interval of the mean over F folds.

    Args:
      scores: `[F, ...]`, a fold's mean over its seeds.
      ratio: of `paired.test_over_train`.

    Returns:
      `[...]`; NaN for one fold.
    """
    folds = len(scores)
    if folds < 2:
        return np.full(scores.shape[1:], np.nan)
    variance = (1 / folds + ratio) * scores.var(axis=0, ddof=1)
    return scipy.stats.t.ppf(0.975, folds - 1) * np.sqrt(variance)


def bootstrap(
    hits: np.ndarray, scored: np.ndarray, labels: np.ndarray, missing: slice, draws: int = 2000
) -> np.ndarray:
    """Intervals of WAR and UAR on one test part.

    Args:
      hits: `[n, K]`, the share of the seeds that were right; 0 where not scored.
      scored: `[n, K]` bool; an utterance with none of a condition's modalities is not.
      labels: `[n]`.
      missing: which of the K conditions are averaged.
      draws: of utterances, classes kept as large as they are; always the same ones.

    Returns:
      `[2 (low, high), 2 (WAR, UAR), K + 1]`, the last of the mean over `missing`.
    """
    rng = np.random.default_rng(0)
    right, total, recalls = 0, 0, []
    for label in np.unique(labels):
        rows = labels == label
        n = int(rows.sum())
        weights = rng.multinomial(n, np.full(n, 1 / n), size=draws)
        of_class, size = weights @ hits[rows], weights @ scored[rows].astype(float)
        right, total = right + of_class, total + size
        with np.errstate(invalid="ignore"):
            recalls.append(of_class / size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NaN of what was never scored, or of no condition
        scores = np.stack([right / total, np.nanmean(recalls, axis=0)])  # [2, draws, K]
        average = scores[..., missing].mean(axis=-1, keepdims=True)
        every = np.concatenate([scores, average], axis=-1)
        return np.nanquantile(every, (0.025, 0.975), axis=1)
