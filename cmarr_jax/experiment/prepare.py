"""From configs and their corpus to an experiment: folds, conditions, masking, runs, system."""

import contextlib
import functools
import traceback
from collections.abc import Callable, Iterator, Sequence

import jax
import numpy as np
from ml_collections import ConfigDict, FrozenConfigDict

from cmarr_jax import systems
from cmarr_jax.cli.progress import Progress, Silent
from cmarr_jax.cli.units import size
from cmarr_jax.config import sections
from cmarr_jax.data import audit, gaps, missing, pipeline, protocol
from cmarr_jax.data.pipeline import Corpus
from cmarr_jax.data.protocol import Condition, Fold
from cmarr_jax.errors import UserError
from cmarr_jax.experiment import encoders
from cmarr_jax.runtime import memory, processes
from cmarr_jax.runtime.devices import use_cores
from cmarr_jax.systems import precision
from cmarr_jax.systems.system import Stage, System
from cmarr_jax.training.encoders import with_encoders
from cmarr_jax.training.experiment import Experiment, Sweep
from cmarr_jax.training.layout import make_layout
from cmarr_jax.training.runs import Settings, learners, make_run_ids
from cmarr_jax.training.teachers import Teachers
from cmarr_jax.training.train_step import SCHEDULES, Masking
from cmarr_jax.training.vector import make_vectors

# Of the memory, for parameters and optimizer of sweeps that are trained together: with what is
# written and computed meanwhile a process was measured to take six times as much.
_MEMORY_SHARE = 0.1


def prepare(
    configs: Sequence[ConfigDict], progress: Progress | Silent, teachers: str
) -> Experiment:
    """Reads the corpus and makes the experiment; writes nothing but the prepared dataset.

    Args:
      configs: of `configs/`, alike in `groups.program`. As many of the first are taken as fit
        in memory at once; where they share teachers that are still to be trained, one is.
      progress: shows how far the reading is.
      teachers: the folder of the earlier stages' models.

    Raises:
      UserError: anything about the config, the corpus, or the two together cannot be done.
    """
    config = configs[0]
    _check(config)
    progress.start(config.data.pack or config.data.data_dir)
    corpus, told = _taking_part(config, _load(config, progress))
    told += _cut(corpus)
    _check_normalised(config, corpus)
    digest = functools.cache(corpus.digest)
    if not processes.same_everywhere(digest):
        raise UserError(
            f"--config.data.pack={config.data.pack}: not the pack that the first process reads; "
            "give all of them the same one"
        )
    scheme, is_auto = config.protocol.scheme, config.protocol.scheme == "auto"
    if is_auto:
        scheme = protocol.choose_scheme(corpus.columns, corpus.labels)
    folds = _make_folds(config, corpus, scheme)
    audited = audit.audit(
        corpus,
        folds,
        scheme=scheme,
        select_on_test=config.protocol.select_on_test,
        chosen=is_auto,
    )
    audit.check(audited)
    if lines := told + gaps.find(corpus.present, corpus.modalities, folds, corpus.learnable):
        audited = {**audited, "gaps": lines}
    conditions = protocol.make_conditions(corpus.modalities)
    curves = _make_curves(config, corpus)
    make_system = system_maker(config, corpus)
    with _known_fields(config):
        stages = make_system(None).stages  # a mistake in the model's fields shows here
    for name in ("train", "pretrain"):
        if config[name].schedule not in SCHEDULES:
            raise UserError(
                f"--config.{name}.schedule={config[name].schedule}: wanted one of "
                f"{', '.join(SCHEDULES)}"
            )
    sweeps = [make_sweep(each, corpus, folds, scheme, stages) for each in configs]
    _check_learners(sweeps[0], stages, corpus)
    kept = Teachers(teachers, corpus, digest)
    files = [kept.file(config, s, r) for s in stages[:-1] for r in sweeps[0].run_ids]
    if not all(kept.has(file) for file in files):
        sweeps = sweeps[:1]
    use_cores(sum(len(sweep.run_ids) for sweep in sweeps))
    with _known_fields(config):
        num_params = max(vector.size for vector in make_vectors(stages, corpus))
    sweeps, expected = _fit_memory(sweeps, corpus, num_params)
    num_runs = sum(len(sweep.run_ids) for sweep in sweeps)
    for name in sections(len(stages)):  # for what it refuses
        batch_sizes = config[name].batch_size, config[name].eval_batch_size
        make_layout(num_runs, batch_sizes, config.layout)
        parts, devices = config[name].accumulate, jax.device_count()
        alone = config[name].batch_size // (devices if num_runs < devices else 1)
        if alone % parts:
            raise UserError(
                f"--config.{name}.accumulate={parts}: wanted a divisor of {alone}, the utterances "
                "of a step on one device"
            )
    return Experiment(
        sweeps=sweeps,
        corpus=corpus,
        conditions=conditions,
        masking=make_masking(config.masking, conditions, corpus.modalities),
        make_system=make_system,
        teachers=kept,
        digest=digest,
        curves=curves,
        audited=audited,
        memory=expected,
    )


