"""Figures of a results folder: for a paper as PDF and PNG, for the report page as SVG.

Made for a column (3.5 inches) or two. Colours are Paul Tol's, safe for the colour-blind; what they
tell apart, markers, hatches, line styles or numbers tell apart too, for readers in greyscale.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
import matplotlib.ticker
import numpy as np

from cmarr_jax.errors import UserError
from cmarr_jax.results import calibration, folder
from cmarr_jax.results.folder import Results

logging.getLogger("fontTools").setLevel(logging.WARNING)  # it tells of every glyph it embeds

INK, PAPER, GREY = "#1a1a1a", "#fefefe", "#9a9a9a"
SERIES = ("#4477aa", "#cc6677", "#228833", "#aa3377", "#997700", "#0f7f8f")
HEAT = "#6699cc"
SECOND = "#ccbb44"
LEGEND = "legend"  # the panel of `curve` that tells the folds apart
_LINES = ("-", "--", ":", "-.")
_MARKERS = "osD^vP"
COLUMN, TWO_COLUMNS = 3.5, 7.0  # inches
STYLE = {
    "font.size": 8,
    "font.family": ["DejaVu Sans"],  # matplotlib's own
    "axes.titlesize": 8,
    "pdf.fonttype": 42,  # embedded TrueType, as publishers ask
    "svg.fonttype": "none",
    "text.parse_math": False,  # a corpus may be called "$"
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "hatch.linewidth": 0.6,
    "savefig.dpi": 300,
    "figure.constrained_layout.use": True,
    **{f"{part}color": INK for part in ("text.", "axes.label", "axes.edge", "xtick.", "ytick.")},
}
_WEIGHTS = {"alpha": "α (alignment)", "beta": "β (refinement)", "lambda": "λ (reconstruction)"}


def styled(draw: Callable) -> Callable:
    """Runs `draw` under the figures' style."""
    return matplotlib.rc_context(STYLE)(draw)


def braces(condition: str) -> str:
    """ "vt" -> "{v,t}"; other names as they are."""
    plain = condition not in ("avg", "full") and "=" not in condition
    return "{" + ",".join(condition) + "}" if plain else condition


def sample(r: Results) -> str:
    """n, folds and seeds, as they stand below every figure."""
    num = r.num[[k for k, (_, seed) in enumerate(r.runs) if seed == r.seeds[0]]]
    return sizes(int(num[:, len(r.conditions) - 1].sum()), len(r.folds), len(r.seeds))


def sizes(num: int, folds: int, seeds: int) -> str:
    """The words of `sample`."""
    plural = ["s" * (number > 1) for number in (folds, seeds)]
    return f"n = {num} test utterances, {folds} fold{plural[0]}, {seeds} seed{plural[1]}"


def interval_method(r: Results) -> str:
    """How the intervals were made, in one clause."""
    if len(r.folds) > 1:
        return (
            f"95 % t intervals over the {len(r.folds)} folds, widened because folds share "
            "training data (Nadeau and Bengio, 2003)"
        )
    return "95 % bootstrap intervals over the test utterances, within each class"


# ------------------------------------------------------------------------- a figure each


