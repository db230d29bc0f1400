"""What an experiment writes to its work directories, from the lock at its start to the results."""

import contextlib
import os
import time
from collections.abc import Sequence

import jax

from cmarr_jax.results import arrays, folder, rows, tensorboard
from cmarr_jax.results.history import History
from cmarr_jax.runtime import devices
from cmarr_jax.runtime.files import write_json
from cmarr_jax.training.experiment import Experiment, Sweep
from cmarr_jax.training.loop import Epoch
from cmarr_jax.training.testing import Tested
from cmarr_jax.workdir import files, model_folder, status
from cmarr_jax.workdir.checkpoints import Checkpoints, JoinedCheckpoints
from cmarr_jax.workdir.ownership import WorkDir


class Recording:
    """The work directories of an experiment in training; a context manager that locks them.

    One program may train several sweeps: each folder then holds the same as after training it
    alone.

    Attributes:
      checkpoints: of all sweeps together.
    """

    def __init__(self, experiment: Experiment, workdirs: Sequence[WorkDir]):
        """`workdirs`: of each sweep; empty in all processes but the first."""
        self._experiment = experiment
        self._folders = [workdir.folder for workdir in workdirs]
        self._sweeps = [
            _SweepRecording(experiment, sweep, workdir)
            for sweep, workdir in zip(experiment.sweeps, workdirs, strict=bool(workdirs))
        ]
        self._held = contextlib.ExitStack()

    def __enter__(self) -> "Recording":
        with contextlib.ExitStack() as held:
            for sweep in self._sweeps:
                held.enter_context(sweep)
            self._held = held.pop_all()
        each = [sweep.checkpoints for sweep in self._sweeps]
        self.checkpoints = JoinedCheckpoints(each, self._experiment.slices)
        return self

    def __exit__(self, *error) -> None:
        self._held.__exit__(*error)

    def epoch(self, epoch: Epoch) -> None:
        """Writes what is known after an epoch, for all sweeps."""
        for sweep, runs in zip(self._sweeps, self._experiment.slices, strict=bool(self._sweeps)):
            sweep.epoch(epoch.of(runs))

    def end(self, tested: Sequence[Tested]) -> None:
        """Writes results and models; `tested`: of each sweep."""
        for sweep, own in zip(self._sweeps, tested, strict=bool(self._sweeps)):
            sweep.end(own)

    def draw(self) -> None:
        """Adds figures of the results to TensorBoard's files."""
        if not self._sweeps:
            return
        for path in filter(status.has_results, self._folders):
            tensorboard.to_tensorboard(path, folder.load(path))

    @property
    def seconds(self) -> float:
        """Time that all sweeps have taken, with earlier starts."""
        return sum(map(status.seconds, self._folders))


class _SweepRecording:
    """The work directory of one sweep."""

    def __init__(self, experiment: Experiment, sweep: Sweep, workdir: WorkDir):
        self._experiment, self._sweep, self._workdir = experiment, sweep, workdir
        self._start = time.monotonic()

    def __enter__(self) -> "_SweepRecording":
        experiment, sweep, folder = self._experiment, self._sweep, self._workdir.folder
        with contextlib.ExitStack() as held:
            held.enter_context(self._workdir.opened())
            self._earlier = status.seconds(folder)
            status.check_precision(folder, experiment.precision.name)
            write_json(os.path.join(folder, files.AUDIT), experiment.audited)
            self._status = {
                "complete": False,
                "epochs_done": 0,
                "epochs": sweep.config.train.epochs,
                "corpus": experiment.corpus.fingerprint,
                "device": devices.describe(),
                "precision": experiment.precision.name,
                "versions": status.versions(),
            }
            self._history = History(folder, sweep.run_ids, experiment.stages[-1].name)
            digests = [vector.digest for vector in experiment.vectors]
            origin = self._workdir.origin(experiment.digest(), sweep.run_ids, digests)
            self._open = held.enter_context(contextlib.ExitStack())
            self.checkpoints = self._open.enter_context(Checkpoints(folder, origin))
            self._scalars = self._open.enter_context(tensorboard.Scalars(folder, sweep.run_ids))
            self._held = held.pop_all()
        return self

    def __exit__(self, *error) -> None:
        self._held.__exit__(*error)

    def epoch(self, epoch: Epoch) -> None:
        """Writes what is known after an epoch."""
        self._scalars.write(epoch)
        self._history.write(epoch)
        self._write_status(epochs_done=0 if epoch.stage else epoch.number)

    def end(self, tested: Tested) -> None:
        """Writes results and model of the runs that were not stopped."""
        self._open.close()  # all checkpoints are on the disk before the results
        whole = [r for r, stop in enumerate(tested.stopped) if not stop]
        if whole:
            self._write(tested, whole)
        stopped = [stop._asdict() for stop in tested.stopped if stop]
        self._write_status(
            complete=not stopped,
            epochs_done=self._sweep.config.train.epochs if whole else self._status["epochs_done"],
            **({"stopped": stopped} if stopped else {}),
            finished=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        )

    def _write(self, tested: Tested, whole: Sequence[int]) -> None:
        experiment, sweep, folder = self._experiment, self._sweep, self._workdir.folder
        corpus, run_ids = experiment.corpus, [sweep.run_ids[r] for r in whole]
        rows.write_results(
            folder,
            identity=sweep.identity,
            corpus=corpus,
            conditions=experiment.conditions,
            curves=experiment.curves,
            run_ids=run_ids,
            scored=[tested.scored[r] for r in whole],
        )
        if tested.shown:
            arrays.write_representations(folder, corpus.modalities, tested.shown)
        best, statistics = jax.tree.map(lambda leaf: leaf[whole], (tested.best, tested.statistics))
        model_folder.write(
            os.path.join(folder, files.MODEL),
            identity=sweep.identity,
            corpus=corpus,
            config=sweep.config,
            run_ids=run_ids,
            best=best,
            statistics=statistics,
            tree_of=experiment.vectors[-1].unravel,
            upper={e.modality: e.facts for e in experiment.stages[-1].encoders},
        )

    def _write_status(self, **fields: object) -> None:
        # Sweeps of one program share its time equally.
        seconds = (time.monotonic() - self._start) / len(self._experiment.sweeps)
        self._status |= fields | {"seconds": round(self._earlier + seconds, 1)}
        write_json(os.path.join(self._workdir.folder, files.STATUS), self._status)
