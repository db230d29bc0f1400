"""The sections of one sweep in report.html, see `report_page`.

Each is a function of the results, the level of its heading (3 on a table's page, where a sweep
is itself a section) and a prefix for its ids, which several sweeps on one page must not share.
What the folder lacks is named in its place: a section that is silently absent looks like a
result that was left out on purpose.
"""

import textwrap
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from cmarr_jax.cli.units import duration
from cmarr_jax.config import leaves
from cmarr_jax.results import (
    audit_pieces,
    figure_files,
    figures,
    folder,
    markup,
    mistakes,
    names,
    panels,
)
from cmarr_jax.results.folder import Estimate, Results
from cmarr_jax.results.summary import WORSE_THAN_ZEROS, braces, notes
from cmarr_jax.workdir import files

FROZEN = (
    "Features were computed beforehand and their encoders stay frozen. Papers that fine-tuned "
    "their encoders are no comparison."
)


def _what_was_run(r: Results, level: int, prefix: str) -> str:
    fields = dict(leaves(r.config))
    content = [markup.facts(_facts(r))]
    if fields:
        listed = {k: str(v) for k, v in fields.items() if k != "members"}
        content.append(markup.details("every field of the config", markup.facts(listed)))
    else:
        content.append(_absent(files.CONFIG))
    return markup.section(f"{prefix}What-was-run", "What was run", *content, level=level)


def _facts(r: Results) -> dict[str, str]:
    status = r.status
    facts = {
        "corpus": r.identity["corpus"],
        "system": names.member(r.identity["system"]),
        "variant": names.member(r.identity["variant"]),
        "protocol": r.identity["protocol"],
        "folds": ", ".join(map(str, r.folds)),
        "seeds": ", ".join(map(str, r.seeds)),
        "classes": ", ".join(r.classes),
        "epochs": str(status.get("epochs", "")),
        "device": status.get("device", ""),
        "time": time_taken(status),
        "finished": status.get("finished", ""),
    }
    # Folders of older versions name jax alone.
    versions = status.get("versions") or {"jax": status.get("jax", "unknown")}
    facts["versions"] = ", ".join(f"{k} {v}" for k, v in versions.items())
    return {k: str(v) for k, v in facts.items() if v}


def time_taken(status: Mapping[str, Any]) -> str:
    """How long it was trained, from status.json; "" where that does not tell."""
    seconds = status.get("seconds")
    return duration(seconds) if isinstance(seconds, int | float) else ""


def _caveats(r: Results, level: int, prefix: str) -> str:
    """What a reader must know before quoting a number; follows from what was run alone."""
    protocol = r.config.get("protocol", {})
    warnings, notes = [], [FROZEN]
    if protocol.get("select_on_test") or "SELECTED ON TEST" in r.identity["protocol"]:
        warnings.append(
            "SELECTED ON TEST: each epoch was chosen by its score on the test part. Every score "
            "here is optimistic."
        )
    elif protocol.get("validation") == "none":
        notes.append(
            "No epoch was chosen: the last one counts. Its number and the other hyper-parameters "
            "must have been settled elsewhere; this folder cannot tell."
        )
    else:
        notes.append(
            "Each run's epoch was chosen on its validation part, with the predictions of all "
            "conditions pooled; the test part was scored once. Whether the hyper-parameters were "
            "chosen on these folds, this folder cannot tell: if they were, the scores flatter."
        )
    if len(r.seeds) == 1:
        notes.append("One seed: how much the scores change from seed to seed is not known.")
    if len(r.folds) == 1:
        notes.append(
            "One test part: the intervals speak of other utterances of these speakers, not of "
            "other speakers, and are too narrow where one speaker's utterances are alike."
        )
    else:
        notes.append(
            f"The intervals rest on {len(r.folds)} folds. Where two of them overlap, the scores "
            "may still differ, and the reverse: compare systems by the paired test of a table."
        )
    if r.config.get("fold"):
        notes.append(f"Only fold {r.config['fold']} was run.")
    notes.append(
        "A reconstruction error is relative to the system's own representations and cannot be "
        "compared between systems."
    )
    content = [*(markup.paragraph(w, "warn") for w in warnings), markup.bullets(notes)]
    return markup.section(f"{prefix}Caveats", "Caveats", *content, level=level)


