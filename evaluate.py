"""Prints the table of a finished sweep, draws it, and writes a page about it.

    python evaluate.py --config configs/iemocap.py            # of results/iemocap
    python evaluate.py --workdir=DIR
    python evaluate.py --workdir=DIR --scores=war,weighted_f1,recall
    python evaluate.py --workdir=DIR --confusion=full         # the matrix in the terminal
    python evaluate.py --workdir=DIR --ensemble               # a fold's seeds as one model
    python evaluate.py --workdir=DIR --report                 # DIR/report.html
    python evaluate.py --workdir=DIR --figure=confusion       # DIR/confusion.pdf and .png
    python evaluate.py --workdir=DIR --figure=conditions.pdf
    python evaluate.py --workdir=DIR --figure=all --nocaption # captions as .txt, for a paper's own

Figures of a sweep are conditions, robustness, confusion, curves, calibration, reconstruction and
5 (the paper's: t-SNE of what was recovered); `all` draws those that the folder has the data for,
in TensorBoard too. Of the folder of table2, table3 or your own members, the systems side by side
with paired tests, and as the figures systems and robustness; of the folder of fig4, the loss
weights' effect:

    python evaluate.py --workdir=DIR --table=2 --format=latex # also --rows=conditions
    python evaluate.py --workdir=DIR --figure=systems
    python evaluate.py --workdir=DIR --figure=4

Sweeps that were trained one by one, such as tuned ones of sweep.py, side by side:

    python evaluate.py --table=own --workdir=DIR_1 --workdir=DIR_2
    python evaluate.py --figure=systems --workdir=DIR_1 --workdir=DIR_2  # DIR_1/systems.pdf, .png
    python evaluate.py --figure=compared.pdf --workdir=DIR_1 --workdir=DIR_2

Reads the result files alone: neither the corpus nor the checkpoints are needed, and the folder
may have been copied from elsewhere. The page shows what was said in the worst mistakes where the
pack that config.json names is there.
"""

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from absl import flags

from cmarr_jax.cli import flags as cli
from cmarr_jax.cli.places import workdir as default_workdir
from cmarr_jax.errors import UserError
from cmarr_jax.results.names import member
from cmarr_jax.results.rows import read_members, read_results, read_summary
from cmarr_jax.results.summary import SCORES, summarise, summary_table
from cmarr_jax.workdir import files
from cmarr_jax.workdir.status import stopped_runs
from configs import common

if TYPE_CHECKING:
    from cmarr_jax.results import notebook

_CONFIG = flags.DEFINE_string(
    "config", None, "FILE[:ARGUMENT] of train.py: its own work directory, instead of --workdir."
)
_WORKDIR = flags.DEFINE_multi_string(
    "workdir",
    None,
    "Folder of a sweep of train.py; beside --table=own and --figure=systems, robustness or a file "
    "also given several times, to set them side by side.",
)
_TABLE = flags.DEFINE_enum(
    "table",
    None,
    ["2", "3", "own"],
    "The paper's table of several systems, or one of the --config.members that the folder was "
    "trained with; the last is compared with each, over the folds, or of one test part over its "
    "dialogues or speakers.",
)
_FORMAT = flags.DEFINE_string("format", "text", "Of --table: text, markdown, latex or csv.")
_ROWS = flags.DEFINE_enum(
    "rows", "systems", ["systems", "conditions"], "Of --table: what its rows are."
)
_SCORES = flags.DEFINE_list(
    "scores",
    None,
    "Of the table: some of war, uar, macro_f1, weighted_f1 and recall (of each class).",
)
_CONFUSION = flags.DEFINE_string(
    "confusion",
    None,
    "Prints the confusion matrix of a condition, such as st, of full or of all.",
)
_ENSEMBLE = flags.DEFINE_bool(
    "ensemble", False, "The table of each fold's seeds as one model, their posteriors averaged."
)
_REPORT = flags.DEFINE_bool("report", False, "Writes the page report.html into the folder.")
_TRANSCRIPTS = flags.DEFINE_bool(
    "transcripts", True, "In the page, what was said in its mistakes, read from the pack."
)
_FIGURE = flags.DEFINE_string(
    "figure",
    None,
    "conditions, systems, robustness, confusion, curves, calibration, reconstruction, 4, 5 or all: "
    "as PDF and PNG in the folder, of several --workdir in the first; or FILE.pdf or FILE.png: "
    "conditions, of several --workdir systems, as that file.",
)
_CAPTION = flags.DEFINE_bool(
    "caption", True, "Below each figure; --nocaption writes it to a .txt file beside it instead."
)

