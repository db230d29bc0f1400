"""What configs ask for, on their corpus: folds, conditions, masking, runs and the system."""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.extend
import numpy as np
from ml_collections import ConfigDict, FrozenConfigDict

from cmarr_jax.cli.display import size
from cmarr_jax.cli.progress import Progress
from cmarr_jax.data import audit, pipeline, protocol
from cmarr_jax.errors import UserError
from cmarr_jax.runtime import memory, processes
from cmarr_jax.runtime.devices import use_cores
from cmarr_jax.systems import SYSTEMS
from cmarr_jax.systems.system import Stage, System
from cmarr_jax.training import layout as sweep
from cmarr_jax.training import loop as training
from cmarr_jax.training import train_step
from cmarr_jax.training.runs import RunId, Settings, make_run_ids
from cmarr_jax.training.teachers import FirstTeachers, Teachers

# Of the memory, for parameters and optimizer of sweeps that are trained together: with what is
# written and computed meanwhile a process was measured to take six times as much.
_MEMORY_SHARE = 0.1


class Part(NamedTuple):
    """One sweep: a config's runs, and what the results say of it."""

    config: ConfigDict
    identity: dict[str, str]  # corpus, system, variant, protocol: in every results file
    run_ids: list[RunId]
    settings: tuple[Settings, ...]  # of each stage


class Experiment(NamedTuple):
    """Configs made concrete: sweeps that one program trains."""

    parts: list[Part]
    corpus: pipeline.Corpus
    audited: dict[str, Any]  # of data.audit
    conditions: list[protocol.Condition]
    curves: list[Any]  # further test conditions, beyond the paper
    masking: train_step.Masking
    make_system: Callable[[str | None], System]  # batch axis or None -> the system
    stages: tuple[Stage, ...]
    vectors: list[train_step.Vector]  # of each stage
    device: str
    digest: Callable[[], bytes]  # the corpus', computed once
    teachers: FirstTeachers
    memory: int  # bytes that training is expected to take, see cmarr_jax.runtime.memory

    def variants(self) -> str:
        """The variants of all parts, to be shown."""
        names = [part.identity["variant"] for part in self.parts]
        return "; ".join(names if len(names) < 4 else [names[0], "...", names[-1]])

    @property
    def run_ids(self) -> list[RunId]:
        """The R runs of all parts."""
        return [run_id for part in self.parts for run_id in part.run_ids]

    @property
    def settings(self) -> list[tuple[Settings, ...]]:
        """Of each run."""
        return [part.settings for part in self.parts for _ in part.run_ids]

    @property
    def runs(self) -> list[slice]:
        """Of the R runs, those of each part."""
        ends = np.cumsum([0] + [len(part.run_ids) for part in self.parts]).tolist()
        return [slice(*pair) for pair in itertools.pairwise(ends)]


