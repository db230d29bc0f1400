"""A finished sweep as a person holds it in Python: its table, its scores, its plots, others beside.

Texts show as they are where a notebook or a prompt shows a value. Plots are drawn into axes of the
caller's, or of a figure of their own, which is left open for a notebook to show.
"""

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cmarr_jax.errors import UserError
from cmarr_jax.results import names, rows
from cmarr_jax.results.summary import KEY, SCORES, plain_conditions, summary_table
from cmarr_jax.workdir import files
from cmarr_jax.workdir.status import check_same_corpus

if TYPE_CHECKING:  # a second or more to import
    import pandas
    from matplotlib.axes import Axes

    from cmarr_jax.results import figure_files, folder


class Text(str):
    """A text that shows as it is printed, without quotation marks and escapes."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


class Results:
    """The results of one sweep, read from its work directory alone.

    Attributes:
      workdir: the folder.
      name: the system, and its variant if it has one; stands in comparisons and may be set.
    """

    def __init__(self, workdir: str | os.PathLike):
        """Reads the table; everything else when it is asked for.

        Raises:
          UserError: the folder holds no finished sweep, or several.
        """
        self.workdir = os.fspath(workdir)
        self._rows = rows.read_results(self.workdir)
        if len({tuple(row[k] for k in KEY) for row in self._rows}) > 1:
            raise UserError(
                f"{self.workdir}: holds several sweeps; name the folder of one, below it"
            )
        first = self._rows[0]
        variant = "" if first["variant"] == "default" else f" ({names.member(first['variant'])})"
        self.name = names.member(first["system"]) + variant
        self._arrays = None

    def __repr__(self) -> str:
        return self.table()

    def table(self) -> Text:
        """Means and deviations over folds and seeds, as train.py prints them."""
        return Text(summary_table(rows.read_summary(self.workdir)))

    def to_dataframe(self) -> "pandas.DataFrame":
        """results.csv, a row a (fold, seed, condition); scores are numbers from 0 to 1.

        Raises:
          UserError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError:
            raise UserError(
                f"to_dataframe: pandas is missing; pip install pandas, or read "
                f"{os.path.join(self.workdir, files.RESULTS)}"
            ) from None
        columns: dict[str, list] = {k: [row[k] for row in self._rows] for k in self._rows[0]}
        for name in ("fold", "seed", "n"):
            columns[name] = [int(x) for x in columns[name]]
        for name in SCORES:
            columns[name] = [float(x or "nan") for x in columns[name]]
        return pandas.DataFrame(columns)

    @property
    def predictions(self) -> dict[str, np.ndarray]:
        """Every prediction of the test, P of them, as columns that `pandas.DataFrame` takes.

        They are id, fold, seed, condition, label, predicted, and "p(CLASS)", the probability of
        each class.

        Raises:
          UserError: predictions.csv is missing or damaged.
        """
        arrays = self.arrays
        if (found := arrays.predictions) is None:
            file = os.path.join(self.workdir, files.PREDICTIONS)
            raise UserError(f"{file}: missing; copy the whole folder")
        runs, classes = np.array(arrays.runs)[found.run], np.array(arrays.classes)
        conditions = np.array([*arrays.conditions, *arrays.curves])
        columns = {"id": found.ids, "fold": runs[:, 0], "seed": runs[:, 1]}
        columns |= {"condition": conditions[found.condition], "label": classes[found.labels]}
        columns["predicted"] = classes[found.posteriors.argmax(axis=-1)]
        return columns | {f"p({c})": found.posteriors[:, k] for k, c in enumerate(arrays.classes)}

    @property
    def arrays(self) -> "folder.Results":
        """All of the folder as arrays.

        Raises:
          UserError: a file is missing or damaged.
        """
        if self._arrays is None:
            from cmarr_jax.results import folder

            self._arrays = folder.load(self.workdir)
        return self._arrays

    def plot_conditions(self, ax: "Axes | None" = None) -> "Axes":
        """Bars of WAR and UAR by available modalities, with 95 % intervals; returns the axes."""
        from cmarr_jax.results import figures, style

        with _axes(ax, (style.COLUMN, 2.6)) as ax:
            shown = figures.conditions_panel(self.arrays, ax)
            style.legend_inside(ax, *shown, top=100)
        return ax

    def plot_confusion(self, condition: str | None = None, ax: "Axes | None" = None) -> "Axes":
        """Per cent of each true class that was taken for each class; returns the axes.

        Args:
          condition: "t", "st", ...; None = all modalities are there.
          ax: where to draw; None = a figure of its own.

        Raises:
          UserError: no such condition.
        """
        from cmarr_jax.results import panels

        known = self.arrays.conditions
        if condition not in (None, *known):
            raise UserError(f"condition={condition!r}: wanted one of {', '.join(known)}")
        side, room = panels.confusion_size(self.arrays)
        side = max(1.4 * side, 1.7)
        with _axes(ax, (side + room, side + room)) as ax:
            panels.confusion(self.arrays, ax, condition or known[-1])
        return ax

    def plot_curves(self, term: str = "val_uar", ax: "Axes | None" = None) -> "Axes":
        """The last stage's validation UAR by epoch, a line a fold; returns the axes.

        Args:
          term: another column of history.csv: "loss", or a term of the loss.
          ax: where to draw; None = a figure of its own.

        Raises:
          UserError: no such column.
        """
        from cmarr_jax.results import panels, style

        history = self.arrays.history
        stage = history[-1]["stage"] if history else ""
        known = panels.curve_names(self.arrays)[:-1] if history else []
        known = [name.split(" ", 1)[1] for name in known if name.startswith(f"{stage} ")]
        if term not in known:
            file = os.path.join(self.workdir, files.HISTORY)
            raise UserError(f"term={term!r}: not in {file}, which has {', '.join(known) or 'none'}")
        with _axes(ax, (style.COLUMN, 2.4)) as ax:
            panels.curve(self.arrays, ax, f"{stage} {term}")
            for line, fold in zip(ax.lines, self.arrays.folds, strict=False):
                line.set_label(f"fold {fold}")
            ax.legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
        return ax

    def compare(self, *others: "Results") -> "Comparison":
        """This sweep beside others of the same corpus, folds and seeds; each is tested against it.

        Raises:
          UserError: another corpus, protocol, condition, fold or seed.
        """
        if not others:
            raise UserError("compare: wanted the results of another sweep")
        return Comparison([*others, self])


