"""TensorBoard: the scalars of a sweep while it is trained, and its figures when it is done."""

import contextlib
import io
import os
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cmarr_jax.data.protocol import Fold
from cmarr_jax.errors import UserError
from cmarr_jax.runtime.files import cannot_write, write_whole
from cmarr_jax.workdir import files

if TYPE_CHECKING:  # scipy comes with it, and training waits for nothing that it does not use
    from cmarr_jax.results.folder import Results


class Scalars:
    """TensorBoard scalars of a sweep, a folder a run; a context manager.

    An epoch that comes again after a kill is written again, with the same values, to another file.
    """

    def __init__(self, workdir: str, run_ids: Sequence[tuple[Fold, int]]):
        """Opens a file for each run.

        Args:
          workdir: the sweep's folder.
          run_ids: fold and seed of the R runs.

        Raises:
          UserError: the folder cannot be written.
        """
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
        """Writes one `loop.Epoch`, and sees that it is on the disk before its checkpoint.

        Raises:
          UserError: no space, no permission, a read-only disk.
        """
        stage = f"{epoch.stage}_" if epoch.stage else ""
        series = {f"{stage}train/{name}": values for name, values in epoch.terms.items()}
        series[f"{stage}val/uar"] = epoch.validated.uar
        series[f"{stage}val/cross_entropy"] = epoch.validated.cross_entropy
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


def to_tensorboard(workdir: str, results: "Results") -> None:
    """Puts the figures beside the scalars, as images of the run "figures".

    Args:
      workdir: the sweep's folder; figures that are there are replaced.
      results: what it holds, read by `folder.load`.

    Raises:
      UserError: the folder cannot be written.
    """
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.record_writer import RecordWriter

    from cmarr_jax.results import figure_files  # matplotlib takes a second

    events = [Event(wall_time=time.time(), file_version="brain.Event:2")]
    for name in figure_files.drawable(results):
        tag = f"figure {name}" if name.isdigit() else name
        png = figure_files.png(figure_files.make(results, name))
        image = Summary.Image(encoded_image_string=png)
        summary = Summary(value=[Summary.Value(tag=tag, image=image)])
        step = results.status.get("epochs", 0)
        events.append(Event(wall_time=time.time(), step=step, summary=summary))
    content = io.BytesIO()
    writer = RecordWriter(content)
    for event in events:
        writer.write(event.SerializeToString())
    folder = os.path.join(workdir, files.METRICS, "figures")
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as e:
        raise UserError(cannot_write(folder, e)) from None
    # TensorBoard's own writers put time and host into the name, and so would add a file each time.
    write_whole(os.path.join(folder, "events.out.tfevents.0.figures"), content.getvalue())
