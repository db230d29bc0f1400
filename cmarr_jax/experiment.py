"""What a config asks for, on its corpus: folds, conditions, masking, runs and the system."""

import os
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict, FrozenConfigDict

from cmarr_jax import sweep, train_step, training
from cmarr_jax.data import audit, pipeline, protocol
from cmarr_jax.errors import UserError
from cmarr_jax.progress import Progress
from cmarr_jax.systems import SYSTEMS
from cmarr_jax.systems.system import Stage, System


class Experiment(NamedTuple):
    """A config made concrete."""

    identity: dict[str, str]  # corpus, system, variant, protocol: in every results file
    corpus: pipeline.Corpus
    audited: dict[str, Any]  # of data.audit
    conditions: list[protocol.Condition]
    curves: list[Any]  # further test conditions, beyond the paper
    masking: train_step.Masking
    run_ids: list[training.RunId]
    make_system: Callable[[str | None], System]  # batch axis or None -> the system
    stages: tuple[Stage, ...]
    device: str


def prepare(config: ConfigDict, progress: Progress) -> Experiment:
    """Reads the corpus and lays everything out; writes nothing but the prepared dataset.

    Args:
      config: of `configs/`.
      progress: told of the reading.

    Raises:
      UserError: anything about the config, the corpus, or the two together cannot be done.
    """
    if not config.data.pack and not config.data.data_dir:
        raise UserError("--config.data.pack: missing; name the folder of a feature pack")
    if config.system not in SYSTEMS:
        raise UserError(f"--config.system={config.system}: wanted one of {', '.join(SYSTEMS)}")
    if config.protocol.shuffled_labels and config.protocol.select_on_test:
        raise UserError(
            "--config.protocol.shuffled_labels: wanted without select_on_test; the control "
            "shuffles what the epoch is chosen on and must leave the test part alone"
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
    audited = audit.audit(
        corpus,
        folds,
        scheme=config.protocol.scheme,
        select_on_test=config.protocol.select_on_test,
    )
    audit.check(audited)
    conditions = protocol.make_conditions(corpus.modalities)
    curves = protocol.make_curves(
        corpus.present, config.robustness.missing_rates, config.robustness.noise_levels
    )

    def make_system(batch_axis: str | None) -> System:
        model = FrozenConfigDict(config.model)
        return SYSTEMS[config.system](model, corpus.modalities, len(corpus.class_names), batch_axis)

    stages = make_system(None).stages  # a mistake in the model's fields shows here
    parts = {name: config[name] for name in ("train", "pretrain")[: len(stages)]}
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
        batch_sizes={name: part.batch_size for name, part in parts.items()},
    )
    # On CPU a core a run is faster than all cores on one run; elsewhere this does nothing.
    jax.config.update("jax_num_cpu_devices", min(os.cpu_count(), len(run_ids)))
    for part in parts.values():  # for what it refuses
        sweep.make_layout(len(run_ids), (part.batch_size, part.eval_batch_size), config.layout)
    return Experiment(
        identity={
            "corpus": corpus.name,
            "system": config.system,
            "variant": config.variant,
            "protocol": _describe(config.protocol, folds),
        },
        corpus=corpus,
        audited=audited,
        conditions=conditions,
        curves=curves,
        masking=_make_masking(config.masking, conditions),
        run_ids=run_ids,
        make_system=make_system,
        stages=stages,
        device=f"{jax.local_device_count()} x {jax.local_devices()[0].device_kind}",
    )


def _make_masking(masking: ConfigDict, conditions: list) -> train_step.Masking:
    patterns = protocol.make_patterns(conditions, masking.patterns)
    probabilities = masking.probabilities or (1 / len(patterns),) * len(patterns)
    if len(probabilities) != len(patterns) or abs(sum(probabilities) - 1) > 1e-6:
        raise UserError(
            f"--config.masking.probabilities={tuple(probabilities)}: wanted {len(patterns)} "
            "numbers that sum to 1, one a pattern"
        )
    return train_step.Masking(patterns, np.array(probabilities, np.float32), masking.per_sample)


def _describe(protocol: ConfigDict, folds: list) -> str:
    """The protocol as it stands in every results file and above every table."""
    text = f"{len(folds)} folds by {protocol.scheme}" if len(folds) > 1 else "official split"
    text += " SELECTED ON TEST" if protocol.select_on_test else ""
    return text + (" SHUFFLED LABELS" if protocol.shuffled_labels else "")
