"""The summary of result rows: mean and deviation over folds and seeds, and the table of it."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from cmarr_jax.results import names

KEY = ("corpus", "system", "variant", "protocol")
SCORES = ("war", "uar", "macro_f1", "rec_error")


# What a reader of the two must know, wherever they are shown.
WORSE_THAN_ZEROS = "rec. error above 1: recovering nothing but zeros would be nearer"
ONE_IS_KEPT = (
    "missing=r: each modality is lost with probability r, but an utterance always keeps one, so "
    "that less than r is missing"
)
RATES_DIFFER = "rates=t0.1+s0.5: the same with a probability for each modality"
FRAMES_ARE_LOST = (
    "frames=r, spans=r: in each modality a share r of the positions is zero, one by one or as one "
    "span; a modality without any is missing"
)


def notes(conditions: Iterable[str]) -> list[str]:
    """What a reader must know of the conditions beyond the paper's that stand in a table."""
    kinds = {name.partition("=")[0] for name in conditions if "=" in name}
    told = [ONE_IS_KEPT] if kinds & {"missing", "rates"} else []
    told += [RATES_DIFFER] if "rates" in kinds else []
    return told + ([FRAMES_ARE_LOST] if kinds & {"frames", "spans"} else [])


def summarise(
    results: Sequence[Mapping[str, Any]], scores: Sequence[str] = SCORES
) -> list[dict[str, Any]]:
    """Rows of summary.csv: each condition, "avg" and "full".

    "avg" is the arithmetic mean of the missing conditions, taken within each run.

    Args:
      results: rows of results.csv; per run the conditions in order, the last of them full, then
        those of curves ("missing=0.3"), which "avg" leaves out.
      scores: their columns.

    Returns:
      Rows with mean and sample standard deviation over the runs; empty where undefined.
    """
    summary = []
    for key in dict.fromkeys(tuple(row[k] for k in KEY) for row in results):
        rows = [row for row in results if tuple(row[k] for k in KEY) == key]
        everything = list(dict.fromkeys(row["condition"] for row in rows))
        conditions = plain_conditions(rows)
        runs = list(dict.fromkeys((row["fold"], row["seed"]) for row in rows))
        cell = {(row["fold"], row["seed"], row["condition"]): row for row in rows}
        groups = [(c, [c]) for c in conditions]
        if len(conditions) > 1:
            groups.append(("avg", conditions[:-1]))
        groups.append(("full", conditions[-1:]))
        groups += [(c, [c]) for c in everything if "=" in c]
        for name, members in groups:
            line = dict(zip(KEY, key, strict=True)) | {"condition": name, "runs": len(runs)}
            for score in scores:
                per_run = np.array(
                    [
                        np.mean([float(cell[*run, c][score] or "nan") for c in members])
                        for run in runs
                    ]
                )
                line[score] = number(per_run.mean())
                line[f"{score}_std"] = number(per_run.std(ddof=1) if len(runs) > 1 else np.nan)
            summary.append(line)
    return summary


def plain_conditions(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of the conditions of the paper, full last: neither means nor curves."""
    names = dict.fromkeys(row["condition"] for row in rows)
    return [name for name in names if _is_plain(name)]


def _is_plain(name: str) -> bool:
    return name not in ("avg", "full") and "=" not in name


def braces(name: str) -> str:
    """How a condition is shown: "vt" as "{v,t}", "full vt" as "full {v,t}".

    Means and curves keep their names: "avg", "missing=0.3".
    """
    kind, _, letters = name.rpartition(" ")
    shown = "{" + ",".join(letters) + "}" if _is_plain(letters) else letters
    return f"{kind} {shown}".strip()


def summary_table(summary: Sequence[Mapping[str, str]], scores: Sequence[str] = SCORES) -> str:
    """The summary as the paper's table: conditions as rows, per cent, mean ± std over runs.

    Args:
      summary: of `summarise`.
      scores: its columns that are shown.
    """
    lines = []
    titles = [names.score(s) + " %" * (s != "rec_error") for s in scores]
    least = [12 if s == "rec_error" else 14 for s in scores]
    widths = [max(w, len(t) + 2) for w, t in zip(least, titles, strict=True)]
    for key in dict.fromkeys(tuple(row[k] for k in KEY) for row in summary):
        rows = [row for row in summary if tuple(row[k] for k in KEY) == key]
        protocol = rows[0]["protocol"]
        lines += [f"{names.sweep(rows[0])}; {protocol}; {rows[0]['runs']} runs", ""]
        *missing, full = plain_conditions(rows)
        shown = {c: braces(c) for c in missing}
        shown |= {r["condition"]: r["condition"] for r in rows if "=" in r["condition"]}
        shown |= {"avg": "avg", "full": braces(f"full {full}")}
        first = max(12, *(len(name) + 1 for name in shown.values()))
        lines.append("available".ljust(first) + "".join(map(str.rjust, titles, widths)))
        marked = False
        for row in rows:
            if row["condition"] in shown:
                if row["condition"] == "avg":
                    lines.append("-" * (first + sum(widths)))
                cells = "".join(map(str.rjust, (_cell(row, s) for s in scores), widths))
                lines.append(f"{shown[row['condition']]:<{first}}{cells}".rstrip())
                marked |= "rec_error" in scores and _is_worse_than_zeros(row)
        lines += [f"! {WORSE_THAN_ZEROS}"] * marked + [*notes(shown), ""]
    return "\n".join(lines)


def _is_worse_than_zeros(row: Mapping[str, str]) -> bool:
    return bool(row["rec_error"]) and float(row["rec_error"]) > 1


def _cell(row: Mapping[str, str], score: str) -> str:
    if score == "rec_error":
        mark = " !" if _is_worse_than_zeros(row) else ""
        return f"{float(row[score]):.2f}{mark}" if row[score] else ""
    deviation = row[f"{score}_std"]
    mean = 100 * float(row[score] or "nan")
    if np.isnan(mean):
        return ""
    return f"{mean:.2f} ± {100 * float(deviation):.2f}" if deviation else f"{mean:.2f}"


def number(value: float) -> str:
    """As it stands in every result file; empty where it is undefined."""
    return "" if np.isnan(value) else f"{value:.6f}"