def _check(config: ConfigDict) -> None:
    if not config.data.pack and not config.data.data_dir:
        raise UserError("--config.data.pack: missing; name the folder of a feature pack")
    if config.system not in systems.SYSTEMS:
        raise UserError(
            f"--config.system={config.system}: wanted one of {', '.join(systems.SYSTEMS)}"
        )
    if config.protocol.shuffled_labels and config.protocol.select_on_test:
        raise UserError(
            "--config.protocol.shuffled_labels: wanted without select_on_test; the control "
            "shuffles what the epoch is chosen on and must leave the test part alone"
        )


def _check_normalised(config: ConfigDict, corpus: Corpus) -> None:
    only = tuple(config.data.normalised)
    if strange := [m for m in only if m not in corpus.modalities]:
        raise UserError(
            f"--config.data.normalised={only}: {strange[0]!r} is none of {corpus.modalities}; name "
            "some of these, or () for all"
        )
    if only and (config.data.quantiles or not config.data.normalise):
        raise UserError(
            f"--config.data.normalised={only}: wanted data.normalise=True and data.quantiles=False "
            "beside it, or () for all modalities alike"
        )


@contextlib.contextmanager
def _known_fields(config: ConfigDict) -> Iterator[None]:
    """Turns the error of a field that a system reads and its config lacks into one line."""
    try:
        yield
    except (AttributeError, KeyError) as e:
        if "ml_collections" not in traceback.extract_tb(e.__traceback__)[-1].filename:
            raise
        missing = str(e).splitlines()[0].strip("\"'")
        raise UserError(
            f"--config.system={config.system}: it reads a field that --config.model lacks "
            f"({missing}); give it a preset in configs/systems.py"
        ) from None


def _load(config: ConfigDict, progress: Progress | Silent) -> Corpus:
    with processes.one_before_the_others():  # they may share the disk on which it is prepared
        return pipeline.load(
            pack=config.data.pack,
            data_dir=config.data.data_dir,
            loader=config.data.loader,
            align=config.data.align,
            length=config.data.length,
            statistics=config.data.statistics,
            whole=encoders.own_lengths(config),
            stream=config.data.stream,
            limit=memory.host() // 2,
            progress=progress.reading,
        )


def _taking_part(config: ConfigDict, corpus: Corpus) -> tuple[Corpus, list[str]]:
    """The corpus less what the protocol leaves out, and a line for each kind of it."""
    told, flags = [], config.protocol
    if flags.complete:
        whole = corpus.present.all(axis=1)
        labels = np.where(whole, corpus.labels, -1).astype(corpus.labels.dtype)
        before, left = ((y >= 0).sum() for y in (corpus.labels, labels))
        if not left:
            raise UserError(
                f"--config.protocol.complete: none of {before:,} labelled utterances has every one "
                f"of {', '.join(corpus.modalities)}; leave it out"
            )
        told.append(f"protocol.complete: {left:,} of {before:,} labelled utterances take part")
        corpus = corpus._replace(labels=labels)
    if flags.train_missing:
        flag = "protocol.train_missing"
        rates = missing.parse_rates(flags.train_missing, corpus.modalities, flag)
        dropped = missing.drop(corpus.present, rates, flags.train_missing_seed)
        corpus = corpus._replace(dropped=dropped)
        shares = dropped[corpus.labels >= 0].mean(axis=0)
        pairs = zip(corpus.modalities, shares, strict=True)
        told.append(
            f"{flag}: dropped wherever an utterance is learned from or validates, "
            + ", ".join(f"{m} of {share:.1%}" for m, share in pairs)
        )
    return corpus, told