def load(workdir: str | os.PathLike) -> Results:
    """The results of a sweep that was trained before, here or elsewhere.

    Raises:
      UserError: the folder holds no finished sweep, or several.
    """
    return Results(workdir)


def name_apart(results: Sequence[Results]) -> list[str]:
    """Names each by its system and the variants that others lack; returns those that all have."""
    own = [each._rows[0]["variant"].split(",") for each in results]
    shared = [name for name in own[0] if all(name in variants for variants in own)]
    for each, variants in zip(results, own, strict=True):
        rest = ",".join(name for name in variants if name not in (*shared, "default"))
        system = names.member(each._rows[0]["system"])
        each.name = f"{system} ({names.member(rest)})" if rest else system
    return [name for name in shared if name != "default"]


class Comparison:
    """Systems side by side, with a paired test of each against the last.

    It is one over the folds, or of one fold alone a bootstrap over its dialogues or speakers.

    Attributes:
      values: means, deviations, p-values and intervals of the differences as arrays.
    """

    def __init__(self, results: Sequence[Results], scores: Sequence[str] = ("war", "uar")):
        """Two or more, each under its `name`; of those that share it, under its folder too.

        `scores` are columns of results.csv or of `classes.rows`.
        """
        from cmarr_jax.results import classes, tables

        last = results[-1]
        given = [each.name for each in results]
        check_same_corpus([each.workdir for each in results])
        joined: list[dict[str, str]] = []
        members: list[str] = []
        for each in results:
            for field in ("corpus", "protocol"):
                if (theirs := each._rows[0][field]) != (ours := last._rows[0][field]):
                    raise UserError(
                        f"{each.workdir}: its {field} is {theirs!r}, of {last.workdir} {ours!r}; "
                        "wanted the same"
                    )
            if plain_conditions(each._rows) != plain_conditions(last._rows):
                raise UserError(
                    f"{each.workdir}: has other modalities or conditions than {last.workdir}"
                )
            several = given.count(each.name) > 1
            name = f"{each.name} {each.workdir}" if several else each.name
            if name in members:
                raise UserError(f"{each.workdir}: compared with itself")
            members.append(name)
            known = {*scores} <= {*SCORES}
            found = each._rows if known else classes.rows(each.workdir)[0]
            joined += [row | {"sweep": name} for row in found]
        self._joined, self._results = joined, results
        self.values: tables.Comparison = tables.compare(
            joined, members, scores, [each.workdir for each in results]
        )

    def table(self, format: str = "text") -> Text:
        """The comparison as "text", "markdown", "latex" or "csv".

        Raises:
          UserError: another format.
        """
        from cmarr_jax.results import tables

        return Text(tables.render(self.values, format))

    def plot(self, axes: "Sequence[Axes] | None" = None) -> "Sequence[Axes]":
        """WAR and UAR of all systems side by side under each condition, a colour a system.

        Lines at the means are 95 % intervals over the folds, or of one fold the standard deviation
        over its seeds.

        Args:
          axes: two, for WAR and for UAR; None = a figure of their own, as wide as two columns.

        Returns:
          The two axes.

        Raises:
          UserError: another number of axes.
        """
        import matplotlib.pyplot as plt

        from cmarr_jax.results import figures, style, system_figures

        guess = figures.guessing(self._results[-1].arrays)
        _embed_fonts()
        if axes is None:
            return system_figures.systems(self.values, guess).axes
        if len(panels := np.ravel(np.asarray(axes, dtype=object))) != 2:
            raise UserError(f"axes: wanted two, for WAR and for UAR, got {len(panels)}")
        with plt.rc_context(style.STYLE):
            for each in panels:
                style.dress(each)
            shown = system_figures.systems_panels(self.values, panels, guess)
            tops = [each.get_ylim()[1] for each in panels]
            for each, top in zip(panels, tops, strict=True):  # both, so that they keep one range
                style.legend_inside(each, [*shown.values()], [*shown], top)
        return list(panels)

    def sweeps(self) -> "figure_files.Sweeps":
        """What figures of several systems are drawn from."""
        from cmarr_jax.results import figure_files

        reference = self._results[-1].arrays
        return figure_files.Sweeps(self._joined, self.values.columns, [], reference)

    def __repr__(self) -> str:
        return self.table()

    def _repr_markdown_(self) -> str:
        return self.table("markdown")


@contextlib.contextmanager
def _axes(ax: Any, size: tuple[float, float]) -> Iterator[Any]:
    """`ax`, or axes of a new figure of `size` inches; drawn in under the style of all figures."""
    import matplotlib.pyplot as plt

    from cmarr_jax.results import style

    _embed_fonts()
    with plt.rc_context(style.STYLE):
        if ax is None:
            ax = plt.subplots(figsize=size)[1]
        else:
            style.dress(ax)
        yield ax


def _embed_fonts() -> None:
    """The caller saves a figure, later, and Matplotlib's default Type 3 fonts publishers refuse."""
    import matplotlib

    matplotlib.rcParams["pdf.fonttype"] = matplotlib.rcParams["ps.fonttype"] = 42
