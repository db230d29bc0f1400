"""Figures of one system or several: over the conditions, and over missing rates and noise."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np

from cmarr_jax.results import figures, folder, names
from cmarr_jax.results.folder import Results
from cmarr_jax.results.style import COLUMN, GREY, LINES, MARKERS, PAPER, SERIES, TWO_COLUMNS, styled
from cmarr_jax.results.summary import braces
from cmarr_jax.results.tables import Comparison, Lines

_SCORES = ("WAR, %", "UAR, %")


@styled
def systems(table: Comparison, guess: figures.Guessing | None = None) -> plt.Figure:
    """WAR and UAR of every system under every condition, dots with lines side by side.

    Args:
      table: of WAR and UAR.
      guess: what guessing scores, shown as lines.
    """
    figure, panels = plt.subplots(2, 1, figsize=(TWO_COLUMNS, 4.4), sharex=True)
    shown = systems_panels(table, panels, guess)
    panels[0].set_xlabel("")
    where = {"loc": "outside upper center", "ncols": min(len(shown), 5)}
    figure.legend(shown.values(), shown.keys(), frameon=False, fontsize=7, **where)
    return figure


def systems_panels(
    table: Comparison, panels: Sequence[plt.Axes], guess: figures.Guessing | None = None
) -> dict:
    """Draws `systems` into two axes, of one range; returns what a legend shows, by its names."""
    titles = names.members(table.columns)
    num = len(titles)
    place = np.arange(len(table.rows))
    half, whisker = _whiskers(table)
    low, high = _ends(table.mean[..., :2], half[..., :2])
    for k, axes in enumerate(panels):
        for j, name in enumerate(titles):
            mean = table.mean[:, j, k]
            at = place + (j - (num - 1) / 2) * 0.8 / num
            span = [mean - low[:, j, k], high[:, j, k] - mean]
            look = _look(j) | {"linestyle": "none", "elinewidth": 0.8, "capsize": 1.2}
            axes.errorbar(at, mean, yerr=np.maximum(span, 0), label=name, **look)
        axes.grid(axis="y", color=GREY, linewidth=0.4, alpha=0.4)
        axes.set_axisbelow(True)
        axes.set_ylabel(_SCORES[k])
        axes.set_xlim(-0.5, len(place) - 0.5)
        axes.set_xticks(place, [braces(row.removeprefix("full ")) for row in table.rows])
        axes.set_xlabel("available modalities")
    if guess is not None:
        figures.draw_majority(panels[0], guess)
        figures.draw_chance(panels[1], guess)
    if whisker:
        figures.draw_whisker(panels[1], whisker)
    shown = [dict(zip(*a.get_legend_handles_labels()[::-1], strict=True)) for a in panels]
    limits = np.array([axes.get_ylim() for axes in panels])
    bottom, top = limits[:, 0].min(), limits[:, 1].max()
    for axes in panels:
        axes.vlines(place[1:] - 0.5, bottom, top, color=GREY, linewidth=0.4, alpha=0.6)
        axes.set_ylim(bottom, top)
    ordered = {name: shown[0][name] for name in titles if name in shown[0]}
    return ordered | shown[0] | shown[1]


def _whiskers(table: Comparison) -> tuple[np.ndarray, str]:
    """What is drawn around the means `[C, S, K]`, 0 where there is none, and what it is."""
    for half, label in (
        (table.half_width, "95 % interval"),
        (table.deviation, "standard deviation"),
    ):
        if not np.isnan(half).all():
            return np.nan_to_num(half), label
    return np.zeros_like(table.mean), ""


def _ends(mean: np.ndarray, half: np.ndarray) -> np.ndarray:
    """Lower and upper ends of intervals in per cent, cut at 0 and 100; `[2, ...]`."""
    return np.clip([mean - half, mean + half], 0, 100)


@styled
def robustness(curves: Mapping[str, Lines]) -> plt.Figure:
    """WAR and UAR against the missing rate and the level of each noise, a line a system.

    Args:
      curves: one of `names.CURVES` -> its lines, at least one.
    """
    num = max(len(lines.columns) for lines in curves.values())
    width = COLUMN if len(curves) == 1 and num <= 4 else TWO_COLUMNS
    shape = (2, len(curves))
    look = {"figsize": (width, 3.6), "sharex": "col", "sharey": "row", "squeeze": False}
    figure, panels = plt.subplots(*shape, **look)
    for column, (kind, lines) in zip(panels.T, curves.items(), strict=True):
        for k, axes in enumerate(column):
            for j, name in enumerate(names.members(lines.columns)):
                low, high = lines.low[:, j, k], lines.high[:, j, k]
                band = {
                    "color": SERIES[j % len(SERIES)],
                    "alpha": min(0.2, 0.6 / num),
                    "linewidth": 0,
                }
                if not np.isnan(low).all():
                    axes.fill_between(lines.points, low, high, **band)
                style = LINES[j % len(LINES)]
                mean = lines.mean[:, j, k]
                axes.plot(lines.points, mean, label=name, linestyle=style, **_look(j))
            axes.grid(axis="y", color=GREY, linewidth=0.4, alpha=0.4)
        column[1].set_xlabel(names.CURVES[kind])
    for k, label in enumerate(_SCORES):
        panels[k, 0].set_ylabel(label)
    handles, labels = panels[0, 0].get_legend_handles_labels()
    if len(labels) > 1:
        where = {"loc": "outside upper center", "ncols": min(len(labels), 5 if width > 4 else 2)}
        figure.legend(handles, labels, frameon=False, fontsize=7, **where)
    return figure


def lines_of(r: Results) -> dict[str, Lines]:
    """The `tables.curves` of one sweep, with its own intervals."""
    estimates, made = folder.estimates(r), {}
    for kind in names.CURVES:
        at = {0.0: r.conditions[-1]}
        at |= {float(c.partition("=")[2]): c for c in r.curves if c.startswith(f"{kind}=")}
        if len(at) < 2:
            continue
        values = np.array(
            [[estimates[at[x]][score] for score in ("war", "uar")] for x in sorted(at)]
        )  # [P, 2 (WAR, UAR), 3 (mean, low, high)]
        mean, low, high = 100 * np.moveaxis(values, -1, 0)[:, :, None]
        made[kind] = Lines(sorted(at), [r.identity["system"]], mean, low, high)
    return made


def _look(number: int) -> dict:
    """Colour and marker; from the seventh system on the markers are hollow."""
    colour = SERIES[number % len(SERIES)]
    return {
        "color": colour,
        "marker": MARKERS[number % len(MARKERS)],
        "markersize": 3.2,
        "markerfacecolor": colour if number < len(SERIES) else PAPER,
        "markeredgewidth": 0.8,
        "linewidth": 1,
    }
