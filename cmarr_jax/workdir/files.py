"""The files of a work directory: their names, how they are read, what is said of damaged ones.

config.json            the whole config
status.json            whether it is complete, which runs were stopped, device, time, versions
audit.json             what `cmarr_jax.data.audit` found before training
results.csv            a row for each fold, seed and condition
summary.csv            mean and deviation over folds and seeds, "avg" and "full" too
reconstruction.csv     a row for each fold, seed, condition and missing modality
predictions.csv        a row for each fold, seed, condition and utterance
history.csv            a row for each epoch, fold and seed
confusion.npz          counts [run, condition, true class, predicted class]
representations.npz    recovered and true, for some test utterances of the first run
metrics/               for TensorBoard
checkpoints/           see `cmarr_jax.workdir.checkpoints`
model/                 see `cmarr_jax.workdir.model_folder`
report.html            a page with all of it, if asked for
sweep.csv              in the folder above those of sweep.py's entries: all their results
tuned/                 beside sweep.csv: a folder like this one, of the entry that each fold chose
tuning.csv             in tuned/: a row for each fold and entry, with its validation score
"""

import csv
import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from cmarr_jax.errors import UserError

CONFIG, STATUS, AUDIT = "config.json", "status.json", "audit.json"
RESULTS, SUMMARY, RECONSTRUCTION = "results.csv", "summary.csv", "reconstruction.csv"
PREDICTIONS, HISTORY = "predictions.csv", "history.csv"
CONFUSION, REPRESENTATIONS = "confusion.npz", "representations.npz"
METRICS, CHECKPOINTS, MODEL, TEACHERS = "metrics", "checkpoints", "model", "teachers"
MODEL_FACTS = "model.json"  # in MODEL
REPORT, SWEEP = "report.html", "sweep.csv"
TUNED, TUNING = "tuned", "tuning.csv"


def read_json(file: str) -> dict[str, Any]:
    """Reads a JSON file of a work directory.

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


def read_csv(file: str) -> list[dict[str, str]]:
    """The rows of a CSV file that exists; raises as `iterate_csv`."""
    return list(iterate_csv(file))


def iterate_csv(file: str) -> Iterator[dict[str, str]]:
    """The rows one by one, because predictions.csv may have a million.

    Raises:
      ValueError: a row has more or fewer cells than the head, as in a file that was cut.
    """
    with open(file, newline="", encoding="utf-8") as f:
        for number, row in enumerate(csv.DictReader(f), start=1):
            if None in row or None in row.values():
                raise ValueError(f"row {number} has not as many cells as the head")
            yield row


def read_arrays(file: str, remedy: str) -> dict[str, np.ndarray]:
    """The arrays of an .npz file.

    Raises:
      UserError: the file is missing; `remedy` says what to do then.
    """
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return dict(arrays)
    except FileNotFoundError:
        raise UserError(f"{file}: missing; {remedy}") from None
