"""What a sweep would do, how large it is and how long it would take, without training it.

The real loop runs the sweep's own programs for two epochs of at most 3 steps and a batch of
validation: the first epoch compiles, the second is measured. What was compiled lies in JAX's cache,
where the sweep finds it. Where a device takes its runs one after another, one of each is enough.
"""

import dataclasses
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from cmarr_jax.cli.units import duration, size
from cmarr_jax.data.pipeline import Corpus
from cmarr_jax.runtime import devices, memory
from cmarr_jax.systems.system import Encoder
from cmarr_jax.training import loop
from cmarr_jax.training.experiment import Experiment
from cmarr_jax.training.loop import Epoch
from cmarr_jax.training.runs import RunId
from cmarr_jax.training.teachers import Teachers

STEPS = 3


class StagePlan(NamedTuple):
    """One stage of the sweep, times in seconds."""

    name: str
    parameters: int  # of one run
    epochs: int
    steps: int  # an epoch, of the run with the most steps
    step: float  # one step of all runs
    validation: float  # after each epoch
    compile: float
    measured: int  # number of steps
    kept: int  # runs whose model of this stage exists already

    @property
    def expected(self) -> float:
        """Seconds that the whole stage will take."""
        return self.compile + self.epochs * (self.steps * self.step + self.validation)


