"""The entries of a hyperparameter sweep in the order of their validation scores, never of a test's.

The test part is there to be looked at once, by the entry that validation has chosen: to choose by
it would make its scores too good.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np

from cmarr_jax.results.style import COLUMN, INK, SERIES, TWO_COLUMNS, styled

_LONGEST = 46  # characters of a name in the figure


class Ranked(NamedTuple):
    """An entry and the validation UAR of its runs, 0 to 1."""

    name: str
    mean: float
    deviation: float  # over the runs; NaN for one
    runs: int
    lacks: int  # runs that others have and this one has not: they were stopped


def rank(val_uar: Mapping[str, Mapping[tuple[str, str], float]]) -> list[Ranked]:
    """The entries, best first; those that lack runs come last, since their means are of others.

    Args:
      val_uar: entry -> (fold, seed) -> the chosen epoch's UAR on the validation part, the
        predictions of all conditions pooled; entries without any are left out.
    """
    most = max((len(runs) for runs in val_uar.values()), default=0)
    entries = [
        Ranked(
            name,
            float(np.mean(list(runs.values()))),
            float(np.std(list(runs.values()), ddof=1)) if len(runs) > 1 else float("nan"),
            len(runs),
            most - len(runs),
        )
        for name, runs in val_uar.items()
        if runs
    ]
    return sorted(entries, key=lambda e: (e.lacks > 0, -e.mean))


def table(ranking: Sequence[Ranked]) -> str:
    """The ranking as text, per cent."""
    width = max(len("entry"), *(len(e.name) for e in ranking))
    lines = [f"{'rank':>4}  {'entry':<{width}}  {'validation UAR %':>16}  runs"]
    for number, entry in enumerate(ranking, start=1):
        score = f"{100 * entry.mean:.2f}"
        if np.isfinite(entry.deviation):
            score += f" ± {100 * entry.deviation:.2f}"
        lacks = f", {entry.lacks} stopped" if entry.lacks else ""
        lines.append(f"{number:>4}  {entry.name:<{width}}  {score:>16}  {entry.runs}{lacks}")
    return "\n".join(lines)


@styled
def figure(ranking: Sequence[Ranked]) -> plt.Figure:
    """Each entry's validation UAR, mean and deviation over its runs, best above; the chosen one
    is filled.
    """
    names = [e.name if len(e.name) <= _LONGEST else f"{e.name[: _LONGEST - 1]}…" for e in ranking]
    wide = max(map(len, names)) > _LONGEST // 3
    size = TWO_COLUMNS if wide else COLUMN, 0.7 + 0.18 * len(names)
    drawn, axes = plt.subplots(figsize=size)
    place = -np.arange(len(names))
    mean = 100 * np.array([e.mean for e in ranking])
    span = 100 * np.nan_to_num([e.deviation for e in ranking])
    axes.errorbar(mean, place, xerr=span, fmt="none", ecolor=INK, linewidth=0.8, capsize=1.5)
    axes.plot(mean, place, "o", color=SERIES[0], markerfacecolor="white", markersize=4)
    axes.plot(mean[:1], place[:1], "o", color=SERIES[0], markersize=4)
    axes.set_yticks(place, names)
    axes.set_ylim(place[-1] - 0.6, 0.6)
    axes.set_xlabel("validation UAR, %")
    axes.grid(axis="x", linewidth=0.3)
    axes.set_axisbelow(True)
    return drawn
