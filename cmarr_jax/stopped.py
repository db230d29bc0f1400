"""Runs of a sweep that end before their time, because something is no longer finite."""

from typing import NamedTuple

import numpy as np


class Stopped(NamedTuple):
    """A run that ended before its time: something in it was no longer finite."""

    fold: int
    seed: int
    stage: str  # "NAME_" of an earlier stage, "" of the last
    epoch: int  # counted from 1
    step: int  # of the stage, counted from 1
    term: str  # the loss, or "val/posteriors"
    value: str  # "nan", "inf" or "-inf"

    def __str__(self) -> str:
        return (
            f"fold {self.fold}, seed {self.seed}: stopped at step {self.step} (epoch {self.epoch}),"
            f" where {self.stage}{self.term} became {self.value}"
        )


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