def prepare(configs: Sequence[ConfigDict], progress: Progress, teachers: str) -> Experiment:
    """Reads the corpus and lays everything out; writes nothing but the prepared dataset.

    Args:
      configs: of `configs/`, alike in `common.program`. As many of the first are taken as fit
        in memory at once; where they share teachers that are still to be trained, one is.
      progress: told of the reading.
      teachers: the folder where those are looked for.

    Raises:
      UserError: anything about the config, the corpus, or the two together cannot be done.
    """
    config = configs[0]
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
    with processes.one_before_the_others():  # who may share a disk, on which it is prepared
        corpus = pipeline.load(
            pack=config.data.pack,
            data_dir=config.data.data_dir,
            loader=config.data.loader,
            align=config.data.align,
            length=config.data.length,
            statistics=config.data.statistics,
            stream=config.data.stream,
            limit=memory.host() // 2,
            progress=progress.reading,
        )
    digest = functools.cache(corpus.digest)
    if not processes.same_everywhere(digest):
        raise UserError(
            f"--config.data.pack={config.data.pack}: not the pack that the first process reads; "
            "give all of them the same one"
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

    def make_system_of(config: ConfigDict) -> Callable[[str | None], System]:
        model = FrozenConfigDict(config.model)
        shape = corpus.modalities, len(corpus.class_names)
        # One and the same each time: what JAX traced of its functions is found again.
        return functools.cache(lambda axis: SYSTEMS[config.system](model, *shape, axis))

    make_system = make_system_of(config)
    system = make_system(None)  # a mistake in the model's fields shows here
    stages = system.stages
    parts = {name: config[name] for name in ("train", "pretrain")[: len(stages)]}
    for name in ("train", "pretrain"):
        if config[name].schedule not in train_step.SCHEDULES:
            raise UserError(
                f"--config.{name}.schedule={config[name].schedule}: wanted one of "
                f"{', '.join(train_step.SCHEDULES)}"
            )
    sweeps = [
        _make_part(each, corpus, folds, make_system_of(each)(None).stages) for each in configs
    ]
    kept = FirstTeachers(Teachers(teachers, corpus, digest))
    if not _has_teachers(sweeps[0], stages, kept):
        sweeps = sweeps[:1]
    use_cores(sum(len(part.run_ids) for part in sweeps))
    vectors = training.make_vectors(system, corpus)
    sweeps, wanted = _fit_memory(sweeps, corpus, max(v.size for v in vectors))
    num_runs = sum(len(part.run_ids) for part in sweeps)
    for part in parts.values():  # for what it refuses
        sweep.make_layout(num_runs, (part.batch_size, part.eval_batch_size), config.layout)
    return Experiment(
        parts=sweeps,
        corpus=corpus,
        audited=audited,
        conditions=conditions,
        curves=curves,
        masking=make_masking(config.masking, conditions),
        make_system=make_system,
        stages=stages,
        vectors=vectors,
        device=f"{jax.device_count()} x {jax.local_devices()[0].device_kind}",
        digest=digest,
        teachers=kept,
        memory=wanted,
    )


def _make_part(
    config: ConfigDict, corpus: pipeline.Corpus, folds: list, stages: Sequence[Stage]
) -> Part:
    parts = {name: config[name] for name in ("train", "pretrain")[: len(stages)]}
    run_ids = make_run_ids(
        folds,
        seed=config.seed,
        num_seeds=config.num_seeds,
        fold=config.fold,
        batch_sizes={name: part.batch_size for name, part in parts.items()},
    )
    identity = {
        "corpus": corpus.name,
        "system": config.system,
        "variant": config.variant,
        "protocol": _describe(config.protocol, folds, config.fold),
    }
    return Part(config, identity, run_ids, Settings.of(config, stages))


def _has_teachers(part: Part, stages: Sequence[Stage], teachers: FirstTeachers) -> bool:
    files = [teachers.file(part.config, s, r) for s in stages[:-1] for r in part.run_ids]
    return all(teachers.has(file) for file in files)


def _fit_memory(
    parts: Sequence[Part], corpus: pipeline.Corpus, parameters: int
) -> tuple[list[Part], int]:
    """The first of `parts` that are trained at once, and the bytes that they take; `parameters`
    is a run's, of its largest stage."""
    features = 0 if corpus.on_disk else sum(x.nbytes for x in corpus.features.values())
    # Of several processes this one holds its devices' runs, or all where the batch is cut.
    runs = np.cumsum([len(part.run_ids) for part in parts])
    held = np.maximum(1, -(-runs * jax.local_device_count() // jax.device_count()))
    states = [training.state_bytes(parameters, int(number)) for number in held]
    here = memory.total()
    fitting = max(1, sum(state <= _MEMORY_SHARE * here for state in states))
    fitting = processes.tell(fitting)
    if (wanted := memory.expected(states[fitting - 1], features)) <= here:
        return list(parts[:fitting]), wanted
    of_all = f"takes about {size(wanted)} of memory, here are {size(here)}"
    if 2 * features > here / 2:
        raise UserError(
            f"--config.data.pack: training on it {of_all}; keep its features on a local disk with "
            "--config.data.stream=FOLDER"
        )
    raise UserError(
        f"--config.num_seeds: training {runs[fitting - 1]} runs at once {of_all}; take fewer, "
        "--config.fold=1 and so on with --config.num_seeds=1, each in a --workdir of its own"
    )


def make_masking(
    masking: ConfigDict, conditions: Sequence[protocol.Condition]
) -> train_step.Masking:
    """The missing patterns that `masking`, a config's part, names.

    Raises:
      UserError: its probabilities are not one a pattern, or do not sum to 1.
    """
    patterns = protocol.make_patterns(conditions, masking.patterns)
    probabilities = masking.probabilities or (1 / len(patterns),) * len(patterns)
    if len(probabilities) != len(patterns) or abs(sum(probabilities) - 1) > 1e-6:
        raise UserError(
            f"--config.masking.probabilities={tuple(probabilities)}: wanted {len(patterns)} "
            "numbers that sum to 1, one a pattern"
        )
    return train_step.Masking(patterns, np.array(probabilities, np.float32), masking.per_sample)


def _describe(protocol: ConfigDict, folds: list, fold: int) -> str:
    """The protocol as it stands in every results file and above every table; `fold` = 0: all."""
    text = f"{len(folds)} folds by {protocol.scheme}" if len(folds) > 1 else "official split"
    text = f"fold {fold} of {text}" if fold and len(folds) > 1 else text
    text += " SELECTED ON TEST" if protocol.select_on_test else ""
    text += ", last epoch" if protocol.validation == "none" else ""
    return text + (" SHUFFLED LABELS" if protocol.shuffled_labels else "")
