"""The loop: trains all runs of a sweep, chooses each run's epoch on its validation part.

A system of several stages (a teacher, then its student) goes through the loop once a stage.
"""

import functools
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cmarr_jax.data.pipeline import Corpus
from cmarr_jax.data.protocol import Condition
from cmarr_jax.runtime import processes
from cmarr_jax.runtime.exits import Preempted
from cmarr_jax.systems.system import Batch, Stage, System, for_cpu
from cmarr_jax.training import evaluation, prng, train_step
from cmarr_jax.training import layout as sweep
from cmarr_jax.training.feed import Feed
from cmarr_jax.training.runs import RunId, Settings, epoch_order, make_runs
from cmarr_jax.training.teachers import Teachers
from cmarr_jax.workdir.checkpoints import Checkpoints
from cmarr_jax.workdir.status import Stopped


class Epoch(NamedTuple):
    """What the loop reports after each epoch; arrays are `[R]`."""

    stage: str  # "NAME_" of an earlier stage, "" of the last
    number: int  # counted from 1
    total: int  # epochs of the stage
    terms: dict[str, np.ndarray]  # mean training losses
    val_uar: np.ndarray  # pooled over the conditions; NaN without a validation part
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
    val_uar: np.ndarray  # [R] float32; NaN without a validation part


def make_vectors(system: System, corpus: Corpus) -> list[train_step.Vector]:
    """The layout of each stage's parameters."""
    vectors, shapes = [], None
    key = prng.key(np.zeros(2, np.uint32))
    for stage in system.stages:
        shapes = jax.jit(stage.init).eval_shape(key, _example(corpus), shapes)
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
        # Which `make_vectors` traced already, unless the batch is cut.
        return vector.ravel(jax.jit(stage.init)(prng.key(key), _example(corpus), tree))

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
    if jax.default_backend() == "cpu":
        stage = for_cpu(stage)
    optimizer = train_step.make_optimizer(clip_norm=c.clip_norm, beta1=c.beta1)
    rate = functools.partial(train_step.learning_rate, warmup=c.warmup, schedule=c.schedule)
    state = train_step.TrainState(
        params, params, jax.vmap(optimizer.init)(params), np.zeros(len(params), np.int32)
    )
    epoch = train_step.make_train_epoch(
        stage, vector, optimizer, rate, masking, c.averaging, layout.batch_axis
    )
    return state, layout.compile(epoch, donate=(0,))


def _example(corpus: Corpus) -> Batch:
    features = {m: np.zeros((2, *x.shape[1:]), np.float32) for m, x in corpus.features.items()}
    labels, weights = np.zeros(2, np.int32), np.zeros(2, np.float32)
    return Batch(features, corpus.mask[:2], corpus.present[:2], labels, weights)


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
      Each run's model with the best validation UAR (the first one of equals; the last model
      without a validation part), the scorer to test it with, and for each run where it was
      stopped, if it was.

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
        size = vectors[k].size
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
    chooses = all(map(len, validation))
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

        watched, val_uar = terms, np.full(num_runs, np.nan, np.float32)
        if chooses:
            val_uar = scorer.pooled_uar(state.average, validation, conditions, labels)
            watched = terms | {"val/posteriors": val_uar}
        steps = layout.collect(state.step)
        ends = not_finite(watched)
        fresh = [
            Stopped(fold.number, seed, prefix, epoch, int(step) + 1, *end) if end and on else None
            for (fold, seed), step, end, on in zip(run_ids, steps, ends, trained, strict=True)
        ]
        stopped = [new or old for new, old in zip(fresh, stopped, strict=True)]
        improved = (val_uar > best.val_uar) if chooses else epoch == c.epochs
        improved = improved & np.array([not s for s in stopped])
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


def not_finite(terms: dict[str, np.ndarray]) -> list[tuple[str, str] | None]:
    """Of each run the first term that is not finite and what it is, if one is.

    Args:
      terms: name -> `[R]`, the losses before their sum.
    """
    sums = ("loss", "gradient_norm")  # of the others, which say more
    names = sorted(terms, key=lambda name: name in sums)
    found = [None] * len(terms["loss"])
    for name in reversed(names):
        for r in np.flatnonzero(~np.isfinite(terms[name])):
            found[r] = (name, str(terms[name][r]))
    return found