@styled
def conditions(r: Results) -> plt.Figure:
    """Bars of WAR and UAR under each condition beside the majority class, with intervals."""
    made = folder.estimates(r)
    names = [*r.conditions[:-1], *(["avg"] if "avg" in made else []), r.conditions[-1]]
    majority = dict(zip(r.conditions, r.majority(), strict=True))
    majority["avg"] = np.mean([majority[name] for name in r.conditions[:-1]] or np.nan)
    place = np.arange(len(names))
    figure, axes = plt.subplots(figsize=(COLUMN, 2.4))
    kinds = (("war", "WAR", SERIES[0], None), ("uar", "UAR", SECOND, "////"))
    for k, (score, label, colour, hatch) in enumerate(kinds):
        values = [made[name][score] for name in names]
        mean = np.array([v.mean for v in values])
        span = np.nan_to_num([[v.mean - v.low for v in values], [v.high - v.mean for v in values]])
        span = np.maximum(span, 0)  # a bootstrap of few utterances may lie beside the mean
        axes.bar(
            place + 0.28 * (k - 1), 100 * mean, 0.26, yerr=100 * span, color=colour, label=label,
            hatch=hatch, edgecolor=INK, linewidth=0.5,
            error_kw={"linewidth": 0.8, "ecolor": INK, "capsize": 1.5},
        )  # fmt: skip
    axes.bar(
        place + 0.28, [100 * majority[name] for name in names], 0.26, color=PAPER, edgecolor=INK,
        linewidth=0.5, label="majority class, WAR",
    )  # fmt: skip
    chance = axes.axhline(100 / len(r.classes), color=INK, linewidth=0.8, linestyle="--")
    axes.set_xticks(place, [braces(name) for name in names])
    axes.set_xlabel("available modalities")
    axes.set_ylabel("per cent")
    axes.set_ylim(0, 100)
    handles = [*(c for c in axes.containers if hasattr(c, "patches")), chance]
    labels = ("WAR", "UAR", "majority class, WAR", "chance, UAR")
    figure.legend(handles, labels, frameon=False, ncols=2, loc="outside upper center", fontsize=7)
    return figure


def weight_curves(summary: Sequence[Mapping[str, str]]) -> dict[str, list]:
    """ "alpha" and so on -> (value, row of the average) in order of the value, of each weight that
    a sweep has varied alone; arguments as of `loss_weights`."""
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
      summary: rows of `report.read_summary` of the folder of fig4.

    Raises:
      UserError: the summary has no sweep of weights.
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
                color=colour, marker=marker, linestyle=line, label=label, markersize=4,
                linewidth=1, elinewidth=0.6, markeredgecolor=INK, markeredgewidth=0.4,
            )  # fmt: skip
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
      arrays: of `report.read_representations`.
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
    parts = flat.reshape(2, len(names), num, 2)
    figure, axes = plt.subplots(figsize=(COLUMN, 3.2))
    for m, name in enumerate(names):
        colour, marker = SERIES[m % len(SERIES)], "os^DvP"[m % 6]
        axes.plot(*parts[1, m].T, marker, ms=2.6, color=colour, label=f"{name}, true", mew=0)
        axes.plot(
            *parts[0, m].T, marker, ms=3.4, mfc="none", mec=colour, mew=0.7,
            label=f"{name}, recovered ({overlap[name]:.2f})",
        )  # fmt: skip
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    figure.legend(frameon=False, ncols=2, loc="outside upper center", fontsize=7)
    return figure


def overlaps(arrays: Mapping[str, np.ndarray]) -> dict[str, float]:
    """modality -> `cross_over` of what was recovered and what is true, in their own space."""
    names = [str(m) for m in arrays["modalities"]]
    pairs = zip(names, arrays["recovered"], arrays["true"], strict=True)
    return {m: cross_over(*pair) for m, *pair in pairs}


def cross_over(recovered: np.ndarray, true: np.ndarray, neighbours: int = 10) -> float:
    """Share of each point's nearest neighbours that are of the other kind; `[n, D]` each.

    0.5 = the two cannot be told apart, 0 = apart.
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
        axes.bar(
            np.array(at) + np.array(shift) * width,
            [np.mean(cells[k]) for k in at], width * 0.92,
            yerr=[np.std(cells[k], ddof=1) if len(cells[k]) > 1 else 0 for k in at],
            color=SERIES[m % len(SERIES)], hatch=(None, "////", "xxxx")[m % 3], label=modality,
            edgecolor=INK, linewidth=0.5, error_kw={"linewidth": 0.8, "ecolor": INK},
        )  # fmt: skip
    axes.axhline(1, color=INK, linewidth=0.8, linestyle="--")
    axes.set_xticks(range(len(names)), [braces(name) for name in names])
    axes.set_xlabel("available modalities")
    axes.set_ylabel("squared error /\nsquared length")
    figure.legend(frameon=False, ncols=3, loc="outside upper center", fontsize=7)
    return figure


# ------------------------------------------------------------------------- a panel each


@styled
def panels(
    draw: Callable[[plt.Axes, str], None],
    names: Sequence[str],
    columns: int,
    size: Sequence[float],
) -> plt.Figure:
    """`draw(axes, name)` for each name, in rows of `columns`; `size` is a panel's, in inches."""
    rows = -(-len(names) // columns)
    size = (size[0] * columns, size[1] * rows)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False)
    for place, name in zip(axes.flat, names, strict=False):
        draw(place, name)
    for place in axes.flat[len(names) :]:
        place.axis("off")
    return figure


