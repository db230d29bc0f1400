"""Publication-ready figures of a results folder."""

import io
import logging
import os
from collections.abc import Mapping, Sequence

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
import numpy as np
import sklearn.manifold
import sklearn.neighbors

from cmarr_jax import report
from cmarr_jax.errors import UserError
from cmarr_jax.files import write_whole

logging.getLogger("fontTools").setLevel(logging.WARNING)  # it tells of every glyph it embeds

_STYLE = {
    "font.size": 8,
    "pdf.fonttype": 42,  # embedded TrueType, as publishers ask
    "axes.spines.top": False,
    "axes.spines.right": False,
    "savefig.dpi": 300,
}
_BARS = {"war": ("WAR", "#4477aa"), "uar": ("UAR", "#ccbb44")}  # differ in lightness too


def conditions(
    summary: Sequence[Mapping[str, str]], confusion: Mapping[str, np.ndarray], file: str
) -> None:
    """Bars of WAR and UAR under each condition, one standard deviation, and the majority class.

    Args:
      summary: rows of `report.read_summary`.
      confusion: of `report.read_confusion`.
      file: ends in .pdf or .png.

    Raises:
      UserError: several systems, another ending, or a place that cannot be written.
    """
    if len({(r["system"], r["variant"]) for r in summary}) > 1:
        raise UserError(f"--figure={file}: draws one sweep; name a folder below --workdir")
    of = {r["condition"]: r for r in summary}
    *missing, full = report.plain_conditions(summary)
    rows = [of[name] for name in (*missing, *(["avg"] if missing else []), full)]
    names = [r["condition"] for r in rows]
    labels = [n if n == "avg" else "{" + ",".join(n) + "}" for n in names]
    support = confusion["confusion"][:, -1].sum(axis=-1)  # [R, C]
    majority = 100 * np.mean(support.max(axis=-1) / support.sum(axis=-1))
    with plt.rc_context(_STYLE):
        figure, axes = plt.subplots(figsize=(3.5, 2.3), layout="constrained")
        for k, (score, (label, colour)) in enumerate(_BARS.items()):
            heights = [100 * float(r[score]) for r in rows]
            spread = [100 * float(r[f"{score}_std"] or 0) for r in rows]
            place = np.arange(len(rows)) + 0.38 * (k - 0.5)
            axes.bar(
                place, heights, 0.36, yerr=spread, color=colour, label=label,
                error_kw={"linewidth": 0.7},
            )  # fmt: skip
        axes.axhline(majority, color="black", linewidth=0.7, linestyle="--", label="majority (WAR)")
        axes.set_xticks(range(len(rows)), labels)
        axes.set_xlabel(f"available modalities ({rows[0]['runs']} runs; lines: one std)")
        axes.set_ylabel("per cent")
        axes.set_ylim(0, 100)
        axes.set_title(f"{rows[0]['system']} on {rows[0]['corpus']}", fontsize=8)
        axes.legend(frameon=False, ncols=3, loc="upper left")
        _save(figure, [file])


_WEIGHTS = {"alpha": "α (alignment)", "beta": "β (refinement)", "lambda": "λ (reconstruction)"}


