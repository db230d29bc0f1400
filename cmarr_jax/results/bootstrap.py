"""Whether one system is better than another on one test part: a paired bootstrap over clusters.

A corpus with an official split has one test part and so no folds to compare over. Its utterances
are drawn anew instead, the same ones for every system, and whole clusters of them: those of one
dialogue, video or speaker are alike, and are recognised or missed together. Drawn one by one they
would pass for more than they are (Field and Welsh, *Bootstrapping Clustered Data*, 2007; of speech,
Liu and Peng, *Statistical Testing on ASR Performance via Blockwise Bootstrap*, 2020). Two
recognisers on the same resamples: Bisani and Ney, *Bootstrap Estimates for Confidence Intervals in
ASR Performance Evaluation*, ICASSP 2004.

In a resample each seed's scores follow from its counts of that resample, and a system's score is
the mean over its seeds. Seeds are not drawn, since they are no sample of utterances: the test
speaks of these trained models on other utterances of the kind, not of training them anew.

p and interval are those of percentiles (Efron and Tibshirani, *An Introduction to the Bootstrap*,
1993, chapters 13 and 15), which G clusters make too narrow: by sqrt((G - 1) / G), and by normal
quantiles in place of t's. Both are mended as Hesterberg does (*What Teachers Should Know About the
Bootstrap*, The American Statistician 69, 2015, "expanded percentile"). Few clusters of unequal
sizes still reject too often.
"""

import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy.stats

from cmarr_jax.errors import UserError
from cmarr_jax.results import folder, paired
from cmarr_jax.workdir import files

RESAMPLES = 10_000
FEWEST, FEW = 5, 20  # clusters: of fewer there is no test; of fewer it is called optimistic
_TOGETHER = 500  # resamples, for the memory that they take
_SAME = 12  # decimals to which scores are compared, so that sums in another order are a tie


class Sample(NamedTuple):
    """One test part: S systems, R seeds, K conditions, C classes."""

    counts: np.ndarray  # [G, S, R, K, 3, C], each class's hits, predictions and labels by cluster
    unit: str  # what the G clusters are, in the plural
    classes: list[str]  # C


def read(workdirs: Sequence[str]) -> Sample:
    """The predictions of several systems on one test part.

    Clusters are the pack's groups where every tested utterance has one, else its speakers.

    Args:
      workdirs: of S finished sweeps, each of one fold and of the same seeds.

    Raises:
      UserError: a folder lacks its predictions or is damaged; or the predictions name no cluster,
        fewer than `FEWEST`, or other utterances than those of the first system.
    """
    counts, first, classes = [], None, []
    for workdir in workdirs:
        file = os.path.join(workdir, files.PREDICTIONS)
        if not os.path.exists(file):
            raise UserError(f"{file}: missing; copy the whole folder")
        found = folder.load(workdir)
        p = found.predictions
        plain = p.condition < len(found.conditions)
        seed = np.argsort(np.argsort([seed for _, seed in found.runs]))[p.run]
        order = np.lexsort((p.ids, p.condition, seed))
        order = order[plain[order]]
        tested = [seed[order], p.condition[order], p.ids[order], p.labels[order]]
        if first is None:
            first, classes = tested, found.classes
            cluster, unit = _clusters(file, p.groups[order], p.speakers[order])
        elif found.classes != classes or not all(map(np.array_equal, first, tested)):
            raise UserError(f"{workdir} was tested on other utterances than {workdirs[0]}")
        seed, condition, _, label = tested
        shape = (cluster.max() + 1, len(found.runs), len(found.conditions), 3, len(classes))
        made, guess = np.zeros(shape), p.posteriors[order].argmax(axis=-1)
        np.add.at(made, (cluster, seed, condition, 0, label), guess == label)
        np.add.at(made, (cluster, seed, condition, 1, guess), 1)
        np.add.at(made, (cluster, seed, condition, 2, label), 1)
        counts.append(made)
    return Sample(np.stack(counts, axis=1), unit, classes)


