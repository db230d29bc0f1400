"""Figures of several panels alike: a confusion matrix, a reliability diagram or a curve each."""

from collections.abc import Callable, Sequence
from typing import Any

import matplotlib.pyplot as plt
import matplotlib.ticker
import numpy as np

from cmarr_jax.results import calibration
from cmarr_jax.results.folder import Results
from cmarr_jax.results.style import GREY, HEAT, INK, LINES, MARKERS, SERIES, styled
from cmarr_jax.results.summary import braces

LEGEND = "legend"  # the panel of `curve` that tells the folds apart


@styled
def grid(
    draw: Callable[[plt.Axes, str], None],
    names: Sequence[str],
    columns: int,
    size: Sequence[float],
) -> plt.Figure:
    """One panel for each name.

    Args:
      draw: `draw(axes, name)` fills a panel.
      names: of the panels, in order.
      columns: panels in a row; what is over of the last row stays empty.
      size: width and height of a panel, in inches.
    """
    rows = -(-len(names) // columns)
    size = (size[0] * columns, size[1] * rows)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False)
    for place, name in zip(axes.flat, names, strict=False):
        draw(place, name)
    for place in axes.flat[len(names) :]:
        place.axis("off")
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
    names, at = _short(r.classes), np.arange(num) + 0.5
    axes.set_yticks(at, names, fontsize=size)
    axes.set_xticks(at, names, fontsize=size, rotation=90 if max(map(len, names)) > 4 else 0)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(True)
    axes.set_xlabel("predicted", fontsize=7)
    axes.set_ylabel("true", fontsize=7)


def confusion_size(r: Results) -> tuple[float, float]:
    """Width and height, in inches, that a confusion matrix needs for its numbers to stay apart."""
    size = 1.5 + 0.06 * max(max(map(len, _short(r.classes))) - 4, 0)
    size += 0.22 * max(len(r.classes) - 4, 0)
    return size, size


def _short(classes: Sequence[str]) -> list[str]:
    return [c if len(c) <= 8 else c[:7] + "…" for c in classes]


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
    """One term of one stage ("STAGE TERM") against the epoch: a line a fold, mean of the seeds."""
    if name == LEGEND:
        for f, fold in enumerate(r.folds):
            axes.plot([], [], label=f"fold {fold}", **_line(f))
        axes.legend(frameon=False, loc="center", ncols=1 + (len(r.folds) > 6), fontsize=7)
        axes.axis("off")
        return
    stage, term = name.split(" ", 1)
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
    shown = np.concatenate([line.get_ydata() for line in axes.lines] or [[1.0]])
    if shown.min() > 0 and shown.max() > 50 * shown.min():  # one bad batch may dwarf the rest
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("")
    last = [row["stage"] for row in r.history][-1:]
    stage = "" if [stage] == last else f"{stage}: "
    axes.set_title(stage + ("validation UAR, %" if term == "val_uar" else term))
    axes.title.set_fontsize(8 if not stage else 7)
    axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(4, integer=True, min_n_ticks=1))
    axes.set_xlabel("epoch", fontsize=7)


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
    validation UAR, the loss, then its terms. The legend has a panel of its own.
    """
    stages = list(dict.fromkeys(row["stage"] for row in r.history))[::-1]
    names = []
    for stage in stages:
        rows = [row for row in r.history if row["stage"] == stage]
        terms = [t for t in rows[0] if t not in ("stage", "epoch", "fold", "seed")]
        terms.sort(key=lambda t: (t != "val_uar", t != "loss", t == "gradient_norm"))
        names += [f"{stage} {t}" for t in terms if any(row[t] for row in rows)]
    return [*names, LEGEND]