def confusion(r: Results, axes: plt.Axes, condition: str) -> None:
    """Share of each true class that was taken for each class, over all runs; per cent."""
    counts = r.confusion[:, r.conditions.index(condition)].sum(axis=0)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    num = len(r.classes)
    size = 7 if num <= 5 else 6
    for i, j in np.ndindex(num, num):
        # Below two thirds of the colour, ink stays readable on it in every theme.
        box = plt.Rectangle((j, i), 1, 1, facecolor=HEAT, alpha=0.9 * share[i, j], linewidth=0)
        axes.add_patch(box)
        weight = "bold" if i == j else "normal"
        axes.text(
            j + 0.5, i + 0.5, f"{100 * share[i, j]:.0f}", ha="center", va="center",
            fontsize=size, weight=weight,
        )  # fmt: skip
    axes.set(xlim=(0, num), ylim=(num, 0), aspect="equal", title=braces(condition))
    names, at = _short(r.classes), np.arange(num) + 0.5
    axes.set_yticks(at, names, fontsize=size)
    axes.set_xticks(at, names, fontsize=size, rotation=90 if max(map(len, names)) > 4 else 0)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(True)
    axes.set_xlabel("predicted", fontsize=7)
    axes.set_ylabel("true", fontsize=7)


def confusion_size(r: Results) -> tuple[float, float]:
    """Inches that one confusion matrix needs for its numbers to stay apart."""
    size = 1.5 + 0.06 * max(max(map(len, _short(r.classes))) - 4, 0)
    size += 0.22 * max(len(r.classes) - 4, 0)
    return size, size


def _short(classes: Sequence[str]) -> list[str]:
    return [c if len(c) <= 8 else c[:7] + "…" for c in classes]


def reliability(r: Results, axes: plt.Axes, condition: str) -> None:
    """Accuracy in bins of confidence against the diagonal; grey: the predictions' shares."""
    bins = of_condition(r, condition)
    left, width = bins.edges[:-1], np.diff(bins.edges)
    axes.bar(left, bins.share, width, align="edge", color=GREY, alpha=0.5, linewidth=0)
    axes.plot([0, 1], [0, 1], color=INK, linewidth=0.7, linestyle="--")
    some = ~np.isnan(bins.accuracy)
    axes.plot(
        bins.confidence[some], bins.accuracy[some], "o-", color=SERIES[0], linewidth=1.1,
        markersize=3, markeredgecolor=INK, markeredgewidth=0.4, clip_on=False, zorder=3,
    )  # fmt: skip
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    axes.set_title(f"{braces(condition)}  ECE {100 * bins.ece:.1f} %")
    axes.set_xticks((0, 0.5, 1), ("0", "0.5", "1"))
    axes.set_yticks((0, 0.5, 1), ("0", "0.5", "1"))
    axes.set_xlabel("confidence", fontsize=7)
    axes.set_ylabel("accuracy", fontsize=7)


def of_condition(r: Results, condition: str) -> calibration.Reliability:
    """Of all runs' predictions under one condition."""
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
    return {
        "linestyle": _LINES[number % 4], "color": SERIES[number % 6], "linewidth": 1,
        "marker": _MARKERS[number % 6], "markersize": 2.5,
    }  # fmt: skip


def curve_names(r: Results) -> list[str]:
    """Names of `curve`: the last stage first; in each validation UAR, then the loss and its
    terms; then the legend."""
    stages = list(dict.fromkeys(row["stage"] for row in r.history))[::-1]
    names = []
    for stage in stages:
        rows = [row for row in r.history if row["stage"] == stage]
        terms = [t for t in rows[0] if t not in ("stage", "epoch", "fold", "seed")]
        terms.sort(key=lambda t: (t != "val_uar", t != "loss", t == "gradient_norm"))
        names += [f"{stage} {t}" for t in terms if any(row[t] for row in rows)]
    return [*names, LEGEND]
