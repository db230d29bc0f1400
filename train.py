"""Trains a system on every fold and seed as one sweep, tests it, prints the table.

    python train.py --config configs/iemocap.py --config.data.pack=PACK --workdir=DIR

Every field of the config can be set from here: --config.fold=3, --config.num_seeds=3,
--config.model.udcl.weight=0.5, ...; configs/common.py explains each. An argument after the
config file picks a system and variants: --config configs/iemocap.py:mmin or :no_udcl. The
arguments table2, table3 and fig4 stand for many: they are trained one after the other, each in
a folder of its own below DIR. Started again with the same flags, a sweep resumes where it
stopped, or prints its results if it is done. With --dry-run it only says what it would do, how
large that is and how long it would take.

Exit codes: 0; 2 = something to mend, in one line; 3 = a run was stopped because a loss was no
longer finite, and the others have their results; 130, 143 = interrupted, resumable.
"""

import contextlib
import os
import sys
import time
from collections.abc import Callable

from absl import flags, logging
from ml_collections import ConfigDict, config_flags

from cmarr_jax import cli, preemption
from cmarr_jax import workdir as workdirs
from cmarr_jax.errors import UserError
from cmarr_jax.files import remove_drafts
from cmarr_jax.lock import locked
from cmarr_jax.results import report
from configs import common, limits

