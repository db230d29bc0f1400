"""The figure of benchmarks/recovery_map.py, from the rows of its table alone."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from cmarr_jax.data import demo, protocol
from cmarr_jax.results import intervals, names

MAIN = ("cmarr", "augmented", "full_modality", "mmin")
PARTS = ("no_udcl", "no_spcl", "no_attention", "point", "paper_nll")


class Cell(NamedTuple):
    """One system on one corpus."""

    shared: float
    utterances: int
    system: str

    def __str__(self) -> str:
        return f"{self.utterances} utterances, shared {self.shared:g}, {self.system}"


def cell_of(row: Mapping[str, Any]) -> Cell:
    return Cell(float(row["shared"]), int(row["utterances"]), row["system"])


class Table:
    """The rows by cell, and what is drawn of them."""

    def __init__(self, rows: Sequence[Mapping[str, str]]):
        self._of = {cell_of(row): row for row in rows}
        self.sizes = sorted({cell.utterances for cell in self._of})
        self.shares = sorted({cell.shared for cell in self._of})
        self.systems = {cell.system for cell in self._of}

    def scores(self, size: int, system: str) -> tuple[list, list, list]:
        """Shares, avg UAR in per cent and half its interval."""
        found = self._along(size, system)
        half = [_half([*folds_of(row).values()], row) for _, (row,) in found]
        return [s for s, _ in found], [100 * float(r["avg_uar"]) for _, (r,) in found], half

    def gains(self, size: int, other: str) -> tuple[list, list, list]:
        """Shares, how much more CM-ARR has than `other` in points, and half the interval."""
        found = self._along(size, "cmarr", other)
        pairs = [gain(*both) for _, both in found]
        return [s for s, _ in found], [x for x, _ in pairs], [half for _, half in pairs]

    def errors(self, size: int, system: str) -> tuple[list, list]:
        """Shares and reconstruction errors, where there are any."""
        found = [(s, row["rec_error"]) for s, (row,) in self._along(size, system)]
        return [s for s, x in found if x], [float(x) for _, x in found if x]

    def _along(self, size: int, *systems: str) -> list[tuple[float, list[Mapping[str, str]]]]:
        """The rows of systems at each share that has them all."""
        found = [(s, [self._of.get(Cell(s, size, name)) for name in systems]) for s in self.shares]
        return [(s, rows) for s, rows in found if None not in rows]


def draw(rows: Sequence[Mapping[str, str]]):
    """A column a corpus size: the systems, CM-ARR's gain over others and its parts', the errors.

    A row for which the table has nothing is left out.
    """
    import matplotlib
    import matplotlib.pyplot as plt

    from cmarr_jax.results import style

    table = Table(rows)
    others = table.systems & {*MAIN[1:]} if "cmarr" in table.systems else ()
    parts = table.systems & {*PARTS} if "cmarr" in table.systems else ()
    kinds = [(_scores, "avg UAR, %")]
    kinds += [(_gains, "CM-ARR less\nanother, points")] if others else []
    kinds += [(_parts, "CM-ARR less\na variant, points")] if parts else []
    kinds += [(_errors, "relative\nrec. error")] if any(r["rec_error"] for r in rows) else []
    with matplotlib.rc_context(style.STYLE):
        size = style.TWO_COLUMNS, 0.4 + 1.5 * len(kinds)
        shape = {"figsize": size, "sharex": True, "sharey": "row", "squeeze": False}
        figure, panels = plt.subplots(len(kinds), len(table.sizes), **shape)
        for (fill, title), line in zip(kinds, panels, strict=True):
            for axes, num in zip(line, table.sizes, strict=True):
                fill(axes, table, num)
                axes.grid(axis="y", color=style.GREY, linewidth=0.4, alpha=0.4)
            line[0].set_ylabel(title)
            shown = {}  # of all sizes: the largest may lack what is not trained yet
            for axes in line:
                shown |= dict(zip(*axes.get_legend_handles_labels()[::-1], strict=True))
            place = {"loc": "center left", "bbox_to_anchor": (1.02, 0.5), "frameon": False}
            line[-1].legend(shown.values(), shown, fontsize=7, handlelength=2.2, **place)
        for axes, num in zip(panels[0], table.sizes, strict=True):
            axes.set_title(f"{num:,} utterances")
        for axes in panels[-1]:
            axes.set_xticks(table.shares, [f"{s:g}" for s in table.shares])
            axes.set_xlabel("shared content")
        figure.align_ylabels()
    return figure


def _scores(axes, table: Table, size: int) -> None:
    from cmarr_jax.results import style

    shares = np.linspace(table.shares[0], table.shares[-1], 41)
    best = [100 * ceiling(s) for s in shares]
    axes.plot(shares, best, color=style.INK, linewidth=0.8, label="ceiling")
    for k, system in enumerate(MAIN):
        _banded(axes, system, k, *table.scores(size, system))


def _gains(axes, table: Table, size: int) -> None:
    from cmarr_jax.results import style

    for k, system in enumerate(MAIN):
        if system != "cmarr":
            _banded(axes, system, k, *table.gains(size, system))
    axes.axhline(0, color=style.INK, linewidth=0.8)


def _parts(axes, table: Table, size: int) -> None:
    from cmarr_jax.results import style

    for k, system in enumerate(PARTS):
        x, y, half = table.gains(size, system)
        if x:
            x = np.array(x) + 0.02 * (k - (len(PARTS) - 1) / 2)  # intervals stay apart
            bars = {"elinewidth": 0.6, "capsize": 1.2}
            axes.errorbar(x, y, half, label=names.member(system), **_look(k), **bars)
    axes.axhline(0, color=style.INK, linewidth=0.8)


def _errors(axes, table: Table, size: int) -> None:
    from cmarr_jax.results import style

    for k, system in enumerate(MAIN):
        x, y = table.errors(size, system)
        if x:
            axes.plot(x, y, label=names.member(system), **_look(k))
    axes.axhline(1, color=style.INK, linewidth=0.8, linestyle="--")


def _banded(axes, system: str, number: int, x: list, mean: list, half: list) -> None:
    """A system's line with the intervals as a band, if it has any point."""
    if x:
        look = _look(number)
        low, high = np.array(mean) - half, np.array(mean) + half
        axes.fill_between(x, low, high, color=look["color"], alpha=0.15, linewidth=0)
        axes.plot(x, mean, label=names.member(system), **look)


