"""Systems under the same conditions, as the paper's Tables 2 and 3, a block a score, in per cent.

Each system is compared with the last under each condition, with Holm's correction over the systems:
by the test of `paired` over the folds, or by that of `bootstrap` where there is one fold alone.
"""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from cmarr_jax.errors import UserError
from cmarr_jax.results import bootstrap, intervals, latex, names, paired
from cmarr_jax.results.summary import braces, plain_conditions
from cmarr_jax.runtime.files import to_csv
from cmarr_jax.workdir import files

FORMATS = ("text", "markdown", "latex", "csv")
ROWS = ("systems", "conditions")
TESTED = ("avg", "full")  # the last rows of a comparison; a CSV has the tests of all
_SCORES = ("war", "uar")


class Comparison(NamedTuple):
    """C conditions (the last two "avg" and "full"), S systems and K scores."""

    rows: list[str]  # C names
    columns: list[str]  # S names
    mean: np.ndarray  # [C, S, K], in per cent
    deviation: np.ndarray  # [C, S, K], sample standard deviation over the runs
    half_width: np.ndarray  # [C, S, K], of the 95 % interval over the folds; NaN for one fold
    p_value: np.ndarray  # [C, S, K] against the last system; NaN for itself
    interval: np.ndarray  # [2, C, S, K], 95 %, of how much more the last system has; not corrected
    detectable: np.ndarray  # [K] true difference in "avg" that would be found, in per cent
    runs: int
    about: str  # corpus and protocol
    folds: int
    scores: tuple[str, ...]  # K names
    clusters: int = 0  # that the one fold's test part was resampled by; 0 = tested over the folds
    unit: str = ""  # what they are, in the plural
    untested: str = ""  # why there is no test
    note: str = ""  # a sentence of its own, at the caption's end


class Lines(NamedTuple):
    """P points of S systems, over the missing rate or the level of one noise."""

    points: list[float]
    columns: list[str]  # S names
    mean: np.ndarray  # [P, S, 2], WAR and UAR in per cent
    low: np.ndarray  # [P, S, 2], of the 95 % interval, within 0 to 100; NaN where there is none
    high: np.ndarray  # [P, S, 2]


def compare(
    results: Sequence[Mapping[str, str]],
    members: Sequence[str],
    scores: Sequence[str] = _SCORES,
    folders: Sequence[str] = (),
) -> Comparison:
    """Lines up the rows of results.csv.

    Args:
      results: rows of one corpus and protocol.
      members: which systems or variants, in order; the last is the reference.
      scores: which columns of the results, shares of 1.
      folders: of the members, whose predictions are read where there is one fold alone; without
        them it is not tested.

    Raises:
      UserError: a member is not in the results, or has other runs than the rest; or the corpus
        has one modality.
    """
    conditions = plain_conditions(results)
    if len(conditions) < 2:
        raise UserError(f"{files.RESULTS}: one modality has no missing conditions to compare under")
    values, runs = _line_up(results, members, conditions, scores)
    average = values[:, :-1].mean(axis=1, keepdims=True)
    values = np.concatenate([values[:, :-1], average, values[:, -1:]], axis=1)
    per_fold = paired.by_fold(values, [fold for fold, _ in runs])
    ratio = paired.test_over_train(results)
    tested, sample, untested = paired.test(_from_last(per_fold), ratio), None, ""
    if len(per_fold) < 2 and folders:
        try:
            sample = bootstrap.read(folders)
        except UserError as e:
            untested = str(e)
        else:
            drawn = 100 * bootstrap.resample(sample, scores)
            tested = bootstrap.test(_from_last(drawn), len(sample.counts))
    found = tested.detectable[-2, :-1]  # [S - 1, K] in "avg"
    deviation = values.std(axis=0, ddof=1) if len(runs) > 1 else np.full(values.shape[1:], np.nan)
    return Comparison(
        rows=[*conditions[:-1], "avg", f"full {conditions[-1]}"],
        columns=list(members),
        mean=values.mean(axis=0),
        deviation=deviation,
        half_width=intervals.half_width(per_fold, ratio),
        p_value=np.apply_along_axis(paired.holm, 1, tested.p_value),
        interval=tested.interval,
        detectable=np.median(found, axis=0) if len(found) else np.full(len(scores), np.nan),
        runs=len(runs),
        about=f"{results[0]['corpus']}; {results[0]['protocol']}",
        folds=len(per_fold),
        scores=tuple(scores),
        clusters=len(sample.counts) if sample else 0,
        unit=sample.unit if sample else "",
        untested=untested,
    )


def _from_last(values: np.ndarray) -> np.ndarray:
    """How much more the last system has than each, NaN for itself; `[n, C, S, K]` both."""
    differences = values[:, :, -1:] - values
    differences[:, :, -1] = np.nan
    return differences


