"""How every figure looks: sizes, colours and type.

Made for a column of a paper (3.5 inches) or two. Colours are Paul Tol's, safe for the
colour-blind; what they tell apart, markers, hatches, line styles or numbers tell apart too, for
readers in greyscale.
"""

import logging
from collections.abc import Callable

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


def styled(draw: Callable) -> Callable:
    """Runs `draw` under the figures' style."""
    return matplotlib.rc_context(STYLE)(draw)
