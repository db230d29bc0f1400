"""Before a stage is trained: whether its prediction reads what is missing.

A system whose prediction does, by a sum over all modalities, say, trains well and scores the same
under every condition: its numbers would mean nothing.
"""

import inspect

import jax
import numpy as np

from cmarr_jax.errors import UserError
from cmarr_jax.systems.system import Stage
from cmarr_jax.training.evaluation import Scorer
from cmarr_jax.training.experiment import Experiment

_NOISE = 0.05  # on the parameters, since layers that begin at zero would hide what they pass on
_ROUNDING = 1e-5  # of a posterior, where a device may add in any order


def check(
    experiment: Experiment, stage: Stage, scorer: Scorer, params: np.ndarray, at_once: int
) -> None:
    """Predicts a batch twice under each missing modality, its values changed in between.

    The scorer's own program runs, which validation has to compile anyway: other values are other
    statistics that features are normalised by.

    Args:
      experiment: its corpus and conditions.
      stage: what predicts.
      scorer: of the stage.
      params: `[R, P]`, at its start.
      at_once: how many conditions the scorer takes at once.

    Raises:
      UserError: a prediction moves; names the modality and the file of the stage's `predict`.
    """
    corpus = experiment.corpus
    rng = np.random.default_rng(0)
    one = np.asarray(params[0])
    one = one + _NOISE * rng.standard_normal(len(one), np.float32)
    params = np.broadcast_to(one, (len(params), len(one)))
    whole = np.flatnonzero(corpus.present.all(axis=1))
    rows = whole if len(whole) else np.arange(len(corpus.labels))
    runs = scorer.runs
    for m, modality in enumerate(corpus.modalities):
        without = [c for c in experiment.conditions if not np.asarray(c.available)[m]]
        if not without:
            continue
        probed = [without[-1 - k % len(without)] for k in range(at_once)]
        mean, scale = dict(runs.statistics.mean), dict(runs.statistics.scale)
        shift = rng.standard_normal(mean[modality].shape[1:], np.float32)
        mean[modality] = mean[modality] + shift / scale[modality]
        scale[modality] = scale[modality] * np.exp(rng.standard_normal(shift.shape, np.float32) / 2)
        changed = runs._replace(statistics=runs.statistics._replace(mean=mean, scale=scale))
        before, after = (scorer.probe(params, each, rows, probed) for each in (runs, changed))
        for k, condition in enumerate(probed):
            pairs = zip(before, after, strict=True)
            if any(_moves(x[:, k], y[:, k]) for x, y in pairs):
                raise UserError(
                    f"{_file(stage)}: system {experiment.config.system!r}: under "
                    f"{condition.name!r} the prediction of {stage.name!r} moves "
                    f"with the values of {modality}, which is missing there; let `predict` use "
                    "`available` to leave them out (docs/systems.md)"
                )


def _moves(one: np.ndarray, other: np.ndarray) -> bool:
    rounding = 0.0 if jax.default_backend() == "cpu" else _ROUNDING
    return not np.allclose(one, other, rtol=rounding, atol=rounding, equal_nan=True)


def _file(stage: Stage) -> str:
    return inspect.getsourcefile(stage.predict) or stage.name