def curves(results: Sequence[Mapping[str, str]], members: Sequence[str]) -> dict[str, Lines]:
    """WAR and UAR along each of `names.CURVES` that all members were tested on.

    Complete data is missing rate 0 and noise 0.

    Args:
      results: as for `compare`.
      members: as for `compare`.
    """
    full, made = plain_conditions(results)[-1], {}
    for kind in names.CURVES:
        tested = dict.fromkeys(
            row["condition"] for row in results if row["condition"].startswith(f"{kind}=")
        )
        at = {0.0: full} | {float(name.partition("=")[2]): name for name in tested}
        if len(at) < 2:
            continue
        points = sorted(at)
        values, runs = _line_up(results, members, [at[x] for x in points], _SCORES)
        per_fold = paired.by_fold(values, [fold for fold, _ in runs])
        mean = values.mean(axis=0)
        half = intervals.half_width(per_fold, paired.test_over_train(results))
        ends = np.clip([mean - half, mean + half], 0, 100)
        made[kind] = Lines(points, list(members), mean, *ends)
    return made


def _line_up(
    results: Sequence[Mapping[str, str]],
    members: Sequence[str],
    conditions: Sequence[str],
    scores: Sequence[str],
) -> tuple[np.ndarray, list[tuple[str, str]]]:
    """Scores in per cent `[R, C, S, K]`, NaN where empty, and fold and seed of the R runs."""
    # A member goes by its name in the table, if the rows have it; else by what its variant has of
    # its own, else by its system: what every row shares (such as "smoke") tells nothing apart.
    named: dict[str, list[Mapping[str, str]]] = {}
    shared = set.intersection(*(set(row["variant"].split(",")) for row in results))
    for row in results:
        named_so = {*shared, "default", f"system={row['system']}"}
        own = [v for v in row["variant"].split(",") if v not in named_so]
        named.setdefault(row.get("sweep") or ",".join(own) or row["system"], []).append(row)
    missing = [m for m in members if m not in named]
    if missing:
        raise UserError(
            f"{files.RESULTS}: holds {', '.join(named)}, but not {', '.join(missing)}; "
            "train it first"
        )
    values, runs = [], None
    for name in members:
        cell = {(r["fold"], r["seed"], r["condition"]): r for r in named[name]}
        own_runs = sorted({key[:2] for key in cell})
        if runs not in (None, own_runs):
            raise UserError(f"{files.RESULTS}: {name} has other folds or seeds than {members[0]}")
        runs = own_runs
        lacks = [c for c in conditions if any((*run, c) not in cell for run in runs)]
        if lacks:
            raise UserError(f"{files.RESULTS}: {name} was not tested under {', '.join(lacks)}")
        of_member = [
            [[float(cell[*run, c][s] or "nan") for s in scores] for c in conditions] for run in runs
        ]
        values.append(100 * np.array(of_member))
    return np.stack(values, axis=2), runs


def render(
    table: Comparison,
    style: str,
    titles: Mapping[str, str] = names.SYSTEMS,
    rows: str = "systems",
) -> str:
    """The table as text, Markdown, LaTeX or CSV; the best of each condition and score is marked.

    Args:
      table: of `compare`.
      style: one of `FORMATS`.
      titles: what to call a system, where not by its name.
      rows: one of `ROWS`; a CSV always has a row a condition and system.

    Raises:
      UserError: an unknown style.
    """
    if style not in FORMATS:
        raise UserError(f"--format={style}: wanted one of {', '.join(FORMATS)}")
    if style == "csv":
        return _csv(table)
    blocks = [_block(table, k, style, titles, rows) for k in range(len(table.scores))]
    marked = "*" if style == "text" else "Bold"
    caption = caption_of(table, titles) + f" {marked}: best of its condition."
    if style == "latex":
        label = "tab:" + "-".join(re.findall("[a-z0-9]+", table.about.partition(";")[0].lower()))
        return latex.table(blocks, caption, label)
    if style == "markdown":
        lines = []
        for head, *body in blocks:
            rows = (head, ["---"] * len(head), *body)
            lines += [*("| " + " | ".join(cells) + " |" for cells in rows), ""]
        return "\n".join([*lines, caption])
    lines = [caption, ""]
    for block in blocks:
        widths = [max(map(len, column)) + 2 for column in zip(*block, strict=True)]
        lines += ["".join(map(str.ljust, cells, widths)).rstrip() for cells in block]
        lines.append("")
    return "\n".join(lines).rstrip("\n")


