"""report.html: one self-contained page of a results folder, a sweep's or a table's."""

import os
import sys
from collections.abc import Mapping, Sequence

import numpy as np

from cmarr_jax.errors import UserError
from cmarr_jax.results import figure_files, figures, folder, markup, mistakes, names, tables
from cmarr_jax.results.rows import read_members, read_results, read_summary
from cmarr_jax.results.sections import FROZEN, SECTIONS, time_taken
from cmarr_jax.results.summary import braces
from cmarr_jax.runtime.files import write_whole
from cmarr_jax.workdir import files
from cmarr_jax.workdir.status import read_status


def write(workdir: str, *, transcripts: bool = True) -> str:
    """Writes WORKDIR/report.html; returns its name.

    Args:
      workdir: of a finished sweep or table.
      transcripts: whether the worst mistakes show what was said, where the pack is there.

    Raises:
      UserError: the folder is not finished, a file is damaged, or the page cannot be written.
    """
    members = read_members(workdir)
    page = _table(workdir, members, transcripts) if members else _sweep(workdir, transcripts)
    file = os.path.join(workdir, files.REPORT)
    write_whole(file, page)
    return file


def _load(workdir: str, transcripts: bool) -> folder.Results:
    r = folder.load(workdir)
    left_out = folder.Transcripts({}, "What was said is left out, as asked for.")
    return r._replace(said=mistakes.transcripts(r) if transcripts else left_out)


def _sweep(workdir: str, transcripts: bool) -> bytes:
    """The page of one sweep: `SECTIONS` one after another."""
    r = _load(workdir, transcripts)
    lead = f"{r.identity['protocol']}; {figures.sample(r)}."
    body = "\n".join(make(r, 2, "") for make in SECTIONS.values())
    contents = [(title.replace(" ", "-"), title) for title in SECTIONS]
    return markup.page(names.sweep(r.identity), lead, contents, body)


def _table(workdir: str, members: Sequence[str], transcripts: bool) -> bytes:
    """The page of several sweeps: what compares them, then each one folded up."""
    rows = read_results(workdir)
    status, summary = read_status(workdir), read_summary(workdir)
    corpus, protocol = rows[0]["corpus"], rows[0]["protocol"]
    titles = names.members(members)
    facts = {"corpus": corpus, "protocol": protocol, "systems": ", ".join(titles)}
    facts |= {"time": time_taken(status)}
    several = len({row["fold"] for row in rows}) > 1
    notes = [
        FROZEN,
        ("The intervals and the tests rest on the folds" if several else "There is one test part")
        + "; without a significant difference, nothing is known of which system is better.",
        "Each system has settings of its own; how these were chosen, this folder cannot tell.",
    ]
    caveats = [markup.bullets(notes)]
    if "SELECTED ON TEST" in protocol:
        warning = "SELECTED ON TEST: each epoch was chosen by its score on the test part."
        caveats.insert(0, markup.paragraph(warning, "warn"))
    body = [
        markup.section("What-was-run", "What was run", markup.facts(facts)),
        markup.section("Caveats", "Caveats", *caveats),
        markup.section(
            "Comparison", "Comparison", *_comparison(workdir, rows, members, titles, summary)
        ),
    ]
    contents = [(t.replace(" ", "-"), t) for t in ("What was run", "Caveats", "Comparison")]
    shown = list(SECTIONS)
    if figure_files.are_settings(members):  # fifteen members: the page would be too large
        shown = ["What was run", "Results", "Learning curves", "Leakage audit"]
        note = "For confusion, calibration and the rest, --report the folder of one of these."
        body.append(markup.paragraph(note, "note"))
    note = "On paper, what is folded up below is left out: print the page of a system's own folder."
    body.append(markup.paragraph(note, "note"))
    for k, (member, name) in enumerate(zip(members, titles, strict=True)):
        print(f"[{k + 1}/{len(members)}] {member}", file=sys.stderr)
        path, prefix = os.path.join(workdir, member), f"m{k}-"
        if os.path.isdir(path):
            r = _load(path, transcripts)
            inner = "\n".join(SECTIONS[title](r, 3, prefix) for title in shown)
        else:
            inner = markup.paragraph(f"Not in this folder: {member}/.", "absent")
        body.append(
            f'<section id="{prefix}all" class="member">{markup.details(name, inner, 2)}</section>'
        )
        contents.append((f"{prefix}all", name))
    lead = f"{protocol}; {len(members)} systems under the same folds, seeds and conditions."
    return markup.page(f"{len(members)} systems on {corpus}", lead, contents, "\n".join(body))


def _comparison(
    workdir: str,
    rows: Sequence[Mapping[str, str]],
    members: Sequence[str],
    titles: Sequence[str],
    summary: Sequence[Mapping[str, str]],
) -> list[str]:
    """A table a score, systems side by side; the loss weights' effect where they were varied."""
    is_tested = not figure_files.are_settings(members)
    folders = [os.path.join(workdir, m) for m in members] if is_tested else ()
    try:
        table = tables.compare(rows, members, folders=folders)
    except UserError as e:  # such as one modality: the members' own sections still tell
        return [markup.paragraph(f"Cannot be compared: {e}.", "absent")]
    content = []
    for s, score in enumerate(("WAR", "UAR")):
        body = []
        for i, row in enumerate(table.rows):
            best = np.nanmax(table.mean[i, :, s], initial=-1)
            cells = []
            for mean, half in zip(table.mean[i, :, s], table.half_width[i, :, s], strict=True):
                text = f"{mean:.1f}" + ("" if np.isnan(half) else f" ± {half:.1f}")
                cells.append(text + ("*" if mean == best else ""))
            body.append([braces(row), *cells])
        caption = f"{score} %, mean over {table.runs} run{'s' * (table.runs != 1)}"
        if not np.isnan(table.half_width).all():
            caption += " ± half a 95 % interval over the folds"
        caption += ". *: best of its condition."
        if is_tested and not np.isnan(table.p_value).all():
            for name, of_row in zip(tables.TESTED, table.p_value[-2:], strict=True):
                body.append([f"p of {name}", *map(tables.p_text, of_row[:, s])])
            caption += f" p: against {titles[-1]}, {tables.test_text(table)}"
        elif table.untested:
            caption += f" Not tested: {table.untested}."
        # Systems are the rows, as in `tables`.
        head, *of_systems = zip(("system", *titles), *body, strict=True)
        content.append(markup.table(caption, head, of_systems))
    reference = folder.load(folders[-1]) if folders else None
    sweeps = figure_files.Sweeps(list(rows), list(members), list(summary), reference)
    for name in figure_files.drawable_of(sweeps):
        drawn, caption = figure_files.make_of(sweeps, name)
        drawing = figure_files.svg(drawn, f"f-{name}", caption)
        content.append(markup.figure([drawing], caption, "wide"))
    return content