_ENDINGS = (".pdf", ".png")


def main() -> None:
    """Prints, draws and writes what the flags ask for; without any, prints the table."""
    workdirs = _WORKDIR.value or ([default_workdir(_CONFIG.value)] if _CONFIG.value else [])
    if not all(workdirs) or not workdirs:
        raise UserError(
            "--workdir: missing; name the folder of a sweep of train.py, or its --config"
        )
    if _TABLE.value and _ENSEMBLE.value:
        raise UserError("--ensemble: wanted without --table, of the folder of one sweep")
    for flag in (_FORMAT, _ROWS):
        if flag.present and not _TABLE.value:
            raise UserError(f"--{flag.name}={flag.value}: wanted beside --table=2, 3 or own")
    other = _FIGURE.value or _REPORT.value or _CONFUSION.value
    if len(workdirs) > 1:
        several(workdirs)
        return
    workdir = workdirs[0]
    if _TABLE.value or _ENSEMBLE.value or _SCORES.value is not None or not other:
        print(table(workdir))
    for run in stopped_runs(workdir):
        print(f"without {run}", file=sys.stderr)
    if _CONFUSION.value:
        print(confusion(workdir, _CONFUSION.value))
    if _FIGURE.value:
        print("drawn: " + ", ".join(draw(workdir, _FIGURE.value, _CAPTION.value)))
    if _REPORT.value:
        from cmarr_jax.results import report_page

        print("written: " + report_page.write(workdir, transcripts=_TRANSCRIPTS.value))


def several(workdirs: Sequence[str]) -> None:
    """Prints and draws sweeps that lie anywhere; the table's last is compared with each.

    Raises:
      UserError: a flag wants one folder; or a folder is not finished or is of several sweeps, or
        they are of different corpora or protocols.
    """
    for flag in (_REPORT, _CONFUSION, _ENSEMBLE):
        if flag.value:
            raise UserError(
                f"--{flag.name}: wanted one --workdir, found {len(workdirs)}; give each folder by "
                "itself, or set them side by side with --table=own or --figure=systems"
            )
    if _TABLE.value != "own" and (_TABLE.value or _SCORES.value is not None or not _FIGURE.value):
        raise UserError(
            f"--workdir: given {len(workdirs)} times; wanted beside --table=own or "
            "--figure=systems, which set them side by side"
        )
    name = _FIGURE.value
    if name and name not in ("systems", "robustness") and not name.endswith(_ENDINGS):
        raise UserError(
            f"--figure={name}: of {len(workdirs)} --workdir, wanted systems, robustness, or a file "
            "name that ends in .pdf or .png; other figures are of one folder"
        )
    from cmarr_jax.results import notebook

    results = [notebook.Results(workdir) for workdir in workdirs]
    shared = notebook.name_apart(results)
    note = f"Variant: {member(','.join(shared))}." if shared else ""
    if _TABLE.value:
        print(side_by_side(results, note))
    for each in workdirs:
        for run in stopped_runs(each):
            print(f"{each}: without {run}", file=sys.stderr)
    if _FIGURE.value:
        print("drawn: " + ", ".join(draw_side_by_side(results, note)))


def table(workdir: str) -> str:
    """The table that the flags ask for.

    Raises:
      UserError: the folder lacks what it needs, or has another number of sweeps.
    """
    scores = _SCORES.value
    if not _TABLE.value and not _ENSEMBLE.value and scores is None:
        return summary_table(read_summary(workdir))
    from cmarr_jax.results import classes, ensemble, folder, tables  # scipy takes half a second

    if _TABLE.value:
        members, note = members_of_table(workdir, _TABLE.value)
        rows, names = read_results(workdir), []
        folders = [os.path.join(workdir, member) for member in members]
        if scores and not {*scores} <= {"war", "uar", "macro_f1"}:
            found = [classes.rows(each) for each in folders]
            rows, names = [row for rows, _ in found for row in rows], found[0][1]
        columns = classes.columns(scores or ["war", "uar"], names)
        made = tables.compare(rows, members, columns, folders)._replace(note=note)
        return tables.render(made, _FORMAT.value, rows=_ROWS.value)
    if _ENSEMBLE.value:
        results = folder.load(workdir)
        rows, names = ensemble.rows(results), results.classes
    else:
        rows, names = classes.rows(workdir)
    columns = classes.columns(scores, names) if scores is not None else SCORES
    return summary_table(summarise(rows, columns), columns)


