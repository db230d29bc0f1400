"""What a sweep leaves in its work directory, from the lock at its start to the results."""

import contextlib
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from cmarr_jax.experiment.prepare import Experiment, Part
from cmarr_jax.results.arrays import write_representations
from cmarr_jax.results.history import History
from cmarr_jax.results.rows import write_results
from cmarr_jax.results.tensorboard import Scalars
from cmarr_jax.runtime.files import remove_drafts, write_json
from cmarr_jax.runtime.lock import locked
from cmarr_jax.training.evaluation import Scored
from cmarr_jax.training.loop import Best, Epoch
from cmarr_jax.training.train_step import Run
from cmarr_jax.workdir import model_folder as export
from cmarr_jax.workdir import ownership as workdir
from cmarr_jax.workdir.checkpoints import Checkpoints
from cmarr_jax.workdir.status import Stopped, read_status, versions


class Recording:
    """The work directory of one sweep while it is trained; a context manager that locks it.

    One program may train several sweeps: each has a recording of its own, which is what it would
    be had the sweep been trained alone.
    """

    def __init__(self, folder: str, part: Part, made: Experiment):
        """`part` of the experiment is what is recorded."""
        self.folder, self._part, self._made = folder, part, made
        self._start = time.monotonic()

    def __enter__(self) -> "Recording":
        part, made = self._part, self._made
        workdir.make_folder("--workdir", self.folder)
        with contextlib.ExitStack() as held:
            held.enter_context(locked(self.folder))
            # Again: it may have been another's until just now.
            saved, content = workdir.claim(self.folder, part.config)
            remove_drafts(self.folder)
            file = os.path.join(self.folder, "status.json")
            seconds = read_status(self.folder)["seconds"] if os.path.exists(file) else 0.0
            self._earlier, self._status_file = seconds, file
            write_json(saved, content)
            write_json(os.path.join(self.folder, "audit.json"), made.audited)
            self._status = {
                "complete": False,
                "epochs_done": 0,
                "epochs": part.config.train.epochs,
                "device": made.device,
                "versions": versions(),
            }
            self._history = History(self.folder, part.run_ids, made.stages[-1].name)
            layouts = [vector.layout for vector in made.vectors]
            origin = workdir.origin(content, made.digest(), part.run_ids, layouts)
            self._open = held.enter_context(contextlib.ExitStack())
            self.checkpoints = self._open.enter_context(Checkpoints(self.folder, origin))
            self._scalars = self._open.enter_context(Scalars(self.folder, part.run_ids))
            self._held = held.pop_all()
        return self

    def __exit__(self, *error) -> None:
        self._held.__exit__(*error)

    def epoch(self, epoch: Epoch) -> None:
        """Notes an epoch of this sweep's runs."""
        self._scalars.write(epoch)
        self._history.write(epoch)
        self._write_status(epochs_done=0 if epoch.stage else epoch.number)

    def end(
        self,
        best: Best,
        constants: Run,
        scored: Sequence[Scored],
        stopped: Sequence[Stopped | None],
        shown: tuple[np.ndarray, ...],
        unravel: Callable[[jax.Array], Any],
    ) -> None:
        """Writes the results and the model of this sweep.

        Args:
          best, constants, scored, stopped: of each of its runs.
          shown: of `Scorer.represent`.
          unravel: of the last stage's `train_step.Vector`.
        """
        self._open.close()  # what is left of the checkpoints is on the disk before the results
        part, made = self._part, self._made
        whole = [r for r, stop in enumerate(stopped) if not stop]
        if whole:
            tested = [part.run_ids[r] for r in whole]
            write_results(
                self.folder,
                identity=part.identity,
                corpus=made.corpus,
                conditions=made.conditions,
                curves=made.curves,
                run_ids=tested,
                scored=[scored[r] for r in whole],
            )
            if shown:
                write_representations(self.folder, made.corpus.modalities, shown)
            best, constants = jax.tree.map(lambda leaf: leaf[whole], (best, constants))
            export.write(
                os.path.join(self.folder, "model"),
                identity=part.identity,
                corpus=made.corpus,
                config=part.config,
                run_ids=tested,
                best=best,
                runs=constants,
                unravel=unravel,
            )
        ends = [stop._asdict() for stop in stopped if stop]
        self._write_status(
            complete=not ends,
            epochs_done=part.config.train.epochs,
            **({"stopped": ends} if ends else {}),
            finished=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        )

    def _write_status(self, **fields: Any) -> None:
        # Sweeps of one program share its time.
        seconds = (time.monotonic() - self._start) / len(self._made.parts)
        self._status |= fields | {"seconds": round(self._earlier + seconds, 1)}
        write_json(self._status_file, self._status)
