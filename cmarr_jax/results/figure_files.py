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

from cmarr_jax.errors import UserError
from cmarr_jax.results import figures, panels, style
from cmarr_jax.results.folder import Results
from cmarr_jax.results.summary import plain_conditions
from cmarr_jax.runtime.files import write_whole
from cmarr_jax.workdir import files


class Figure(NamedTuple):
    """How a figure of one sweep is made."""

    file: str  # of the folder that it needs
    has: Callable[[Results], bool]  # whether the folder has it
    draw: Callable[[Results], plt.Figure]
    caption: Callable[[Results], str]


def _confusions(r: Results) -> plt.Figure:
    """Over one column of a paper, or over two where many classes need the room."""
    fits = panels.confusion_size(r)[0] <= style.COLUMN / 2
    side = style.COLUMN / 2 if fits else style.COLUMN
    return panels.grid(partial(panels.confusion, r), r.conditions, 2, (side, side))


def _curves(r: Results) -> plt.Figure:
    return panels.grid(partial(panels.curve, r), panels.curve_names(r), 4, (1.75, 1.4))


def _reliabilities(r: Results) -> plt.Figure:
    return panels.grid(partial(panels.reliability, r), r.conditions, 2, (1.75, 1.75))


FIGURES = {
    "conditions": Figure(
        files.RESULTS,
        lambda r: True,
        figures.conditions,
        lambda r: (
            "WAR and UAR by available modalities, beside always naming the test part's most "
            f"frequent class. Lines: {figures.interval_method(r)}."
        ),
    ),
    "confusion": Figure(
        files.CONFUSION,
        lambda r: True,
        _confusions,
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
            "Validation UAR and the terms of the training loss by epoch, a line a fold, each the "
            "mean of its seeds."
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
            "deviation over the runs."
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
    who = f"{r.identity['system']} ({r.identity['variant']}) on {r.identity['corpus']}"
    rest = f"{r.identity['protocol']}; {figures.sample(r)}."
    return f"{FIGURES[name].caption(r)} {who}; {rest}"


def weights_caption(rows: Sequence[Mapping[str, str]]) -> str:
    """The caption of Figure 4.

    Args:
      rows: of results.csv in the folder of fig4.
    """
    # Every setting is tested on the same utterances: the first one's are counted.
    mine = [row for row in rows if row["variant"] == rows[0]["variant"]]
    full = plain_conditions(mine)[-1]
    mine = [row for row in mine if row["condition"] == full]
    folds, seeds = ({row[name] for row in mine} for name in ("fold", "seed"))
    num = sum(int(row["n"]) for row in mine if row["seed"] == mine[0]["seed"])
    return (
        "Mean WAR and UAR over the missing conditions against each loss weight, the others at "
        "their defaults. Lines: one standard deviation over the runs. "
        f"{rows[0]['corpus']}; {rows[0]['protocol']}; "
        f"{figures.sizes(num, len(folds), len(seeds))}."
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
            figure.set_size_inches(width, height + 0.12 * len(lines) + 0.05)
            figure.supxlabel("\n".join(lines), fontsize=6, x=0.01, ha="left")
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