def _results(r: Results, level: int, prefix: str) -> str:
    estimates = folder.estimates(r)
    majority = dict(zip(r.conditions, r.majority(), strict=True))
    num = dict(zip([*r.conditions, *r.curves], r.tested(), strict=True))
    head = ("available", "n", "WAR %", "UAR %", "macro F1 %", "majority WAR %", "rec. error")

    def line(name: str, label: str) -> list[str]:
        of_name = estimates[name]
        share = majority.get(name, np.nan)
        # A WAR that always naming one class would reach too is marked.
        dagger = " †" if of_name["war"].low <= share else ""
        error = of_name["rec_error"].mean
        return [
            label,
            str(num.get(name, "")),
            _percent(of_name["war"]) + dagger,
            _percent(of_name["uar"]),
            _percent(of_name["macro_f1"]),
            "" if np.isnan(share) else f"{100 * share:.1f}",
            "" if np.isnan(error) else f"{error:.3f}" + " !" * (error > 1),
        ]

    *missing, full = r.conditions
    order = [(name, braces(name)) for name in missing]
    order += [("avg", "avg of these")] if "avg" in estimates else []
    rows = [line(name, label) for name, label in (*order, (full, braces(f"full {full}")))]
    cells = [cell for row in rows for cell in row]
    told = [
        ("†", "†: the interval reaches down to the majority's WAR."),
        ("‡", "‡: the interval is cut at 0 or 100."),
        (" !", f"!: {WORSE_THAN_ZEROS}."),
    ]
    caption = (
        f"Mean over the runs, in brackets {figures.interval_method(r)}; {figures.sample(r)}. n: "
        "utterances scored, those that have at least one of the modalities. Majority: always "
        "naming the training part's largest class."
    )
    if np.isnan(r.majority()).all():
        caption += f" It is not known: {files.AUDIT} is not as train.py writes it, or not here."
    caption += "".join(f" {text}" for mark, text in told if any(mark in cell for cell in cells))
    content = [
        '<div class="beside">',
        markup.table(caption, *_filled(head, rows)),
        _one(r, "conditions", prefix),
        "</div>",
    ]
    if r.curves:
        rows = [line(name, name) for name in r.curves]
        caption = " ".join(["Beyond the paper.", *(f"{told}." for told in notes(r.curves))])
        has = figure_files.FIGURES["robustness"].has(r)
        drawn = [_one(r, "robustness", prefix)] if has else []
        table = markup.table(caption, *_filled(head, rows))
        content += ['<div class="beside">', table, *drawn, "</div>"]
    content.append(markup.details("each run", _runs(r)))
    return markup.section(f"{prefix}Results", "Results", *content, level=level)


