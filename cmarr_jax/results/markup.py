"""Pieces of a self-contained HTML page. Every text is escaped here: callers hand over plain text.

The page needs no script, and its policy lets a browser load nothing from anywhere.
"""

import os
from collections.abc import Mapping, Sequence
from html import escape

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def page(title: str, lead: str, contents: Sequence[tuple[str, str]], body: str) -> bytes:
    """The whole file; what UTF-8 cannot write becomes a question mark.

    Args:
      title: of the page.
      lead: a sentence below it.
      contents: (id, text) of what can be jumped to.
      body: HTML.
    """
    with open(os.path.join(os.path.dirname(__file__), "page.css"), encoding="utf-8") as f:
        css = f.read()
    links = "".join(f'<li><a href="#{escape(i)}">{escape(text)}</a></li>' for i, text in contents)
    text = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>{escape(title)}</title>
<style>
{css}</style>
</head>
<body>
<header>
<h1>{escape(title)}</h1>
{paragraph(lead)}
<nav aria-label="Contents"><ul>{links}</ul></nav>
</header>
<main>
{body}
</main>
</body>
</html>
"""
    return text.encode("utf-8", "replace")


def section(id: str, title: str, *pieces: str, level: int = 2, kind: str = "") -> str:
    """A section of the page.

    Args:
      id: what links jump to.
      title: plain text, becomes the heading.
      pieces: HTML below it.
      level: of the heading: 2 below the page's own, 3 within a system's section.
      kind: classes of page.css.
    """
    heading = f"<h{level}>{escape(title)}</h{level}>"
    return (
        f'<section id="{escape(id)}"{_kind(kind)}>\n{heading}\n'
        + "\n".join(pieces)
        + "\n</section>"
    )


def paragraph(text: str, kind: str = "") -> str:
    """Plain text as a paragraph; `kind` is a class of page.css, as everywhere here."""
    return f"<p{_kind(kind)}>{escape(text)}</p>"


def bullets(items: Sequence[str]) -> str:
    """Plain texts as a list."""
    return "<ul>" + "".join(f"<li>{escape(item)}</li>" for item in items) + "</ul>"


def details(summary: str, body: str, level: int = 0) -> str:
    """What opens at a click; its summary is a heading where `level` is given."""
    text = escape(summary)
    text = f"<h{level}>{text}</h{level}>" if level else text
    return f"<details><summary>{text}</summary>\n{body}\n</details>"


def facts(pairs: Mapping[str, str]) -> str:
    """Names and values."""
    rows = (f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in pairs.items())
    return f"<dl>{''.join(rows)}</dl>"


def table(caption: str, head: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "") -> str:
    """A table whose first column names the row; it scrolls by itself where it is too wide.

    Columns whose every cell begins with a digit (or a sign, or is empty) are set as numbers.
    """
    numeric = [
        all(not row[j] or row[j][0] in "0123456789−-+±" for row in rows) for j in range(len(head))
    ]
    as_number = [' class="number"' if n and j else "" for j, n in enumerate(numeric)]
    top = "".join(
        f'<th scope="col"{k}>{escape(h)}</th>' for h, k in zip(head, as_number, strict=True)
    )
    lines = []
    for first, *rest in rows:
        cells = "".join(
            f"<td{k}>{escape(cell)}</td>" for cell, k in zip(rest, as_number[1:], strict=True)
        )
        lines.append(f'<tr><th scope="row">{escape(first)}</th>{cells}</tr>')
    body = "\n".join(lines)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption[:80])}">'
        f"<table{_kind(kind)}><caption>{escape(caption)}</caption>\n<thead><tr>{top}</tr></thead>"
        f"\n<tbody>\n{body}\n</tbody></table></div>"
    )


def figure(drawings: Sequence[str], caption: str, kind: str, edges: Sequence[str] = ()) -> str:
    """SVG elements side by side, as many as fit, above one caption.

    Args:
      drawings: the elements.
      caption: plain text.
      kind: classes of page.css.
      edges: what the x and y axes of all drawings are called, once for all.
    """
    body = "<div>" + "\n".join(drawings) + "</div>"
    if edges:
        x, y = map(escape, edges)
        body = f'<div class="edges"><p class="y">{y}</p>{body}<p class="x">{x}</p></div>'
    return f'<figure class="{kind}">{body}\n<figcaption>{escape(caption)}</figcaption></figure>'


def _kind(kind: str) -> str:
    return f' class="{kind}"' if kind else ""