def side_by_side(results: Sequence["notebook.Results"], note: str) -> str:
    """The table of several sweeps; the last is compared with each."""
    from cmarr_jax.results import classes, notebook, tables

    scores = _SCORES.value or ["war", "uar"]
    named = classes.rows(results[-1].workdir)[1] if "recall" in scores else []
    made = notebook.Comparison(results, classes.columns(scores, named)).values
    return tables.render(made._replace(note=note), _FORMAT.value, rows=_ROWS.value)


def draw_side_by_side(results: Sequence["notebook.Results"], note: str) -> list[str]:
    """Draws what --figure names of several sweeps, into the first one's folder or as a file.

    Returns:
      The files.

    Raises:
      UserError: they lack the scores for it, or the file cannot be written.
    """
    from cmarr_jax.results import figure_files, notebook

    name = _FIGURE.value
    is_file = name.endswith(_ENDINGS)
    sweeps = notebook.Comparison(results).sweeps()
    drawn, caption = figure_files.make_of(sweeps, "systems" if is_file else name)
    places = [name] if is_file else places_of(results[0].workdir, name)
    figure_files.write(drawn, places, f"{caption} {note}".strip(), _CAPTION.value)
    return places


def places_of(workdir: str, name: str) -> list[str]:
    """The files of a figure that is drawn into a folder."""
    stem = f"figure{name}" if name.isdigit() else name
    return [os.path.join(workdir, f"{stem}.{kind}") for kind in ("pdf", "png")]


def confusion(workdir: str, condition: str) -> str:
    """The confusion matrices that --confusion names.

    Raises:
      UserError: an unknown condition, or the folder of several sweeps.
    """
    from cmarr_jax.results import classes, folder

    results = folder.load(workdir)
    named = results.conditions if condition == "all" else [condition]
    return "\n".join(classes.confusion_text(results, name) for name in named)


def members_of_table(workdir: str, table: str) -> tuple[list[str], str]:
    """The members of --table, and what its caption says of those that were left out.

    Raises:
      UserError: --table=own, and the folder's config.json names no members.
    """
    if table == "own":
        return members_of(workdir), ""
    wanted, there = common.TABLES[f"table{table}"], read_members(workdir)
    void = [m for m in common.VOID_FOR_ONE_VECTOR if there and m in wanted and m not in there]
    if not void:
        return list(wanted), ""
    note = (
        f"Left out: {', '.join(map(member, void))}; here each modality is one vector, "
        "and attention over one key has nothing to choose."
    )
    return [m for m in wanted if m not in void], note


def members_of(workdir: str) -> list[str]:
    """What the folder's config.json names as its members, in the order of a table's systems.

    Raises:
      UserError: it names none, or is damaged.
    """
    members = read_members(workdir)
    if not members:
        file = os.path.join(workdir, files.CONFIG)
        raise UserError(
            f"--table=own: {file} names no members; wanted the folder of several sweeps"
        )
    return members


def draw(workdir: str, name: str, below: bool) -> list[str]:
    """Draws what --figure names.

    Args:
      workdir: the folder, of one sweep or of several.
      name: of a figure, "all", or a file for the figure `conditions`.
      below: whether captions stand below the figures; else in files of their own.

    Returns:
      The files.

    Raises:
      UserError: an unknown name, or the folder lacks what the figure needs.
    """
    # matplotlib takes a second to import
    from cmarr_jax.results import figure_files, figures, folder, tensorboard

    known = dict.fromkeys((*figure_files.FIGURES, *figure_files.OF_SWEEPS))
    is_file = name.endswith(_ENDINGS)
    if not is_file and name not in (*known, "all"):
        raise UserError(
            f"--figure={name}: wanted {', '.join(known)}, all, or a file name that ends in "
            ".pdf or .png"
        )
    members = read_members(workdir)
    if name in ("4", "systems") or (members and name in ("all", "robustness")):
        last = os.path.join(workdir, members[-1]) if members and name != "4" else ""
        reference = folder.load(last) if os.path.isdir(last) else None
        sweeps = figure_files.Sweeps(
            read_results(workdir), members, read_summary(workdir), reference
        )
        chosen = figure_files.drawable_of(sweeps) if name == "all" else [name]
        for one in chosen:
            drawn, caption = figure_files.make_of(sweeps, one)
            figure_files.write(drawn, places_of(workdir, one), caption, below)
        return [file for one in chosen for file in places_of(workdir, one)]
    sweep = folder.load(workdir)
    if is_file:
        wanted = {"conditions": [name]}
    else:
        chosen = figure_files.drawable(sweep) if name == "all" else [name]
        wanted = {one: places_of(workdir, one) for one in chosen}
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
