"""The figures of a folder by name, with their captions; as files, or as SVG in a page."""

import io
import os
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from html import escape
from typing import NamedTuple

import matplotlib
import matplotlib.pyplot as plt
import numpy as np

from cmarr_jax.errors import UserError
from cmarr_jax.results import figures, folder, names, panels, style, system_figures, tables
from cmarr_jax.results.folder import Results
from cmarr_jax.results.summary import WORSE_THAN_ZEROS, braces, notes, plain_conditions
from cmarr_jax.runtime.files import write_whole
from cmarr_jax.workdir import files


class Figure(NamedTuple):
    """How a figure of one sweep is made."""

    file: str  # of the folder that it needs
    has: Callable[[Results], bool]  # whether the folder has it
    draw: Callable[[Results], plt.Figure]
    caption: Callable[[Results], str]


class Sweeps(NamedTuple):
    """What a folder of several sweeps has for its figures."""

    rows: list[dict[str, str]]  # of results.csv
    members: list[str]  # in order, the last is the reference
    summary: list[dict[str, str]]  # of summary.csv
    reference: Results | None = None  # the last member; None leaves out what guessing scores


_NOISE = "noise: that share of the features' variance is noise, with nothing missing"


def robustness_caption(kinds: Sequence[str]) -> str:
    """What the axes of `system_figures.robustness` mean.

    Args:
      kinds: those of `names.CURVES` that are drawn.
    """
    told = notes(f"{kind}=" for kind in kinds)
    told += [_NOISE] if {"gaussian", "impulse"} & {*kinds} else []
    against = " and ".join("the " + names.CURVES[k] for k in kinds)
    return f"WAR and UAR against {against}; {'; '.join(told)}."


def worse_than_zeros(r: Results) -> str:
    """A sentence where a modality's mean reconstruction error is above 1; else ""."""
    found: dict[tuple[str, str], list[float]] = {}
    for row in r.reconstruction:
        key = row["modality"], braces(row["condition"])
        found.setdefault(key, []).append(float(row["rec_error"]))
    worse = [f"{m} from {of}" for (m, of), errors in found.items() if np.mean(errors) > 1]
    return f" {WORSE_THAN_ZEROS}: {', '.join(worse)}." if worse else ""


def _cut(r: Results) -> str:
    """What is said of intervals that would pass 0 or 100, if there are any."""
    every = [e for of_name in folder.estimates(r).values() for e in of_name.values()]
    return ", cut at 0 and 100" if any(map(folder.is_cut, every)) else ""


def _curves(r: Results) -> plt.Figure:
    names = panels.curve_names(r)
    columns = min(4, 3, key=lambda columns: -len(names) % columns)  # places that stay empty
    return panels.grid(partial(panels.curve, r), names, columns, (7 / columns, 1.4))


def _reliabilities(r: Results) -> plt.Figure:
    return panels.grid(partial(panels.reliability, r), r.conditions, 2, (1.75, 1.75))


