"""utterances.csv of a feature pack: one row an utterance, and what its columns may hold."""

import csv
import io
import math
import unicodedata
from collections.abc import Mapping, Sequence

import numpy as np

from cmarr_jax.data import values as values_lib
from cmarr_jax.errors import UserError

REQUIRED_COLUMNS = ("id", "session", "speaker", "label")
OPTIONAL_COLUMNS = ("split", "group", "text", "start", "end")
SPLITS = ("train", "val", "test")
_SPLIT_NAMES = {"dev": "val", "valid": "val", "validation": "val"}  # other words for these
_NAMES = ("id", "session", "speaker", "label", "group")  # compared with each other, and printed
_NEVER_EMPTY = ("id", "session", "speaker")
_LONGEST = 10_000  # characters; every string of a column takes the room of its longest


def read(file: str) -> dict[str, np.ndarray]:
    """Column name -> `[N]` str.

    Ids may hold anything that prints, path-like names too: none ever becomes a file's name.

    Raises:
      UserError: the file is missing, is no such table, or a field cannot be meant so; names the
        row, counted from 1 with the header.
    """
    header, rows = _table(file)
    columns = {c: [row[k] for row in rows] for k, c in enumerate(header)}
    check(file, columns, range(2, len(rows) + 2))
    arrays = {c: np.array(values) for c, values in columns.items()}
    if "split" in arrays:
        arrays["split"] = canonical_splits(arrays["split"])
    return arrays


def check(file: str, columns: Mapping[str, Sequence[str]], rows: Sequence[int]) -> None:
    """Refuses values that a pack's columns cannot hold.

    Args:
      file: that they come from, for errors.
      columns: some of a pack's, N values each; `id` among them.
      rows: the N numbers of their rows in the file.

    Raises:
      UserError: a field cannot be meant so, or an id stands twice; names the row.
    """
    for column, values in columns.items():
        for number, value in zip(rows, values, strict=True):
            if fault := _fault(column, value):
                raise UserError(f"{file}: row {number} has {fault}")
        if column in _NAMES:
            _check_spellings(file, column, values, rows)
    seen: dict[str, int] = {}
    for number, identifier in zip(rows, columns["id"], strict=True):
        if identifier in seen:
            raise UserError(
                f"{file}: row {number} repeats the id {identifier!r} of row {seen[identifier]}; "
                "wanted one row an utterance"
            )
        seen[identifier] = number
    if {"start", "end"} <= set(columns):
        for number, *ends in zip(rows, columns["start"], columns["end"], strict=True):
            if all(ends) and float(ends[1]) < float(ends[0]):
                raise UserError(
                    f"{file}: row {number} ends at {ends[1]} s, before it starts at {ends[0]} s"
                )


def canonical_splits(values: np.ndarray) -> np.ndarray:
    """`[N]` str: "dev", "valid" and "validation" as "val", all else as it is."""
    return np.array([_SPLIT_NAMES.get(value, value) for value in values.tolist()])


def is_part_name(session: str) -> bool:
    """Whether a session is called as a part of an official split is: "test", "Train", "dev"."""
    return session.lower() in {*SPLITS, *_SPLIT_NAMES}


def texts(
    path: str, columns: Mapping[str, Sequence | np.ndarray], class_names: Sequence[str]
) -> tuple[dict[str, list[str]], list[str]]:
    """Columns of any values as a pack's table holds them, see `values.text` and `values.label`.

    Args:
      path: of the pack, for errors.
      columns: column name -> N values.
      class_names: of the pack.

    Returns:
      Column name -> N strings; and what was changed, a line each.

    Raises:
      UserError: a value that is no text, or a label that names no class.
    """
    table, changed = {}, []
    for column, given in columns.items():
        texts, missing, indices = [], 0, 0
        for i, value in enumerate(given):
            try:
                if column == "label":
                    text = values_lib.label(value, class_names)
                else:
                    text = values_lib.text(value)
                    if column not in ("id", "text") and values_lib.is_missing(text):
                        text = ""
            except UserError as e:
                raise UserError(f"{path}: column {column}, utterance {i}: {e}") from None
            plain = isinstance(value, str)
            missing += not text and not (plain and not value)
            indices += column == "label" and not plain and bool(text)
            texts.append(text)
        if missing:
            changed.append(f"{column}: {missing} missing values (None, NaN, below 0) are empty")
        if indices:
            changed.append(f"{column}: {indices} values that are no text name classes")
        table[column] = texts
    return table, changed


