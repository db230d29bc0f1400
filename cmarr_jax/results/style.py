"""How every figure looks: sizes, colours and type.

Made for a column of a paper (3.5 inches) or two. Colours are Paul Tol's, safe for the
colour-blind; what they tell apart, markers, hatches, line styles or numbers tell apart too, for
readers in greyscale.
"""

import itertools
import logging
from collections.abc import Callable, Sequence

import matplotlib
import matplotlib.pyplot as plt

# Loads the backend: did that happen within a style, matplotlib would forget at the style's end that
# a notebook shows figures.
plt.draw_if_interactive()
logging.getLogger("fontTools").setLevel(logging.WARNING)  # it tells of every glyph it embeds

COLUMN, TWO_COLUMNS = 3.5, 7.0  # inches
INK, PAPER, GREY = "#1a1a1a", "#fefefe", "#9a9a9a"
SERIES = ("#4477aa", "#cc6677", "#228833", "#aa3377", "#997700", "#0f7f8f")
HEAT = "#6699cc"
SECOND = "#ccbb44"
LINES = ("-", "--", ":", "-.")
MARKERS = "osD^vP"
STYLE = {
    "font.size": 8,
    "font.family": ["DejaVu Sans"],  # matplotlib's own
    "axes.titlesize": 8,
    "pdf.fonttype": 42,  # embedded TrueType, as publishers ask
    "svg.fonttype": "none",
    "text.parse_math": False,  # a corpus may be called "$"
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "hatch.linewidth": 0.6,
    "savefig.dpi": 300,
    "figure.constrained_layout.use": True,
    **{f"{kind}color": INK for kind in ("text.", "axes.label", "axes.edge", "xtick.", "ytick.")},
}


def dress(axes: plt.Axes) -> None:
    """Gives axes that were made under another style this one's spines, sizes and colours."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[:].set(linewidth=STYLE["axes.linewidth"], edgecolor=INK)
    words = {"fontsize": STYLE["font.size"], "fontfamily": STYLE["font.family"], "color": INK}
    for text in (axes.title, axes.xaxis.label, axes.yaxis.label):
        text.set(**words)
    ticks = {"labelsize": STYLE["font.size"], "labelfontfamily": STYLE["font.family"]}
    axes.tick_params(**ticks, colors=INK)


def legend_inside(axes: plt.Axes, handles: Sequence, labels: Sequence[str], top: float) -> None:
    """A legend between `top`, the highest that is drawn, and the title.

    The axis is made longer by the legend's height, so that it covers nothing; its spine and ticks
    end at `top`. A title, set before or after, stands above. Names below the axis that would touch
    each other are turned.
    """
    root = axes.get_figure(root=True)
    root.draw_without_rendering()
    boxes = [label.get_window_extent() for label in axes.get_xticklabels()]
    if any(a.x1 + 1 > b.x0 for a, b in itertools.pairwise(boxes)):
        axes.tick_params(axis="x", labelrotation=90)
    look = {"frameon": False, "fontsize": 7, "loc": "upper center", "borderaxespad": 0.1}
    look |= {"columnspacing": 1, "handlelength": 1.6, "handletextpad": 0.4}
    for lines in range(1, len(labels) + 1):
        legend = axes.legend(handles, labels, ncols=-(-len(labels) // lines), **look)
        root.draw_without_rendering()  # its layout is known from here on
        box, room = legend.get_window_extent(), axes.get_window_extent()
        if box.width <= 1.05 * room.width:
            break
    share = min(1.3 * box.height / room.height, 0.7)  # a title that is set later takes some
    low = axes.get_ylim()[0]
    ticks = [tick for tick in axes.get_yticks() if low <= tick <= top]
    axes.set_ylim(low, low + (top - low) / (1 - share))
    axes.set_yticks(ticks)
    axes.spines["left"].set_bounds(low, top)


def styled(draw: Callable) -> Callable:
    """Runs `draw` under the figures' style."""
    return matplotlib.rc_context(STYLE)(draw)