FIGURES = {
    "conditions": Figure(
        files.RESULTS,
        lambda r: True,
        figures.conditions,
        lambda r: (
            "WAR and UAR by available modalities, beside the WAR of always naming the training "
            f"part's largest class. Lines: {figures.interval_method(r)}{_cut(r)}."
        ),
    ),
    "confusion": Figure(
        files.CONFUSION,
        lambda r: True,
        panels.confusions,
        lambda r: (
            "Per cent of each true class (row) that was taken for each class (column), by "
            "available modalities; counts of all runs added up."
        ),
    ),
    "curves": Figure(
        files.HISTORY,
        lambda r: bool(r.history),
        _curves,
        lambda r: (
            "Validation UAR and cross-entropy beside the training loss and its terms by epoch, a "
            "line a fold, each the mean of its seeds. Stars: the epoch of each run that is tested."
        ),
    ),
    "calibration": Figure(
        files.PREDICTIONS,
        lambda r: r.predictions is not None,
        _reliabilities,
        lambda r: (
            "Accuracy by confidence in ten bins of equal width (dots) against perfect "
            "calibration (dashed), and the bins' shares of the predictions (grey). ECE: expected "
            "calibration error. All runs together."
        ),
    ),
    "reconstruction": Figure(
        files.RECONSTRUCTION,
        lambda r: bool(r.reconstruction),
        figures.reconstruction,
        lambda r: (
            "Squared error of what was recovered over its squared length, of each missing "
            "modality; dashed: the error of recovering nothing but zeros. Lines: one standard "
            "deviation over the runs." + worse_than_zeros(r)
        ),
    ),
    "robustness": Figure(
        files.RESULTS,
        lambda r: bool(system_figures.lines_of(r)),
        lambda r: system_figures.robustness(system_figures.lines_of(r)),
        lambda r: (
            f"{robustness_caption(list(system_figures.lines_of(r)))} Bands: "
            f"{figures.interval_method(r)}{_cut(r)}."
        ),
    ),
    "5": Figure(
        files.REPRESENTATIONS,
        lambda r: r.representations is not None,
        lambda r: figures.representations(r.representations),
        lambda r: (
            f"t-SNE of recovered and true representations of "
            f"{r.representations['true'].shape[1]} test utterances of fold {r.runs[0][0]}, seed "
            f"{r.runs[0][1]}, each modality missing alone. In brackets: the share of the ten "
            "nearest neighbours, before the projection, that are of the other kind (0.5: "
            "recovered and true cannot be told apart)."
        ),
    ),
}


def caption(r: Results, name: str) -> str:
    """The whole caption of one of `FIGURES`: what is seen, whose, and from how much."""
    rest = f"{r.identity['protocol']}; {figures.sample(r)}."
    return f"{FIGURES[name].caption(r)} {names.sweep(r.identity)}; {rest}"


def weights_caption(rows: Sequence[Mapping[str, str]]) -> str:
    """The caption of Figure 4.

    Args:
      rows: of results.csv in the folder of fig4.
    """
    return (
        "Mean WAR and UAR over the missing conditions against each loss weight, the others as "
        "the config has them. Lines: one standard deviation over the runs. "
        f"{rows[0]['corpus']}; {rows[0]['protocol']}; {_sizes(rows)}."
    )


def make(r: Results, name: str) -> plt.Figure:
    """Draws one of `FIGURES`; whoever takes the figure closes it.

    Raises:
      UserError: the folder lacks what it needs.
    """
    figure = FIGURES[name]
    if not figure.has(r):
        raise UserError(
            f"--figure={name}: {figure.file} is not in this folder; {how_to_get(figure.file)}"
        )
    return figure.draw(r)


def how_to_get(file: str) -> str:
    """Where a file of the results folder that is not there comes from."""
    if file in (files.RECONSTRUCTION, files.REPRESENTATIONS):
        return "train.py writes it for systems that recover missing modalities"
    return "train.py writes it: train anew, or copy the whole folder"


def drawable(r: Results) -> list[str]:
    """Names of the `FIGURES` that a folder has the data for."""
    return [name for name, figure in FIGURES.items() if figure.has(r)]


def _systems(sweeps: Sweeps) -> tuple[plt.Figure, str]:
    table = tables.compare(sweeps.rows, sweeps.members)
    guess = figures.guessing(sweeps.reference) if sweeps.reference else None
    half = np.nan_to_num(table.half_width)
    is_cut = bool((table.mean - half < 0).any() or (table.mean + half > 100).any())
    text = f"WAR and UAR by available modalities. {_spread(sweeps, 'Lines', is_cut)}"
    return system_figures.systems(table, guess), text


