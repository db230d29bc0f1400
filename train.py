"""Trains a system on every fold and seed as one sweep, tests it, prints the table.

    python train.py --config configs/iemocap.py --config.data.pack=PACK --workdir=DIR

Every field of the config can be set from here: --config.fold=3, --config.num_seeds=3,
--config.model.udcl.weight=0.5, ...; configs/common.py explains each. An argument after the
config file picks a system and variants: --config configs/iemocap.py:mmin or :no_udcl. The
arguments table2, table3 and fig4 stand for many, each in a folder of its own below DIR; those
that differ in a loss weight or a rate alone are trained as one program. Started again with the
same flags, a sweep resumes where it stopped, or prints its results if it is done. With --dry-run
it only says what it would do, how large that is and how long it would take. On a TPU slice of
several hosts all run the same command with --distributed; only the first one touches DIR.

Exit codes: 0; 2 = something to mend, in one line; 3 = a run was stopped because a loss was no
longer finite, and the others have their results; 4 = another process of --distributed is gone,
resumable; 130, 143 = interrupted, resumable.
"""

import contextlib
import os
import sys
from collections.abc import Callable, Mapping

from absl import flags, logging
from ml_collections import ConfigDict, config_flags

from cmarr_jax.cli import flags as cli
from cmarr_jax.errors import UserError
from cmarr_jax.experiment import groups
from cmarr_jax.results.rows import join, read_summary
from cmarr_jax.results.summary import summary_table
from cmarr_jax.runtime import preemption
from cmarr_jax.runtime.files import remove_drafts, write_json
from cmarr_jax.runtime.lock import locked
from cmarr_jax.workdir import ownership as workdirs
from cmarr_jax.workdir.status import has_results, read_status, stopped_runs
from configs import common, limits

