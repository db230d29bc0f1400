"""The utterances that a sweep is most sure of, and wrong about."""

import os
from typing import NamedTuple

import numpy as np

from cmarr_jax.data import utterances
from cmarr_jax.errors import UserError
from cmarr_jax.results.folder import Predictions, Results, Transcripts


class Mistake(NamedTuple):
    """An utterance whose most probable class is not its label."""

    id: str
    label: int  # class index
    predicted: int  # by the mean of the seeds' posteriors
    probability: float  # that mean gives to `predicted`
    of_label: float  # and to `label`
    agree: int  # how many seeds predict `predicted`
    seeds: int  # of how many


def most_confident(predictions: Predictions, condition: int, limit: int) -> list[Mistake]:
    """The worst first; of equals, by id. Each utterance is judged by the mean of its seeds.

    Args:
      predictions: of all runs. A run's fold tests an utterance; seeds are told apart by the run.
      condition: index of the condition.
      limit: how many at most.
    """
    at = predictions.condition == condition
    posteriors, labels = predictions.posteriors[at], predictions.labels[at]
    ids, first, row = np.unique(predictions.ids[at], return_index=True, return_inverse=True)
    seeds = np.bincount(row, minlength=len(ids))
    mean = np.zeros((len(ids), posteriors.shape[-1]))
    np.add.at(mean, row, posteriors)
    mean /= seeds[:, None]
    guess, truth = mean.argmax(axis=-1), labels[first]
    agree = np.bincount(row, weights=posteriors.argmax(axis=-1) == guess[row], minlength=len(ids))
    wrong = np.flatnonzero(guess != truth)
    order = wrong[np.argsort(-mean[wrong, guess[wrong]], kind="stable")][:limit]
    return [
        Mistake(
            id=str(ids[i]),
            label=int(truth[i]),
            predicted=int(guess[i]),
            probability=float(mean[i, guess[i]]),
            of_label=float(mean[i, truth[i]]),
            agree=int(agree[i]),
            seeds=int(seeds[i]),
        )
        for i in order
    ]


def transcripts(r: Results) -> Transcripts:
    """What was said in the tested utterances, where the pack of the config is still there."""
    pack = r.config.get("data", {}).get("pack", "")
    if not pack:
        return Transcripts({}, "What was said is not shown: the config names no pack.")
    file = os.path.join(pack, "utterances.csv")
    if not os.path.exists(file):
        return Transcripts({}, f"What was said is not shown: there is no pack at {pack} now.")
    try:
        columns = utterances.read(file)
    except UserError as e:
        return Transcripts({}, f"What was said is not shown: {e}.")
    if "text" not in columns or not any(columns["text"]):
        return Transcripts({}, f"What was said is not shown: the pack {pack} has no texts.")
    ids = columns["id"].tolist()
    if r.predictions is not None and not {*r.predictions.ids.tolist()} <= {*ids}:
        note = f"What was said is not shown: the pack at {pack} now holds other utterances."
        return Transcripts({}, note)
    note = (
        f"What was said was read from the pack {pack} when this page was made. It is the corpus' "
        "own: mind its licence before you pass this page on; --notranscripts leaves it out."
    )
    return Transcripts(dict(zip(ids, columns["text"].tolist(), strict=True)), note)
