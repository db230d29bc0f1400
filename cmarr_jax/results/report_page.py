"""report.html: one self-contained page of a results folder, a sweep's or a table's."""

import os
import sys
from collections.abc import Mapping, Sequence

import numpy as np

from cmarr_jax.errors import UserError
from cmarr_jax.results import figure_files, figures, folder, markup, tables
from cmarr_jax.results.rows import read_results, read_summary
from cmarr_jax.results.sections import FROZEN, SECTIONS, time_taken
from cmarr_jax.results.summary import braces
from cmarr_jax.runtime.files import write_whole
from cmarr_jax.workdir import files
from cmarr_jax.workdir.status import read_status


def write(workdir: str, titles: Mapping[str, str]) -> str:
    """Writes WORKDIR/report.html; returns its name.

    Args:
      workdir: of a finished sweep or table.
      titles: what to call a system, where not by its name.

    Raises:
      UserError: the folder is not finished, a file is damaged, or the page cannot be written.
    """
    config_file = os.path.join(workdir, files.CONFIG)
    # A copied folder may lack its config: the page of a sweep does without.
    config = files.read_json(config_file) if os.path.exists(config_file) else {}
    members = [name for name, _ in config.get("members") or ()]
    page = _table(workdir, members, titles) if members else _sweep(workdir, titles)
    file = os.path.join(workdir, files.REPORT)
    write_whole(file, page)
    return file


def _sweep(workdir: str, titles: Mapping[str, str]) -> bytes:
    """The page of one sweep: `SECTIONS` one after another."""
    r = folder.load(workdir)
    system = titles.get(r.identity["system"], r.identity["system"])
    variant = "" if r.identity["variant"] == "default" else f" ({r.identity['variant']})"
    lead = f"{r.identity['protocol']}; {figures.sample(r)}."
    body = "\n".join(make(r, 2, "") for make in SECTIONS.values())
    contents = [(title.replace(" ", "-"), title) for title in SECTIONS]
    return markup.page(f"{system}{variant} on {r.identity['corpus']}", lead, contents, body)


def _table(workdir: str, members: Sequence[str], titles: Mapping[str, str]) -> bytes:
    """The page of several sweeps: what compares them, then each one folded up."""
    rows = read_results(workdir)
    status, summary = read_status(workdir), read_summary(workdir)
    corpus, protocol = rows[0]["corpus"], rows[0]["protocol"]
    names = [titles.get(m, m.replace(",", ", ")) for m in members]
    facts = {"corpus": corpus, "protocol": protocol, "systems": ", ".join(names)}
    facts |= {"time": time_taken(status)}
    notes = [
        FROZEN,
        "The intervals and the tests rest on the folds; without a significant difference, nothing "
        "is known of which system is better.",
        "Each system has settings of its own; how these were chosen, this folder cannot tell.",
    ]
    caveats = [markup.bullets(notes)]
    if "SELECTED ON TEST" in protocol:
        warning = "SELECTED ON TEST: each epoch was chosen by its score on the test part."
        caveats.insert(0, markup.paragraph(warning, "warn"))
    body = [
        markup.section("What-was-run", "What was run", markup.facts(facts)),
        markup.section("Caveats", "Caveats", *caveats),
        markup.section("Comparison", "Comparison", *_comparison(rows, members, names, summary)),
    ]
    contents = [(t.replace(" ", "-"), t) for t in ("What was run", "Caveats", "Comparison")]
    shown = list(SECTIONS)
    if _are_settings(members):  # fifteen members: the page would be too large
        shown = ["What was run", "Results", "Learning curves", "Leakage audit"]
        note = "For confusion, calibration and the rest, --report the folder of one of these."
        body.append(markup.paragraph(note, "note"))
    for k, (member, name) in enumerate(zip(members, names, strict=True)):
        print(f"[{k + 1}/{len(members)}] {member}", file=sys.stderr)
        path, prefix = os.path.join(workdir, member), f"m{k}-"
        if os.path.isdir(path):
            r = folder.load(path)
            inner = "\n".join(SECTIONS[title](r, 3, prefix) for title in shown)
        else:
            inner = markup.paragraph(f"Not in this folder: {member}/.", "absent")
        body.append(
            f'<section id="{prefix}all" class="member">{markup.details(name, inner, 2)}</section>'
        )
        contents.append((f"{prefix}all", name))
    lead = f"{protocol}; {len(members)} systems under the same folds, seeds and conditions."
    return markup.page(f"{len(members)} systems on {corpus}", lead, contents, "\n".join(body))


def _are_settings(members: Sequence[str]) -> bool:
    """Whether the members are settings of one system, such as "alpha=0.5", not systems."""
    return any("=" in member for member in members)


def _comparison(
    rows: Sequence[Mapping[str, str]],
    members: Sequence[str],
    names: Sequence[str],
    summary: Sequence[Mapping[str, str]],
) -> list[str]:
    """A table a score, systems side by side; the loss weights' effect where they were varied."""
    try:
        table = tables.compare(rows, members)
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
        caption = f"{score} %, mean over {table.runs} runs"
        if not np.isnan(table.half_width).all():
            caption += " ± half a 95 % interval over the folds"
        caption += ". *: best of the row."
        if not _are_settings(members) and not np.isnan(table.p_value).all():
            p = ["" if np.isnan(x) else f"{x:.3f}" for x in table.p_value[:, s]]
            body.append(["p of avg", *p])
            caption += (
                f" p: paired test of the average against {names[-1]} over the runs, allowing for "
                "shared training data (Nadeau and Bengio, 2003), with Holm's correction."
            )
        content.append(markup.table(caption, ("available", *names), body))
    if figures.weight_curves(summary):
        caption = figure_files.weights_caption(rows)
        drawing = figure_files.svg(figures.loss_weights(summary), "f-4", caption)
        content.append(markup.figure([drawing], caption, "wide"))
    return content
