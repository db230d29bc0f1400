"""A finished sweep's folder as arrays: what the report page and the figures are made of.

Needs nothing but the folder, which may have been copied from elsewhere.
"""

import contextlib
import csv
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

from cmarr_jax.errors import UserError
from cmarr_jax.results import history, intervals, paired
from cmarr_jax.results.arrays import read_confusion, read_representations
from cmarr_jax.results.rows import read_results
from cmarr_jax.results.summary import KEY, SCORES, plain_conditions
from cmarr_jax.workdir import files
from cmarr_jax.workdir.status import read_status

_T = TypeVar("_T")


class Predictions(NamedTuple):
    """predictions.csv by columns: P predictions, each one run's under one condition."""

    ids: np.ndarray  # [P] str
    run: np.ndarray  # [P], index into `Results.runs`
    condition: np.ndarray  # [P], index into `Results.conditions` and then `Results.curves`
    labels: np.ndarray  # [P] class indices
    posteriors: np.ndarray  # [P, C]
    speakers: np.ndarray  # [P] str, as in the pack; "" in folders of older versions
    groups: np.ndarray  # [P] str, the pack's dialogues or videos; "" where it has none


class Transcripts(NamedTuple):
    """What was said, read from the pack that the config names; licensed, and not kept here."""

    texts: dict[str, str]  # id -> text; empty where there is none
    note: str  # where they come from, or why there are none


class Estimate(NamedTuple):
    """A mean over the runs and its 95 % interval, see `intervals`; NaN where there is none."""

    mean: float
    low: float
    high: float


class Results(NamedTuple):
    """R runs, C classes, K conditions, then the curves. What the folder lacks is None or ()."""

    identity: dict[str, str]  # corpus, system, variant, protocol
    config: dict[str, Any]
    status: dict[str, Any]
    classes: list[str]  # C
    conditions: list[str]  # K, the last is full
    curves: list[str]  # conditions of missing rates and noise
    runs: list[tuple[int, int]]  # R of (fold, seed)
    scores: np.ndarray  # [R, K + curves, 4], as in SCORES; NaN where empty
    num: np.ndarray  # [R, K + curves], utterances scored
    test_over_train: float  # see `paired.test_over_train`
    confusion: np.ndarray  # [R, K, C, C]
    predictions: Predictions | None
    history: list[dict[str, str]]
    reconstruction: list[dict[str, str]]
    representations: Mapping[str, np.ndarray] | None
    audit: dict[str, Any] | None
    said: "Transcripts | None" = None  # of a page that shows them

    @property
    def folds(self) -> list[int]:
        """Numbers of the folds, in order."""
        return list(dict.fromkeys(fold for fold, _ in self.runs))

    @property
    def seeds(self) -> list[int]:
        """The seeds, in order."""
        return list(dict.fromkeys(seed for _, seed in self.runs))

    def tested(self) -> np.ndarray:
        """Utterances that are scored over all folds, `[K + curves]`.

        Every seed is tested on the same ones, so the first seed's are counted.
        """
        first = [r for r, (_, seed) in enumerate(self.runs) if seed == self.seeds[0]]
        return self.num[first].sum(axis=0)

    def majority(self) -> np.ndarray:
        """Mean over the runs of the WAR of always naming the training part's largest class, `[K]`.

        Classes are counted by the leakage audit; NaN without its file.
        """
        try:
            named = {
                int(fold["fold"]): max(
                    range(len(self.classes)),
                    key=lambda c: fold["parts"]["train"]["classes"][self.classes[c]],
                )
                for fold in self.audit["folds"]
            }
            largest = np.array([named[fold] for fold, _ in self.runs])
        except (KeyError, TypeError, ValueError, AttributeError):  # a JSON file may hold anything
            return np.full(len(self.conditions), np.nan)
        support = self.confusion.sum(axis=-1)  # [R, K, C]
        hits = support[np.arange(len(largest)), :, largest]
        return np.mean(hits / np.maximum(support.sum(axis=-1), 1), axis=0)


def load(workdir: str) -> Results:
    """Reads one finished sweep.

    Raises:
      UserError: the sweep is not finished or is several (a table's folder), or a file is
        missing or damaged; names it.
    """
    status = read_status(workdir)
    with _whole(workdir, files.RESULTS):
        rows = read_results(workdir)
        identity = {k: rows[0][k] for k in KEY}
        conditions = plain_conditions(rows)
        names = list(dict.fromkeys(row["condition"] for row in rows))
        curves = [name for name in names if "=" in name]
        runs = list(dict.fromkeys((int(r["fold"]), int(r["seed"])) for r in rows))
        cell = {(int(r["fold"]), int(r["seed"]), r["condition"]): r for r in rows}
        if len(cell) < len(rows):
            raise UserError(f"{workdir}: holds several sweeps; name the folder of one, below it")
        grid = [[cell[*run, name] for name in (*conditions, *curves)] for run in runs]
        scores = np.array([[[float(r[s] or "nan") for s in SCORES] for r in g] for g in grid])
        num = np.array([[int(r["n"]) for r in g] for g in grid])
    with _whole(workdir, files.CONFUSION):
        arrays = read_confusion(workdir)
        confusion, classes = arrays["confusion"], [str(c) for c in arrays["classes"]]
    config = _optional(workdir, files.CONFIG, files.read_json)
    with _whole(workdir, files.PREDICTIONS):
        known = {"runs": runs, "names": (*conditions, *curves), "classes": classes}
        predictions = _optional(workdir, files.PREDICTIONS, lambda f: _predictions(f, **known))
        if predictions is not None:
            held = np.zeros_like(num)
            np.add.at(held, (predictions.run, predictions.condition), 1)
            if (held != num).any():
                raise ValueError(f"{held.sum()} predictions, in {files.RESULTS} {num.sum()}")
    with _whole(workdir, files.RECONSTRUCTION):
        reconstruction = _optional(workdir, files.RECONSTRUCTION, _reconstruction) or []
    with _whole(workdir, files.REPRESENTATIONS):
        representations = _optional(
            workdir, files.REPRESENTATIONS, lambda _: read_representations(workdir)
        )
    return Results(
        identity=identity,
        config=config or {},
        status=status,
        classes=classes,
        conditions=conditions,
        curves=curves,
        runs=runs,
        scores=scores,
        num=num,
        test_over_train=paired.test_over_train(rows),
        confusion=confusion,
        predictions=predictions,
        history=history.read(workdir),
        reconstruction=reconstruction,
        representations=representations,
        audit=_optional(workdir, files.AUDIT, files.read_json),
    )