def _filled(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list:
    """Head and rows without the columns in which no cell is filled."""
    keep = [j for j in range(len(head)) if any(row[j] for row in rows)]
    return [[head[j] for j in keep], [[row[j] for j in keep] for row in rows]]


def _percent(estimate: Estimate) -> str:
    mean, low, high = (100 * x for x in estimate)
    if np.isnan(mean):
        return ""
    if np.isnan(low):
        return f"{mean:.1f}"
    return f"{mean:.1f} [{low:.1f}, {high:.1f}]" + " ‡" * folder.is_cut(estimate)


def _runs(r: Results) -> str:
    """The scores of each run, and the epoch that its validation part chose."""
    chosen = panels.chosen_epochs(r)
    rows, full = [], len(r.conditions) - 1
    for k, run in enumerate(r.runs):
        epoch, uar = chosen.get(run, (None, np.nan))
        average = r.scores[k, :full].mean(axis=0) if full else r.scores[k, 0]
        scores = (*average[:2], *r.scores[k, full, :2])
        row = [f"fold {run[0]}, seed {run[1]}", str(r.num[k, full])]
        row += ["" if epoch is None else str(epoch), "" if np.isnan(uar) else f"{100 * uar:.1f}"]
        rows.append([*row, *(f"{100 * s:.1f}" for s in scores)])
    head = ("run", "n", "chosen epoch", "validation UAR %", "avg WAR %", "avg UAR %")
    return markup.table("Each run.", (*head, "full WAR %", "full UAR %"), rows)


def _one(r: Results, name: str, prefix: str) -> str:
    """A figure of `figure_files.FIGURES` that is one drawing."""
    caption = figure_files.caption(r, name)
    drawing = figure_files.svg(figure_files.make(r, name), f"{prefix}f-{name}", caption)
    return markup.figure([drawing], caption, "one")


def _many(
    r: Results,
    name: str,
    prefix: str,
    draw: Callable[[Results, plt.Axes, str], None],
    titles: Mapping[str, str],
    size: Sequence[float] = (1.7, 1.5),
    kind: str = "panels",
    edges: Sequence[str] = (),
) -> str:
    """A figure of `figure_files.FIGURES` as a drawing a panel, so that they wrap on a narrow page.

    Args:
      r: the results.
      name: of the figure.
      prefix: of ids.
      draw: `draw(r, axes, panel)`.
      titles: panel -> what a screen reader says of it.
      size: width and height of a panel, in inches.
      kind: classes of page.css.
      edges: what the x and y axes of all panels are called.
    """
    caption, drawings = figure_files.caption(r, name), []
    for k, (panel, title) in enumerate(titles.items()):
        drawn = panels.grid(partial(draw, r), [panel], 1, size)
        drawings.append(figure_files.svg(drawn, f"{prefix}f-{name}{k}", f"{name}, {title}"))
    return markup.figure(drawings, caption, kind, edges)


def _by_condition(r: Results) -> dict[str, str]:
    """Panel -> title of a figure with a panel a condition."""
    return {name: braces(name) for name in r.conditions}


def _absent(file: str) -> str:
    why = figure_files.how_to_get(file)
    return markup.paragraph(f"Not in this folder: {file} ({why}).", "absent")


def _confusion(r: Results, level: int, prefix: str) -> str:
    side, room = panels.confusion_size(r)
    size = (max(side, 1.4) + room, max(side, 1.4) + room + 0.1)
    look = {"size": size, "kind": "panels four", "edges": ("predicted class", "true class")}
    drawn = _many(r, "confusion", prefix, panels.bare_confusion, _by_condition(r), **look)
    title = "Confusion matrices"
    return markup.section(f"{prefix}Confusion-matrices", title, drawn, level=level)


def _learning_curves(r: Results, level: int, prefix: str) -> str:
    content = _absent(files.HISTORY)
    if r.history:
        titles = {name: panels.curve_title(r, name) for name in panels.curve_names(r)}
        content = _many(r, "curves", prefix, panels.curve, titles)
    return markup.section(f"{prefix}Learning-curves", "Learning curves", content, level=level)


def _calibration(r: Results, level: int, prefix: str) -> str:
    content = [_absent(files.PREDICTIONS)]
    if r.predictions is not None:
        rows = []
        for name in r.conditions:
            bins = panels.bins_of(r, name)
            some = bins.share > 0  # an empty bin has no mean
            confidence = float(bins.share[some] @ bins.confidence[some])
            accuracy = float(bins.share[some] @ bins.accuracy[some])
            shares = (accuracy, confidence, bins.ece)
            num = r.num[:, r.conditions.index(name)].sum()
            rows.append([braces(name), str(num), *(f"{100 * x:.1f}" for x in shares)])
        head = ("available", "predictions", "accuracy %", "mean confidence %", "ECE %")
        caption = "Confidence: the posterior of the predicted class. Above the accuracy: too sure."
        content = [
            _many(r, "calibration", prefix, panels.reliability, _by_condition(r)),
            markup.table(caption, head, rows),
        ]
    return markup.section(f"{prefix}Calibration", "Calibration", *content, level=level)


def _reconstruction(r: Results, level: int, prefix: str) -> str:
    if r.reconstruction:
        content = [_one(r, "reconstruction", prefix)]
    else:  # results.csv has less, but some
        content = [_absent(files.RECONSTRUCTION)]
        estimates = folder.estimates(r)
        errors = {name: estimates[name]["rec_error"].mean for name in r.conditions}
        rows = [
            [braces(name), f"{x:.3f}" + " !" * (x > 1)]
            for name, x in errors.items()
            if not np.isnan(x)
        ]
        if rows:
            caption = "Of all missing modalities together, mean over the runs."
            caption += f" !: {WORSE_THAN_ZEROS}." if np.nanmax([*errors.values()]) > 1 else ""
            content.append(markup.table(caption, ("available", "rec. error"), rows))
    return markup.section(
        f"{prefix}Reconstruction", "Reconstruction", *content, level=level, kind="half"
    )


def _recovered_and_true(r: Results, level: int, prefix: str) -> str:
    content = _absent(files.REPRESENTATIONS)
    if r.representations is not None:
        content = _one(r, "5", prefix)
    return markup.section(
        f"{prefix}Recovered-and-true", "Recovered and true", content, level=level, kind="half"
    )


def _leakage_audit(r: Results, level: int, prefix: str) -> str:
    content = [_absent(files.AUDIT)]
    if r.audit is not None:
        try:
            content = audit_pieces.pieces(r.audit)
        except (KeyError, TypeError, ValueError, AttributeError):  # a JSON file may hold anything
            content = [markup.paragraph(f"{files.AUDIT} is not as train.py writes it.", "absent")]
    return markup.section(
        f"{prefix}Leakage-audit", "Leakage audit", *content, level=level, kind="column"
    )


def _confident_mistakes(r: Results, level: int, prefix: str) -> str:
    content = [_absent(files.PREDICTIONS)]
    if r.predictions is not None:
        *missing, full = r.conditions
        content = [markup.paragraph(r.said.note, "note")] if r.said else []
        content.append(_mistakes(r, full, 20))
        for name in missing:
            content.append(markup.details(f"available: {braces(name)}", _mistakes(r, name, 5)))
    title = "Most confident mistakes"
    look = {"level": level, "kind": "column"}
    return markup.section(f"{prefix}Confident-mistakes", title, *content, **look)


def _mistakes(r: Results, condition: str, limit: int) -> str:
    found = mistakes.most_confident(r.predictions, r.conditions.index(condition), limit)
    texts = r.said.texts if r.said else {}
    rows = [
        [
            m.id,
            r.classes[m.label],
            r.classes[m.predicted],
            f"{100 * m.probability:.1f}",
            f"{100 * m.of_label:.1f}",
            f"{m.agree} of {m.seeds}",
            *([textwrap.shorten(texts[m.id], 200, placeholder=" …")] if texts else []),
        ]
        for m in found
    ]
    head = ["utterance", "true", "predicted", "predicted %", "true %", "seeds agree"]
    head += ["said"] if texts else []
    caption = (
        f"The {len(rows)} most confident mistakes with {braces(condition)} available: posteriors "
        "of the predicted and of the true class, means of the seeds, and how many seeds predict "
        "that class by themselves."
    )
    kind = "ids said" if texts else "ids"
    return markup.table(caption, head, rows, kind) if rows else markup.paragraph("None.")


# Title -> section, in the order of the page.
SECTIONS = {
    "What was run": _what_was_run,
    "Caveats": _caveats,
    "Results": _results,
    "Confusion matrices": _confusion,
    "Learning curves": _learning_curves,
    "Calibration": _calibration,
    "Reconstruction": _reconstruction,
    "Recovered and true": _recovered_and_true,
    "Leakage audit": _leakage_audit,
    "Confident mistakes": _confident_mistakes,
}