def _clusters(file: str, groups: np.ndarray, speakers: np.ndarray) -> tuple[np.ndarray, str]:
    """Each prediction's cluster, counted from 0, and what clusters are."""
    for names, unit in ((groups, "groups (dialogues or videos)"), (speakers, "speakers")):
        if names.all():
            found, cluster = np.unique(names, return_inverse=True)
            if len(found) < FEWEST:
                raise UserError(f"{file}: {len(found)} {unit} in one test part are no sample")
            return cluster, unit
    raise UserError(
        f"{file}: names neither group nor speaker of its utterances, as those of older versions; "
        f"delete {files.STATUS} beside it, and train.py with the same flags writes it anew"
    )


def resample(sample: Sample, scores: Sequence[str], draws: int = RESAMPLES) -> np.ndarray:
    """Scores in resamples of whole clusters, the same clusters for every system.

    A class that has no utterance in a resample takes no part in its UAR and macro F1, as in
    `metrics.scores`, and its recall there is NaN; so is every score of a condition without any.

    Args:
      sample: of `read`.
      scores: K' columns of a table, see `classes.columns`.
      draws: B resamples; always the same ones.

    Returns:
      `[B, K + 1, S, K']`, shares of 1: the conditions in order, the last of them after "avg", the
      mean of the others.
    """
    rng = np.random.default_rng(0)
    clusters, *shape = sample.counts.shape
    counts, made = sample.counts.reshape(clusters, -1), []
    for start in range(0, draws, _TOGETHER):
        chosen = rng.integers(clusters, size=(min(_TOGETHER, draws - start), clusters))
        times = np.zeros(chosen.shape)
        np.add.at(times, (np.arange(len(chosen))[:, None], chosen), 1)
        # Sums of whole numbers, exact in any order.
        drawn = (times @ counts).reshape(-1, *shape)
        made.append(_scores(drawn, scores, sample.classes).mean(axis=2))
    every = np.moveaxis(np.concatenate(made), 2, 1)
    average = every[:, :-1].mean(axis=1, keepdims=True)
    return np.concatenate([every[:, :-1], average, every[:, -1:]], axis=1)


def test(differences: np.ndarray, clusters: int) -> paired.Tested:
    """Two-sided p, 95 % interval and power of differences in resamples.

    Args:
      differences: `[B, ...]`; NaN where a resample says nothing, and is left out.
      clusters: how many were drawn from, and as many drawn.
    """
    drawn, freedom = np.round(differences, _SAME), clusters - 1
    known = ~np.isnan(drawn)
    tail = np.minimum((drawn <= 0).sum(axis=0), (drawn >= 0).sum(axis=0))
    shrunk = np.sqrt(freedom / clusters)
    share = (1 + tail) / (1 + known.sum(axis=0))
    p = np.minimum(2 * scipy.stats.t.sf(scipy.stats.norm.isf(share) * shrunk, freedom), 1)
    end = scipy.stats.norm.cdf(scipy.stats.t.ppf(paired.LEVEL / 2, freedom) / shrunk)
    # A score that is never defined has no quantiles either, and NumPy need not say so.
    safe = np.where(known.any(axis=0), drawn, 0)
    undefined = np.where(known.any(axis=0), 0, np.nan)
    return paired.Tested(
        p + undefined,
        np.nanquantile(safe, (end, 1 - end), axis=0) + undefined,
        np.nanstd(safe, axis=0) / shrunk * paired.detectable_errors(freedom) + undefined,
    )


def _scores(counts: np.ndarray, names: Sequence[str], classes: Sequence[str]) -> np.ndarray:
    """Of counts `[..., 3, C]` the scores `[..., K']`, as `metrics` has them of one matrix."""
    hits, predicted, labels = np.moveaxis(counts, -2, 0)
    num, occurring = labels.sum(axis=-1), (labels > 0).sum(axis=-1)

    def f1() -> np.ndarray:
        return np.where(labels > 0, 2 * hits / (labels + predicted), 0)

    made = {
        "war": lambda: hits.sum(axis=-1) / num,
        "uar": lambda: (hits / np.maximum(labels, 1)).sum(axis=-1) / occurring,
        "macro_f1": lambda: f1().sum(axis=-1) / occurring,
        "weighted_f1": lambda: (labels * f1()).sum(axis=-1) / num,
    }
    of_class = {f"recall {name}": c for c, name in enumerate(classes)}
    with np.errstate(invalid="ignore"):
        columns = [
            hits[..., of_class[name]] / labels[..., of_class[name]]
            if name in of_class
            else made[name]()
            for name in names
        ]
    return np.stack(columns, axis=-1)
