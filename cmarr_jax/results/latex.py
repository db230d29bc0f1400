"""Tables of a paper in LaTeX, as wide as a column or two of one.

Widths are estimated from Computer Modern's, the widest of the usual fonts: TeX itself is not
needed. Sizes are given in points, since \\footnotesize is another one in each class.
"""

from collections.abc import Sequence

COLUMN, TWO_COLUMNS = 219.0, 455.0  # points; ACL's, narrower than those of IEEE and Interspeech
_GAP = 2.0  # points, on each side of a column
_SIZES = (8, 7)  # points, of the text
_SUBSCRIPT = {8: 6, 7: 5}  # as TeX pairs them
_SPECIAL = {c: rf"\{c}" for c in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "<": "$<$",
    ">": "$>$",
}
_NARROW, _WIDE = frozenset("ijl.,;:!|'"), frozenset("mwMW%@—±<>+=")


def escape(texts: Sequence[str]) -> list[str]:
    """Plain texts as LaTeX shows them as they are."""
    return ["".join(_SPECIAL.get(c, c) for c in text) for text in texts]


def table(blocks: Sequence[Sequence[Sequence[str]]], caption: str, label: str) -> str:
    """A table environment, of one column where it fits there; else of two.

    Args:
      blocks: of cells in LaTeX, one below the other; the first row and column are headings.
      caption: plain text.
      label: of \\label.
    """
    star, size, fits = _placed(blocks)
    num = len(blocks[0][0])
    lines = [
        r"% needs \usepackage{booktabs}" + ("" if fits else r" and \usepackage{graphicx}"),
        rf"\begin{{table{star}}}\centering",
        rf"\caption{{{escape([caption])[0]}}}",
        rf"\label{{{label}}}",
        rf"\fontsize{{{size}}}{{{size + 2}}}\selectfont\setlength{{\tabcolsep}}{{{_GAP:g}pt}}",
    ]
    if not fits:
        lines.append(rf"\resizebox{{\{'textwidth' if star else 'columnwidth'}}}{{!}}{{%")
    lines.append(rf"\begin{{tabular}}{{@{{}}l*{{{num - 1}}}{{c}}@{{}}}}\toprule")
    for number, (head, *body) in enumerate(blocks):
        if number:
            lines.append(r"\midrule")
        lines += [
            f"  {' & '.join(cells)} \\\\" + (r" \midrule" * (not k))
            for k, cells in enumerate((head, *body))
        ]
    end = r"\bottomrule\end{tabular}" + ("" if fits else "}")
    return "\n".join([*lines, rf"{end}\end{{table{star}}}"])


def _placed(blocks: Sequence[Sequence[Sequence[str]]]) -> tuple[str, int, bool]:
    """The star of the environment, the size of the text, and whether it fits without scaling."""
    for star, room in (("", COLUMN), ("*", TWO_COLUMNS)):
        for size in _SIZES:
            if width(blocks, size) <= room:
                return star, size, True
    return "*", _SIZES[-1], False


def width(blocks: Sequence[Sequence[Sequence[str]]], size: int) -> float:
    """Estimated points that blocks of cells take; at least what TeX makes of them."""
    rows = [row for block in blocks for row in block]
    columns = [
        max(_text_width(cell, size) for cell in column) for column in zip(*rows, strict=True)
    ]
    return sum(columns) + 2 * _GAP * (len(columns) - 1)


def _text_width(cell: str, size: int) -> float:
    text, _, rest = cell.partition("$_{")
    bold = text.startswith(r"\textbf{")
    for code, plain in (
        (r"\textbf{", ""), (r"$\pm$", "±"), (r"\textbackslash{}", "m"),
        (r"\textasciitilde{}", "m"), (r"\textasciicircum{}", "m"), ("$", ""), ("\\", ""),
    ):  # fmt: skip
        text = text.replace(code, plain)
    if bold:
        text = text.removesuffix("}")
    # Small sizes of Computer Modern are wider for their height than its 10 points.
    em = size * {8: 1.065, 7: 1.14, 6: 1.225, 5: 1.365}[size]
    made = sum(_of_character(c) for c in text) * em * (1.15 if bold else 1.0)
    if rest:
        small = _SUBSCRIPT[size]
        digits = rest.removeprefix(r"\pm").removesuffix("}$")
        em = small * {6: 1.225, 5: 1.365}[small]
        made += (sum(_of_character(c) for c in digits) + 0.78) * em
    return made


def _of_character(c: str) -> float:
    """In ems of 10 points."""
    if c in _NARROW:
        return 0.28
    if c in _WIDE:
        return 0.95
    if ord(c) > 0x2E80:  # Chinese, Japanese, Korean
        return 1.0
    return 0.73 if c.isupper() else 0.5
