"""The test: every run's chosen model, once, on the test part of its fold."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from cmarr_jax.training.evaluation import Scored
from cmarr_jax.training.experiment import Experiment
from cmarr_jax.training.loop import Best, Trained
from cmarr_jax.training.normalise import Statistics
from cmarr_jax.workdir.status import Stopped


class Tested(NamedTuple):
    """The results of a sweep's R runs, on the host."""

    best: Best[np.ndarray]
    statistics: Statistics[np.ndarray]  # by which each run's features are normalised
    scored: Sequence[Scored]  # under the experiment's conditions, then its curves
    stopped: Sequence[Stopped | None]
    shown: tuple[np.ndarray, ...]  # from `Scorer.represent`


def test(experiment: Experiment, trained: Trained) -> list[Tested]:
    """Scores the best model of each run; returns one `Tested` for each sweep."""
    best, scorer, stopped = trained
    rows = [fold.test for fold, _ in experiment.run_ids]
    scored = scorer.score_best(best.params, rows, experiment.conditions, experiment.curves)
    statistics = scorer.runs.statistics
    tested = []
    for runs in experiment.slices:
        shown = scorer.represent(best.params, rows, experiment.conditions, stopped, runs)
        own = jax.tree.map(lambda leaf, runs=runs: leaf[runs], (best, statistics))
        tested.append(Tested(own[0], own[1], scored[runs], stopped[runs], shown))
    return tested
