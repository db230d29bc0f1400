"""Prints the table of a finished sweep, draws it, and writes a page about it.

    python evaluate.py --config configs/iemocap.py            # of results/iemocap
    python evaluate.py --workdir=DIR
    python evaluate.py --workdir=DIR --ensemble               # a fold's seeds as one model
    python evaluate.py --workdir=DIR --report                 # DIR/report.html
    python evaluate.py --workdir=DIR --figure=confusion       # DIR/confusion.pdf and .png
    python evaluate.py --workdir=DIR --figure=conditions.pdf
    python evaluate.py --workdir=DIR --figure=all --nocaption # captions as .txt, for a paper's own

Figures of a sweep are conditions, confusion, curves, calibration, reconstruction and 5 (the
paper's: t-SNE of what was recovered); `all` draws those that the folder has the data for, in
TensorBoard too. Of the folder of table2 or table3, the systems side by side with paired tests;
of the folder of fig4, the loss weights' effect:

    python evaluate.py --workdir=DIR --table=2 --format=latex
    python evaluate.py --workdir=DIR --figure=4

Reads the result files alone: neither the corpus nor the checkpoints are needed, and the folder
may have been copied from elsewhere.
"""

import os
import sys

from absl import flags

from cmarr_jax.cli import flags as cli
from cmarr_jax.cli.places import workdir as default_workdir
from cmarr_jax.errors import UserError
from cmarr_jax.results.rows import read_results, read_summary
from cmarr_jax.results.summary import summarise, summary_table
from cmarr_jax.workdir import files
from cmarr_jax.workdir.status import stopped_runs
from configs import common, systems

_CONFIG = flags.DEFINE_string(
    "config", None, "FILE[:ARGUMENT] of train.py: its own work directory, instead of --workdir."
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a sweep of train.py.")
_TABLE = flags.DEFINE_enum(
    "table",
    None,
    ["2", "3", "own"],
    "The paper's table of several systems, or one of the --config.members that the folder was "
    "trained with; the last is compared with each.",
)
_FORMAT = flags.DEFINE_string("format", "text", "Of --table: text, markdown, latex or csv.")
_ENSEMBLE = flags.DEFINE_bool(
    "ensemble", False, "The table of each fold's seeds as one model, their posteriors averaged."
)
_REPORT = flags.DEFINE_bool("report", False, "Writes the page report.html into the folder.")
_FIGURE = flags.DEFINE_string(
    "figure",
    None,
    "conditions, confusion, curves, calibration, reconstruction, 4, 5 or all: as PDF and PNG in "
    "the folder; or FILE.pdf or FILE.png: conditions as that file.",
)
_CAPTION = flags.DEFINE_bool(
    "caption", True, "Below each figure; --nocaption writes it to a .txt file beside it instead."
)


def main() -> None:
    """Prints the table, then draws and writes what the flags ask for."""
    workdir = _WORKDIR.value or (_CONFIG.value and default_workdir(_CONFIG.value))
    if not workdir:
        raise UserError(
            "--workdir: missing; name the folder of a sweep of train.py, or its --config"
        )
    if _TABLE.value and _ENSEMBLE.value:
        raise UserError("--ensemble: wanted without --table, of the folder of one sweep")
    if _TABLE.value:
        from cmarr_jax.results import tables  # scipy takes half a second to import

        own = _TABLE.value == "own"
        members = members_of(workdir) if own else common.TABLES[f"table{_TABLE.value}"]
        table = tables.compare(read_results(workdir), members)
        print(tables.render(table, _FORMAT.value, systems.TITLES))
    elif _ENSEMBLE.value:
        from cmarr_jax.results import ensemble, folder

        print(summary_table(summarise(ensemble.rows(folder.load(workdir)))))
    else:
        print(summary_table(read_summary(workdir)))
    for run in stopped_runs(workdir):
        print(f"without {run}", file=sys.stderr)
    if _FIGURE.value:
        print("drawn: " + ", ".join(draw(workdir, _FIGURE.value, _CAPTION.value)))
    if _REPORT.value:
        from cmarr_jax.results import report_page

        print("written: " + report_page.write(workdir, systems.TITLES))


def members_of(workdir: str) -> list[str]:
    """What the folder's config.json names as its members, in the order of a table's columns.

    Raises:
      UserError: it names none, or is damaged.
    """
    file = os.path.join(workdir, files.CONFIG)
    members = files.read_json(file).get("members") if os.path.exists(file) else ()
    if not members:
        raise UserError(
            f"--table=own: {file} names no members; wanted the folder of several sweeps"
        )
    return [name for name, _ in members]


def draw(workdir: str, name: str, below: bool) -> list[str]:
    """Draws what --figure names.

    Args:
      workdir: the folder, of one sweep or, for Figure 4, of fig4.
      name: of a figure, "all", or a file for the figure `conditions`.
      below: whether captions stand below the figures; else in files of their own.

    Returns:
      The files.

    Raises:
      UserError: an unknown name, or the folder lacks what the figure needs.
    """
    # matplotlib takes a second to import
    from cmarr_jax.results import figure_files, figures, folder, tensorboard

    def places_of(name: str) -> list[str]:
        stem = f"figure{name}" if name.isdigit() else name
        return [os.path.join(workdir, f"{stem}.{kind}") for kind in ("pdf", "png")]

    known = figure_files.FIGURES
    if name == "4":
        drawn = figures.loss_weights(read_summary(workdir))
        caption = figure_files.weights_caption(read_results(workdir))
        figure_files.write(drawn, places_of(name), caption, below)
        return places_of(name)
    is_file = name.endswith((".pdf", ".png"))
    if not is_file and name not in (*known, "all"):
        raise UserError(
            f"--figure={name}: wanted {', '.join(known)}, 4, all, or a file name that ends in "
            ".pdf or .png"
        )
    sweep = folder.load(workdir)
    if is_file:
        wanted = {"conditions": [name]}
    else:
        chosen = figure_files.drawable(sweep) if name == "all" else [name]
        wanted = {one: places_of(one) for one in chosen}
    for one, places in wanted.items():
        caption = figure_files.caption(sweep, one)
        figure_files.write(figure_files.make(sweep, one), places, caption, below)
    if "5" in wanted:
        for modality, share in figures.overlaps(sweep.representations).items():
            print(f"{modality}: {share:.2f} of the neighbours cross over (0.5 = no difference)")
    if name == "all":
        tensorboard.to_tensorboard(workdir, sweep)
    return [file for places in wanted.values() for file in places]


if __name__ == "__main__":
    cli.run(main)
