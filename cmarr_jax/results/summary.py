"""The summary of result rows: mean and deviation over folds and seeds, and the table of it."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

KEY = ("corpus", "system", "variant", "protocol")
SCORES = ("war", "uar", "macro_f1", "rec_error")


def summarise(results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows of summary.csv: each condition, "avg" and "full".

    "avg" is the arithmetic mean of the missing conditions, taken within each run.

    Args:
      results: rows of results.csv; per run the conditions in order, the last of them full, then
        those of curves ("missing=0.3"), which "avg" leaves out.

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
            for score in SCORES:
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


def summary_table(summary: Sequence[Mapping[str, str]]) -> str:
    """The summary as the paper's table: conditions as rows, per cent, mean ± std over runs."""
    lines = []
    for key in dict.fromkeys(tuple(row[k] for k in KEY) for row in summary):
        rows = [row for row in summary if tuple(row[k] for k in KEY) == key]
        corpus, system, variant, protocol = key
        lines += [f"{system} ({variant}) on {corpus}; {protocol}; {rows[0]['runs']} runs", ""]
        lines.append(
            f"{'available':<12}{'WAR %':>14}{'UAR %':>14}{'macro F1 %':>14}{'rec. error':>12}"
        )
        *missing, full = plain_conditions(rows)
        names = {c: braces(c) for c in missing}
        names |= {r["condition"]: r["condition"] for r in rows if "=" in r["condition"]}
        names |= {"avg": "avg", "full": braces(f"full {full}")}
        for row in rows:
            if row["condition"] in names:
                if row["condition"] == "avg":
                    lines.append("-" * 66)
                cells = "".join(f"{_cell(row, s):>14}" for s in SCORES[:3])
                error = f"{float(row['rec_error']):.2f}" if row["rec_error"] else ""
                lines.append(f"{names[row['condition']]:<12}{cells}{error:>12}")
        lines.append("")
    return "\n".join(lines)


def _cell(row: Mapping[str, str], score: str) -> str:
    deviation = row[f"{score}_std"]
    mean = 100 * float(row[score] or "nan")
    return f"{mean:.2f} ± {100 * float(deviation):.2f}" if deviation else f"{mean:.2f}"


def number(value: float) -> str:
    """As it stands in every result file; empty where it is undefined."""
    return "" if np.isnan(value) else f"{value:.6f}"
