"""The loop: trains all runs of a sweep, chooses each run's epoch on its validation part.

A system of several stages (a teacher, then its student) goes through the loop once a stage.
"""

import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cmarr_jax import evaluation, prng, processes, sweep, train_step
from cmarr_jax.checkpoints import Checkpoints, Teachers
from cmarr_jax.data import protocol
from cmarr_jax.data.pipeline import Corpus
from cmarr_jax.data.protocol import Condition, Fold
from cmarr_jax.data.rows_on_disk import blocks
from cmarr_jax.errors import UserError
from cmarr_jax.feed import Feed
from cmarr_jax.preemption import Preempted
from cmarr_jax.stopped import Stopped, not_finite
from cmarr_jax.systems.system import Batch, Stage, System

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


class Epoch(NamedTuple):
    """What the loop reports after each epoch; arrays are `[R]`."""

    stage: str  # "NAME_" of an earlier stage, "" of the last
    number: int  # counted from 1
    total: int  # epochs of the stage
    terms: dict[str, np.ndarray]  # mean training losses
    val_uar: np.ndarray  # pooled over the conditions
    best_uar: np.ndarray
    best_epoch: np.ndarray  # counted from 1, 0 = none yet
    utterances_per_second: float  # of training, over all runs; nan in the epoch that compiles
    trained: np.ndarray  # bool, False = the run was stopped in an earlier epoch
    stopped: list[Stopped | None]  # in this epoch

    def of(self, runs: slice) -> "Epoch":
        """The same of some of the runs; the speed stays that of all."""
        return self._replace(
            terms={name: values[runs] for name, values in self.terms.items()},
            val_uar=self.val_uar[runs],
            best_uar=self.best_uar[runs],
            best_epoch=self.best_epoch[runs],
            trained=self.trained[runs],
            stopped=self.stopped[runs],
        )


class Best(NamedTuple):
    """The chosen model of each run."""

    params: np.ndarray  # [R, P], see train_step.Vector
    epoch: np.ndarray  # [R] int32, counted from 1
    val_uar: np.ndarray  # [R] float32


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


def make_vectors(system: System, corpus: Corpus) -> list[train_step.Vector]:
    """The layout of each stage's parameters."""
    vectors, shapes = [], None
    for stage in system.stages:
        shapes = jax.eval_shape(stage.init, jax.random.key(0), _example(corpus), shapes)
        vectors.append(train_step.Vector.of(shapes, stage.frozen))
    return vectors


def state_bytes(num_params: int, num_runs: int) -> int:
    """What a stage's runs keep: the parameters, their running mean, the optimizer's two moments
    and the best so far."""
    return 5 * 4 * num_params * num_runs


def init_params(
    stage: Stage,
    vector: train_step.Vector,
    runs: train_step.Run,
    corpus: Corpus,
    before: np.ndarray | None,
    tree_before: Callable[[jax.Array], Any] | None,
) -> jax.Array:
    """Fresh parameters of each run, `[R, P]`.

    They depend on the run's key and on its parameters of the stage before alone: row r of
    `before` `[R, P']`, which `tree_before` makes a tree of.
    """

    def init(run):
        key, params = run
        tree = tree_before(params) if tree_before else None
        return vector.ravel(stage.init(prng.key(key), _example(corpus), tree))

    if before is None:
        before = np.zeros((len(runs.key), 0), np.float32)
    return jax.jit(lambda *runs: jax.lax.map(init, runs))(runs.key, before)


def compile_epoch(
    stage: Stage,
    vector: train_step.Vector,
    params: jax.Array,
    masking: train_step.Masking,
    config: Any,
    layout: sweep.Layout,
) -> tuple[train_step.TrainState, Callable]:
    """What a stage's training starts from, leaves `[R, ...]`, and an epoch of all runs.

    Args:
      stage, vector: what is trained, and how its parameters lie.
      params: `[R, P]`, of `init_params`.
      masking: the missing patterns of training.
      config: the stage's part of a config, `train` or `pretrain`.
      layout: of the runs.

    Returns:
      The state, and `train_step.make_train_epoch`'s function compiled over the runs, which takes
      the state's buffers over.
    """
    c = config
    optimizer = train_step.make_optimizer(vector, clip_norm=c.clip_norm, beta1=c.beta1)
    rate = functools.partial(train_step.learning_rate, warmup=c.warmup, schedule=c.schedule)
    state = train_step.TrainState(
        params, params, jax.vmap(optimizer.init)(params), np.zeros(len(params), np.int32)
    )
    epoch = train_step.make_train_epoch(
        stage, vector, optimizer, rate, masking, c.averaging, layout.batch_axis
    )
    return state, layout.compile(epoch, donate=(0,))


