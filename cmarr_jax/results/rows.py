"""The rows of a sweep's result files: made of scores, written, and read again."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cmarr_jax import metrics
from cmarr_jax.data.pipeline import Corpus
from cmarr_jax.data.protocol import Condition, Fold
from cmarr_jax.errors import UserError
from cmarr_jax.results.arrays import write_confusion
from cmarr_jax.results.summary import SCORES, number, summarise
from cmarr_jax.runtime.files import write_csv, write_json
from cmarr_jax.workdir import files
from cmarr_jax.workdir.status import (
    check_same_corpus,
    has_results,
    is_ended,
    read_status,
    stopped_runs,
)


def write_results(
    workdir: str,
    *,
    identity: Mapping[str, str],
    corpus: Corpus,
    conditions: Sequence[Condition],
    curves: Sequence[Condition],
    run_ids: Sequence[tuple[Fold, int]],
    scored: Sequence[Any],
) -> None:
    """Writes every result file of a finished sweep, each one whole or not at all.

    Args:
      workdir: the sweep's folder.
      identity: corpus, system, variant and protocol, as they stand in every row.
      corpus: its labels, class names, ids, speakers, groups and modalities.
      conditions: the K conditions; the last is "full".
      curves: further conditions, of missing rates and noise.
      run_ids: fold and seed of the R runs.
      scored: `evaluation.Scored` of each run's test part under `conditions`, then `curves`.
    """
    results, reconstruction, predictions, confusions = [], [], [], []
    for (fold, seed), run in zip(run_ids, scored, strict=True):
        confusion = run.confusion(corpus.labels)
        confusions.append(confusion[: len(conditions)])
        predicted = run.posteriors.argmax(axis=-1)
        for k, condition in enumerate([*conditions, *curves]):
            ok = run.predictable[k]
            here = {"fold": fold.number, "seed": seed, "condition": condition.name}
            rec_error = _mean_of_finite(run.rec_errors[k][ok])
            values = (*metrics.scores(confusion[k]), rec_error)
            scores = {name: number(v) for name, v in zip(SCORES, values, strict=True)}
            recalls = " ".join(f"{x:.6f}" for x in metrics.recalls(confusion[k]))
            more = {"n_train": len(fold.train), "recalls": recalls}
            more["weighted_f1"] = number(metrics.weighted_f1(confusion[k]))
            results.append({**identity, **here, "n": int(ok.sum()), **scores, **more})
            for m, errors in zip(
                corpus.modalities, run.rec_errors_by_modality[k][ok].T, strict=True
            ):
                if n := int(np.isfinite(errors).sum()):
                    error = number(_mean_of_finite(errors))
                    reconstruction.append({**here, "modality": m, "n": n, "rec_error": error})
            for j in np.flatnonzero(ok):
                row = run.rows[j]
                group = corpus.columns["group"][row] if "group" in corpus.columns else ""
                predictions.append(
                    {
                        "id": corpus.columns["id"][row],
                        **here,
                        "label": corpus.class_names[corpus.labels[row]],
                        "predicted": corpus.class_names[predicted[k, j]],
                        "probabilities": " ".join(f"{p:.6f}" for p in run.posteriors[k, j]),
                        "speaker": corpus.columns["speaker"][row],
                        "group": group,
                    }
                )
    write_csv(os.path.join(workdir, files.RESULTS), results)
    write_csv(os.path.join(workdir, files.SUMMARY), summarise(results))
    write_csv(os.path.join(workdir, files.PREDICTIONS), predictions)
    if reconstruction:
        write_csv(os.path.join(workdir, files.RECONSTRUCTION), reconstruction)
    runs = [(fold.number, seed) for fold, seed in run_ids]
    names = [condition.name for condition in conditions]
    write_confusion(workdir, np.stack(confusions), corpus.class_names, names, runs)


def _mean_of_finite(values: np.ndarray) -> float:
    values = values[np.isfinite(values)]
    return float(values.mean()) if len(values) else float("nan")


def join(workdir: str, members: Sequence[str], missing: int) -> None:
    """Joins the results of sweeps that ended; complete when all are there and no run was stopped.

    Args:
      workdir: the folder of them all, where results.csv, summary.csv and status.json are written.
      members: the sweeps' own folders.
      missing: how many further sweeps have not ended.

    Raises:
      UserError: they are of different corpora.
    """
    check_same_corpus(members)
    results, stopped = [], []
    for member in members:
        name = os.path.basename(member)
        stopped += [{"sweep": name} | s for s in read_status(member).get("stopped", ())]
        if not os.path.exists(os.path.join(member, files.RESULTS)):
            continue  # every run of it was stopped
        own = files.read_csv(os.path.join(member, files.RESULTS))
        results += [row | {"sweep": name} for row in own]
    if results:
        write_csv(os.path.join(workdir, files.RESULTS), results)
        write_csv(os.path.join(workdir, files.SUMMARY), summarise(results))
    seconds = sum(read_status(member)["seconds"] for member in members)
    status = {"complete": not missing and not stopped, "sweeps_done": len(members)}
    status |= {"sweeps": len(members) + missing, "seconds": round(seconds, 1)}
    if stopped and not missing:
        status["stopped"] = stopped
    write_json(os.path.join(workdir, files.STATUS), status)


def read_members(workdir: str) -> list[str]:
    """Names of the sweeps whose results a folder joins, in order; none of the folder of one.

    Raises:
      UserError: config.json is damaged.
    """
    file = os.path.join(workdir, files.CONFIG)
    # A copied folder may lack its config: it is then taken for one sweep.
    members = files.read_json(file).get("members") if os.path.exists(file) else ()
    return [name for name, _ in members or ()]


def read_runs(workdir: str) -> list[dict[str, Any]]:
    """fold, seed, epoch and val_uar of each run of an ended sweep that was not stopped.

    The epoch is the one that was tested; val_uar is its UAR on the validation part, 0 to 1, the
    predictions of all conditions pooled; None where there is no such part.

    Raises:
      UserError: the model's facts are missing or damaged.
    """
    if not has_results(workdir):
        return []
    file = os.path.join(workdir, files.MODEL, files.MODEL_FACTS)
    try:
        return files.read_json(file)["runs"]
    except (FileNotFoundError, KeyError):
        raise UserError(f"{file}: missing or damaged; copy the folder anew, whole") from None


def read_results(workdir: str) -> list[dict[str, str]]:
    """Rows of WORKDIR/results.csv.

    Raises:
      UserError: the sweep is not finished, or there is none.
    """
    return _read(workdir, files.RESULTS)


def read_summary(workdir: str) -> list[dict[str, str]]:
    """Rows of WORKDIR/summary.csv.

    Raises:
      UserError: the sweep is not finished, or there is none.
    """
    return _read(workdir, files.SUMMARY)


def _read(workdir: str, name: str) -> list[dict[str, str]]:
    status = read_status(workdir)
    check_same_corpus(sorted(f.path for f in os.scandir(workdir) if f.is_dir()))
    if not is_ended(workdir):
        unit = "sweeps" if "sweeps" in status else "epochs"
        done = f"{status.get(f'{unit}_done', 0)} of {status.get(unit, '?')} {unit}"
        raise UserError(
            f"{workdir}: the sweep is not complete ({done}); "
            "run train.py with the same flags to resume"
        )
    if not os.path.exists(os.path.join(workdir, name)):
        raise UserError(
            "; ".join(stopped_runs(workdir))
            or f"{os.path.join(workdir, name)}: missing; delete {files.STATUS} beside it, and "
            "train.py with the same flags writes it anew"
        )
    file = os.path.join(workdir, name)
    try:
        return files.read_csv(file)
    except ValueError as e:
        raise UserError(f"{file}: missing or damaged ({e}); copy the folder anew") from None