def _make_curves(config: ConfigDict, corpus: Corpus) -> list[Condition]:
    """The test conditions that `robustness` names."""
    flags, masking = config.robustness, config.masking
    losing = {
        "robustness.frame_rates": flags.frame_rates,
        "robustness.span_rates": flags.span_rates,
        "masking.frame_rate": masking.frame_rate,
        "masking.span_rate": masking.span_rate,
    }
    for flag, value in losing.items():
        if value and corpus.mask.shape[1] == 1:
            raise UserError(
                f"--config.{flag}={value}: one vector has no frames to lose; wanted "
                "--config.data.length of 2 or more, or robustness.missing_rates, masking.rates"
            )
    parsed = [
        missing.parse_rates(text, corpus.modalities, "robustness.rates")
        for text in filter(None, flags.rates.split(","))
    ]
    rates = {missing.rates_text(each, corpus.modalities): each for each in parsed}
    if len(rates) < len(parsed):
        raise UserError(f"--config.robustness.rates={flags.rates}: has the same rates twice")
    return missing.make_curves(
        corpus.present,
        corpus.mask,
        missing_rates=flags.missing_rates,
        rates=rates,
        noise_levels=flags.noise_levels,
        frame_rates=flags.frame_rates,
        span_rates=flags.span_rates,
    )


def _cut(corpus: Corpus) -> list[str]:
    return [
        f"encoders.{m}.max_positions={corpus.rows[m].max()}: {count:,} of {len(corpus.labels):,} "
        "utterances are longer and were cut"
        for m, count in corpus.cut.items()
        if count
    ]


def _check_learners(sweep: Sweep, stages: Sequence[Stage], corpus: Corpus) -> None:
    """Refuses a stage on complete data to which `protocol.train_missing` leaves too little."""
    for stage, section in zip(stages, sections(len(stages)), strict=True):
        own = learners(sweep.run_ids, corpus, stage)
        fold = min((run_id.fold for run_id in own), key=lambda fold: len(fold.train))
        if (size := sweep.config[section].batch_size) > len(fold.train):
            raise UserError(
                f"--config.protocol.train_missing={sweep.config.protocol.train_missing}: leaves "
                f"{len(fold.train)} complete utterances to the {stage.name} of fold {fold.number}, "
                f"fewer than --config.{section}.batch_size={size}; lower one of them"
            )


def _make_folds(config: ConfigDict, corpus: Corpus, scheme: str) -> list[Fold]:
    return protocol.make_folds(
        corpus.columns,
        corpus.labels,
        scheme=scheme,
        validation=config.protocol.validation,
        val_fraction=config.protocol.val_fraction,
        seed=config.protocol.val_seed,
        select_on_test=config.protocol.select_on_test,
    )


def system_maker(config: ConfigDict, corpus: Corpus) -> Callable[[str | None], System]:
    """Mapped batch axis or None -> the config's system, with its encoders before it."""
    model = FrozenConfigDict(config.model)
    shape = corpus.modalities, len(corpus.class_names)
    chosen = precision.choose(config.precision)
    make_encoders = encoders.open_encoders(config, corpus, chosen)

    @functools.cache  # because JAX finds its traces again only for the same functions
    def make(axis: str | None) -> System:
        system = systems.make(config.system, model, *shape, axis, chosen)
        return with_encoders(system, make_encoders(axis))

    return make


