"""Figures of several panels alike: a confusion matrix, a reliability diagram or a curve each."""

import textwrap
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib.pyplot as plt
import matplotlib.ticker
import numpy as np

from cmarr_jax.results import calibration, names
from cmarr_jax.results.folder import Results
from cmarr_jax.results.style import (
    COLUMN,
    GREY,
    HEAT,
    INK,
    LINES,
    MARKERS,
    PAPER,
    SERIES,
    TWO_COLUMNS,
    styled,
)
from cmarr_jax.results.summary import braces

LEGEND = "legend"  # the panel of `curve` that tells the folds apart


@styled
def grid(
    draw: Callable[[plt.Axes, str], None],
    panels: Sequence[str],
    columns: int,
    size: Sequence[float],
) -> plt.Figure:
    """One panel for each name.

    Args:
      draw: `draw(axes, name)` fills a panel.
      panels: their names, in order.
      columns: panels in a row; what is over of the last row stays empty.
      size: width and height of a panel, in inches.
    """
    rows = -(-len(panels) // columns)
    size = (size[0] * columns, size[1] * rows)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False)
    for place, name in zip(axes.flat, panels, strict=False):
        draw(place, name)
    for place in axes.flat[len(panels) :]:
        place.axis("off")
    return figure


@styled
def confusions(r: Results) -> plt.Figure:
    """The confusion matrices of all conditions, three or four in a row, labelled at the edges.

    One column of a paper wide where that is enough, else two.
    """
    num = len(r.conditions)
    least, room = confusion_size(r)
    columns = min(num, 4)
    width = COLUMN if columns * least + room <= COLUMN else TWO_COLUMNS
    if columns * least + room > TWO_COLUMNS:
        columns = min(num, 3)
    side = min((width - room) / columns, 1.55)
    rows = -(-num // columns)
    # The first row is the one that is not full, so that the last has all names below it.
    blank = rows * columns - num
    height = rows * (side + 0.25) + room + 0.05
    width = max(COLUMN, columns * side + room)
    figure, panels = plt.subplots(rows, columns, figsize=(width, height), squeeze=False)
    places = [*panels.flat]
    for place in places[columns - blank : columns]:
        place.axis("off")
    for k, place in enumerate(places[: columns - blank] + places[columns:]):
        confusion(r, place, r.conditions[k])
        if place not in panels[:, 0]:
            place.set(yticklabels=[], ylabel="")
        if place not in panels[-1]:
            place.set(xticklabels=[], xlabel="")
    return figure


def confusion(r: Results, axes: plt.Axes, condition: str) -> None:
    """Share of each true class that was taken for each class, over all runs; per cent.

    Drawn with rectangles, not as an image: its colours then become the page's variables.
    """
    counts = r.confusion[:, r.conditions.index(condition)].sum(axis=0)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    num = len(r.classes)
    size = 7 if num <= 5 else 6
    for i, j in np.ndindex(num, num):
        # Below two thirds of the colour, ink stays readable on it in every theme.
        box = plt.Rectangle((j, i), 1, 1, facecolor=HEAT, alpha=0.9 * share[i, j], linewidth=0)
        axes.add_patch(box)
        weight = "bold" if i == j else "normal"
        place = {"x": j + 0.5, "y": i + 0.5, "ha": "center", "va": "center"}
        axes.text(**place, s=f"{100 * share[i, j]:.0f}", fontsize=size, weight=weight)
    axes.set(xlim=(0, num), ylim=(num, 0), aspect="equal", title=braces(condition))
    at = np.arange(num) + 0.5
    shown = _wrapped(r.classes)
    axes.set_yticks(at, shown, fontsize=size)
    upright = max(map(len, r.classes)) > 4
    axes.set_xticks(at, shown, fontsize=size, rotation=90 if upright else 0)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(True)
    axes.set_xlabel("predicted", fontsize=8)
    axes.set_ylabel("true", fontsize=8)


def bare_confusion(r: Results, axes: plt.Axes, condition: str) -> None:
    """`confusion` without what its axes are called: the page says that once for all."""
    confusion(r, axes, condition)
    axes.set(xlabel="", ylabel="")


def confusion_size(r: Results) -> tuple[float, float]:
    """A matrix' side in inches for its numbers to stay apart, and the room for names beside it."""
    side = max(0.21 * len(r.classes), 0.85)
    return side, 0.35 + 0.06 * max(len(line) for c in _wrapped(r.classes) for line in c.split("\n"))


def _wrapped(classes: Sequence[str]) -> list[str]:
    """Names whole, the longest over several lines."""
    return [textwrap.fill(c, 18) for c in classes]


def reliability(r: Results, axes: plt.Axes, condition: str) -> None:
    """Accuracy in bins of confidence against the diagonal; grey: the predictions' shares."""
    bins = bins_of(r, condition)
    left, width = bins.edges[:-1], np.diff(bins.edges)
    axes.bar(left, bins.share, width, align="edge", color=GREY, alpha=0.5, linewidth=0)
    axes.plot([0, 1], [0, 1], color=INK, linewidth=0.7, linestyle="--")
    some = ~np.isnan(bins.accuracy)  # empty bins have no dot
    dots = {"markersize": 3, "markeredgecolor": INK, "markeredgewidth": 0.4}
    line = {"color": SERIES[0], "linewidth": 1.1, "clip_on": False, "zorder": 3} | dots
    axes.plot(bins.confidence[some], bins.accuracy[some], "o-", **line)
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    axes.set_title(f"{braces(condition)}  ECE {100 * bins.ece:.1f} %")
    axes.set_xticks((0, 0.5, 1), ("0", "0.5", "1"))
    axes.set_yticks((0, 0.5, 1), ("0", "0.5", "1"))
    axes.set_xlabel("confidence", fontsize=7)
    axes.set_ylabel("accuracy", fontsize=7)


def bins_of(r: Results, condition: str) -> calibration.Reliability:
    """Bins of confidence of all runs' predictions under one condition."""
    p = r.predictions
    at = p.condition == [*r.conditions, *r.curves].index(condition)
    return calibration.reliability(p.posteriors[at], p.labels[at])


def curve(r: Results, axes: plt.Axes, name: str) -> None:
    """One term of one stage ("STAGE TERM") against the epoch: a line a fold, mean of the seeds.

    A star a run stands at the epoch that its validation part chose.
    """
    if name == LEGEND:
        for f, fold in enumerate(r.folds):
            axes.plot([], [], label=f"fold {fold}", **_line(f))
        axes.scatter([], [], label="chosen epoch", **_STAR, color=PAPER)
        axes.legend(frameon=False, loc="center", ncols=1 + (len(r.folds) > 6), fontsize=7)
        axes.axis("off")
        return
    stage, term = name.split(" ", 1)
    chosen = chosen_epochs(r)
    rows = [row for row in r.history if row["stage"] == stage and row[term]]
    for f, fold in enumerate(r.folds):
        mine = [row for row in rows if int(row["fold"]) == fold]
        epochs = sorted({int(row["epoch"]) for row in mine})
        if not epochs:
            continue
        values = [
            np.mean([float(row[term]) for row in mine if int(row["epoch"]) == e]) for e in epochs
        ]
        values = np.multiply(values, 100 if term == "val_uar" else 1)
        # Each fold's markers begin at another epoch, so that those of equal curves stay apart.
        axes.plot(epochs, values, markevery=(f % len(epochs), max(len(epochs) // 4, 1)), **_line(f))
        if stage == r.history[-1]["stage"]:
            at = [chosen[run][0] for run in r.runs if run[0] == fold and run in chosen]
            heights = [values[epochs.index(e)] for e in at]
            axes.scatter(at, heights, **_STAR, color=SERIES[f % len(SERIES)])
    shown = np.concatenate([line.get_ydata() for line in axes.lines] or [[1.0]])
    if shown.min() > 0 and shown.max() > 50 * shown.min():  # one bad batch may dwarf the rest
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("")
    title = curve_title(r, name)
    axes.set_title(title, fontsize=8 if len(title) <= 22 else 6.5)
    axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(4, integer=True, min_n_ticks=1))
    axes.set_xlabel("epoch", fontsize=7)


def curve_title(r: Results, name: str) -> str:
    """A panel of `curve` in words; names the stage where it is not the one that is tested."""
    if name == LEGEND:
        return LEGEND
    stage, term = name.split(" ", 1)
    return ("" if stage == r.history[-1]["stage"] else f"{stage}: ") + names.term(term)


def chosen_epochs(r: Results) -> dict[tuple[int, int], tuple[int, float]]:
    """Run -> the epoch of the last stage that was chosen, and its validation UAR.

    The first of the highest, as the loop chooses; where nothing was validated, the last.
    """
    chosen: dict[tuple[int, int], tuple[int, float]] = {}
    last = [row["stage"] for row in r.history][-1:]
    for row in r.history:
        run, uar = (int(row["fold"]), int(row["seed"])), float(row["val_uar"] or "nan")
        better = np.isnan(uar) or uar > chosen.get(run, (0, -1.0))[1]
        if [row["stage"]] == last and better:
            chosen[run] = int(row["epoch"]), uar
    return chosen


_STAR = {"marker": "*", "s": 34, "zorder": 4, "edgecolors": INK, "linewidths": 0.6}


def _line(number: int) -> dict[str, Any]:
    # Four styles, six colours and markers: twelve folds look different.
    return {
        "linestyle": LINES[number % 4],
        "color": SERIES[number % 6],
        "linewidth": 1,
        "marker": MARKERS[number % 6],
        "markersize": 2.5,
    }


def curve_names(r: Results) -> list[str]:
    """The panels of `curve`, in order.

    The last stage comes first, as its epoch is the one that is tested; in each stage the
    validation beside the training loss, then its other terms. The legend has a panel of its own.
    """
    stages = list(dict.fromkeys(row["stage"] for row in r.history))[::-1]
    found = []
    for stage in stages:
        rows = [row for row in r.history if row["stage"] == stage]
        terms = [t for t in rows[0] if t not in ("stage", "epoch", "fold", "seed")]
        first = ["val_uar", "val_cross_entropy", "loss"]
        terms.sort(key=lambda t: (first.index(t) if t in first else 9, t == "gradient_norm"))
        found += [f"{stage} {t}" for t in terms if any(row[t] for row in rows)]
    return [*found, LEGEND]
