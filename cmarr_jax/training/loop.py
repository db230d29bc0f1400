"""The loop: trains all runs of an experiment and chooses each run's epoch by validation.

A system of several stages (a teacher, then its student) goes through the loop once a stage.
"""

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Generic, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from cmarr_jax.data.protocol import Condition
from cmarr_jax.runtime import processes
from cmarr_jax.runtime.exits import Preempted
from cmarr_jax.runtime.processes import PyTree
from cmarr_jax.systems.system import Stage, for_cpu
from cmarr_jax.training import blindness, train_step
from cmarr_jax.training.evaluation import Scorer, Validated
from cmarr_jax.training.experiment import Experiment
from cmarr_jax.training.feed import Feed
from cmarr_jax.training.layout import Layout, make_layout
from cmarr_jax.training.normalise import A
from cmarr_jax.training.runs import RunId, epoch_order, make_runs
from cmarr_jax.training.train_step import TrainState
from cmarr_jax.training.vector import Vector, init_params
from cmarr_jax.workdir.checkpoints import Resumed
from cmarr_jax.workdir.status import Stopped


class Epoch(NamedTuple):
    """What the loop reports after each epoch; arrays are `[R]`."""

    stage: str  # name of an earlier stage, "" of the last
    number: int  # counted from 1
    total: int  # epochs of the stage
    terms: dict[str, np.ndarray]  # mean training losses, by name
    validated: Validated  # NaN without a validation part
    best_uar: np.ndarray
    best_epoch: np.ndarray  # counted from 1, 0 = none yet
    utterances_per_second: float  # of training, over all runs; nan in the epoch that compiles
    trained: np.ndarray  # bool; False = the run was stopped in an earlier epoch
    stopped: list[Stopped | None]  # of the runs that were stopped in this epoch

    def of(self, runs: slice) -> "Epoch":
        """The same for some of the runs; the speed stays that of all."""
        return self._replace(
            terms={name: values[runs] for name, values in self.terms.items()},
            validated=Validated(*(x[runs] for x in self.validated)),
            best_uar=self.best_uar[runs],
            best_epoch=self.best_epoch[runs],
            trained=self.trained[runs],
            stopped=self.stopped[runs],
        )


class Best(NamedTuple, Generic[A]):
    """The chosen model of each run."""

    params: A  # [R, P], see vector.Vector
    epoch: np.ndarray  # [R] int32, counted from 1
    val_uar: np.ndarray  # [R] float32; NaN without a validation part


class Trained(NamedTuple):
    """R trained runs, on the host."""

    best: Best[np.ndarray]
    scorer: Scorer  # of the last stage, to test them with
    stopped: list[Stopped | None]  # where each run was stopped; None = it was not


class Checkpoints(Protocol):
    """Where the loop keeps what it can resume from; see `cmarr_jax.workdir.checkpoints`."""

    def resume(self, stage: str, like: PyTree) -> Resumed | None:
        """The newest `last` of a stage, in the structure of `like`; None if there is none."""

    def save(
        self,
        stage: str,
        kind: str,
        epoch: int,
        state: PyTree,
        stopped: Sequence[Mapping[str, object] | None],
    ) -> None:
        """Saves the `kind` "last" or "best" of a stage."""


def train(
    experiment: Experiment,
    checkpoints: Checkpoints,
    report: Callable[[Epoch], None],
    leave: Callable[[], object] = lambda: None,
) -> Trained:
    """Trains every run, stage by stage; resumes from a checkpoint if there is one.

    A run whose loss or gradient is not finite is stopped: it keeps its parameters from before that
    step. This changes nothing for the other runs.

    Args:
      experiment: what is trained.
      checkpoints: where `last` and `best` are kept.
      report: called after each epoch.
      leave: called after each epoch; anything true (such as a signal) = save and leave.

    Returns:
      Each run's model with the best validation UAR (the first of equals), or its last model if
      there is no validation part.

    Raises:
      Preempted: `leave` asked for it.
      UserError: a stage's prediction reads what is missing.
    """
    train_stage = functools.partial(_train_stage, experiment, checkpoints, report, leave)
    before: np.ndarray | None = None
    stopped: list[Stopped | None] = [None] * len(experiment.run_ids)
    last = len(experiment.stages) - 1
    for number in range(last):
        before, stopped = _teach(experiment, train_stage, number, before, stopped)
    return train_stage(last, before, stopped)


