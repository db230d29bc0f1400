"""What a sweep says of its classes: scores that need each of them, and the confusion matrix."""

import os
from collections.abc import Sequence

import numpy as np

from cmarr_jax import metrics
from cmarr_jax.errors import UserError
from cmarr_jax.results import names
from cmarr_jax.results.arrays import read_confusion
from cmarr_jax.results.folder import Results
from cmarr_jax.results.rows import read_results
from cmarr_jax.results.summary import SCORES, braces, number, plain_conditions
from cmarr_jax.workdir import files

WANTED = (*SCORES[:3], "weighted_f1", "recall")  # of --scores


def scores(confusion: np.ndarray, classes: Sequence[str]) -> dict[str, float]:
    """Weighted F1 and the recall of each class, of counts `[C, C]`; NaN where there is none."""
    made = {"weighted_f1": metrics.weighted_f1(confusion)}
    recalls = zip(classes, metrics.recalls(confusion), strict=True)
    return made | {f"recall {name}": float(recall) for name, recall in recalls}


def columns(wanted: Sequence[str], classes: Sequence[str]) -> list[str]:
    """Names of the columns that --scores asks for; "recall" stands for one a class.

    Raises:
      UserError: an unknown score.
    """
    unknown = [name for name in wanted if name not in WANTED]
    if unknown or not wanted:
        raise UserError(f"--scores={','.join(wanted)}: wanted some of {', '.join(WANTED)}")
    of_classes = [f"recall {name}" for name in classes]
    return [c for name in wanted for c in (of_classes if name == "recall" else [name])]


def rows(workdir: str) -> tuple[list[dict[str, str]], list[str]]:
    """results.csv of one sweep with `scores` beside it, and the classes.

    Those of missing rates and noise stay empty: their confusion matrices are not kept.

    Raises:
      UserError: the folder is not finished, or lacks confusion.npz or one of its runs.
    """
    found, arrays = read_results(workdir), read_confusion(workdir)
    classes = [str(c) for c in arrays["classes"]]
    runs = list(zip(arrays["folds"].astype(str), arrays["seeds"].astype(str), strict=True))
    conditions = plain_conditions(found)
    for row in found:
        if row["condition"] not in conditions:
            made = dict.fromkeys(scores(np.zeros((len(classes), len(classes)), int), classes), "")
        elif (row["fold"], row["seed"]) not in runs:
            raise UserError(
                f"{os.path.join(workdir, files.CONFUSION)}: lacks fold {row['fold']}, seed "
                f"{row['seed']} of {files.RESULTS}; copy the folder anew"
            )
        else:
            at = runs.index((row["fold"], row["seed"])), conditions.index(row["condition"])
            made = {k: number(x) for k, x in scores(arrays["confusion"][at], classes).items()}
        row.update(made)
    return found, classes


def confusion_text(r: Results, condition: str) -> str:
    """The confusion matrix of one condition for a terminal, counts of all runs added up.

    Args:
      r: the results.
      condition: one of theirs, or "full".

    Raises:
      UserError: an unknown condition.
    """
    name = r.conditions[-1] if condition == "full" else condition
    if name not in r.conditions:
        raise UserError(
            f"--confusion={condition}: wanted one of {', '.join(r.conditions)}, full or all"
        )
    counts = r.confusion[:, r.conditions.index(name)].sum(axis=0)
    support = counts.sum(axis=1)
    share = 100 * counts / np.maximum(support, 1)[:, None]
    first = max(len("true"), *map(len, r.classes)) + 2
    width = [max(len(c), 5) + 2 for c in r.classes]
    head = "true".ljust(first) + "".join(c.rjust(w) for c, w in zip(r.classes, width, strict=True))
    lines = [
        f"{names.sweep(r.identity)}, available {braces(name)}: per cent of each true class (row) "
        "that was taken for each class (column)",
        "",
        head + "n".rjust(8),
    ]
    for label, row, n in zip(r.classes, share, support, strict=True):
        cells = "".join(f"{x:.1f}".rjust(w) for x, w in zip(row, width, strict=True))
        lines.append(label.ljust(first) + cells + str(n).rjust(8))
    return "\n".join(lines) + "\n"
