"""Trains: what train.py and `cmarr_jax.train` both call."""

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from absl import logging
from ml_collections import ConfigDict

from cmarr_jax.cli import config_files
from cmarr_jax.data.pack import Pack
from cmarr_jax.errors import UserError
from cmarr_jax.experiment import limits
from cmarr_jax.experiment.table import Table
from cmarr_jax.results.notebook import Results
from cmarr_jax.runtime.exits import Preempted
from cmarr_jax.workdir import status
from cmarr_jax.workdir.ownership import WorkDir, make_folder


def train(
    config_or_system: str | ConfigDict,
    pack: str | os.PathLike | Pack,
    workdir: str | os.PathLike,
    **fields: Any,
) -> Results:
    """Trains a system on every fold and seed of a corpus, tests it, and returns the results.

    It does what `python train.py` does and writes the same files. Called again with the same
    arguments, it resumes where it was stopped, or returns the results if it is done.

    Args:
      config_or_system: a system ("mmin"), with variants ("pooled,cmarr" or "no_udcl"), of
        configs/iemocap.py; a config file and its argument ("configs/demo.py:mmin", "my.py"); or a
        config, which does not change.
      pack: the feature pack, or its folder.
      workdir: folder of the results; created if need be.
      **fields: of the config, such as `num_seeds=3`, `train={"epochs": 5}` or
        `**{"train.epochs": 5}`; configs/common.py explains each.

    Raises:
      UserError: anything about the config, the pack, or the folder cannot be done, or no run has
        results.
    """
    if isinstance(config_or_system, ConfigDict):
        config = config_or_system.copy_and_resolve_references()
    else:
        config = config_files.get(config_or_system)
    folder = os.fspath(workdir)
    path = pack.path if isinstance(pack, Pack) else pack
    with config.unlocked():
        config_files.set_fields(config, {"data.pack": os.fspath(path)} | fields)
    if config.members:
        raise UserError(
            f"{config_or_system!r}: stands for several systems; train them one by one, and compare "
            "their results"
        )
    check(config)
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.FATAL)  # TensorFlow Datasets and orbax tell much that is not news
    try:
        finish(Table(folder, config, {}), leave=lambda: None)
    finally:
        logging.set_verbosity(verbosity)
    return Results(folder)


def check(config: ConfigDict) -> None:
    """Refuses, by a UserError, a config that cannot be trained on any corpus."""
    limits.check(config)
    limits.check_attention(config)
    try:
        own = config_files.get(config.system).model
    except UserError:  # an unknown system, which `prepare` refuses
        return
    if not set(own) <= set(config.model):
        raise UserError(
            f"--config.system={config.system}: its settings are another system's; name it as the "
            f"config's argument instead, such as configs/iemocap.py:{config.system}"
        )


def finish(table: Table, leave: Callable[[], object]) -> None:
    """Trains all sweeps of a table that have not ended, and names the runs that were stopped.

    Args:
      table: the sweeps.
      leave: called after each epoch; True = save and leave.
    """
    folder = table.workdir.folder
    table.check_corpus()
    if table.is_ended:
        print(f"{folder}: trained already; these are its results", file=sys.stderr)
    else:
        with table:
            while group := table.next_group():
                if asked := leave():  # in the last epoch of the group before
                    raise Preempted("a finished sweep", asked)
                train_group(group, table.teachers, leave)
    for run in status.stopped_runs(folder):
        print(f"{run}; lower the learning rate, in a new --workdir", file=sys.stderr)


def train_group(group: Sequence[WorkDir], teachers: str, leave: Callable[[], object]) -> None:
    """Trains and tests sweeps in one program, as many of `group` as fit in memory at once.

    Args:
      group: the folders of the sweeps, which one program can train together.
      teachers: the folder of the earlier stages' models.
      leave: called after each epoch; True = save and leave.
    """
    # Imported here, so that --help and the error of a wrong flag appear at once.
    from cmarr_jax.cli.progress import Progress, Silent
    from cmarr_jax.experiment.prepare import prepare
    from cmarr_jax.experiment.recording import Recording
    from cmarr_jax.runtime import devices, preemption, processes
    from cmarr_jax.training import loop, testing

    devices.prepare_to_compile()
    is_first = processes.is_first()
    if is_first:
        processes.tell([each.folder for each in group])
    with Progress() if is_first else Silent() as progress:
        experiment = prepare([each.config for each in group], progress, teachers)
        group = group[: len(experiment.sweeps)] if is_first else ()
        if is_first and len(experiment.stages) > 1:
            make_folder("--config.teachers", teachers)
        with Recording(experiment, group) as recording:

            def report(epoch: loop.Epoch) -> None:
                progress.epoch(epoch)
                recording.epoch(epoch)

            progress.sweep(experiment)
            with preemption.epochs():
                trained = loop.train(experiment, recording.checkpoints, report, leave)
            progress.testing()
            recording.end(testing.test(experiment, trained))
            progress.drawing("figures")
            recording.draw()
        done = [each.folder for each in group if status.has_results(each.folder)]
        progress.done(done, recording.seconds)
