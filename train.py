"""Trains a system on every fold and seed as one sweep, tests it, prints the table.

    python train.py --config configs/iemocap.py --config.data.pack=PACK --workdir=DIR

Every field of the config can be set from here: --config.fold=3, --config.num_seeds=3,
--config.model.udcl.weight=0.5, ...; configs/common.py explains each. An argument after the
config file picks a system and variants: --config configs/iemocap.py:mmin or :no_udcl. The
arguments table2, table3 and fig4 stand for many: they are trained one after the other, each in
a folder of its own below DIR. Started again with the same flags, a sweep resumes where it
stopped, or prints its results if it is done.
"""

import json
import os
import sys
import time

from absl import flags, logging
from ml_collections import ConfigDict, config_flags

from cmarr_jax import cli, report
from cmarr_jax.errors import UserError
from configs import common

_CONFIG = config_flags.DEFINE_config_file("config", None, "A file of configs/.", lock_config=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the results; made if need be.")


def main() -> None:
    config, workdir = _CONFIG.value, _WORKDIR.value
    if config is None:
        raise UserError("--config: missing; name a file of configs/, such as configs/iemocap.py")
    if not workdir:
        raise UserError("--workdir: missing; name the folder that the results shall lie in")
    teachers = config.teachers or os.path.join(workdir, "teachers")
    if not config.members:
        train(config, workdir, teachers)
        print(report.table(report.read_summary(workdir)))
        return
    members = {name: cli.config_of(_CONFIG, argument) for name, argument in config.members}
    saved, content = _claim(workdir, config)
    for number, (name, member) in enumerate(members.items(), start=1):
        print(f"[{number}/{len(members)}] {name}", file=sys.stderr)
        train(member, os.path.join(workdir, name), teachers)
        report.write_json(saved, content)
        done = [os.path.join(workdir, m) for m in list(members)[:number]]
        report.gather(workdir, done, missing=len(members) - number)
    print(report.table(report.read_summary(workdir)))


def train(config: ConfigDict, workdir: str, teachers: str) -> None:
    """Trains and tests one system; leaves everything in `workdir`, and in the folder `teachers`
    the earlier stages' models."""
    start = time.monotonic()
    saved, content = _claim(workdir, config)
    if os.path.exists(saved) and report.is_complete(workdir):
        print(f"{workdir}: complete already; these are its results", file=sys.stderr)
        return

    logging.set_verbosity(logging.ERROR)  # what is imported below greets at its import
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
        statistics=config.data.statistics,
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

    _make_folder("--workdir", workdir)
    if len(stages) > 1:
        _make_folder("--config.teachers", teachers)
    report.write_json(saved, content)
    identity = {
        "corpus": corpus.name,
        "system": config.system,
        "variant": config.variant,
        "protocol": _describe(config.protocol, folds),
    }
    device = jax.local_devices()[0]
    status = {
        "complete": False,
        "epochs_done": 0,
        "epochs": config.train.epochs,
        "device": f"{jax.local_device_count()} x {device.device_kind}",
        "jax": jax.__version__,
        "seconds": 0.0,
    }

    # ------------------------------------------------------------------- train, then test

    progress.sweep(identity, corpus, run_ids, stages, status["device"])
    with Checkpoints(workdir) as checkpoints, report.Scalars(workdir, run_ids) as scalars:

        def after_epoch(epoch: training.Epoch) -> None:
            progress.epoch(epoch)
            scalars.write(epoch)
            status["epochs_done"] = 0 if epoch.stage else epoch.number
            report.write_json(os.path.join(workdir, "status.json"), status)

        best, scorer = training.train(
            make_system=make_system,
            corpus=corpus,
            run_ids=run_ids,
            conditions=conditions,
            masking=masking,
            config=config,
            checkpoints=checkpoints,
            teachers=Teachers(teachers, corpus),
            report=after_epoch,
        )
    test = [fold.test for fold, _ in run_ids]
    report.write_results(
        workdir,
        identity=identity,
        corpus=corpus,
        conditions=conditions,
        curves=curves,
        run_ids=run_ids,
        scored=scorer.score_best(best.params, test, conditions, curves),
    )
    if pair := scorer.represent(best.params, test[0]):
        report.write_representations(workdir, corpus.modalities, pair)
    status |= {"complete": True, "epochs_done": config.train.epochs}
    status["seconds"] = round(time.monotonic() - start, 1)
    report.write_json(os.path.join(workdir, "status.json"), status)
    progress.done(workdir, status["seconds"])


def _describe(protocol, folds) -> str:
    """The protocol as it stands in every results file and above every table."""
    text = f"{len(folds)} folds by {protocol.scheme}" if len(folds) > 1 else "official split"
    return text + (" SELECTED ON TEST" if protocol.select_on_test else "")


def _make_folder(flag: str, folder: str) -> None:
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as e:
        raise UserError(f"{flag}={folder}: cannot be made ({e.strerror})") from None


def _claim(workdir: str, config: ConfigDict) -> tuple[str, dict]:
    """The config's file and content; refuses a work directory that another config has taken."""
    file = os.path.join(workdir, "config.json")
    content = json.loads(config.to_json_best_effort())
    if os.path.exists(file):
        before = dict(cli.leaves(report.read_json(file)))
        for field, value in cli.leaves(content):
            if before.get(field) != value and field not in ("checkpoint_seconds", "teachers"):
                raise UserError(
                    f"{file}: this work directory belongs to a sweep with {field}="
                    f"{before.get(field)}, now {value}; name a new --workdir"
                )
    return file, content


if __name__ == "__main__":
    cli.run(main)
