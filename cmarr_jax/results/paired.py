"""Whether one system is better than another: a paired test over the folds of a protocol.

Seeds retrain on the same data and are no sample of it, so that a fold's difference is the mean of
its seeds' differences. Folds share training data: the variance of their mean is taken as
(1 / F + test / train) times that of the folds (Nadeau and Bengio, *Inference for the Generalization
Error*, Machine Learning 52, 2003). Several comparisons are corrected after Holm (1979). One fold
alone is tested by `bootstrap`.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import scipy.optimize
import scipy.stats

from cmarr_jax.results import intervals

LEVEL, POWER = 0.05, 0.8  # of what is called detectable


class Tested(NamedTuple):
    """What is known of differences; NaN where they are not defined or there is no test."""

    p_value: np.ndarray  # [...], two-sided
    interval: np.ndarray  # [2, ...], the ends of the 95 % interval
    detectable: np.ndarray  # [...], see `detectable`


def by_fold(values: np.ndarray, folds: Sequence[object]) -> np.ndarray:
    """`[F, ...]`, each fold the mean of its seeds.

    Args:
      values: `[R, ...]`, one a run.
      folds: the R runs' folds.
    """
    fold_of = np.array(folds)
    return np.stack([values[fold_of == fold].mean(axis=0) for fold in dict.fromkeys(folds)])


def test_over_train(results: Sequence[Mapping[str, str]]) -> float:
    """Size of a test part over that of its training part, the folds' mean.

    Args:
      results: rows of results.csv. Those of versions before the column `n_train` are taken to hold
        folds of equal size that learn from all the others, 1 / (F - 1); NaN of one such fold.
    """
    of_fold: dict[str, list[tuple[int, int]]] = {}
    for row in results:
        sizes = int(row["n"]), int(row.get("n_train") or 0)
        of_fold.setdefault(row["fold"], []).append(sizes)
    # A condition scores the utterances that have one of its modalities: complete data scores most.
    whole = [max(sizes) for sizes in of_fold.values()]
    if all(train for _, train in whole):
        return float(np.mean([test / train for test, train in whole]))
    return 1 / (len(whole) - 1) if len(whole) > 1 else float("nan")


def test(differences: np.ndarray, ratio: float) -> Tested:
    """The corrected t-test of many differences.

    Args:
      differences: `[F, ...]`, one a fold.
      ratio: of `test_over_train`.
    """
    middle, half = differences.mean(axis=0), intervals.half_width(differences, ratio)
    return Tested(
        np.apply_along_axis(p_value, 0, differences, ratio),
        np.stack([middle - half, middle + half]),
        detectable(differences, ratio),
    )


def p_value(differences: np.ndarray, ratio: float) -> float:
    """Two-sided p of Nadeau and Bengio's corrected t-test; NaN for one fold or no variance.

    Args:
      differences: `[F]`, one a fold.
      ratio: of `test_over_train`.
    """
    folds = len(differences)
    if folds < 2 or np.ptp(differences) == 0:
        return float("nan")
    return float(
        2 * scipy.stats.t.sf(abs(differences.mean()) / _error(differences, ratio), folds - 1)
    )


def detectable(differences: np.ndarray, ratio: float) -> np.ndarray:
    """The true difference that `p_value` finds at `LEVEL` with probability `POWER`.

    Args:
      differences: `[F, ...]`, of which the standard errors are taken.
      ratio: of `test_over_train`.

    Returns:
      `[...]`; NaN for one fold.
    """
    if len(differences) < 2:
        return np.full(differences.shape[1:], np.nan)
    return detectable_errors(len(differences) - 1) * _error(differences, ratio)


def detectable_errors(freedom: int) -> float:
    """What a two-sided t-test finds at `LEVEL` with probability `POWER`, in standard errors.

    Args:
      freedom: degrees of freedom of the standard error.
    """
    limit = scipy.stats.t.ppf(1 - LEVEL / 2, freedom)
    # SciPy's noncentral t is NaN far out, so that the standard error's distribution is summed up.
    middles = (np.arange(1000) + 0.5) / 1000
    errors = np.sqrt(scipy.stats.chi2.ppf(middles, freedom) / freedom)

    def lacks(shift: float) -> float:
        above = scipy.stats.norm.sf(limit * errors - shift)
        below = scipy.stats.norm.cdf(-limit * errors - shift)
        return float(np.mean(above + below)) - POWER

    return float(scipy.optimize.brentq(lacks, 0.1, 1000.0))


def holm(p: np.ndarray) -> np.ndarray:
    """Holm's step-down correction of p-values.

    Args:
      p: `[S]`; NaN stays NaN and does not count as a comparison.

    Returns:
      `[S]`, at most 1.
    """
    adjusted, known = np.full(len(p), np.nan), np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known])]
    steps = [p[i] * (len(order) - rank) for rank, i in enumerate(order)]
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1) if steps else []
    return adjusted


def _error(differences: np.ndarray, ratio: float) -> np.ndarray:
    return np.sqrt((1 / len(differences) + ratio) * differences.var(axis=0, ddof=1))