def _example(corpus: Corpus) -> Batch:
    features = {m: jnp.zeros((2, *values.shape[1:])) for m, values in corpus.features.items()}
    labels = jnp.zeros(2, jnp.int32)
    return Batch(features, corpus.mask[:2], corpus.present[:2], labels, jnp.zeros(2))


def train(
    *,
    make_system: Callable[[str | None], System],
    vectors: Sequence[train_step.Vector],
    corpus: Corpus,
    run_ids: Sequence[RunId],
    conditions: Sequence[Condition],
    masking: train_step.Masking,
    config: Any,
    checkpoints: Checkpoints,
    teachers: Teachers,
    report: Callable[[Epoch], None],
    leave: Callable[[], bool] = lambda: False,
    settings: Sequence[Sequence[Settings]] = (),
) -> tuple[Best, evaluation.Scorer, list[Stopped | None]]:
    """Trains every run, stage by stage, going on from a checkpoint if there is one.

    A run with a loss or a gradient that is not finite stays as it was before that step and is
    out of the sweep; the others do not notice.

    Args:
      make_system: batch axis or None -> the system.
      vectors: of `make_vectors`.
      corpus: all utterances.
      run_ids: the R runs.
      conditions: that validation chooses the last stage's epoch under; the last one is complete
        data, which an earlier stage's epoch is chosen under.
      masking: the missing patterns of training.
      config: of `configs/`; its parts `train` (the last stage's), `pretrain` (the earlier
        ones'), `data`, `layout` and `checkpoint_seconds`.
      checkpoints: where `last` and `best` are kept.
      teachers: where the models of earlier stages are kept.
      report: called after each epoch.
      leave: asked after each epoch whether to save and go.
      settings: of each run and stage; () = the config's for all.

    Returns:
      Each run's model with the best validation UAR (the first one of equals), the scorer to
      test it with, and for each run where it was stopped, if it was.

    Raises:
      Preempted: `leave` said so.
    """
    *earlier, _ = stages = make_system(None).stages
    settings = settings or [Settings.of(config, stages)] * len(run_ids)
    shared = dict(
        make_system=make_system, vectors=vectors, corpus=corpus, masking=masking,
        config=config, checkpoints=checkpoints, report=report, leave=leave, settings=settings,
    )  # fmt: skip
    before, stopped = None, [None] * len(run_ids)
    for k, stage in enumerate(earlier):
        files = [teachers.file(config, stage, run_id) for run_id in run_ids]
        new = [r for r, file in enumerate(files) if not teachers.has(file)]
        if new:  # then all are trained: a checkpoint holds all of them
            best, _, stopped = _train_stage(
                k, part="pretrain", run_ids=run_ids, conditions=conditions[-1:], before=before,
                stopped=stopped, **shared,
            )  # fmt: skip
            new = [r for r in new if not stopped[r]]
            for r in new:
                teachers.save(files[r], best.params[r])
        size = len(vectors[k].trained)
        before = np.stack(
            [
                np.zeros(size, np.float32) if stopped[r] else teachers.load(file, size)
                for r, file in enumerate(files)
            ]
        )
    return _train_stage(
        len(earlier),
        part="train",
        run_ids=run_ids,
        conditions=conditions,
        before=before,
        stopped=stopped,
        **shared,
    )