def _robustness(sweeps: Sweeps) -> tuple[plt.Figure, str]:
    lines = tables.curves(sweeps.rows, sweeps.members)
    if not lines:
        raise UserError(
            "--figure=robustness: these sweeps were tested under no missing rate or noise; train "
            "with --config.robustness.missing_rates"
        )
    is_cut = any((x.low == 0).any() or (x.high == 100).any() for x in lines.values())
    text = f"{robustness_caption(list(lines))} {_spread(sweeps, 'Bands', is_cut)}"
    return system_figures.robustness(lines), text


def _weights(sweeps: Sweeps) -> tuple[plt.Figure, str]:
    return figures.loss_weights(sweeps.summary), weights_caption(sweeps.rows)


OF_SWEEPS = {"systems": _systems, "robustness": _robustness, "4": _weights}


def _spread(sweeps: Sweeps, drawn: str, is_cut: bool) -> str:
    """What the lines or bands of a figure of several systems are, and of how much."""
    folds, seeds = (len({row[name] for row in sweeps.rows}) for name in ("fold", "seed"))
    if folds > 1:
        text = f"{drawn}: {figures.over_folds(folds)}{', cut at 0 and 100' * is_cut}."
    elif seeds > 1 and drawn == "Lines":  # one fold's bands would be none
        text = "Lines: one standard deviation over the seeds."
    else:
        text = "One fold: no intervals."
    first = sweeps.rows[0]
    return f"{text} {first['corpus']}; {first['protocol']}; {_sizes(sweeps.rows)}."


def _sizes(rows: Sequence[Mapping[str, str]]) -> str:
    # Every system is tested on the same utterances: the first one's are counted.
    keys = ("system", "variant", "sweep")
    mine = [row for row in rows if all(row.get(k) == rows[0].get(k) for k in keys)]
    full = plain_conditions(mine)[-1]
    mine = [row for row in mine if row["condition"] == full]
    folds, seeds = ({row[name] for row in mine} for name in ("fold", "seed"))
    num = sum(int(row["n"]) for row in mine if row["seed"] == mine[0]["seed"])
    return figures.sizes(num, len(folds), len(seeds))


def drawable_of(sweeps: Sweeps) -> list[str]:
    """Those of `OF_SWEEPS` that a folder of several sweeps has the data for."""
    several = not are_settings(sweeps.members) and len(plain_conditions(sweeps.rows)) > 1
    curves = several and tables.curves(sweeps.rows, sweeps.members)
    has = {"systems": several, "robustness": curves, "4": figures.weight_curves(sweeps.summary)}
    return [name for name, there in has.items() if there]


def make_of(sweeps: Sweeps, name: str) -> tuple[plt.Figure, str]:
    """Draws one of `OF_SWEEPS`, with its caption.

    Raises:
      UserError: the folder is of one sweep, or lacks what the figure needs.
    """
    if name != "4" and not sweeps.members:
        raise UserError(
            f"--figure={name}: wanted the folder of several sweeps; this one's config.json names "
            "no members"
        )
    return OF_SWEEPS[name](sweeps)


def are_settings(members: Sequence[str]) -> bool:
    """Whether the members are settings of one system, such as "alpha=0.5", not systems."""
    return any("=" in member for member in members)


