"""history.csv: the learning curves of a sweep, a row an (epoch, fold, seed) of each stage.

Columns: stage, epoch (counted from 1 within its stage), fold, seed, val_uar, then every term of
the training loss under its own name, empty where a stage lacks it, and val_cross_entropy
(`metrics.cross_entropy`); the validation's are over all conditions together.
"""

import csv
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from cmarr_jax.data.protocol import Fold
from cmarr_jax.errors import UserError
from cmarr_jax.results.summary import number
from cmarr_jax.runtime.files import write_csv
from cmarr_jax.workdir import files

_KEY = ("stage", "epoch", "fold", "seed", "val_uar")
_LAST = "val_cross_entropy"


class History:
    """Writes WORKDIR/history.csv after each epoch, the whole file or not at all."""

    def __init__(self, workdir: str, run_ids: Sequence[tuple[Fold, int]], last_stage: str):
        """Goes on with the file of a sweep that was stopped.

        Args:
          workdir: the sweep's folder.
          run_ids: fold and seed of the R runs.
          last_stage: name of the stage that is tested.

        Raises:
          UserError: the file there is damaged.
        """
        self._file = os.path.join(workdir, files.HISTORY)
        self._run_ids, self._last_stage = run_ids, last_stage
        self._rows = read(workdir)

    def write(self, epoch: Any) -> None:
        """Adds one `loop.Epoch`.

        A stopped sweep may have noted this epoch and later ones after its last checkpoint; those
        rows give way.

        Raises:
          UserError: the file cannot be written.
        """
        stage = epoch.stage or self._last_stage
        self._rows = [
            row for row in self._rows if row["stage"] != stage or int(row["epoch"]) < epoch.number
        ]
        for r in np.flatnonzero(epoch.trained):
            fold, seed = self._run_ids[r]
            uar, cross_entropy = (number(values[r]) for values in epoch.validated)
            values = (stage, epoch.number, fold.number, seed, uar)
            terms = {name: f"{float(v[r]):.6g}" for name, v in epoch.terms.items()}
            self._rows.append(
                dict(zip(_KEY, map(str, values), strict=True)) | terms | {_LAST: cross_entropy}
            )
        columns = dict.fromkeys(name for row in self._rows for name in row if name != _LAST)
        columns[_LAST] = None
        write_csv(self._file, self._rows, columns)


def read(workdir: str) -> list[dict[str, str]]:
    """Rows of WORKDIR/history.csv; none if there is no such file.

    Raises:
      UserError: it is damaged.
    """
    file = os.path.join(workdir, files.HISTORY)
    if not os.path.exists(file):
        return []
    try:
        rows = files.read_csv(file)
        for row in rows:
            for name, value in row.items():
                if name != "stage" and value:
                    float(value)
            int(row["epoch"]), int(row["fold"]), int(row["seed"])
    except (ValueError, TypeError, KeyError, csv.Error) as e:
        raise UserError(
            f"{file}: damaged ({type(e).__name__}: {e}); delete it: only past epochs' curves go"
        ) from None
    return rows
