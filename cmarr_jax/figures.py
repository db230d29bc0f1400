"""Publication-ready figures of a results folder."""

import os
from collections.abc import Mapping, Sequence

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
import numpy as np

from cmarr_jax import report
from cmarr_jax.errors import UserError

_STYLE = {
    "font.size": 8,
    "pdf.fonttype": 42,  # embedded TrueType, as publishers ask
    "axes.spines.top": False,
    "axes.spines.right": False,
    "savefig.dpi": 300,
}
_BARS = {"war": ("WAR", "#4477aa"), "uar": ("UAR", "#ccbb44")}  # differ in lightness too


def conditions(
    summary: Sequence[Mapping[str, str]], confusion: Mapping[str, np.ndarray], file: str
) -> None:
    """Bars of WAR and UAR under each condition, one standard deviation, and the majority class.

    Args:
      summary: rows of `report.read_summary`.
      confusion: of `report.read_confusion`.
      file: ends in .pdf or .png.

    Raises:
      UserError: another ending, or a place that cannot be written.
    """
    if not file.endswith((".pdf", ".png")):
        raise UserError(f"--figure={file}: wanted a file name that ends in .pdf or .png")
    of = {r["condition"]: r for r in summary}
    *missing, full = report.plain_conditions(summary)
    rows = [of[name] for name in (*missing, *(["avg"] if missing else []), full)]
    names = [r["condition"] for r in rows]
    labels = [n if n == "avg" else "{" + ",".join(n) + "}" for n in names]
    support = confusion["confusion"][:, -1].sum(axis=-1)  # [R, C]
    majority = 100 * np.mean(support.max(axis=-1) / support.sum(axis=-1))
    with plt.rc_context(_STYLE):
        figure, axes = plt.subplots(figsize=(3.5, 2.3), layout="constrained")
        for k, (score, (label, colour)) in enumerate(_BARS.items()):
            heights = [100 * float(r[score]) for r in rows]
            spread = [100 * float(r[f"{score}_std"] or 0) for r in rows]
            place = np.arange(len(rows)) + 0.38 * (k - 0.5)
            axes.bar(
                place, heights, 0.36, yerr=spread, color=colour, label=label,
                error_kw={"linewidth": 0.7},
            )  # fmt: skip
        axes.axhline(majority, color="black", linewidth=0.7, linestyle="--", label="majority (WAR)")
        axes.set_xticks(range(len(rows)), labels)
        axes.set_xlabel(f"available modalities ({rows[0]['runs']} runs; lines: one std)")
        axes.set_ylabel("per cent")
        axes.set_ylim(0, 100)
        axes.set_title(f"{rows[0]['system']} on {rows[0]['corpus']}", fontsize=8)
        axes.legend(frameon=False, ncols=3, loc="upper left")
        try:
            os.makedirs(os.path.dirname(os.path.abspath(file)), exist_ok=True)
            figure.savefig(file)
        except OSError as e:
            raise UserError(f"--figure={file}: cannot be written ({e.strerror})") from None
        finally:
            plt.close(figure)
