"""The loop: trains all runs of an experiment, chooses each run's epoch on its validation part.

A system of several stages (a teacher, then its student) goes through the loop once a stage.
"""

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from cmarr_jax.data.protocol import Condition
from cmarr_jax.runtime import processes
from cmarr_jax.runtime.exits import Preempted
from cmarr_jax.systems.system import Stage, for_cpu
from cmarr_jax.training import blindness, train_step
from cmarr_jax.training.evaluation import Scorer
from cmarr_jax.training.experiment import Experiment
from cmarr_jax.training.feed import Feed
from cmarr_jax.training.layout import Layout, make_layout
from cmarr_jax.training.runs import epoch_order, make_runs
from cmarr_jax.training.train_step import TrainState
from cmarr_jax.training.vector import Vector, init_params
from cmarr_jax.workdir.status import Stopped


class Epoch(NamedTuple):
    """What the loop reports after each epoch; arrays are `[R]`."""

    stage: str  # name of an earlier stage, "" of the last
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

    params: Any  # [R, P], see vector.Vector
    epoch: np.ndarray  # [R] int32, counted from 1
    val_uar: np.ndarray  # [R] float32; NaN without a validation part


class Trained(NamedTuple):
    """R trained runs, on the host."""

    best: Best
    scorer: Scorer  # of the last stage, to test them with
    stopped: list[Stopped | None]  # where each run was, if it was


class Resumed(Protocol):
    """What a checkpoint holds."""

    epoch: int
    state: Any
    stopped: list[dict | None]  # as they were given to `save`


class Checkpoints(Protocol):
    """What the loop needs of `cmarr_jax.workdir.checkpoints`."""

    def resume(self, stage: str, like: Any) -> Resumed | None:
        """The newest `last` of a stage, in the structure of `like`; None at the start."""

    def save(
        self, stage: str, kind: str, epoch: int, state: Any, stopped: Sequence[Mapping | None]
    ) -> None:
        """Saves the `kind` "last" or "best" of a stage."""


def train(
    experiment: Experiment,
    checkpoints: Checkpoints,
    report: Callable[[Epoch], None],
    leave: Callable[[], Any] = lambda: None,
) -> Trained:
    """Trains every run, stage by stage, going on from a checkpoint if there is one.

    A run with a loss or a gradient that is not finite stays as it was before that step and is
    out of the sweep; the others do not notice.

    Args:
      experiment: what is trained.
      checkpoints: where `last` and `best` are kept.
      report: called after each epoch.
      leave: asked after each epoch whether to save and go; may say which signal asks for it.

    Returns:
      Each run's model with the best validation UAR (the first one of equals; the last model
      without a validation part).

    Raises:
      Preempted: `leave` said so.
      UserError: a stage's prediction reads what is missing.
    """
    before, stopped = None, [None] * len(experiment.run_ids)
    for number in range(len(experiment.stages) - 1):
        before, stopped = _teach(experiment, number, before, stopped, checkpoints, report, leave)
    last = len(experiment.stages) - 1
    return _train_stage(experiment, last, before, stopped, checkpoints, report, leave)


def _teach(
    experiment: Experiment,
    number: int,
    before: np.ndarray | None,
    stopped: list[Stopped | None],
    checkpoints: Checkpoints,
    report: Callable[[Epoch], None],
    leave: Callable[[], Any],
) -> tuple[np.ndarray, list[Stopped | None]]:
    """Trains an earlier stage where a run's model does not lie there yet.

    Returns:
      Each run's parameters `[R, P]`, and where runs were stopped.
    """
    teachers, stage = experiment.teachers, experiment.stages[number]
    files = [teachers.file(experiment.config, stage, run_id) for run_id in experiment.run_ids]
    new = [r for r, file in enumerate(files) if not teachers.has(file)]
    if new:  # then all are trained: a checkpoint holds all of them
        trained = _train_stage(experiment, number, before, stopped, checkpoints, report, leave)
        stopped = trained.stopped
        for r in new:
            if not stopped[r]:
                teachers.save(files[r], trained.best.params[r])
    size = experiment.vectors[number].size
    models = [
        np.zeros(size, np.float32) if stop else teachers.load(file, size)
        for file, stop in zip(files, stopped, strict=True)
    ]
    return np.stack(models), stopped


