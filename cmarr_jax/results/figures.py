"""Figures of a results folder: for a paper as PDF and PNG, for the report page as SVG."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np

from cmarr_jax.errors import UserError
from cmarr_jax.results import folder
from cmarr_jax.results.folder import Results
from cmarr_jax.results.style import COLUMN, INK, SECOND, SERIES, TWO_COLUMNS, styled
from cmarr_jax.results.summary import braces

_WEIGHTS = {"alpha": "α (alignment)", "beta": "β (refinement)", "lambda": "λ (reconstruction)"}
_EDGE = {"edgecolor": INK, "linewidth": 0.5}  # of a bar


class Guessing(NamedTuple):
    """What is scored without a look at the utterance, in per cent."""

    war: np.ndarray  # [C], the largest class under each condition, "avg" before the full one; NaN
    uar: float  # any guess


def sample(r: Results) -> str:
    """n, folds and seeds, as they stand below every figure."""
    return sizes(int(r.tested()[len(r.conditions) - 1]), len(r.folds), len(r.seeds))


def sizes(num: int, folds: int, seeds: int) -> str:
    """The words of `sample`."""
    plural = ["s" * (number > 1) for number in (folds, seeds)]
    return f"n = {num} test utterances, {folds} fold{plural[0]}, {seeds} seed{plural[1]}"


def interval_method(r: Results) -> str:
    """How the intervals were made, in one clause."""
    if len(r.folds) > 1:
        return over_folds(len(r.folds))
    return "95 % bootstrap intervals over the test utterances, within each class"


def over_folds(folds: int) -> str:
    """The words of `interval_method` for several folds."""
    return (
        f"95 % t intervals over the {folds} folds, widened because folds share training data "
        "(Nadeau and Bengio, 2003)"
    )


@styled
def conditions(r: Results) -> plt.Figure:
    """Bars of WAR and UAR under each condition with intervals, and the majority class as a line."""
    figure, axes = plt.subplots(figsize=(COLUMN, 2.4))
    where = {"loc": "outside upper center", "ncols": 3, "columnspacing": 1.2, "handlelength": 1.6}
    figure.legend(*conditions_panel(r, axes), frameon=False, fontsize=7, **where)
    return figure


def conditions_panel(r: Results, axes: plt.Axes) -> tuple[list, list[str]]:
    """Draws `conditions` into `axes`; returns what its legend shows, and the names."""
    estimates = folder.estimates(r)
    names = [*r.conditions[:-1], *(["avg"] if "avg" in estimates else []), r.conditions[-1]]
    place = np.arange(len(names))
    kinds = (("war", "WAR", SERIES[0], None), ("uar", "UAR", SECOND, "////"))
    for k, (score, label, colour, hatch) in enumerate(kinds):
        values = [estimates[name][score] for name in names]
        mean = np.array([v.mean for v in values])
        span = np.nan_to_num([[v.mean - v.low for v in values], [v.high - v.mean for v in values]])
        span = np.maximum(span, 0)  # a bootstrap of few utterances may lie beside the mean
        look = {"color": colour, "hatch": hatch, "label": label, **_EDGE}
        lines = {"linewidth": 0.8, "ecolor": INK, "capsize": 1.5}
        axes.bar(
            place + 0.36 * (k - 0.5), 100 * mean, 0.34, yerr=100 * span, error_kw=lines, **look
        )
    guess = guessing(r)
    draw_majority(axes, guess)
    draw_chance(axes, guess)
    axes.set_xticks(place, [braces(name) for name in names])
    axes.set_xlabel("available modalities")
    axes.set_ylabel("per cent")
    axes.set_ylim(0, 100)
    if any(estimates[name]["war"].low < estimates[name]["war"].high for name in names):
        draw_whisker(axes, "95 % interval")
    by_name = dict(zip(*axes.get_legend_handles_labels()[::-1], strict=True))
    shown = [*dict.fromkeys(("WAR", "UAR", *by_name))]  # bars first
    return [by_name[name] for name in shown], shown


def guessing(r: Results) -> Guessing:
    """What guessing scores on the test parts of `r`, from its audit and its labels."""
    *missing, full = 100 * r.majority()
    average = [np.mean(missing)] if missing else []
    return Guessing(np.array([*missing, *average, full]), 100 / len(r.classes))


def draw_majority(axes: plt.Axes, guess: Guessing) -> None:
    """A step as wide as a condition's bars each; nothing where the folder lacks the audit."""
    if not np.isnan(guess.war).all():
        place = np.arange(len(guess.war))
        steps = {"color": INK, "linewidth": 1.3, "label": "majority class, WAR"}
        axes.hlines(guess.war, place - 0.42, place + 0.42, **steps)


