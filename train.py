"""Trains a system on every fold and seed as one sweep, tests it, prints the table.

    python train.py --config configs/iemocap.py --config.data.pack=PACK --workdir=DIR

Every field of the config can be set from here: --config.fold=3, --config.num_seeds=3,
--config.model.udcl.weight=0.5, ...; configs/common.py explains each. An argument after the
config file picks a system and variants: --config configs/iemocap.py:mmin or :no_udcl. The
arguments table2, table3 and fig4 stand for many: they are trained one after the other, each in
a folder of its own below DIR. Started again with the same flags, a sweep resumes where it
stopped, or prints its results if it is done.

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

from cmarr_jax import cli, preemption, report
from cmarr_jax import workdir as workdirs
from cmarr_jax.errors import UserError
from cmarr_jax.files import remove_drafts
from cmarr_jax.lock import locked
from configs import common

_CONFIG = config_flags.DEFINE_config_file("config", None, "A file of configs/.", lock_config=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the results; made if need be.")


def main() -> int:
    """Returns the exit code."""
    config, workdir = _CONFIG.value, _WORKDIR.value
    if config is None:
        raise UserError("--config: missing; name a file of configs/, such as configs/iemocap.py")
    if not workdir:
        raise UserError("--workdir: missing; name the folder that the results shall lie in")
    teachers = config.teachers or os.path.join(workdir, "teachers")
    leave = preemption.listen()
    members = {name: cli.config_of(_CONFIG, argument) for name, argument in config.members}
    saved, content = workdirs.claim(workdir, config)
    if os.path.exists(saved) and report.is_ended(workdir):
        print(f"{workdir}: trained already; these are its results", file=sys.stderr)
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


def train(config: ConfigDict, workdir: str, teachers: str, leave: Callable[[], bool]) -> None:
    """Trains and tests one system; leaves everything in `workdir`, and in the folder `teachers`
    the earlier stages' models. `leave` is asked after each epoch whether to stop there."""
    start = time.monotonic()
    saved, content = workdirs.claim(workdir, config)
    if os.path.exists(saved) and report.is_ended(workdir):
        print(f"{workdir}: trained already", file=sys.stderr)
        return

    # What is imported below greets at its import, and tells of errors before it raises them.
    logging.set_verbosity(logging.FATAL)
    # Imported here so that --help and a mistake in a flag answer at once.
    import jax
    import numpy as np
    from ml_collections import FrozenConfigDict

    from cmarr_jax import train_step, training
    from cmarr_jax.checkpoints import Checkpoints, Teachers
    from cmarr_jax.data import pipeline, protocol
    from cmarr_jax.progress import Progress
    from cmarr_jax.systems import SYSTEMS

    cli.enable_compilation_cache()

    # ------------------------------------------------------------- corpus and protocol

    progress = Progress()
    if not config.data.pack and not config.data.data_dir:
        raise UserError("--config.data.pack: missing; name the folder of a feature pack")
    if config.system not in SYSTEMS:
        raise UserError(f"--config.system={config.system}: wanted one of {', '.join(SYSTEMS)}")
    if not common.fits(config):
        raise UserError(
            f"--config.system={config.system}: its settings are another system's; name it as the "
            f"config's argument instead, such as configs/iemocap.py:{config.system}"
        )
    progress.start(config.data.pack or config.data.data_dir)
    corpus = pipeline.load(
        pack=config.data.pack,
        data_dir=config.data.data_dir,
        loader=config.data.loader,
        align=config.data.align,
        length=config.data.length,
        progress=progress.reading,
    )
    folds = protocol.make_folds(
        corpus.columns,
        corpus.labels,
        scheme=config.protocol.scheme,
        validation=config.protocol.validation,
        val_fraction=config.protocol.val_fraction,
        seed=config.protocol.val_seed,
        select_on_test=config.protocol.select_on_test,
    )
    conditions = protocol.make_conditions(corpus.modalities)
    curves = protocol.make_curves(
        corpus.present, config.robustness.missing_rates, config.robustness.noise_levels
    )
    patterns = protocol.make_patterns(conditions, config.masking.patterns)
    probabilities = config.masking.probabilities or (1 / len(patterns),) * len(patterns)
    if len(probabilities) != len(patterns) or abs(sum(probabilities) - 1) > 1e-6:
        raise UserError(
            f"--config.masking.probabilities={tuple(probabilities)}: wanted {len(patterns)} "
            "numbers that sum to 1, one a pattern"
        )
    masking = train_step.Masking(
        patterns, np.array(probabilities, np.float32), config.masking.per_sample
    )

    def make_system(batch_axis):
        model = FrozenConfigDict(config.model)
        return SYSTEMS[config.system](model, corpus.modalities, len(corpus.class_names), batch_axis)

    stages = make_system(None).stages  # a mistake in the config shows before anything is written
    for name in ("train", "pretrain"):
        if config[name].schedule not in train_step.SCHEDULES:
            raise UserError(
                f"--config.{name}.schedule={config[name].schedule}: wanted one of "
                f"{', '.join(train_step.SCHEDULES)}"
            )
    run_ids = training.make_run_ids(
        folds,
        seed=config.seed,
        num_seeds=config.num_seeds,
        fold=config.fold,
        batch_sizes={
            name: config[name].batch_size for name in ("train", "pretrain")[: len(stages)]
        },
    )

    # On CPU a core a run is faster than all cores on one run; elsewhere this does nothing.
    jax.config.update("jax_num_cpu_devices", min(os.cpu_count(), len(run_ids)))

    # -------------------------------------------------------------------- work directory

    workdirs.make_folder("--workdir", workdir)
    identity = {
        "corpus": corpus.name,
        "system": config.system,
        "variant": config.variant,
        "protocol": _describe(config.protocol, folds),
    }
    device = jax.local_devices()[0]
    status_file = os.path.join(workdir, "status.json")
    with locked(workdir):
        workdirs.claim(workdir, config)  # again: it may have been another's until just now
        remove_drafts(workdir)
        if len(stages) > 1:
            workdirs.make_folder("--config.teachers", teachers)
        report.write_json(saved, content)
        seconds = report.read_status(workdir)["seconds"] if os.path.exists(status_file) else 0.0
        status = {
            "complete": False,
            "epochs_done": 0,
            "epochs": config.train.epochs,
            "device": f"{jax.local_device_count()} x {device.device_kind}",
            "jax": jax.__version__,
        }

        def write_status(**fields) -> None:
            status.update(fields, seconds=round(seconds + time.monotonic() - start, 1))
            report.write_json(status_file, status)

        # --------------------------------------------------------------- train, then test

        progress.sweep(identity, corpus, run_ids, stages, status["device"])
        origin = workdirs.origin(content, corpus, run_ids)
        with Checkpoints(workdir, origin) as checkpoints, report.Scalars(workdir, run_ids) as curve:

            def after_epoch(epoch: training.Epoch) -> None:
                progress.epoch(epoch)
                curve.write(epoch)
                write_status(epochs_done=0 if epoch.stage else epoch.number)

            best, scorer, stopped = training.train(
                make_system=make_system,
                corpus=corpus,
                run_ids=run_ids,
                conditions=conditions,
                masking=masking,
                config=config,
                checkpoints=checkpoints,
                teachers=Teachers(teachers, corpus),
                report=after_epoch,
                leave=leave,
            )
        whole = [r for r, at in enumerate(stopped) if not at]
        if whole:
            test = [fold.test for fold, _ in run_ids]
            scored = scorer.score_best(best.params, test, conditions, curves)
            report.write_results(
                workdir,
                identity=identity,
                corpus=corpus,
                conditions=conditions,
                curves=curves,
                run_ids=[run_ids[r] for r in whole],
                scored=[scored[r] for r in whole],
            )
            if pair := scorer.represent(best.params, test[whole[0]], whole[0]):
                report.write_representations(workdir, corpus.modalities, pair)
        ends = {"stopped": [at._asdict() for at in stopped if at]} if any(stopped) else {}
        write_status(complete=not any(stopped), epochs_done=config.train.epochs, **ends)
    progress.done(workdir, status["seconds"])


def _describe(protocol, folds) -> str:
    """The protocol as it stands in every results file and above every table."""
    text = f"{len(folds)} folds by {protocol.scheme}" if len(folds) > 1 else "official split"
    return text + (" SELECTED ON TEST" if protocol.select_on_test else "")


if __name__ == "__main__":
    cli.run(main)