def _train_stage(
    experiment: Experiment,
    number: int,
    before: np.ndarray | None,
    stopped: list[Stopped | None],
    checkpoints: Checkpoints,
    report: Callable[[Epoch], None],
    leave: Callable[[], Any],
) -> Trained:
    """Trains one stage from its start or its last checkpoint to its end.

    `before` is `[R, P']`, of the stage before; runs that an earlier stage has `stopped` are not
    begun.
    """
    plan, point = _start(experiment, number, before, stopped)
    blindness.check(
        experiment.stages[number].name, experiment.config.system, plan.scorer,
        np.asarray(point.state.params), experiment.corpus, experiment.conditions,
        len(plan.conditions),
    )  # fmt: skip
    point, first = _resume(plan, point, checkpoints)
    last_saved = time.monotonic()
    while point.epoch < plan.config.epochs and not all(point.stopped):
        trained = np.array([not stop for stop in point.stopped])
        point, terms, rate = _train_epoch(plan, point, trained)
        point, val_uar, fresh = _choose(plan, point, terms)
        rate = rate if point.epoch > first + 1 else float("nan")
        chosen = point.best.val_uar, point.best.epoch
        total = plan.config.epochs
        report(Epoch(plan.name, point.epoch, total, terms, val_uar, *chosen, rate, trained, fresh))

        ended = point.epoch == total or all(point.stopped)
        due = time.monotonic() - last_saved >= experiment.config.checkpoint_seconds
        asked = leave()
        leaving, due = processes.any_says(bool(asked) and point.epoch < total, due)
        if due or leaving or ended:
            _save(plan, point, checkpoints)
            last_saved = time.monotonic()
        if leaving:
            stage = f"{plan.name} " if plan.name else ""
            raise Preempted(f"{stage}epoch {point.epoch} of {total}", asked)
    best = point.best._replace(params=plan.layout.collect(point.best.params))
    return Trained(best, plan.scorer, point.stopped)


class _Plan(NamedTuple):
    """What stays the same while a stage is trained."""

    experiment: Experiment
    name: str  # of an earlier stage, "" of the last
    earlier: int  # stages that are still to come
    config: ConfigDict  # the stage's section
    conditions: Sequence[Condition]  # that validation chooses under
    layout: Layout
    feed: Feed
    runs: train_step.Run  # on the devices
    labels: np.ndarray  # [R, N]
    train_epoch: Callable
    scorer: Scorer


class _Point(NamedTuple):
    """How far a stage is."""

    epoch: int  # epochs that are done
    state: TrainState  # on the devices
    best: Best  # its params on the devices
    stopped: list[Stopped | None]


def _start(
    experiment: Experiment,
    number: int,
    before: np.ndarray | None,
    stopped: list[Stopped | None],
) -> tuple[_Plan, _Point]:
    """The plan of stage `number`, and its start on the host."""
    section = experiment.sections[number]
    config, run_ids, vectors = experiment.config[section], experiment.run_ids, experiment.vectors
    corpus, num_runs = experiment.corpus, len(run_ids)
    earlier = len(vectors) - 1 - number
    batch_sizes = config.batch_size, config.eval_batch_size
    layout = make_layout(num_runs, batch_sizes, experiment.config.layout)
    stage = experiment.make_system(layout.batch_axis).stages[number]
    runs = make_runs(
        corpus, run_ids, experiment.config, section,
        earlier=earlier, settings=[each[number] for each in experiment.settings],
    )  # fmt: skip
    known = (vectors[number - 1], before) if number else None
    params = init_params(stage, vectors[number], runs.key, corpus, known)
    state, train_epoch = compile_epoch(
        stage, vectors[number], params, experiment.masking, config, layout
    )
    on_devices, feed = layout.deal(runs), Feed(corpus, layout)
    plan = _Plan(
        experiment,
        stage.name if earlier else "",
        earlier,
        config,
        experiment.conditions[-1:] if earlier else experiment.conditions,
        layout,
        feed,
        on_devices,
        runs.labels,
        train_epoch,
        Scorer(stage, vectors[number], layout, on_devices, feed, corpus, config.eval_batch_size),
    )
    best = Best(params, np.zeros(num_runs, np.int32), np.full(num_runs, -1, np.float32))
    return plan, _Point(0, state, best, list(stopped))


def _resume(plan: _Plan, start: _Point, checkpoints: Checkpoints) -> tuple[_Point, int]:
    """Where the stage goes on, on the devices, and how many epochs were done before."""
    epoch, (state, best), stopped = 0, (start.state, start.best), start.stopped
    if resumed := checkpoints.resume(plan.name, (state, best)):
        epoch, (state, best) = resumed.epoch, resumed.state
        stopped = [Stopped(**stop) if stop else None for stop in resumed.stopped]
        # The newest one on the disk may be of an earlier epoch.
        checkpoints.save(plan.name, "best", epoch, best, resumed.stopped)
    best = best._replace(params=plan.layout.deal(best.params))
    return _Point(epoch, plan.layout.deal(state), best, stopped), epoch


