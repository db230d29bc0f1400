"""Reads tables of a release, or of one's own, as text: the header and numbered rows."""

import csv
import io
import os
import re
from collections.abc import Sequence
from typing import NamedTuple

from cmarr_jax.errors import UserError

_CONTROLS = re.compile("[\x80-\x9f]")  # no text has them: they are Windows-1252, read as Latin-1


class Table(NamedTuple):
    """A table of N rows; empty ones are left out."""

    columns: dict[str, list[str]]  # name -> N values
    numbers: list[int]  # of the rows, counted from 1 with the header


def read(
    file: str, wanted: Sequence[str], *, delimiters: str = ",", windows: bool = False
) -> Table:
    """Reads a table in UTF-8, with or without a byte order mark.

    Args:
      file: its path.
      wanted: columns that it must have.
      delimiters: characters between the fields; the first that gives the wanted columns counts.
      windows: reads characters of Windows-1252, which old releases have among UTF-8, too.

    Raises:
      UserError: it cannot be read, or is no such table; names the line or row.
    """
    text = _text(file, windows)
    header: list[str] = []
    for delimiter in delimiters:
        rows = _rows(file, text, delimiter)
        header = [name.strip() for name in rows[0]] if rows else []
        if set(wanted) <= set(header):
            break
    else:
        first = text.splitlines()[0] if text else ""
        raise UserError(
            f"{file}: its first line is {first[:100]!r}; wanted a header with the columns "
            f"{', '.join(wanted)}, in these letters"
        )
    if len(set(header)) < len(header):
        twice = next(name for name in header if header.count(name) > 1)
        raise UserError(f"{file}: has two columns {twice!r}; wanted each once")
    numbered = [(n, row) for n, row in enumerate(rows[1:], start=2) if any(row)]
    for number, row in numbered:
        if len(row) != len(header):
            raise UserError(
                f"{file}: row {number} has {len(row)} fields, wanted {len(header)}; a field with "
                f"{delimiter!r} in it wants quotes around it"
            )
    if not numbered:
        raise UserError(f"{file}: has no row below its header")
    columns = {name: [row[k] for _, row in numbered] for k, name in enumerate(header)}
    return Table(columns, [number for number, _ in numbered])


def _text(file: str, windows: bool) -> str:
    if os.path.isdir(file):
        raise UserError(f"{file}: a folder; wanted a table, a .csv file")
    try:
        with open(file, "rb") as f:
            content = f.read()
    except OSError as e:
        raise UserError(f"{file}: {e.strerror or e}") from None
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        if not windows:
            line = content[: e.start].count(b"\n") + 1
            raise UserError(
                f"{file}: line {line} is not UTF-8 ({e.reason}); save it as CSV in UTF-8"
            ) from None
        text = content.decode("cp1252", errors="replace")
    return _CONTROLS.sub(_from_windows, text) if windows else text


def _from_windows(match: re.Match) -> str:
    return match[0].encode("latin-1").decode("cp1252", errors="replace")


def _rows(file: str, text: str, delimiter: str) -> list[list[str]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        return list(reader)
    except csv.Error as e:
        raise UserError(
            f"{file}: line {reader.line_num} is not CSV ({e}); a field with commas, quotes or line "
            "breaks wants quotes around it, and quotes within doubled"
        ) from None