def label_indices(file: str, labels: np.ndarray, class_names: tuple[str, ...]) -> np.ndarray:
    """Class names -> indices `[N]` int32; "" -> -1, unlabelled.

    Raises:
      UserError: a label that is none of `class_names`.
    """
    index = {"": -1} | {name: k for k, name in enumerate(class_names)}
    for number, label in enumerate(labels.tolist(), start=2):
        if label not in index:
            raise UserError(
                f"{file}: row {number} has label {label!r}, which pack.json's classes "
                f"{list(class_names)} lack; leave it empty for an unlabelled utterance"
            )
    return np.array([index[label] for label in labels.tolist()], np.int32)


def _table(file: str) -> tuple[list[str], list[list[str]]]:
    """Header and rows, all of one length."""
    try:
        with open(file, "rb") as f:
            content = f.read()
    except FileNotFoundError:
        raise UserError(f"{file}: missing") from None
    except OSError as e:
        raise UserError(f"{file}: cannot be read ({e.strerror})") from None
    try:
        text = content.decode("utf-8-sig")  # spreadsheets put a byte order mark in front
    except UnicodeDecodeError as e:
        line = content[: e.start].count(b"\n") + 1
        raise UserError(
            f"{file}: line {line} is not UTF-8 ({e.reason}); save it as UTF-8"
        ) from None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        rows = list(reader)
    except csv.Error as e:
        raise UserError(
            f"{file}: line {reader.line_num} is not CSV ({e}); fields with commas, quotes or line "
            "breaks want quotes around them, and quotes within doubled"
        ) from None
    header, rows = (rows[0], rows[1:]) if rows else ([], [])
    absent = [c for c in REQUIRED_COLUMNS if c not in header]
    unknown = [c for c in header if c not in REQUIRED_COLUMNS + OPTIONAL_COLUMNS]
    if absent or unknown or len(set(header)) < len(header):
        raise UserError(
            f"{file}: header is {','.join(header)[:200]!r}; wanted {','.join(REQUIRED_COLUMNS)} "
            f"and any of {','.join(OPTIONAL_COLUMNS)}, each once"
        )
    if not rows:
        raise UserError(f"{file}: has no utterance below its header")
    for number, row in enumerate(rows, start=2):
        if len(row) != len(header):
            raise UserError(f"{file}: row {number} has {len(row)} fields, wanted {len(header)}")
    return header, rows


def _fault(column: str, value: str) -> str:
    """What is wrong with one field; "" if nothing is."""
    if not value:
        return f"an empty {column}" if column in _NEVER_EMPTY else ""
    if len(value) > _LONGEST:
        return f"a {column} of {len(value)} characters, wanted at most {_LONGEST}"
    if column in _NAMES and not value.isprintable():
        return f"{column} {value!r:.100}, wanted printable text"
    if column in _NAMES and value != value.strip():
        return f"{column} {value!r:.100}, wanted no space around it"
    if column == "split" and value not in SPLITS and value not in _SPLIT_NAMES:
        return f"split {value!r:.100}, wanted one of {', '.join(SPLITS)}"
    if column in ("start", "end") and not _is_time(value):
        return f"{column} {value!r:.100}, wanted seconds, such as 12.5, or nothing"
    return ""


def _is_time(value: str) -> bool:
    try:
        return math.isfinite(float(value)) and float(value) >= 0
    except ValueError:
        return False


def _check_spellings(file: str, column: str, values: Sequence[str], rows: Sequence[int]) -> None:
    """One name spelt in two ways would be two speakers, one of them in the test part."""
    known: dict[str, str] = {}
    for number, value in zip(rows, values, strict=True):
        if value.isascii():
            continue
        if (other := known.setdefault(unicodedata.normalize("NFC", value), value)) != value:
            raise UserError(
                f"{file}: row {number} has {column} {value!a}, which looks like {other!a} but is "
                "spelt with other characters; spell both alike (Unicode's NFC form)"
            )
