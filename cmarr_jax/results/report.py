"""Result files of a sweep and the table that a paper shows. Reads and writes the work directory.

results.csv      a row a (fold, seed, condition)
reconstruction.csv  a row a (fold, seed, condition, missing modality)
summary.csv      mean and standard deviation over folds and seeds, "avg" and "full" too
predictions.csv  a row a (fold, seed, condition, utterance)
confusion.npz    counts [run, condition, true class, predicted class]
representations.npz  of some test utterances of the first run, recovered and true
history.csv      a row an (epoch, fold, seed), see history.py
status.json      whether all of this is complete, and which runs were stopped; device, time and
                 versions
"""

import contextlib
import csv
import io
import json
import os
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

import numpy as np

from cmarr_jax import metrics
from cmarr_jax.errors import UserError
from cmarr_jax.files import cannot_write, write_whole
from cmarr_jax.stopped import Stopped

_KEY = ("corpus", "system", "variant", "protocol")
_SCORES = ("war", "uar", "macro_f1", "rec_error")


def write_results(
    workdir: str,
    *,
    identity: Mapping[str, str],
    corpus: Any,
    conditions: Sequence[Any],
    curves: Sequence[Any],
    run_ids: Sequence[Any],
    scored: Sequence[Any],
) -> None:
    """Writes every result file of a finished sweep, each one whole or not at all.

    Args:
      workdir: the sweep's folder.
      identity: corpus, system, variant and protocol, as they stand in every row.
      corpus: `data.pipeline.Corpus`.
      conditions: the K conditions; the last is "full".
      curves: further conditions, of missing rates and noise.
      run_ids: the R runs.
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
            scores = {name: number(v) for name, v in zip(_SCORES, values, strict=True)}
            results.append({**identity, **here, "n": int(ok.sum()), **scores})
            for m, errors in zip(
                corpus.modalities, run.rec_errors_by_modality[k][ok].T, strict=True
            ):
                if n := int(np.isfinite(errors).sum()):
                    error = number(_mean_of_finite(errors))
                    reconstruction.append({**here, "modality": m, "n": n, "rec_error": error})
            for j in np.flatnonzero(ok):
                row = run.rows[j]
                predictions.append(
                    {
                        "id": corpus.columns["id"][row],
                        **here,
                        "label": corpus.class_names[corpus.labels[row]],
                        "predicted": corpus.class_names[predicted[k, j]],
                        "probabilities": " ".join(f"{p:.6f}" for p in run.posteriors[k, j]),
                    }
                )
    _write_csv(os.path.join(workdir, "results.csv"), results)
    _write_csv(os.path.join(workdir, "summary.csv"), summarise(results))
    _write_csv(os.path.join(workdir, "predictions.csv"), predictions)
    if reconstruction:
        _write_csv(os.path.join(workdir, "reconstruction.csv"), reconstruction)
    buffer = io.BytesIO()
    np.savez(
        buffer,
        confusion=np.stack(confusions),
        folds=np.array([fold.number for fold, _ in run_ids]),
        seeds=np.array([seed for _, seed in run_ids]),
        conditions=np.array([c.name for c in conditions]),
        classes=np.array(corpus.class_names),
    )
    write_whole(os.path.join(workdir, "confusion.npz"), buffer.getvalue())


class Scalars:
    """TensorBoard scalars of a sweep, a folder a run; a context manager.

    An epoch that comes again after a kill is written again, in another file, with the same
    values.
    """

    def __init__(self, workdir: str, run_ids: Sequence[Any]):
        from tensorboard.summary import Writer  # imports TensorFlow where that is installed

        self._folder, self._writers = os.path.join(workdir, "metrics"), []
        with self._one_line():
            for fold, seed in run_ids:
                folder = os.path.join(self._folder, f"fold{fold.number}_seed{seed}")
                self._writers.append(Writer(folder))

    def __enter__(self) -> "Scalars":
        return self

    def __exit__(self, kind, error, traceback) -> None:
        try:
            with self._one_line():
                for writer in self._writers:
                    writer.close()
        except UserError:
            if error is None:
                raise

    def write(self, epoch: Any) -> None:
        """Writes one `training.Epoch`, and sees that it is on the disk before its checkpoint.

        Raises:
          UserError: no space, no permission, a read-only disk.
        """
        series = {f"{epoch.stage}train/{name}": v for name, v in epoch.terms.items()}
        series[f"{epoch.stage}val/uar"] = epoch.val_uar
        with self._one_line():
            for r in np.flatnonzero(epoch.trained):
                for name, values in series.items():
                    self._writers[r].add_scalar(name, float(values[r]), epoch.number)
                self._writers[r].flush()

    @contextlib.contextmanager
    def _one_line(self):
        try:
            yield
        except Exception as e:  # TensorFlow's file system has errors of its own
            raise UserError(cannot_write(self._folder, e)) from None


def versions() -> dict[str, str]:
    """Of what the numbers depend on."""
    packages = ("jax", "jaxlib", "flax", "optax", "numpy")
    return {"python": platform.python_version()} | {p: metadata.version(p) for p in packages}


def summarise(results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows of summary.csv: each condition, "avg" (the arithmetic mean of the missing
    conditions, taken within each run) and "full".

    Args:
      results: rows of results.csv; per run the conditions in order, the last of them full, then
        those of curves ("missing=0.3"), which "avg" leaves out.

    Returns:
      Rows with mean and sample standard deviation over the runs; empty where undefined.
    """
    summary = []
    for key in dict.fromkeys(tuple(row[k] for k in _KEY) for row in results):
        rows = [row for row in results if tuple(row[k] for k in _KEY) == key]
        everything = list(dict.fromkeys(row["condition"] for row in rows))
        conditions = plain_conditions(rows)
        runs = list(dict.fromkeys((row["fold"], row["seed"]) for row in rows))
        cell = {(row["fold"], row["seed"], row["condition"]): row for row in rows}
        groups = [(c, [c]) for c in conditions]
        if len(conditions) > 1:
            groups.append(("avg", conditions[:-1]))
        groups.append(("full", conditions[-1:]))
        groups += [(c, [c]) for c in everything if "=" in c]
        for name, members in groups:
            line = dict(zip(_KEY, key, strict=True)) | {"condition": name, "runs": len(runs)}
            for score in _SCORES:
                per_run = np.array(
                    [
                        np.mean([float(cell[*run, c][score] or "nan") for c in members])
                        for run in runs
                    ]
                )
                line[score] = number(per_run.mean())
                line[f"{score}_std"] = number(per_run.std(ddof=1) if len(runs) > 1 else np.nan)
            summary.append(line)
    return summary