def write(figure: plt.Figure, places: Sequence[str], caption: str, below: bool = True) -> None:
    """Writes a figure to files, and closes it.

    Args:
      figure: as it was drawn.
      places: file names that end in .pdf or .png; their folders are made.
      caption: stands in each file's own title, whether it is seen or not.
      below: whether it is seen below the figure; else it becomes a .txt file beside each.

    Raises:
      UserError: another ending than .pdf or .png, or a place that cannot be written.
    """
    width, height = figure.get_size_inches()
    lines = textwrap.wrap(caption, int(20 * width))
    with matplotlib.rc_context(style.STYLE):
        if below:
            room = 0.12 * len(lines) + 0.08
            figure.set_size_inches(width, height + room)
            share = room / (height + room)
            figure.get_layout_engine().set(rect=(0, share, 1, 1 - share))
            place = {"x": 0.01, "y": share - 0.04 / (height + room), "va": "top", "ha": "left"}
            figure.text(s="\n".join(lines), fontsize=6, linespacing=1.3, **place)
        for file in places:
            if not file.endswith((".pdf", ".png")):
                plt.close(figure)
                raise UserError(f"--figure={file}: wanted a file name that ends in .pdf or .png")
            try:
                os.makedirs(os.path.dirname(os.path.abspath(file)), exist_ok=True)
            except OSError as e:
                plt.close(figure)
                raise UserError(
                    f"--figure={file}: cannot be written ({e.strerror}); name a file in a folder "
                    "where you may write"
                ) from None
            stem, ending = os.path.splitext(file)
            content = io.BytesIO()
            figure.savefig(content, format=ending[1:], metadata={"Title": caption})
            write_whole(file, content.getvalue())
            if not below:
                write_whole(f"{stem}.txt", f"{caption}\n".encode())
    plt.close(figure)


def png(figure: plt.Figure) -> bytes:
    """A figure as a PNG file for a screen, and closes it."""
    content = io.BytesIO()
    with matplotlib.rc_context(style.STYLE):
        figure.savefig(content, format="png", dpi=150)
    plt.close(figure)
    return content.getvalue()


# Colour of a drawing -> the CSS variable of the page that takes its place.
_VARIABLES = {style.INK: "ink", style.PAPER: "paper", style.GREY: "grey"}
_VARIABLES |= {colour: f"series{k}" for k, colour in enumerate(style.SERIES)}
_VARIABLES |= {style.HEAT: "heat", style.SECOND: "second"}


def svg(figure: plt.Figure, name: str, title: str) -> str:
    """A figure as an <svg> element of a page, and closes it.

    Text stays text, in the page's font; colours are the page's CSS variables, so that one drawing
    serves light, dark and paper.

    Args:
      figure: drawn with the colours of `figures`.
      name: unique in the page; begins the ids inside.
      title: what a screen reader says.
    """
    buffer = io.StringIO()
    with matplotlib.rc_context(style.STYLE | {"svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", transparent=True)
    width = figure.get_size_inches()[0]
    plt.close(figure)
    text = buffer.getvalue()
    text = text[text.index("<svg") : text.rindex("</svg>") + len("</svg>")]
    (box,) = re.findall(r'viewBox="([^"]+)"', text[: text.index(">")])
    body = re.sub(r"<metadata>.*?</metadata>", "", text[text.index(">") + 1 :], flags=re.DOTALL)
    body = re.sub(r"<style.*?</style>|<!--.*?-->", "", body, flags=re.DOTALL)
    used = set(re.findall(r"#([\w-]+)", body))  # ids that nothing refers to are left out

    def adapt(found: re.Match) -> str:
        tag = re.sub(
            r' id="([^"]*)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in used else "", found[0]
        )
        tag = re.sub(r'(url\(|xlink:href=")#', rf"\1#{name}-", tag).replace("xlink:href", "href")
        for colour, variable in _VARIABLES.items():
            tag = tag.replace(colour, f"var(--{variable})")
        tag = re.sub(r"\d+\.\d{2,}", lambda m: f"{float(m[0]):.1f}", tag)
        # The page sets every text's font and colour; the rest of these says the default.
        tag = re.sub(r"font-family: [^;]+; |; fill: var\(--ink\)(?=\")", "", tag)
        tag = re.sub(r' transform="rotate\(-0 [^"]*"|; stroke-linejoin: miter', "", tag)
        return re.sub(r"\s*\n\s*", " ", tag)

    body = re.sub(r"<[^>]*>", adapt, body)  # tags alone: names and numbers shown stay as they are
    body = re.sub(r"\n\s+", "\n", body)
    head = f'<svg viewBox="{box}" role="img" aria-label="{escape(title)}" style="--width: {width}"'
    return f"{head}>{body}"