def caption_of(table: Comparison, titles: Mapping[str, str] = names.SYSTEMS) -> str:
    """What was measured, how it was tested, against which system, and on what."""
    titled = [names.score(s) for s in table.scores]
    what = " and ".join([", ".join(titled[:-1]), titled[-1]] if len(titled) > 1 else titled)
    spread = "mean ± std" if table.runs > 1 else "mean"
    text = f"{what} in per cent, {spread} over {table.runs} run{'s' * (table.runs != 1)}."
    if _is_tested(table):
        reference = names.members(table.columns, titles)[-1]
        text += (
            " p: the mean over the missing conditions (avg), and complete data, against those of "
            f"{reference}, {test_text(table)}"
        ) + _power(table)
    elif table.folds < 2:
        text += f" Not tested: {table.untested or 'one fold is no sample'}."
    return f"{text} {table.about}." + (f" {table.note}" if table.note else "")


def test_text(table: Comparison) -> str:
    """By which test the last system is compared with the others, and what that speaks of."""
    comparisons = len(table.columns) - 1
    holm = f", with Holm's correction over {comparisons} comparisons in each column"
    holm = f"{holm if comparisons > 1 else ''}."
    if not table.clusters:
        return (
            f"by Nadeau and Bengio's corrected paired t-test over the {table.folds} folds, each "
            f"the mean of its seeds{holm}"
        )
    text = (
        f"by a paired bootstrap over the {table.clusters} {table.unit} of the one test part, in "
        f"{bootstrap.RESAMPLES:,} resamples, each score the mean of its seeds{holm} It speaks of "
        "these trained models on other utterances of the kind, not of training anew."
    )
    if table.clusters < bootstrap.FEW:
        text += f" Fewer than {bootstrap.FEW} are few: such a p is optimistic."
    return text


def _power(table: Comparison) -> str:
    """How small a difference the test could show at all."""
    if np.isnan(table.detectable).any():
        return ""
    sizes = ", ".join(
        f"{x:.1f} of {names.score(s)}" for x, s in zip(table.detectable, table.scores, strict=True)
    )
    return (
        f" Even one comparison alone would miss a true difference in avg below {sizes} (points) "
        f"more than {1 - paired.POWER:.0%} of the time."
    )


def p_text(p: float) -> str:
    """A p-value as papers write it; "" for NaN."""
    return "" if np.isnan(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"


def _is_tested(table: Comparison) -> bool:
    return not np.isnan(table.p_value).all()


def _block(
    table: Comparison, k: int, style: str, titles: Mapping[str, str], rows: str
) -> list[list[str]]:
    """One score's cells, the first row and column are headings."""
    bold = {"text": "*{}", "markdown": "**{}**", "latex": r"\textbf{{{}}}"}[style]
    plain = " {}" if style == "text" else "{}"
    shown = names.members(table.columns, titles)
    conditions, p_heads = [braces(row) for row in table.rows], [f"p of {name}" for name in TESTED]
    if style == "latex":
        shown, conditions = latex.escape(shown), latex.escape(conditions)
        p_heads = [f"$p$ {name}" for name in TESTED]
    by_system = []
    for j, name in enumerate(shown):
        cells = [name]
        for mean, deviation, best in zip(
            table.mean[:, j, k],
            table.deviation[:, j, k],
            [np.nanmax(row, initial=-1) for row in table.mean[:, :, k]],
            strict=True,
        ):
            number = "" if np.isnan(mean) else f"{mean:.2f}"
            # What is equal as shown is marked alike.
            text = (bold if number == f"{best:.2f}" else plain).format(number)
            if number and not np.isnan(deviation):
                text += rf"$_{{\pm{deviation:.2f}}}$" if style == "latex" else f" ± {deviation:.2f}"
            cells.append(text)
        for row in range(-len(TESTED), 0) if _is_tested(table) else ():
            p = plain.format(p_text(table.p_value[row, j, k]))
            cells.append(p.replace("< ", "$<$") if style == "latex" else p)
        by_system.append(cells)
    score = names.score(table.scores[k])
    head = [latex.escape([score])[0] if style == "latex" else f"{score} %"]
    head += map(plain.format, conditions)
    if _is_tested(table):
        head += map(plain.format, p_heads)
    grid = [head, *by_system]
    return grid if rows == "systems" else [list(column) for column in zip(*grid, strict=True)]


def _csv(table: Comparison) -> str:
    rows = []
    for i, condition in enumerate(table.rows):
        for j, system in enumerate(table.columns):
            p = table.p_value[i, j]
            numbers = {}
            for k, score in enumerate(table.scores):
                numbers |= {score: table.mean[i, j, k], f"{score}_std": table.deviation[i, j, k]}
            numbers |= {f"p_{score}": p[k] for k, score in enumerate(table.scores)}
            for k, score in enumerate(table.scores):
                low, high = table.interval[:, i, j, k]
                numbers |= {f"low_{score}": low, f"high_{score}": high}
            shown = {name: "" if np.isnan(x) else f"{x:.4f}" for name, x in numbers.items()}
            rows.append({"condition": condition, "system": system} | shown)
    return to_csv(rows).rstrip("\n")