def draw_chance(axes: plt.Axes, guess: Guessing) -> None:
    """A dashed line over all conditions."""
    look = {"color": INK, "linewidth": 0.8, "linestyle": "--"}
    axes.axhline(guess.uar, label="chance, UAR", **look)


def draw_whisker(axes: plt.Axes, label: str) -> None:
    """An entry of the legend that says what the lines at a mean are."""
    look = {"linestyle": "none", "marker": "|", "markersize": 7, "markeredgewidth": 0.8}
    axes.plot([], [], color=INK, label=label, **look)


def weight_curves(summary: Sequence[Mapping[str, str]]) -> dict[str, list]:
    """The points of Figure 4, for each weight that was varied alone.

    Args:
      summary: rows of summary.csv.

    Returns:
      "alpha", "beta", "lambda" -> (value, row of the average), in order of the value.
    """
    curves: dict[str, list] = {name: [] for name in _WEIGHTS}
    for row in summary:
        name, _, value = row["variant"].split(",")[-1].partition("=")
        if row["condition"] == "avg" and name in curves:
            curves[name].append((float(value), row))
    return {name: sorted(c, key=lambda p: p[0]) for name, c in curves.items() if c}


@styled
def loss_weights(summary: Sequence[Mapping[str, str]]) -> plt.Figure:
    """The paper's Figure 4: mean WAR and UAR over the missing conditions against each weight.

    Args:
      summary: rows of summary.csv in the folder of fig4.

    Raises:
      UserError: no weight was varied.
    """
    curves = weight_curves(summary)
    if not curves:
        raise UserError("--figure=4: no sweep of loss weights here; train CONFIG.py:fig4 first")
    figure, panels = plt.subplots(
        1, len(curves), figsize=(TWO_COLUMNS, 2.2), sharey=True, squeeze=False
    )
    kinds = (("war", "WAR", SERIES[0], "o", "-"), ("uar", "UAR", SECOND, "s", "--"))
    for axes, (name, points) in zip(panels[0], curves.items(), strict=True):
        for score, label, colour, marker, line in kinds:
            axes.errorbar(
                [weight for weight, _ in points],
                [100 * float(row[score]) for _, row in points],
                yerr=[100 * float(row[f"{score}_std"] or 0) for _, row in points],
                label=label,
                color=colour,
                linestyle=line,
                linewidth=1,
                elinewidth=0.6,
                marker=marker,
                markersize=4,
                markeredgecolor=INK,
                markeredgewidth=0.4,
            )
        axes.set_xscale("log")
        axes.set_xticks([w for w, _ in points], [f"{w:g}" for w, _ in points])
        axes.minorticks_off()
        axes.set_xlabel(_WEIGHTS[name])
    panels[0][0].set_ylabel("per cent, mean of\nthe missing conditions")
    panels[0][0].legend(frameon=False)
    return figure