def _train_epoch(
    plan: _Plan, point: _Point, trained: np.ndarray
) -> tuple[_Point, dict[str, np.ndarray], float]:
    """One more epoch of the runs that are `trained` `[R]`.

    Returns:
      The point after it; mean losses, name -> `[R]`; utterances a second over all runs.
    """
    epoch, size = point.epoch + 1, plan.config.batch_size
    order = epoch_order(plan.experiment.run_ids, epoch, size, plan.earlier)
    order[~trained] = -1
    start = time.monotonic()
    state, sums, going = point.state, [], trained
    for rows, arrays in plan.feed.steps(order):
        rows = np.where(going[:, None, None], rows, -1)
        state, some = plan.train_epoch(state, plan.runs, plan.layout.deal_rows(rows), arrays)
        sums.append(plan.layout.collect(some))
        going = going & np.isfinite(list(sums[-1].values())).all(axis=0)
    counts = np.maximum((order[:, :, 0] >= 0).sum(axis=1), 1).astype(np.float32)
    terms = {name: sum(some[name] for some in sums) / counts for name in sums[0]}
    seconds = time.monotonic() - start
    rate = float((order[:, :, 0] >= 0).sum() * size) / seconds
    return point._replace(epoch=epoch, state=state), terms, rate


def _choose(
    plan: _Plan, point: _Point, terms: Mapping[str, np.ndarray]
) -> tuple[_Point, np.ndarray, list[Stopped | None]]:
    """Validates an epoch and keeps the models that are better than all before.

    Returns:
      The point with the best models; validation UAR `[R]`; the runs that end in this epoch, since
      one of their `terms` or posteriors is not finite.
    """
    run_ids, best = plan.experiment.run_ids, point.best
    validation = [fold.val for fold, _ in run_ids]
    chooses = all(map(len, validation))
    watched, val_uar = dict(terms), np.full(len(run_ids), np.nan, np.float32)
    if chooses:
        average = point.state.average
        val_uar = plan.scorer.pooled_uar(average, validation, plan.conditions, plan.labels)
        watched["val/posteriors"] = val_uar
    steps = plan.layout.collect(point.state.step)
    fresh = [
        Stopped(fold.number, seed, plan.name, point.epoch, int(step) + 1, *end)
        if end and not before
        else None
        for (fold, seed), step, end, before in zip(
            run_ids, steps, not_finite(watched), point.stopped, strict=True
        )
    ]
    stopped = [new or old for new, old in zip(fresh, point.stopped, strict=True)]
    better = (val_uar > best.val_uar) if chooses else point.epoch == plan.config.epochs
    better = better & np.array([not stop for stop in stopped])
    best = Best(
        _keep_better(best.params, point.state.average, plan.layout.deal(better)),
        np.where(better, point.epoch, best.epoch).astype(np.int32),
        np.where(better, val_uar, best.val_uar),
    )
    return point._replace(best=best, stopped=stopped), val_uar, fresh


@functools.partial(jax.jit, donate_argnums=0)
def _keep_better(old: jax.Array, new: jax.Array, better: jax.Array) -> jax.Array:
    return jnp.where(better[..., None], new, old)


def _save(plan: _Plan, point: _Point, checkpoints: Checkpoints) -> None:
    best = point.best._replace(params=plan.layout.collect(point.best.params))
    notes = [stop and stop._asdict() for stop in point.stopped]
    state = plan.layout.collect(point.state)
    checkpoints.save(plan.name, "last", point.epoch, (state, best), notes)
    checkpoints.save(plan.name, "best", point.epoch, best, notes)


def compile_epoch(
    stage: Stage,
    vector: Vector,
    params: jax.Array,
    masking: train_step.Masking,
    config: ConfigDict,
    layout: Layout,
) -> tuple[TrainState, Callable]:
    """What a stage's training starts from, leaves `[R, ...]`, and an epoch of all runs.

    Args:
      stage: what is trained.
      vector: of its parameters.
      params: `[R, P]`, of `init_params`.
      masking: the missing patterns of training.
      config: the stage's section of a config, `train` or `pretrain`.
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
    state = TrainState(
        params, params, jax.vmap(optimizer.init)(params), np.zeros(len(params), np.int32)
    )
    epoch = train_step.make_train_epoch(
        stage, vector, optimizer, rate, masking, c.averaging, layout.batch_axis
    )
    return state, layout.compile(epoch, donate=(0,))


def not_finite(terms: Mapping[str, np.ndarray]) -> list[tuple[str, str] | None]:
    """Of each run the first term that is not finite and what it is, if one is.

    Args:
      terms: name -> `[R]`, the losses before their sum.
    """
    sums = ("loss", "gradient_norm")  # of the others, which say more
    names = sorted(terms, key=lambda name: name in sums)
    found: list[tuple[str, str] | None] = [None] * len(terms["loss"])
    for name in reversed(names):
        for r in np.flatnonzero(~np.isfinite(terms[name])):
            found[r] = (name, str(terms[name][r]))
    return found