def loss_weights(summary: Sequence[Mapping[str, str]], files: Sequence[str]) -> None:
    """The paper's Figure 4: mean WAR and UAR over the missing conditions against each weight.

    Args:
      summary: rows of `report.read_summary` of the folder of fig4.
      files: each ends in .pdf or .png.

    Raises:
      UserError: the summary has no sweep of weights, or a file cannot be written.
    """
    curves: dict[str, list] = {name: [] for name in _WEIGHTS}
    for row in summary:
        name, _, value = row["variant"].split(",")[-1].partition("=")
        if row["condition"] == "avg" and name in curves:
            curves[name].append((float(value), row))
    curves = {name: sorted(c, key=lambda p: p[0]) for name, c in curves.items() if c}
    if not curves:
        raise UserError("--figure=4: no sweep of loss weights here; train CONFIG.py:fig4 first")
    with plt.rc_context(_STYLE):
        figure, panels = plt.subplots(
            1, len(curves), figsize=(7.0, 2.2), sharey=True, squeeze=False, layout="constrained"
        )
        marks = {"war": ("o", "-"), "uar": ("s", "--")}
        for axes, (name, points) in zip(panels[0], curves.items(), strict=True):
            for score, (label, colour) in _BARS.items():
                marker, line = marks[score]
                axes.errorbar(
                    [weight for weight, _ in points],
                    [100 * float(row[score]) for _, row in points],
                    yerr=[100 * float(row[f"{score}_std"] or 0) for _, row in points],
                    color=colour, marker=marker, linestyle=line, label=label, markersize=4,
                    linewidth=1, elinewidth=0.6, markeredgecolor="black", markeredgewidth=0.4,
                )  # fmt: skip
            axes.set_xscale("log")
            axes.set_xticks([w for w, _ in points], [f"{w:g}" for w, _ in points])
            axes.minorticks_off()
            axes.set_xlabel(_WEIGHTS[name])
        runs = points[0][1]["runs"]
        panels[0][0].set_ylabel(f"per cent, mean of the\nmissing conditions ({runs} runs)")
        panels[0][0].legend(frameon=False)
        _save(figure, files)


_COLOURS = ("#4477aa", "#cc6677", "#117733")


def representations(arrays: Mapping[str, np.ndarray], files: Sequence[str]) -> dict[str, float]:
    """The paper's Figure 5: recovered against true representations, by t-SNE.

    Args:
      arrays: of `report.read_representations`.
      files: each ends in .pdf or .png.

    Returns:
      modality -> share of the ten nearest neighbours, in the representations' own space, that
      are of the other kind, recovered or true. 0.5 = the two cannot be told apart, 0 = apart.

    Raises:
      UserError: a file cannot be written.
    """
    recovered, true = arrays["recovered"], arrays["true"]
    names, num = [str(m) for m in arrays["modalities"]], recovered.shape[1]
    overlap = {m: cross_over(*pair) for m, *pair in zip(names, recovered, true, strict=True)}
    everything = np.concatenate([*recovered, *true])
    flat = sklearn.manifold.TSNE(
        perplexity=min(30, num / 2), init="pca", random_state=0
    ).fit_transform(everything)
    parts = flat.reshape(2, len(names), num, 2)
    with plt.rc_context(_STYLE):
        figure, axes = plt.subplots(figsize=(3.5, 3.2), layout="constrained")
        for m, name in enumerate(names):
            colour = _COLOURS[m % len(_COLOURS)]
            axes.scatter(*parts[1, m].T, s=8, color=colour, label=f"{name}, true", linewidths=0)
            axes.scatter(
                *parts[0, m].T, s=10, facecolors="none", edgecolors=colour, linewidths=0.6,
                marker="^", label=f"{name}, recovered (overlap {overlap[name]:.2f})",
            )  # fmt: skip
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_xlabel(f"t-SNE of {num} test utterances, each modality missing alone")
        figure.legend(frameon=False, ncols=2, loc="outside upper center", fontsize=6)
        _save(figure, files)
    return overlap


def cross_over(recovered: np.ndarray, true: np.ndarray, neighbours: int = 10) -> float:
    """Share of each point's nearest neighbours that are of the other kind; `[n, D]` each."""
    points = np.concatenate([recovered, true])
    kind = np.arange(len(points)) < len(recovered)
    neighbours = min(neighbours, len(points) - 1)
    search = sklearn.neighbors.NearestNeighbors(n_neighbors=neighbours).fit(points)
    return float(np.mean(kind[search.kneighbors(return_distance=False)] != kind[:, None]))


def _save(figure: plt.Figure, files: Sequence[str]) -> None:
    for file in files:
        if not file.endswith((".pdf", ".png")):
            plt.close(figure)
            raise UserError(f"--figure={file}: wanted a file name that ends in .pdf or .png")
        try:
            os.makedirs(os.path.dirname(os.path.abspath(file)), exist_ok=True)
        except OSError as e:
            plt.close(figure)
            raise UserError(f"--figure={file}: cannot be written ({e.strerror})") from None
        drawn = io.BytesIO()
        figure.savefig(drawn, format=os.path.splitext(file)[1][1:])
        write_whole(file, drawn.getvalue())
    plt.close(figure)