def is_cut(estimate: Estimate) -> bool:
    """Whether an interval would pass 0 or 1, and ends there."""
    return estimate.low == 0 or estimate.high == 1


def estimates(results: Results) -> dict[str, dict[str, Estimate]]:
    """Means and intervals of all scores; of one fold the intervals rest on its predictions.

    The reconstruction error has no interval, nor has the F1 of one fold.

    Returns:
      Condition -> one of `SCORES` -> estimate: the conditions in order, the full one last, "avg"
      (where any is missing), then the curves.
    """
    scores, num_conditions = results.scores, len(results.conditions)
    names = [*results.conditions, *results.curves]
    if num_conditions > 1:
        average = scores[:, : num_conditions - 1].mean(axis=1, keepdims=True)
        scores = np.concatenate([scores, average], axis=1)
        names = [*names, "avg"]
    per_fold = paired.by_fold(scores, [fold for fold, _ in results.runs])
    mean, half = per_fold.mean(axis=0), intervals.half_width(per_fold, results.test_over_train)
    low, high = mean - half, mean + half
    low[:, 3] = high[:, 3] = np.nan
    if len(results.folds) == 1 and results.predictions is not None:
        low[:, :2], high[:, :2] = np.swapaxes(_bootstrap(results), 1, 2)[:, : len(names)]
    low, high = np.maximum(low, 0), np.minimum(high, 1)
    found = {
        name: {
            score: Estimate(*map(float, (mean[k, s], low[k, s], high[k, s])))
            for s, score in enumerate(SCORES)
        }
        for k, name in enumerate(names)
    }
    order = [*results.conditions, *(["avg"] if "avg" in found else []), *results.curves]
    return {name: found[name] for name in order}


def _bootstrap(results: Results) -> np.ndarray:
    """`intervals.bootstrap` of one fold's seeds, `[2, 2, K + curves + 1]`.

    An utterance counts once, by the share of the seeds that were right: seeds are no sample.
    """
    p = results.predictions
    ids, row = np.unique(p.ids, return_inverse=True)
    shape = (len(ids), len(results.conditions) + len(results.curves))
    hits, count, labels = np.zeros(shape), np.zeros(shape), np.zeros(len(ids), int)
    np.add.at(hits, (row, p.condition), p.posteriors.argmax(axis=-1) == p.labels)
    np.add.at(count, (row, p.condition), 1)
    labels[row] = p.labels
    return intervals.bootstrap(
        hits / np.maximum(count, 1), count > 0, labels, slice(0, len(results.conditions) - 1)
    )


def _predictions(
    file: str, runs: Sequence[tuple[int, int]], names: Sequence[str], classes: Sequence[str]
) -> Predictions:
    run_of = {run: r for r, run in enumerate(runs)}
    name_of = {name: k for k, name in enumerate(names)}
    class_of = {name: c for c, name in enumerate(classes)}
    ids, of_run, of_condition, labels, posteriors, speakers, groups = ([] for _ in range(7))
    for row in files.iterate_csv(file):
        posterior = np.array(row["probabilities"].split(), float)
        if len(posterior) != len(classes):
            raise ValueError(f"{len(posterior)} probabilities for {len(classes)} classes")
        ids.append(row["id"])
        of_run.append(run_of[int(row["fold"]), int(row["seed"])])
        of_condition.append(name_of[row["condition"]])
        labels.append(class_of[row["label"]])
        posteriors.append(posterior)
        speakers.append(row.get("speaker", ""))
        groups.append(row.get("group", ""))
    columns = (ids, of_run, of_condition, labels, posteriors, speakers, groups)
    return Predictions(*map(np.array, columns))


def _reconstruction(file: str) -> list[dict[str, str]]:
    rows = files.read_csv(file)
    for row in rows:  # a damaged number is found here, not while a figure is drawn
        float(row["rec_error"]), int(row["n"])
    return rows


def _optional(workdir: str, name: str, read: Callable[[str], _T]) -> _T | None:
    """What `read(file)` makes of a file; None if there is none."""
    file = os.path.join(workdir, name)
    return read(file) if os.path.exists(file) else None


@contextlib.contextmanager
def _whole(workdir: str, name: str) -> Iterator[None]:
    """Makes one line of whatever a damaged file raises: it may hold anything."""
    damaged = (ValueError, KeyError, IndexError, TypeError, AttributeError, EOFError, OSError)
    try:
        yield
    except UserError:
        raise
    except (*damaged, csv.Error, zipfile.BadZipFile) as e:
        raise UserError(
            f"{os.path.join(workdir, name)}: missing or damaged ({type(e).__name__}: {e}); copy "
            "the folder anew, or run train.py with the same flags in a new --workdir"
        ) from None