_CONFIG = config_flags.DEFINE_config_file("config", None, "A file of configs/.", lock_config=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the results; made if need be.")
_DRY_RUN = flags.DEFINE_boolean(
    "dry-run", False, "Say what would be done and how long; do nothing."
)


def main() -> int:
    """Returns the exit code."""
    config, workdir = _CONFIG.value, _WORKDIR.value
    if config is None:
        raise UserError("--config: missing; name a file of configs/, such as configs/iemocap.py")
    if not workdir:
        raise UserError("--workdir: missing; name the folder that the results shall lie in")
    teachers = config.teachers or os.path.join(workdir, "teachers")
    members = {name: cli.config_of(_CONFIG, argument) for name, argument in config.members}
    for each in members.values() or (config,):
        check(each)  # all of them now, not when their turn comes
    if _DRY_RUN.value:
        for name, each in members.items() or (("", config),):
            dry_run(each, os.path.join(workdir, name), teachers)
        return 0
    leave = preemption.listen()
    saved, content = workdirs.claim(workdir, config)
    if os.path.exists(saved) and report.is_ended(workdir):
        print(f"{workdir}: trained already; these are its results", file=sys.stderr)
        workdirs.tidy(workdir)
    elif not members:
        train(config, workdir, teachers, leave)
    else:
        with contextlib.ExitStack() as held:
            for number, (name, member) in enumerate(members.items(), start=1):
                print(f"[{number}/{len(members)}] {name}", file=sys.stderr)
                train(member, os.path.join(workdir, name), teachers, leave)
                if number == 1:  # not before: a mistake in the config leaves nothing behind
                    held.enter_context(locked(workdir))
                    remove_drafts(workdir)
                    report.write_json(saved, content)
                done = [os.path.join(workdir, m) for m in list(members)[:number]]
                report.gather(workdir, done, missing=len(members) - number)
    stopped = report.stopped_runs(workdir)
    for run in stopped:
        print(f"{run}; lower the learning rate, in a new --workdir", file=sys.stderr)
    if not stopped or report.has_results(workdir):
        print(report.table(report.read_summary(workdir)))
    return 3 if stopped else 0


def check(config: ConfigDict) -> None:
    """Refuses, by a UserError, what is wrong with a config whatever the corpus is."""
    limits.check(config)
    if not common.fits(config):
        raise UserError(
            f"--config.system={config.system}: its settings are another system's; name it as the "
            f"config's argument instead, such as configs/iemocap.py:{config.system}"
        )


def train(config: ConfigDict, workdir: str, teachers: str, leave: Callable[[], bool]) -> None:
    """Trains and tests one system; leaves everything in `workdir`, and in the folder `teachers`
    the earlier stages' models. `leave` is asked after each epoch whether to stop there."""
    start = time.monotonic()
    saved, content = workdirs.claim(workdir, config)
    if os.path.exists(saved) and report.is_ended(workdir):
        print(f"{workdir}: trained already", file=sys.stderr)
        workdirs.tidy(workdir)
        return

    # What is imported below greets at its import, and tells of errors before it raises them.
    logging.set_verbosity(logging.FATAL)
    # Imported here so that --help and a mistake in a flag answer at once.
    import jax

    from cmarr_jax import experiment, export, training
    from cmarr_jax.checkpoints import Checkpoints, Teachers
    from cmarr_jax.progress import Progress
    from cmarr_jax.results.history import History

    cli.enable_compilation_cache()
    progress = Progress()
    made = experiment.prepare(config, progress)
    corpus, run_ids = made.corpus, made.run_ids
    workdirs.make_folder("--workdir", workdir)
    status_file = os.path.join(workdir, "status.json")
    with locked(workdir), progress:
        workdirs.claim(workdir, config)  # again: it may have been another's until just now
        remove_drafts(workdir)
        if len(made.stages) > 1:
            workdirs.make_folder("--config.teachers", teachers)
        report.write_json(saved, content)
        report.write_json(os.path.join(workdir, "audit.json"), made.audited)
        seconds = report.read_status(workdir)["seconds"] if os.path.exists(status_file) else 0.0
        status = {
            "complete": False,
            "epochs_done": 0,
            "epochs": config.train.epochs,
            "device": made.device,
            "versions": report.versions(),
        }

        def write_status(**fields) -> None:
            status.update(fields, seconds=round(seconds + time.monotonic() - start, 1))
            report.write_json(status_file, status)

        # ------------------------------------------------------------------------- train

        progress.sweep(made.identity, corpus, run_ids, made.stages, made.device)
        history = History(workdir, run_ids, made.stages[-1].name)
        origin = workdirs.origin(content, corpus, run_ids)
        with Checkpoints(workdir, origin) as checkpoints, report.Scalars(workdir, run_ids) as curve:

            def after_epoch(epoch: training.Epoch) -> None:
                progress.epoch(epoch)
                curve.write(epoch)
                history.write(epoch)
                write_status(epochs_done=0 if epoch.stage else epoch.number)

            best, scorer, stopped = training.train(
                make_system=made.make_system,
                corpus=corpus,
                run_ids=run_ids,
                conditions=made.conditions,
                masking=made.masking,
                config=config,
                checkpoints=checkpoints,
                teachers=Teachers(teachers, corpus),
                report=after_epoch,
                leave=leave,
            )

        # -------------------------------------------------------------------------- test

        whole = [r for r, at in enumerate(stopped) if not at]
        if whole:
            test = [fold.test for fold, _ in run_ids]
            scored = scorer.score_best(best.params, test, made.conditions, made.curves)
            tested = [run_ids[r] for r in whole]
            report.write_results(
                workdir,
                identity=made.identity,
                corpus=corpus,
                conditions=made.conditions,
                curves=made.curves,
                run_ids=tested,
                scored=[scored[r] for r in whole],
            )
            if pair := scorer.represent(best.params, test[whole[0]], whole[0]):
                report.write_representations(workdir, corpus.modalities, pair)
            of_whole = jax.tree.map(lambda leaf: leaf[whole], (best, scorer.runs))
            export.write(
                os.path.join(workdir, "model"),
                identity=made.identity,
                corpus=corpus,
                config=config,
                run_ids=tested,
                best=of_whole[0],
                runs=of_whole[1],
                unravel=scorer.vector.unravel,
            )
        ends = {"stopped": [at._asdict() for at in stopped if at]} if any(stopped) else {}
        ends["finished"] = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
        write_status(complete=not any(stopped), epochs_done=config.train.epochs, **ends)
    if whole:
        from cmarr_jax.results import figure_files, folder  # imports matplotlib

        figure_files.to_tensorboard(workdir, folder.load(workdir))
    progress.done(workdir, status["seconds"])


def dry_run(config: ConfigDict, workdir: str, teachers: str) -> None:
    """Prints what `train` would do with the same arguments."""
    logging.set_verbosity(logging.FATAL)
    from cmarr_jax import dry_run, experiment
    from cmarr_jax.checkpoints import Teachers
    from cmarr_jax.progress import Progress

    cli.enable_compilation_cache()
    progress = Progress()
    made = experiment.prepare(config, progress)
    progress.measure()
    plans = dry_run.measure(made, config, Teachers(teachers, made.corpus))
    print(dry_run.describe(plans, made, workdir))


if __name__ == "__main__":
    cli.run(main)
