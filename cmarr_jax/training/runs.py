"""What distinguishes the runs of a sweep: fold, seed, settings, and all that follows from them.

Normalisation, class weights and the order of utterances follow from a run's fold and seed alone, so
that a run gives the same result alone and beside others.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from cmarr_jax import config as config_lib
from cmarr_jax.data import protocol
from cmarr_jax.data.pipeline import Corpus
from cmarr_jax.data.protocol import Fold
from cmarr_jax.errors import UserError
from cmarr_jax.systems.system import Stage
from cmarr_jax.training import normalise, train_step

_GROUP = 16  # batches


class RunId(NamedTuple):
    """Which run of a sweep: a fold, trained with a seed."""

    fold: Fold
    seed: int


class Settings(NamedTuple):
    """What, besides fold and seed, may differ between the runs of one program, in one stage."""

    learning_rate: float
    weight_decay: float
    loss_weights: Mapping[str, float]  # see systems.system.Stage

    @classmethod
    def of(cls, config: ConfigDict, stages: Sequence[Stage]) -> "tuple[Settings, ...]":
        """The settings of each stage, from a whole config."""
        sections = [config[name] for name in config_lib.sections(len(stages))]
        return tuple(
            cls(section.learning_rate, section.weight_decay, dict(stage.weights))
            for section, stage in zip(sections, stages, strict=True)
        )


def make_run_ids(
    folds: Sequence[Fold],
    *,
    seed: int,
    num_seeds: int,
    fold: int,
    batch_sizes: Mapping[str, int],
) -> list[RunId]:
    """Folds x seeds; `fold` = 0 takes all folds, else the fold with that number.

    `batch_sizes`: name of a config's section that trains -> its batch size.

    Raises:
      UserError: no such fold, or a training part smaller than a batch.
    """
    chosen = [f for f in folds if fold in (0, f.number)]
    if not chosen:
        raise UserError(f"--config.fold={fold}: wanted 1 to {len(folds)}, or 0 for all")
    smallest = min(chosen, key=lambda f: len(f.train))
    for section, batch_size in batch_sizes.items():
        if batch_size > len(smallest.train):
            raise UserError(
                f"--config.{section}.batch_size={batch_size}: wanted 1 to {len(smallest.train)}, "
                f"the training utterances of fold {smallest.number}; take a smaller batch"
            )
    return [RunId(f, s) for s in range(seed, seed + num_seeds) for f in chosen]


def learners(run_ids: Sequence[RunId], corpus: Corpus, stage: Stage) -> list[RunId]:
    """The runs with training parts that hold the utterances which `stage` learns from.

    These are all, but where modalities are dropped from the training part and the stage trains on
    complete data, those that kept each of them.
    """
    if corpus.dropped is None or not stage.complete:
        return list(run_ids)
    whole = np.asarray(corpus.learnable.all(axis=1))
    return [
        RunId(fold._replace(train=fold.train[whole[fold.train]]), seed) for fold, seed in run_ids
    ]


def make_runs(
    corpus: Corpus,
    run_ids: Sequence[RunId],
    config: ConfigDict,
    section: str,
    *,
    to_come: int = 0,
    settings: Sequence[Settings] = (),
    learn: Sequence[RunId] = (),
) -> train_step.Run[np.ndarray]:
    """The runs' constants, leaves `[R, ...]`, from each fold's training part alone.

    Args:
      corpus: all utterances.
      run_ids: the R runs.
      config: a whole config; read are `data`, `protocol` and `section`.
      section: name of the stage's section, `train` or `pretrain`.
      to_come: how many stages follow this one; each has keys of its own.
      settings: of each run; () where nothing is to be trained.
      learn: the runs as `learners` gives them; () = `run_ids`. Features are normalised by the whole
        training part in every stage.
    """
    c, runs, statistics = config[section], [], {}
    num_classes = len(corpus.class_names)
    for r, (fold, seed) in enumerate(run_ids):
        own = jax.tree.map(np.float32, settings[r]._asdict() if settings else {})
        if fold.number not in statistics:  # they are the same for every seed
            statistics[fold.number] = normalise.measure(
                corpus,
                fold.train,
                by_mean=config.data.normalise,
                by_quantiles=config.data.quantiles,
                only=config.data.normalised,
            )
        labels = corpus.labels
        if config.protocol.shuffled_labels:
            labels = protocol.shuffle_labels(labels, fold, seed)
        train = (learn or run_ids)[r].fold.train
        counts = np.bincount(labels[train], minlength=num_classes)
        weights = np.ones(num_classes)
        if c.balance_classes:
            weights = len(train) / (num_classes * np.maximum(counts, 1))
        key = jax.random.fold_in(jax.random.key(seed), fold.number)
        key = jax.random.fold_in(key, to_come) if to_come else key
        runs.append(
            train_step.Run(
                key=np.asarray(jax.random.key_data(key)),
                statistics=statistics[fold.number],
                labels=labels,
                class_weights=weights.astype(np.float32),
                total_steps=np.array(len(train) // c.batch_size * c.epochs, np.int32),
                **own,
            )
        )
    return jax.tree.map(lambda *leaves: np.stack(leaves), *runs)


def epoch_order(
    run_ids: Sequence[RunId],
    epoch: int,
    batch_size: int,
    to_come: int = 0,
    rows: np.ndarray | None = None,
) -> np.ndarray:
    """Rows of every step of one epoch, `[R, S, B]`; they depend on fold, seed, epoch and stage.

    Utterances that do not fill a last batch are left out, others in each epoch. Runs with fewer
    steps than S end in rows of -1.

    Args:
      run_ids: the R runs.
      epoch: its number.
      batch_size: B.
      to_come: how many stages follow this one.
      rows: `[N]`, of each utterance, where encoders read it at its own length; then utterances of
        like length make a batch: of every `_GROUP` batches' worth, drawn at random.
    """
    num_steps = max(len(fold.train) // batch_size for fold, _ in run_ids)
    order = np.full((len(run_ids), num_steps, batch_size), -1, np.int32)
    for row, (fold, seed) in zip(order, run_ids, strict=True):
        words = [seed, fold.number, epoch] + ([to_come] if to_come else [])
        rng = np.random.default_rng(words)
        shuffled = rng.permutation(fold.train)
        steps = len(shuffled) // batch_size
        shuffled = shuffled[: steps * batch_size]
        if rows is not None:
            groups = np.split(shuffled, range(0, len(shuffled), _GROUP * batch_size)[1:])
            alike = [group[np.argsort(rows[group], kind="stable")] for group in groups]
            shuffled = rng.permutation(np.concatenate(alike).reshape(steps, batch_size)).reshape(-1)
        row[:steps] = shuffled.reshape(steps, batch_size)
    return order
