"""Systems side by side, as the paper's Tables 2 and 3: conditions as rows, WAR / UAR in per cent.

Each column is compared with the last by a paired test over the runs (fold x seed) of the mean
over the missing conditions: Nadeau and Bengio's t-test (2003), which widens the variance because
folds share training data (a fold's test part over its training part is taken as 1 / (folds -
1)), with Holm's correction over the columns. One fold alone is not tested: seeds are no sample.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import scipy.stats

from cmarr_jax.errors import UserError
from cmarr_jax.results import intervals
from cmarr_jax.results.summary import braces, plain_conditions
from cmarr_jax.runtime.files import to_csv
from cmarr_jax.workdir import files

FORMATS = ("text", "markdown", "latex", "csv")
_SCORES = ("war", "uar")


class Comparison(NamedTuple):
    """C conditions (the last two "avg" and "full") and S systems."""

    rows: list[str]  # C names
    columns: list[str]  # S names
    mean: np.ndarray  # [C, S, 2], WAR and UAR in per cent
    deviation: np.ndarray  # [C, S, 2], sample standard deviation over the runs
    half_width: np.ndarray  # [C, S, 2], of the 95 % interval over the folds; NaN for one fold
    p_value: np.ndarray  # [S, 2] of "avg" against the last column; NaN for itself
    runs: int
    about: str  # corpus and protocol


def compare(results: Sequence[Mapping[str, str]], members: Sequence[str]) -> Comparison:
    """Lines up the rows of results.csv.

    Args:
      results: rows of one corpus and protocol.
      members: which systems or variants, in the order of the columns.

    Raises:
      UserError: a member is not in the results, or has other runs than the rest; or the corpus
        has one modality.
    """
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
    conditions = plain_conditions(results)
    if len(conditions) < 2:
        raise UserError(f"{files.RESULTS}: one modality has no missing conditions to compare under")
    scores, runs = [], None
    for member in members:
        cell = {(r["fold"], r["seed"], r["condition"]): r for r in named[member]}
        own_runs = sorted({key[:2] for key in cell})
        if runs not in (None, own_runs):
            raise UserError(f"{files.RESULTS}: {member} has other folds or seeds than {members[0]}")
        runs = own_runs
        of_member = [
            [[float(cell[*run, c][s] or "nan") for s in _SCORES] for c in conditions]
            for run in runs
        ]
        scores.append(100 * np.array(of_member))
    scores = np.stack(scores, axis=2)  # [R, C, S, 2]
    average = scores[:, :-1].mean(axis=1, keepdims=True)
    scores = np.concatenate([scores[:, :-1], average, scores[:, -1:]], axis=1)
    fold_of = [fold for fold, _ in runs]
    folds = len(set(fold_of))
    per_fold = [scores[np.array(fold_of) == fold].mean(axis=0) for fold in dict.fromkeys(fold_of)]
    differences = scores[:, -2, -1:] - scores[:, -2]  # [R, S, 2]
    p_value = np.full(differences.shape[1:], np.nan)
    for k in range(2 if folds > 1 else 0):
        raw = [paired_p_value(d, 1 / (folds - 1)) for d in differences[:, :-1, k].T]
        p_value[:-1, k] = holm(np.array(raw))
    deviation = scores.std(axis=0, ddof=1) if len(runs) > 1 else np.full(scores.shape[1:], np.nan)
    rows = [*conditions[:-1], "avg", f"full {conditions[-1]}"]
    about = f"{results[0]['corpus']}; {results[0]['protocol']}"
    half_width = intervals.half_width(np.stack(per_fold))
    mean = scores.mean(axis=0)
    return Comparison(rows, list(members), mean, deviation, half_width, p_value, len(runs), about)


def paired_p_value(differences: np.ndarray, test_over_train: float) -> float:
    """Two-sided p of Nadeau and Bengio's corrected t-test; NaN for one run or no variance.

    Args:
      differences: `[R]`, one a run.
      test_over_train: size of a test part over that of its training part.
    """
    runs = len(differences)
    if runs < 2 or np.ptp(differences) == 0:
        return float("nan")
    error = np.sqrt((1 / runs + test_over_train) * differences.var(ddof=1))
    return float(2 * scipy.stats.t.sf(abs(differences.mean()) / error, df=runs - 1))


def holm(p: np.ndarray) -> np.ndarray:
    """Holm's step-down correction of p-values.

    Args:
      p: `[S]`; NaN stays NaN and does not count as a comparison.

    Returns:
      `[S]`, at most 1.
    """
    adjusted, known = np.full(len(p), np.nan), np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known])]
    steps = [p[i] * (len(order) - rank) for rank, i in enumerate(order)]
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1) if steps else []
    return adjusted


def render(table: Comparison, style: str, titles: Mapping[str, str]) -> str:
    """The table as text, Markdown, LaTeX or CSV; the best of each row and score is marked.

    Args:
      table: of `compare`.
      style: one of `FORMATS`.
      titles: what to call a system or a condition, where not by its name.

    Raises:
      UserError: an unknown style.
    """
    if style not in FORMATS:
        raise UserError(f"--format={style}: wanted one of {', '.join(FORMATS)}")
    if style == "csv":
        return _csv(table)
    bold = {"text": "*{}", "markdown": "**{}**", "latex": r"\textbf{{{}}}"}[style]
    plus = r"$\pm$" if style == "latex" else "±"
    head = ["available", *(titles.get(c, c) for c in table.columns)]
    body = []
    for i, row in enumerate(table.rows):
        cells = []
        for j in range(len(table.columns)):
            scores = []
            for k in range(2):
                mean, deviation = table.mean[i, j, k], table.deviation[i, j, k]
                text = f"{mean:.2f}"
                if mean >= np.nanmax(table.mean[i, :, k], initial=-1):
                    text = bold.format(text)
                scores.append(text + ("" if np.isnan(deviation) else f" {plus} {deviation:.2f}"))
            cells.append(" / ".join(scores))
        body.append([braces(row), *cells])
    if table.runs > 1:
        p = [
            " / ".join("" if np.isnan(x) else f"{x:.3f}" for x in column).strip(" /")
            for column in table.p_value
        ]
        body.append(["p of avg", *p])
    caption = f"WAR / UAR in per cent, mean ± std over {table.runs} runs. {table.about}."
    if style == "latex":
        return _latex(head, body, caption.replace("±", r"$\pm$").replace("_", r"\_"))
    if style == "markdown":
        lines = ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *body)]
        return "\n".join([*lines, "", caption])
    widths = [max(len(r[j]) for r in (head, *body)) + 2 for j in range(len(head))]
    lines = ["".join(c.ljust(w) for c, w in zip(r, widths, strict=True)) for r in (head, *body)]
    return "\n".join([caption + " * = best of the row.", "", *(line.rstrip() for line in lines)])


def _latex(head: list[str], body: list[list[str]], caption: str) -> str:
    def line(cells: Sequence[str]) -> str:
        return "  " + " & ".join(cells).replace("_", r"\_") + r" \\"

    body = [[_math(cells[0]), *cells[1:]] for cells in body]
    return "\n".join(
        [
            r"\begin{table*}\centering",
            rf"\caption{{{caption}}}",
            rf"\begin{{tabular}}{{l{'c' * (len(head) - 1)}}}\toprule",
            line(head) + r"\midrule",
            *(line(cells) for cells in body),
            r"\bottomrule\end{tabular}\end{table*}",
        ]
    )


def _math(name: str) -> str:
    return name.replace("{", r"\{").replace("}", r"\}")


def _csv(table: Comparison) -> str:
    rows = []
    for i, condition in enumerate(table.rows):
        for j, system in enumerate(table.columns):
            p = table.p_value[j] if condition == "avg" else (np.nan, np.nan)
            numbers = {}
            for k, score in enumerate(_SCORES):
                numbers |= {score: table.mean[i, j, k], f"{score}_std": table.deviation[i, j, k]}
            numbers |= {f"p_{score}": p[k] for k, score in enumerate(_SCORES)}
            shown = {name: "" if np.isnan(x) else f"{x:.4f}" for name, x in numbers.items()}
            rows.append({"condition": condition, "system": system} | shown)
    return to_csv(rows).rstrip("\n")