def _teach(
    experiment: Experiment,
    train_stage: Callable[[int, np.ndarray | None, list[Stopped | None]], Trained],
    number: int,
    before: np.ndarray | None,
    stopped: list[Stopped | None],
) -> tuple[np.ndarray, list[Stopped | None]]:
    """Loads the models of an earlier stage; trains them first if one is missing.

    Returns:
      Each run's parameters `[R, P]`, and where runs were stopped.
    """
    teachers, stage = experiment.teachers, experiment.stages[number]
    files = [teachers.file(experiment.config, stage, run_id) for run_id in experiment.run_ids]
    new = [r for r, file in enumerate(files) if not teachers.has(file)]
    if new:  # all are trained, because a checkpoint holds all runs
        trained = train_stage(number, before, stopped)
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
    checkpoints: Checkpoints,
    report: Callable[[Epoch], None],
    leave: Callable[[], object],
    number: int,
    before: np.ndarray | None,
    stopped: list[Stopped | None],
) -> Trained:
    """Trains stage `number` from its start or its last checkpoint to its end.

    `before` `[R, P']` are the models of the stage before; the runs that were `stopped` there do
    not begin.
    """
    plan, point = _start(experiment, number, before, stopped)
    stage, params = experiment.stages[number], np.asarray(point.state.params)
    blindness.check(experiment, stage, plan.scorer, params, len(plan.conditions))
    point, first = _resume(plan, point, checkpoints)
    last_saved = time.monotonic()
    while point.epoch < plan.config.epochs and not all(point.stopped):
        trained = np.array([not stop for stop in point.stopped])
        point, terms, rate = _train_epoch(plan, point, trained)
        point, validated, fresh = _choose(plan, point, terms)
        rate = rate if point.epoch > first + 1 else float("nan")
        chosen = point.best.val_uar, point.best.epoch
        total = plan.config.epochs
        report(
            Epoch(plan.name, point.epoch, total, terms, validated, *chosen, rate, trained, fresh)
        )

        ended = point.epoch == total or all(point.stopped)
        due = time.monotonic() - last_saved >= experiment.config.checkpoint_seconds
        asked = leave()
        leaving, due = processes.any_says(bool(asked) and point.epoch < total, due)
        if due or leaving or ended:
            _save(plan, point, checkpoints)
            last_saved = time.monotonic()
        if leaving:
            raise Preempted(f"{plan.name} epoch {point.epoch} of {total}".lstrip(), asked)
    params, *chosen = point.best
    return Trained(Best(plan.layout.collect(params), *chosen), plan.scorer, point.stopped)


class _Plan(NamedTuple):
    """What stays the same while a stage is trained."""

    experiment: Experiment
    name: str  # of an earlier stage, "" of the last
    to_come: int  # stages after this one
    learners: Sequence[RunId]  # see `Experiment.learners`
    config: ConfigDict  # the stage's section
    conditions: Sequence[Condition]  # of the validation
    layout: Layout
    feed: Feed
    runs: train_step.Run[jax.Array]  # on the devices
    labels: np.ndarray  # [R, N]
    train_epoch: Callable
    scorer: Scorer


class _Point(NamedTuple):
    """How far a stage is."""

    epoch: int  # epochs that are done
    state: TrainState  # on the devices
    best: Best[jax.Array]  # on the devices
    stopped: list[Stopped | None]