def _half(scores: Sequence[float], row: Mapping[str, str]) -> float:
    """Half the interval of a mean over folds, in per cent."""
    return 100 * float(intervals.half_width(np.array(scores), float(row["test_over_train"])))


def _look(number: int) -> dict[str, Any]:
    from cmarr_jax.results import style

    return {
        "color": style.SERIES[number],
        "marker": style.MARKERS[number],
        "linestyle": style.LINES[number % len(style.LINES)],
        "markersize": 3,
        "linewidth": 1,
    }


def caption(rows: Sequence[Mapping[str, str]]) -> str:
    """What is seen, of how much, where it was measured."""
    from cmarr_jax.results import figures

    first, devices = rows[0], ", ".join(dict.fromkeys(row["device"] for row in rows))
    folds = len(folds_of(first))
    short = {*(int(r["runs"]) for r in rows)} != {folds * int(first["seeds"])}
    return (
        "Made-up corpora whose modalities have a known share of their content in common. First: "
        "UAR averaged over the missing conditions; ceiling: the best guess from the evidence "
        "itself. Next: how much more of it CM-ARR has than the others, and than itself with a part "
        "left out or changed; above 0, CM-ARR as it is does better. Last: squared error of what "
        "was recovered over its squared length, of each system's own representation; dashed: the "
        "error of recovering nothing but zeros. "
        f"Bands and bars: {figures.over_folds(folds)}, not corrected for their number. "
        f"{len(rows)} cells, {folds} folds, seeds a fold: {first['seeds']}; T = {first['length']}; "
        + f"noise {float(first['noise']):g}; {devices}."
        + (" Some runs were stopped, and are left out." if short else "")
    )


def ceiling(shared: float) -> float:
    """The highest avg UAR that the corpus allows."""
    modalities = ("text", "speech", "video")
    conditions = protocol.make_conditions(modalities)[:-1]
    available = [
        [m for m, is_there in zip(modalities, c.available, strict=True) if is_there]
        for c in conditions
    ]
    return float(np.mean([demo.ceiling(names, shared) for names in available]))


def folds_of(row: Mapping[str, str]) -> dict[str, float]:
    return {fold: float(x) for fold, x in (p.split("=") for p in row["fold_avg_uar"].split())}


def gain(ours: Mapping[str, str], theirs: Mapping[str, str]) -> tuple[float, float]:
    """How much more avg UAR one cell has than another, in points, and half the 95 % interval."""
    a, b = folds_of(ours), folds_of(theirs)
    if a.keys() != b.keys():
        return 100 * (float(ours["avg_uar"]) - float(theirs["avg_uar"])), float("nan")
    differences = [a[fold] - b[fold] for fold in a]
    return 100 * float(np.mean(differences)), _half(differences, ours)
