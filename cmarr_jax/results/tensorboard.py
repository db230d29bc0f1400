"""TensorBoard: the scalars of a sweep while it is trained, and its figures when it is done."""

import contextlib
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from cmarr_jax.errors import UserError
from cmarr_jax.runtime.files import cannot_write
from cmarr_jax.workdir import files


class Scalars:
    """TensorBoard scalars of a sweep, a folder a run; a context manager.

    An epoch that comes again after a kill is written again, in another file, with the same
    values.
    """

    def __init__(self, workdir: str, run_ids: Sequence[Any]):
        from tensorboard.summary import Writer  # imports TensorFlow where that is installed

        self._folder, self._writers = os.path.join(workdir, files.METRICS), []
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
        stage = f"{epoch.stage}_" if epoch.stage else ""
        series = {f"{stage}train/{name}": values for name, values in epoch.terms.items()}
        series[f"{stage}val/uar"] = epoch.val_uar
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