def plain_conditions(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of the conditions of the paper, full last: neither means nor curves."""
    names = dict.fromkeys(row["condition"] for row in rows)
    return [name for name in names if name not in ("avg", "full") and "=" not in name]


def gather(workdir: str, members: Sequence[str], missing: int) -> None:
    """Joins the results of finished sweeps in `workdir`; it is complete when none is missing and
    none of their runs was stopped."""
    results, stopped = [], []
    for member in members:
        name = os.path.basename(member)
        stopped += [{"sweep": name} | s for s in read_status(member).get("stopped", ())]
        if not os.path.exists(os.path.join(member, "results.csv")):
            continue  # every run of it was stopped
        with open(os.path.join(member, "results.csv"), newline="", encoding="utf-8") as f:
            results += csv.DictReader(f)
    if results:
        _write_csv(os.path.join(workdir, "results.csv"), results)
        _write_csv(os.path.join(workdir, "summary.csv"), summarise(results))
    seconds = sum(read_status(member)["seconds"] for member in members)
    status = {"complete": not missing and not stopped, "sweeps_done": len(members)}
    status |= {"sweeps": len(members) + missing, "seconds": round(seconds, 1)}
    if stopped and not missing:
        status["stopped"] = stopped
    write_json(os.path.join(workdir, "status.json"), status)


def read_results(workdir: str) -> list[dict[str, str]]:
    """Rows of WORKDIR/results.csv.

    Raises:
      UserError: the sweep is not finished, or there is none.
    """
    return _read_csv(workdir, "results.csv")


def read_summary(workdir: str) -> list[dict[str, str]]:
    """Rows of WORKDIR/summary.csv.

    Raises:
      UserError: the sweep is not finished, or there is none.
    """
    return _read_csv(workdir, "summary.csv")


def _read_csv(workdir: str, name: str) -> list[dict[str, str]]:
    status = read_status(workdir)
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
            or f"{os.path.join(workdir, name)}: missing; delete status.json beside it, and "
            "train.py with the same flags writes it anew"
        )
    with open(os.path.join(workdir, name), newline="", encoding="utf-8") as f:
        return list(csv.DictReader(f))


def is_ended(workdir: str) -> bool:
    """Whether `workdir` holds a sweep that nothing is to be added to: each of its runs has its
    results or was stopped."""
    if not os.path.exists(os.path.join(workdir, "status.json")):
        return False
    status = read_status(workdir)
    return bool(status.get("complete") or status.get("stopped"))


def has_results(workdir: str) -> bool:
    """Whether a run of an ended sweep has results."""
    return os.path.exists(os.path.join(workdir, "results.csv"))


def stopped_runs(workdir: str) -> list[str]:
    """A line for each run of an ended sweep that was stopped, and so has no results."""
    return [
        (f"{s.pop('sweep')}: " if "sweep" in s else "") + str(Stopped(**s))
        for s in read_status(workdir).get("stopped", ())
    ]


def read_status(workdir: str) -> dict[str, Any]:
    """WORKDIR/status.json.

    Raises:
      UserError: there is none.
    """
    file = os.path.join(workdir, "status.json")
    try:
        return read_json(file)
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"{file}: missing, so --workdir={workdir} holds no sweep of train.py"
        ) from None


def read_confusion(workdir: str) -> dict[str, np.ndarray]:
    """Arrays of WORKDIR/confusion.npz: confusion, folds, seeds, conditions, classes.

    Raises:
      UserError: there is none, as in the folder of a table.
    """
    file = os.path.join(workdir, "confusion.npz")
    return _read_arrays(file, "--figure draws one sweep: name a folder below --workdir")


def write_representations(workdir: str, modalities: Sequence[str], pair: Sequence) -> None:
    """Writes what the first run recovered and what is true, `[M, n, D]` each."""
    buffer = io.BytesIO()
    np.savez(buffer, recovered=pair[0], true=pair[1], modalities=np.array(modalities))
    write_whole(os.path.join(workdir, "representations.npz"), buffer.getvalue())


def read_representations(workdir: str) -> dict[str, np.ndarray]:
    """Arrays of WORKDIR/representations.npz: recovered, true, modalities.

    Raises:
      UserError: there is none.
    """
    return _read_arrays(
        os.path.join(workdir, "representations.npz"),
        "wanted the folder of one finished sweep whose system recovers missing modalities",
    )


def _read_arrays(file: str, remedy: str) -> dict[str, np.ndarray]:
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return dict(arrays)
    except FileNotFoundError:
        raise UserError(f"{file}: missing; {remedy}") from None


def read_json(file: str) -> dict[str, Any]:
    """Reads a JSON file of the work directory.

    Raises:
      UserError: it is damaged.
    """
    with open(file, encoding="utf-8") as f:
        try:
            return json.load(f)
        except ValueError as e:
            raise UserError(
                f"{file}: damaged, not JSON ({e}); delete it, and train.py with the same flags "
                "goes on from the checkpoints"
            ) from None


def write_json(file: str, content: Mapping[str, Any]) -> None:
    """Writes a JSON file, whole or not at all."""
    write_whole(file, json.dumps(content, indent=2, default=str).encode() + b"\n")


def table(summary: Sequence[Mapping[str, str]]) -> str:
    """The summary as the paper's table: conditions as rows, per cent, mean ± std over runs."""
    lines = []
    for key in dict.fromkeys(tuple(row[k] for k in _KEY) for row in summary):
        rows = [row for row in summary if tuple(row[k] for k in _KEY) == key]
        corpus, system, variant, protocol = key
        lines += [f"{system} ({variant}) on {corpus}; {protocol}; {rows[0]['runs']} runs", ""]
        lines.append(
            f"{'available':<12}{'WAR %':>14}{'UAR %':>14}{'macro F1 %':>14}{'rec. error':>12}"
        )
        *missing, full = plain_conditions(rows)
        names = {c: "{" + ",".join(c) + "}" for c in missing}
        names |= {r["condition"]: r["condition"] for r in rows if "=" in r["condition"]}
        names |= {"avg": "avg", "full": "full {" + ",".join(full) + "}"}
        for row in rows:
            if row["condition"] in names:
                if row["condition"] == "avg":
                    lines.append("-" * 66)
                cells = "".join(f"{_cell(row, s):>14}" for s in _SCORES[:3])
                error = f"{float(row['rec_error']):.2f}" if row["rec_error"] else ""
                lines.append(f"{names[row['condition']]:<12}{cells}{error:>12}")
        lines.append("")
    return "\n".join(lines)


def _cell(row: Mapping[str, str], score: str) -> str:
    deviation = row[f"{score}_std"]
    mean = 100 * float(row[score] or "nan")
    return f"{mean:.2f} ± {100 * float(deviation):.2f}" if deviation else f"{mean:.2f}"


def _mean_of_finite(values: np.ndarray) -> float:
    values = values[np.isfinite(values)]
    return float(values.mean()) if len(values) else float("nan")


def number(value: float) -> str:
    """As it stands in every result file; empty where it is undefined."""
    return "" if np.isnan(value) else f"{value:.6f}"


def _write_csv(file: str, rows: Sequence[Mapping[str, Any]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_whole(file, text.getvalue().encode())
