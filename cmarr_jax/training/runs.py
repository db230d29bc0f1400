"""What distinguishes the runs of a sweep: fold, seed, settings, and all that follows from them.

Normalisation, class weights and the order of utterances come from a run's fold and seed and from
nothing else, so that a run is the same alone and beside others.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from cmarr_jax.data import protocol
from cmarr_jax.data.pipeline import Corpus
from cmarr_jax.data.protocol import Fold
from cmarr_jax.data.rows_on_disk import blocks
from cmarr_jax.errors import UserError
from cmarr_jax.systems.system import Stage
from cmarr_jax.training import train_step

_QUANTILES = 201  # of each feature, where normalisation goes by them
_QUANTILE_VALUES = 8_000_000  # sorted at once


class RunId(NamedTuple):
    fold: Fold
    seed: int


class Settings(NamedTuple):
    """What the runs of one program may differ in beside fold and seed, in one stage."""

    learning_rate: float
    weight_decay: float
    loss_weights: Mapping[str, float]  # see systems.system.Stage

    @classmethod
    def of(cls, config: Any, stages: Sequence[Stage]) -> "tuple[Settings, ...]":
        """Each stage's, from a config of `configs/`."""
        parts = [config.pretrain] * (len(stages) - 1) + [config.train]
        return tuple(
            cls(part.learning_rate, part.weight_decay, dict(stage.weights))
            for part, stage in zip(parts, stages, strict=True)
        )


def make_run_ids(
    folds: Sequence[Fold],
    *,
    seed: int,
    num_seeds: int,
    fold: int,
    batch_sizes: Mapping[str, int],
) -> list[RunId]:
    """Folds x seeds; `fold` = 0 takes all folds, else the one of that number.

    `batch_sizes` holds the batch size of each part of the config that trains.

    Raises:
      UserError: no such fold, no seed, or a training part smaller than a batch.
    """
    chosen = [f for f in folds if fold in (0, f.number)]
    if not chosen:
        raise UserError(f"--config.fold={fold}: wanted 1 to {len(folds)}, or 0 for all")
    if num_seeds < 1:
        raise UserError(f"--config.num_seeds={num_seeds}: wanted at least 1")
    smallest = min(chosen, key=lambda f: len(f.train))
    for part, batch_size in batch_sizes.items():
        if not 1 <= batch_size <= len(smallest.train):
            raise UserError(
                f"--config.{part}.batch_size={batch_size}: wanted 1 to {len(smallest.train)}, the "
                f"training utterances of fold {smallest.number}; take a smaller batch"
            )
    return [RunId(f, s) for s in range(seed, seed + num_seeds) for f in chosen]


def make_runs(
    corpus: Corpus,
    run_ids: Sequence[RunId],
    *,
    batch_size: int,
    epochs: int,
    normalise: bool,
    quantiles: bool = False,
    balance_classes: bool,
    shuffled_labels: bool = False,
    earlier: int = 0,
    settings: Sequence[Settings] = (),
) -> train_step.Run:
    """The runs' constants, leaves `[R, ...]`, from nothing but each fold's training part.

    `shuffled_labels` is the control of `protocol.shuffle_labels`; `earlier` counts the stages
    that are still to come; each has keys of its own. `settings` are each run's; () = nothing is
    trained.
    """
    runs, statistics = [], {}
    for r, (fold, seed) in enumerate(run_ids):
        own = jax.tree.map(np.float32, settings[r]._asdict() if settings else {})
        if fold.number not in statistics:  # which are the same for every seed
            statistics[fold.number] = _statistics(corpus, fold, normalise, quantiles)
        num_classes, labels = len(corpus.class_names), corpus.labels
        if shuffled_labels:
            labels = protocol.shuffle_labels(labels, fold, seed)
        counts = np.bincount(labels[fold.train], minlength=num_classes)
        weights = np.ones(num_classes)
        if balance_classes:
            weights = len(fold.train) / (num_classes * np.maximum(counts, 1))
        key = jax.random.fold_in(jax.random.key(seed), fold.number)
        key = jax.random.fold_in(key, earlier) if earlier else key
        runs.append(
            train_step.Run(
                key=np.asarray(jax.random.key_data(key)),
                **statistics[fold.number],
                labels=labels,
                class_weights=weights.astype(np.float32),
                total_steps=np.int32(len(fold.train) // batch_size * epochs),
                **own,
            )
        )
    return jax.tree.map(lambda *leaves: np.stack(leaves), *runs)


def _statistics(
    corpus: Corpus, fold: Fold, normalise: bool, quantiles: bool
) -> dict[str, dict[str, np.ndarray]]:
    """The fields of `train_step.Run` that normalise, from the fold's training part."""
    mean, scale, knots = {}, {}, {}
    for m, (name, values) in enumerate(corpus.features.items()):
        rows = fold.train[corpus.present[fold.train, m]]
        dim = values.shape[-1]
        mean[name], scale[name] = np.zeros(dim, np.float32), np.ones(dim, np.float32)
        count = int(corpus.mask[rows].sum())
        if quantiles:
            knots[name] = np.zeros((_QUANTILES, dim), np.float32)
        if quantiles and count:
            steps = np.linspace(0, 1, _QUANTILES)
            width = max(1, _QUANTILE_VALUES // count)
            for some in (slice(d, d + width) for d in range(0, dim, width)):
                known = [frames[:, some] for frames in _frames(corpus, name, rows)]
                known = np.concatenate(known).astype(np.float64)
                knots[name][:, some] = np.quantile(known, steps, axis=0)
        elif normalise and count:
            total = sum(f.sum(0, dtype=np.float64) for f in _frames(corpus, name, rows))
            centre = total / count
            squares = sum(np.square(f - centre).sum(0) for f in _frames(corpus, name, rows))
            deviation = np.sqrt(squares / count)
            mean[name] = centre.astype(np.float32)
            scale[name] = (1 / np.where(deviation > 1e-6, deviation, 1)).astype(np.float32)
    return {"mean": mean, "scale": scale, "quantiles": knots}


def _frames(corpus: Corpus, modality: str, rows: np.ndarray) -> Iterator[np.ndarray]:
    """The valid positions `[F, D]` of the utterances `rows`, some at a time."""
    for some in (rows[block] for block in blocks(len(rows))):
        yield corpus.features[modality][some][corpus.mask[some]]


def epoch_order(
    run_ids: Sequence[RunId], epoch: int, batch_size: int, earlier: int = 0
) -> np.ndarray:
    """Rows of every step of one epoch, `[R, S, B]`; a function of fold, seed, epoch and stage.

    The rest that does not fill a batch is left out, another one each epoch. Runs with fewer
    steps than S end in rows of -1.
    """
    num_steps = max(len(fold.train) // batch_size for fold, _ in run_ids)
    order = np.full((len(run_ids), num_steps, batch_size), -1, np.int32)
    for row, (fold, seed) in zip(order, run_ids, strict=True):
        words = [seed, fold.number, epoch] + ([earlier] if earlier else [])
        shuffled = np.random.default_rng(words).permutation(fold.train)
        steps = len(shuffled) // batch_size
        row[:steps] = shuffled[: steps * batch_size].reshape(steps, batch_size)
    return order