def _train_stage(
    number: int,
    *,
    part: str,
    run_ids: Sequence[RunId],
    conditions: Sequence[Condition],
    before: np.ndarray | None,
    stopped: Sequence[Stopped | None],
    make_system: Callable[[str | None], System],
    vectors: Sequence[train_step.Vector],
    corpus: Corpus,
    masking: train_step.Masking,
    config: Any,
    checkpoints: Checkpoints,
    report: Callable[[Epoch], None],
    leave: Callable[[], bool],
    settings: Sequence[Sequence[Settings]],
) -> tuple[Best, evaluation.Scorer, list[Stopped | None]]:
    """Trains stage `number` as the `part` of the config says.

    `before` is `[R, P']`; runs that an earlier stage has `stopped` are not begun.
    """
    c, num_runs = config[part], len(run_ids)
    layout = sweep.make_layout(num_runs, (c.batch_size, c.eval_batch_size), config.layout)
    stage = make_system(layout.batch_axis).stages[number]
    vector = vectors[number]
    # An earlier stage must not draw what the last one draws.
    earlier = len(vectors) - 1 - number
    prefix = f"{stage.name}_" if earlier else ""

    runs = make_runs(
        corpus,
        run_ids,
        batch_size=c.batch_size,
        epochs=c.epochs,
        normalise=config.data.normalise,
        quantiles=config.data.quantiles,
        balance_classes=c.balance_classes,
        shuffled_labels=config.protocol.shuffled_labels,
        earlier=earlier,
        settings=[of_run[number] for of_run in settings],
    )
    tree_before = vectors[number - 1].unravel if number else None
    params = init_params(stage, vector, runs, corpus, before, tree_before)
    state, train_epoch = compile_epoch(stage, vector, params, masking, c, layout)
    best = Best(params, np.zeros(num_runs, np.int32), np.full(num_runs, -1, np.float32))
    first, stopped = 0, list(stopped)
    if resumed := checkpoints.resume(prefix, (state, best)):
        first, (state, best) = resumed.epoch, resumed.state
        stopped = [Stopped(**s) if s else None for s in resumed.stopped]
        checkpoints.save(prefix + "best", first, best, resumed.stopped)  # it may be of before

    feed = Feed(corpus, layout)
    labels, runs = runs.labels, layout.deal(runs)
    scorer = evaluation.Scorer(stage, vector, layout, runs, feed, corpus, c.eval_batch_size)
    state, best_params = layout.deal(state), layout.deal(best.params)
    keep_better = jax.jit(
        lambda old, new, improved: jnp.where(improved[..., None], new, old), donate_argnums=(0,)
    )
    validation = [fold.val for fold, _ in run_ids]
    last_saved = time.monotonic()

    for epoch in range(first + 1, c.epochs + 1):
        if all(stopped):
            break
        trained = np.array([not s for s in stopped])
        order = epoch_order(run_ids, epoch, c.batch_size, earlier)
        order[~trained] = -1
        start = time.monotonic()
        sums, going = [], trained
        for rows, arrays in feed.steps(order):
            rows = np.where(going[:, None, None], rows, -1)
            state, part = train_epoch(state, runs, layout.deal_rows(rows), arrays)
            sums.append(layout.collect(part))
            going = going & np.isfinite(list(sums[-1].values())).all(axis=0)
        counts = np.maximum((order[:, :, 0] >= 0).sum(axis=1), 1).astype(np.float32)
        terms = {name: sum(part[name] for part in sums) / counts for name in sums[0]}
        seconds = time.monotonic() - start

        val_uar = scorer.pooled_uar(state.average, validation, conditions, labels)
        steps = layout.collect(state.step)
        ends = not_finite(terms | {"val/posteriors": val_uar})
        fresh = [
            Stopped(fold.number, seed, prefix, epoch, int(step) + 1, *end) if end and on else None
            for (fold, seed), step, end, on in zip(run_ids, steps, ends, trained, strict=True)
        ]
        stopped = [new or old for new, old in zip(fresh, stopped, strict=True)]
        improved = (val_uar > best.val_uar) & np.array([not s for s in stopped])
        best_params = keep_better(best_params, state.average, layout.deal(improved))
        best = best._replace(
            epoch=np.where(improved, epoch, best.epoch).astype(np.int32),
            val_uar=np.where(improved, val_uar, best.val_uar),
        )
        utterances = float((order[:, :, 0] >= 0).sum() * c.batch_size)
        speed = utterances / seconds if epoch > first + 1 else float("nan")
        chosen = best.val_uar, best.epoch
        report(Epoch(prefix, epoch, c.epochs, terms, val_uar, *chosen, speed, trained, fresh))

        due = time.monotonic() - last_saved >= config.checkpoint_seconds
        leaving, due = processes.any_says(leave() and epoch < c.epochs, due)
        if due or leaving or epoch == c.epochs or all(stopped):
            best = best._replace(params=layout.collect(best_params))
            notes = [s and s._asdict() for s in stopped]
            checkpoints.save(prefix + "last", epoch, (layout.collect(state), best), notes)
            checkpoints.save(prefix + "best", epoch, best, notes)
            last_saved = time.monotonic()
        if leaving:
            raise Preempted(f"{prefix.replace('_', ' ')}epoch {epoch} of {c.epochs}")
    return best, scorer, stopped