_CONFIG = config_flags.DEFINE_config_file("config", None, "A file of configs/.", lock_config=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the results; made if need be.")
_DRY_RUN = flags.DEFINE_boolean(
    "dry-run", False, "Say what would be done and how long; do nothing."
)
_DISTRIBUTED = flags.DEFINE_boolean(
    "distributed", False, "Train together with other processes of the same command."
)


def main() -> int:
    """Returns the exit code."""
    config, workdir = _CONFIG.value, _WORKDIR.value
    if config is None:
        raise UserError("--config: missing; name a file of configs/, such as configs/iemocap.py")
    if not workdir:
        raise UserError("--workdir: missing; name the folder that the results shall lie in")
    teachers = config.teachers or os.path.join(workdir, "teachers")
    members = {
        os.path.join(workdir, name): cli.config_of(_CONFIG, argument)
        for name, argument in config.members
    }
    for name, argument in config.members:
        if members[os.path.join(workdir, name)].members:
            raise UserError(f"{argument!r}: a table is no member of another; name its members")
    for each in members.values() or (config,):
        check(each)  # all of them now, not when their turn comes
    if _DRY_RUN.value and _DISTRIBUTED.value:
        raise UserError("--distributed: wanted without --dry-run, which measures one process")
    if _DRY_RUN.value:
        dry_run(members or {workdir: config}, teachers)
        return 0
    if not _DISTRIBUTED.value:
        return lead(workdir, config, members, teachers)
    logging.set_verbosity(logging.FATAL)  # JAX tells how it connects
    from cmarr_jax.runtime import processes

    with processes.joined():
        if processes.is_first():
            code = lead(workdir, config, members, teachers)
            processes.tell([])
            return code
        follow(members or {workdir: config}, teachers)
        return 0


def lead(workdir: str, config: ConfigDict, members: Mapping[str, ConfigDict], teachers: str) -> int:
    """Does what the command asks for; returns the exit code."""
    leave = preemption.listen()
    _, content = workdirs.claim(workdir, config)
    if all(workdirs.is_ended(*each) for each in ((workdir, config), *members.items())):
        print(f"{workdir}: trained already; these are its results", file=sys.stderr)
    elif members:
        train_members(members, workdir, content, teachers, leave)
    else:
        train({workdir: config}, teachers, leave)
    stopped = stopped_runs(workdir)
    for run in stopped:
        print(f"{run}; lower the learning rate, in a new --workdir", file=sys.stderr)
    if not stopped or has_results(workdir):
        print(summary_table(read_summary(workdir)))
    return 3 if stopped else 0


def follow(sweeps: Mapping[str, ConfigDict], teachers: str) -> None:
    """Trains with the first process whichever of `sweeps`, folder -> config, it says."""
    from cmarr_jax.runtime import processes

    leave = preemption.listen()
    while folders := processes.tell():
        train({folder: sweeps[folder] for folder in folders}, teachers, leave)


def check(config: ConfigDict) -> None:
    """Refuses, by a UserError, what is wrong with a config whatever the corpus is."""
    limits.check(config)
    if not common.fits(config):
        raise UserError(
            f"--config.system={config.system}: its settings are another system's; name it as the "
            f"config's argument instead, such as configs/iemocap.py:{config.system}"
        )


def train_members(
    members: Mapping[str, ConfigDict],
    workdir: str,
    content: dict,
    teachers: str,
    leave: Callable[[], bool],
) -> None:
    """Trains what is missing of several sweeps and joins their results in `workdir`, whose
    config.json shall hold `content`. The rest is as of `train`."""
    ended = {folder for folder, config in members.items() if workdirs.is_ended(folder, config)}
    with contextlib.ExitStack() as held:
        begun = False
        while True:
            done = [folder for folder in members if folder in ended]
            if done and not begun:  # not before: a mistake in a config leaves nothing behind
                held.enter_context(locked(workdir))
                remove_drafts(workdir)
                write_json(os.path.join(workdir, "config.json"), content)
                begun = True
            if done:
                join(workdir, done, missing=len(members) - len(done))
            if len(done) == len(members):
                return
            group = groups.alike({f: config for f, config in members.items() if f not in ended})
            names = ", ".join(os.path.basename(folder) for folder in group)
            print(f"[{len(done) + 1}/{len(members)}] {names}", file=sys.stderr)
            ended |= set(train(group, teachers, leave))


def train(sweeps: Mapping[str, ConfigDict], teachers: str, leave: Callable[[], bool]) -> list[str]:
    """Trains and tests sweeps that are alike in one program.

    Args:
      sweeps: folder -> config; each leaves everything in its folder.
      teachers: the folder of the earlier stages' models.
      leave: asked after each epoch whether to stop there.

    Returns:
      The folders of those that were trained: the first few, where not all can be at once.
    """
    # What is imported below greets at its import, and tells of errors before it raises them.
    logging.set_verbosity(logging.FATAL)
    # Imported here so that --help and a mistake in a flag answer at once.
    import jax

    from cmarr_jax.cli.progress import Progress, Silent
    from cmarr_jax.experiment import prepare as experiment
    from cmarr_jax.experiment.recording import Recording
    from cmarr_jax.runtime import processes
    from cmarr_jax.runtime.devices import prepare_to_compile
    from cmarr_jax.training import loop as training
    from cmarr_jax.workdir.checkpoints import FirstCheckpoints, Together

    prepare_to_compile()
    first = processes.is_first()
    if first:
        processes.tell(list(sweeps))
    progress = Progress() if first else Silent()
    made = experiment.prepare(list(sweeps.values()), progress, teachers)
    folders = list(sweeps)[: len(made.parts)]
    if len(made.stages) > 1 and first:
        workdirs.make_folder("--config.teachers", teachers)
    with progress, contextlib.ExitStack() as held:
        recordings = [
            held.enter_context(Recording(folder, part, made))
            for folder, part in zip(folders, made.parts, strict=True)
            if first
        ]

        # ------------------------------------------------------------------------- train

        def after_epoch(epoch: training.Epoch) -> None:
            progress.epoch(epoch)
            for recording, runs in zip(recordings, made.runs, strict=first):
                recording.epoch(epoch.of(runs))

        progress.sweep(made)
        checkpoints = Together([r.checkpoints for r in recordings], made.runs) if first else None
        best, scorer, stopped = training.train(
            make_system=made.make_system,
            vectors=made.vectors,
            corpus=made.corpus,
            run_ids=made.run_ids,
            conditions=made.conditions,
            masking=made.masking,
            config=made.parts[0].config,
            checkpoints=FirstCheckpoints(checkpoints),
            teachers=made.teachers,
            report=after_epoch,
            leave=leave,
            settings=made.settings,
        )

        # -------------------------------------------------------------------------- test

        test = [fold.test for fold, _ in made.run_ids]
        scored = scorer.score_best(best.params, test, made.conditions, made.curves)
        constants = scorer.runs
        shown = [
            scorer.represent(best.params, test, made.conditions, stopped, runs)
            for runs in made.runs
        ]
        for recording, runs, pair in zip(recordings, made.runs, shown, strict=first):
            mine = jax.tree.map(lambda leaf, runs=runs: leaf[runs], (best, constants))
            recording.end(*mine, scored[runs], stopped[runs], pair, scorer.vector.unravel)

    if first:
        from cmarr_jax.results import folder as results_folder
        from cmarr_jax.results.tensorboard import to_tensorboard

        for folder in filter(has_results, folders):
            to_tensorboard(folder, results_folder.load(folder))
        progress.done(folders, sum(read_status(folder)["seconds"] for folder in folders))
    return folders


def dry_run(sweeps: Mapping[str, ConfigDict], teachers: str) -> None:
    """Prints what would be done with `sweeps`, folder -> config."""
    logging.set_verbosity(logging.FATAL)
    from cmarr_jax.cli.progress import Progress
    from cmarr_jax.experiment import dry_run
    from cmarr_jax.experiment import prepare as experiment
    from cmarr_jax.runtime.devices import prepare_to_compile

    prepare_to_compile()
    while sweeps:
        group, progress = groups.alike(sweeps), Progress()
        made = experiment.prepare(list(group.values()), progress, teachers)
        progress.measure()
        plans = dry_run.measure(made)
        folders = list(group)[: len(made.parts)]
        print(dry_run.describe(plans, made, folders))
        sweeps = {folder: config for folder, config in sweeps.items() if folder not in folders}


if __name__ == "__main__":
    cli.run(main)