def make_sweep(
    config: ConfigDict,
    corpus: Corpus,
    folds: Sequence[Fold],
    scheme: str,
    stages: Sequence[Stage],
) -> Sweep:
    """The runs of one config on its corpus and folds, which are of `scheme`.

    Raises:
      UserError: no such fold, or a training part smaller than a batch.
    """
    run_ids = make_run_ids(
        folds,
        seed=config.seed,
        num_seeds=config.num_seeds,
        fold=config.fold,
        batch_sizes={name: config[name].batch_size for name in reversed(sections(len(stages)))},
    )
    identity = {
        "corpus": corpus.name,
        "system": config.system,
        "variant": config.variant,
        "protocol": _describe(config.protocol, scheme, folds, config.fold),
    }
    return Sweep(config, identity, run_ids, Settings.of(config, stages))


def _fit_memory(
    sweeps: Sequence[Sweep], corpus: Corpus, num_params: int
) -> tuple[list[Sweep], int]:
    """The first of `sweeps` that are trained at once, and the bytes that they take; `num_params`
    is a run's, of its largest stage.
    """
    features = 0 if corpus.on_disk else sum(x.nbytes for x in corpus.features.values())
    # Of several processes this one holds its devices' runs, or all where the batch is cut.
    runs = np.cumsum([len(sweep.run_ids) for sweep in sweeps])
    held = np.maximum(1, -(-runs * jax.local_device_count() // jax.device_count()))
    states = [memory.of_runs(num_params, int(number)) for number in held]
    here = memory.total()
    fitting = max(1, sum(state <= _MEMORY_SHARE * here for state in states))
    fitting = processes.tell(fitting)
    if (expected := memory.expected(states[fitting - 1], features)) <= here:
        return list(sweeps[:fitting]), expected
    of_all = f"takes about {size(expected)} of memory, here are {size(here)}"
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
    masking: ConfigDict, conditions: Sequence[Condition], modalities: Sequence[str] = ()
) -> Masking:
    """The missing patterns that `masking`, a config's section, names.

    Args:
      masking: the section.
      conditions: of `protocol.make_conditions`.
      modalities: names, in the corpus' order; () will do where patterns alone are drawn.

    Raises:
      UserError: its probabilities are not one a pattern, or do not sum to 1; or its rates are none.
    """
    patterns = protocol.make_patterns(conditions, masking.patterns)
    probabilities = masking.probabilities or (1 / len(patterns),) * len(patterns)
    total = sum(probabilities)
    if len(probabilities) != len(patterns) or abs(total - 1) > 1e-2:
        raise UserError(
            f"--config.masking.probabilities={tuple(probabilities)}: wanted {len(patterns)} "
            f"numbers that sum to 1, one a pattern; these are {len(probabilities)} and sum to "
            f"{total:.6g}"
        )
    shares = np.array(probabilities) / total  # thirds have no last digit
    rates = None
    if masking.rates:
        if masking.probabilities:
            raise UserError(
                f"--config.masking.rates={masking.rates}: wanted without masking.probabilities, "
                "which are those of patterns"
            )
        rates = missing.parse_rates(masking.rates, modalities, "masking.rates")
    return Masking(
        patterns,
        shares.astype(np.float32),
        masking.per_sample,
        rates,
        masking.frame_rate,
        masking.span_rate,
        tuple(modalities),
    )


def _describe(protocol: ConfigDict, scheme: str, folds: Sequence[Fold], fold: int) -> str:
    """The protocol as it stands in every results file and above every table; `fold` = 0: all."""
    text = f"{len(folds)} folds by {scheme}" if len(folds) > 1 else "official split"
    text = f"fold {fold} of {text}" if fold and len(folds) > 1 else text
    text += " SELECTED ON TEST" if protocol.select_on_test else ""
    text += ", last epoch" if protocol.validation == "none" else ""
    text += ", complete utterances" if protocol.complete else ""
    text += f", training lacks {protocol.train_missing}" if protocol.train_missing else ""
    return text + (" SHUFFLED LABELS" if protocol.shuffled_labels else "")