def measure(experiment: Experiment) -> list[StagePlan]:
    """Measures every stage of `experiment`; reads its teachers' folder, writes nothing there."""
    seen, epochs = [time.monotonic()], []

    def report(epoch: Epoch) -> None:
        seen.append(time.monotonic())
        epochs.append(epoch)

    with tempfile.TemporaryDirectory() as folder:
        short = _shorten(experiment, Teachers(folder, experiment.corpus, experiment.digest))
        loop.train(short, _NoCheckpoints(), report)
    config, run_ids, plans = experiment.config, experiment.run_ids, []
    assert short.steps is not None
    rounds = max(1, -(-len(run_ids) // sum(map(bool, short.steps))))  # one after another
    stages = zip(experiment.stages, experiment.vectors, experiment.sections, strict=True)
    for k, (stage, vector, section) in enumerate(stages):
        size, batch = config[section].batch_size, config[section].eval_batch_size
        learners = experiment.learners(k)
        steps = [
            min(most, len(fold.train) // size)
            for (fold, _), most in zip(learners, short.steps, strict=True)
        ]
        training_time = sum(steps) * size / epochs[2 * k + 1].utterances_per_second
        more_batches = _batches(run_ids, batch) / _batches(short.run_ids, batch)
        first, second = np.diff(seen)[2 * k : 2 * k + 2]
        last = k == len(experiment.stages) - 1
        teachers = experiment.teachers
        files = [] if last else [teachers.file(config, stage, r) for r in run_ids]
        plans.append(
            StagePlan(
                stage.name,
                vector.size,
                config[section].epochs,
                max(len(fold.train) // size for fold, _ in learners),
                rounds * training_time / max(steps),
                (second - training_time) * more_batches,
                max(first - second, 0.0),
                max(steps),
                sum(map(teachers.has, files)),
            )
        )
    return plans


def _batches(run_ids: Sequence[RunId], size: int) -> int:
    """Of a validation; 1 where there is none."""
    return max(1, *(-(-len(fold.val) // size) for fold, _ in run_ids))


def _shorten(experiment: Experiment, teachers: Teachers) -> Experiment:
    """The same for two epochs of few steps and a batch of validation, with other teachers."""
    short = experiment.config.copy_and_resolve_references()
    for section in experiment.sections:
        short[section].epochs = 2
    tested = max(short[section].eval_batch_size for section in experiment.sections)
    sweeps = [
        dataclasses.replace(
            sweep,
            config=short,
            run_ids=[
                RunId(fold._replace(val=fold.val[:tested]), seed) for fold, seed in sweep.run_ids
            ],
        )
        for sweep in experiment.sweeps
    ]
    num_runs, in_turn = len(experiment.run_ids), 1
    if jax.default_backend() == "cpu" and short.layout != "vmap":
        in_turn = -(-num_runs // jax.device_count())  # on each device
    steps = [0 if r % in_turn else STEPS for r in range(num_runs)]
    return dataclasses.replace(experiment, sweeps=sweeps, teachers=teachers, steps=steps)


class _NoCheckpoints:
    """Keeps nothing: writing is not measured."""

    def resume(self, *args: object) -> None:
        """Nothing was kept."""

    def save(self, *args: object) -> None:
        """Keeps nothing."""


def describe(plans: Sequence[StagePlan], experiment: Experiment, folders: Sequence[str]) -> str:
    """The plan as text; `folders` is where the results would go."""
    identity, corpus, run_ids = experiment.sweeps[0].identity, experiment.corpus, experiment.run_ids
    num_runs = len(run_ids)
    folds = [fold.number for fold, _ in run_ids]
    seeds = len({seed for _, seed in run_ids})
    arrays = (*corpus.features.values(), corpus.mask, corpus.present)
    state = memory.of_runs(plans[-1].parameters, num_runs)
    shown = ", ".join(f"{m} {x.shape[-1]}-d" for m, x in corpus.features.items())
    positions, layout = corpus.mask.shape[1], experiment.layout
    encoded = experiment.stages[-1].encoders
    count = f"{len(experiment.sweeps)} sweeps x " if experiment.sweeps[1:] else ""
    lines = [
        f"{identity['system']} ({experiment.variants}) on {identity['corpus']}; "
        f"{identity['protocol']}" + (f"; {experiment.scheme}" if experiment.scheme else ""),
        f"{len(corpus.labels)} utterances of {positions} positions; {shown}",
        f"{num_runs} runs: {count}{len(set(folds))} folds x {seeds} seeds, on "
        f"{devices.describe()} in {experiment.precision.name}"
        + (", those of a device one after another" if encoded and layout == "map" else ""),
        *(_describe_encoder(each, corpus) for each in encoded),
        "",
        f"{'stage':<10}{'parameters':>12}{'epochs':>8}{'steps':>8}{'ms a step':>11}"
        f"{'validation':>12}{'compile':>9}{'expected':>10}",
    ]
    total = 0.0
    for plan in plans:
        there = plan.kept == num_runs
        expected = 0.0 if there else plan.expected
        total += expected
        lines.append(
            f"{plan.name:<10}{plan.parameters:>12,}{plan.epochs:>8}{plan.steps:>8}"
            f"{1000 * plan.step:>11.1f}{plan.validation:>11.1f}s{plan.compile:>8.1f}s"
            f"{'there' if there else duration(expected):>10}"
        )
    lines += [
        "",
        f"a step is one of every run, measured over {plans[-1].measured} beside what else "
        "the machine did; the test is not counted; what was compiled is kept for the run",
        f"memory: corpus {size(sum(x.nbytes for x in arrays))}, parameters and optimizer "
        f"{size(state)} for all runs; expected at most {size(experiment.memory)} of "
        f"{size(memory.total())}; {_peak()}",
        *experiment.gaps,
        *filter(None, [experiment.advice]),
        f"expected time: {duration(total)}; nothing was written to {', '.join(folders)}",
    ]
    return "\n".join(lines)


def _describe_encoder(encoder: Encoder, corpus: Corpus) -> str:
    """What learns before the system, in a line."""
    count = sum(np.size(leaf) for leaf in jax.tree.leaves(encoder.params))
    if not encoder.positions:
        return f"{encoder.modality}: a mix of {count} layers learns"
    rows = corpus.rows[encoder.modality]
    return (
        f"{encoder.modality}: {encoder.facts['kind']} above state {encoder.facts['start']} learns, "
        f"{count:,} parameters; {rows[rows > 0].mean():.1f} rows an utterance, at most {rows.max()}"
    )


def _peak() -> str:
    statistics = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in statistics:
        return f"at most {size(statistics['peak_bytes_in_use'])} of the first device in use"
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return f"this process took at most {size(peak)}"