@styled
def representations(arrays: Mapping[str, np.ndarray]) -> plt.Figure:
    """The paper's Figure 5: recovered against true representations, by t-SNE.

    Args:
      arrays: of representations.npz: recovered and true `[M, n, D]`, modalities `[M]`.
    """
    import sklearn.manifold  # takes half a second to import
    import threadpoolctl

    recovered, true = arrays["recovered"], arrays["true"]
    names, num = [str(m) for m in arrays["modalities"]], recovered.shape[1]
    overlap = overlaps(arrays)
    everything = np.concatenate([*recovered, *true])
    with threadpoolctl.threadpool_limits(1):  # threads only get in each other's way here
        flat = sklearn.manifold.TSNE(
            perplexity=min(30, num / 2), init="pca", random_state=0
        ).fit_transform(everything)
    points = flat.reshape(2, len(names), num, 2)  # recovered or true, modality, utterance, x or y
    figure, axes = plt.subplots(figsize=(COLUMN, 3.2))
    for m, name in enumerate(names):
        colour, marker = SERIES[m % len(SERIES)], "os^DvP"[m % 6]
        axes.plot(*points[1, m].T, marker, ms=2.6, color=colour, label=f"{name}, true", mew=0)
        label = f"{name}, recovered ({overlap[name]:.2f})"
        axes.plot(*points[0, m].T, marker, ms=3.4, mfc="none", mec=colour, mew=0.7, label=label)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    figure.legend(frameon=False, ncols=2, loc="outside upper center", fontsize=7)
    return figure


def overlaps(arrays: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Modality -> `cross_over` of what was recovered and what is true, in their own space.

    Args:
      arrays: as for `representations`.
    """
    names = [str(m) for m in arrays["modalities"]]
    pairs = zip(names, arrays["recovered"], arrays["true"], strict=True)
    return {m: cross_over(*pair) for m, *pair in pairs}


def cross_over(recovered: np.ndarray, true: np.ndarray, neighbours: int = 10) -> float:
    """Share of each point's nearest neighbours that are of the other kind.

    Args:
      recovered: `[n, D]`.
      true: `[n, D]`.
      neighbours: how many are looked at.

    Returns:
      0 where the two lie apart, 0.5 where they cannot be told apart.
    """
    import sklearn.neighbors

    points = np.concatenate([recovered, true])
    kind = np.arange(len(points)) < len(recovered)
    neighbours = min(neighbours, len(points) - 1)
    search = sklearn.neighbors.NearestNeighbors(n_neighbors=neighbours).fit(points)
    return float(np.mean(kind[search.kneighbors(return_distance=False)] != kind[:, None]))


@styled
def reconstruction(r: Results) -> plt.Figure:
    """Bars of the reconstruction error of each missing modality under each condition."""
    names = list(dict.fromkeys(row["condition"] for row in r.reconstruction))
    names = [c for c in r.conditions if c in names]
    modalities = {row["modality"] for row in r.reconstruction}
    modalities = sorted(modalities, key=lambda m: r.conditions.index(m[0]))
    figure, axes = plt.subplots(figsize=(COLUMN, 2.2))
    width = 0.8 / len(modalities)
    errors = {
        (name, modality): [
            float(row["rec_error"])
            for row in r.reconstruction
            if (row["condition"], row["modality"]) == (name, modality)
        ]
        for name in names
        for modality in modalities
    }
    missing = [[m for m in modalities if errors[name, m]] for name in names]
    for m, modality in enumerate(modalities):
        cells = [errors[name, modality] for name in names]
        at = [k for k, cell in enumerate(cells) if cell]
        # A condition's bars stand in the middle of its name, however many they are.
        shift = [missing[k].index(modality) - (len(missing[k]) - 1) / 2 for k in at]
        look = {"color": SERIES[m % len(SERIES)], "hatch": (None, "////", "xxxx")[m % 3], **_EDGE}
        axes.bar(
            np.array(at) + np.array(shift) * width,
            [np.mean(cells[k]) for k in at],
            width * 0.92,
            yerr=[np.std(cells[k], ddof=1) if len(cells[k]) > 1 else 0 for k in at],
            error_kw={"linewidth": 0.8, "ecolor": INK},
            label=modality,
            **look,
        )
    axes.axhline(1, color=INK, linewidth=0.8, linestyle="--")
    axes.set_xticks(range(len(names)), [braces(name) for name in names])
    axes.set_xlabel("available modalities")
    axes.set_ylabel("squared error /\nsquared length")
    figure.legend(frameon=False, ncols=3, loc="outside upper center", fontsize=7)
    return figure