def _start(
    experiment: Experiment,
    number: int,
    before: np.ndarray | None,
    stopped: list[Stopped | None],
) -> tuple[_Plan, _Point]:
    """The plan of stage `number`, and its starting point on the host."""
    section = experiment.sections[number]
    config, run_ids, vectors = experiment.config[section], experiment.run_ids, experiment.vectors
    corpus, num_runs = experiment.corpus, len(run_ids)
    to_come = len(vectors) - 1 - number
    batch_sizes = config.batch_size, config.eval_batch_size
    layout = make_layout(num_runs, batch_sizes, experiment.layout)
    stage = experiment.make_system(layout.batch_axis).stages[number]
    learners = experiment.learners(number)
    runs = make_runs(
        experiment.seen,
        run_ids,
        experiment.config,
        section,
        to_come=to_come,
        settings=[each[number] for each in experiment.settings],
        learn=learners,
    )
    known = (vectors[number - 1], before) if number else None
    params = init_params(stage, vectors[number], runs.key, corpus, known)
    state, train_epoch = compile_epoch(
        stage, vectors[number], params, experiment.masking, config, layout
    )
    on_devices, feed = layout.deal(runs), Feed(corpus, layout)
    plan = _Plan(
        experiment,
        stage.name if to_come else "",
        to_come,
        learners,
        config,
        experiment.validated(number),
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
    """Where the stage continues, on the devices, and how many epochs are done already."""
    epoch, (state, best), stopped = 0, (start.state, start.best), start.stopped
    if resumed := checkpoints.resume(plan.name, (state, best)):
        epoch, (state, best) = resumed.epoch, resumed.state
        stopped = [Stopped(**stop) if stop else None for stop in resumed.stopped]
        # The newest `best` on the disk may be older than `last`.
        checkpoints.save(plan.name, "best", epoch, best, resumed.stopped)
    best = best._replace(params=plan.layout.deal(best.params))
    return _Point(epoch, plan.layout.deal(state), best, stopped), epoch


def _train_epoch(
    plan: _Plan, point: _Point, trained: np.ndarray
) -> tuple[_Point, dict[str, np.ndarray], float]:
    """Trains the runs in `trained` `[R]` for one epoch.

    Returns:
      The new point; mean losses, name -> `[R]`; utterances a second over all runs.
    """
    epoch, size = point.epoch + 1, plan.config.batch_size
    rows = plan.experiment.corpus.total_rows
    order = epoch_order(plan.learners, epoch, size, plan.to_come, rows)
    order[~trained] = -1
    for row, most in zip(order, plan.experiment.steps or (), strict=False):
        row[most:] = -1
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
) -> tuple[_Point, Validated, list[Stopped | None]]:
    """Validates an epoch and keeps each run's model if it is the best so far.

    Returns:
      The point with the best models; the validation; the runs that are stopped in this epoch
      because one of their `terms` or posteriors is not finite.
    """
    run_ids, best = plan.experiment.run_ids, point.best
    validation = [fold.val for fold, _ in run_ids]
    chooses = all(map(len, validation))
    watched = dict(terms)
    validated = Validated(*np.full((2, len(run_ids)), np.nan, np.float32))
    if chooses:
        average = point.state.average
        validated = plan.scorer.validate(average, validation, plan.conditions, plan.labels)
        watched["val/posteriors"] = validated.uar
    val_uar = validated.uar
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
    return point._replace(best=best, stopped=stopped), validated, fresh


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
    """The state that a stage starts with, leaves `[R, ...]`, and the function of one epoch.

    Args:
      stage: what is trained.
      vector: how its parameters lie.
      params: `[R, P]`, from `init_params`.
      masking: how training hides modalities.
      config: the stage's section of a config, `train` or `pretrain`.
      layout: how the runs lie on the devices.

    Returns:
      The state, and the function of `train_step.make_train_epoch` compiled over all runs; a call
      of it takes over the state's buffers.
    """
    c = config
    if jax.default_backend() == "cpu":
        stage = for_cpu(stage)
    optimizer = train_step.make_optimizer(clip_norm=c.clip_norm, beta1=c.beta1)
    schedule = {"warmup": c.warmup, "schedule": c.schedule, "linear_from": c.linear_from}
    rate = functools.partial(train_step.learning_rate, **schedule)
    step = jax.device_put(np.zeros(len(params), np.int32))
    state = TrainState(params, params, jax.vmap(optimizer.init)(params), step)
    epoch = train_step.make_train_epoch(
        stage, vector, optimizer, rate, masking, c.averaging, layout.batch_axis, c.accumulate
    )
    return state, layout.compile(epoch, donate=(0,))


def not_finite(terms: Mapping[str, np.ndarray]) -> list[tuple[str, str] | None]:
    """For each run the name and value of its first term that is not finite; None = all are finite.

    Args:
      terms: name -> `[R]`, the loss terms and their sums.
    """
    sums = ("loss", "gradient_norm")  # last, because the single terms say more
    names = sorted(terms, key=lambda name: name in sums)
    found: list[tuple[str, str] | None] = [None] * len(terms["loss"])
    for name in reversed(names):
        for r in np.flatnonzero(~np.isfinite(terms[name])):
            found[r] = (name, str(terms[name][r]))
    return found
