"""The plain format: one CSV of utterances, and features by id or in the CSV's order.

UTTERANCES.csv    header with id and label; session and speaker unless ids name them;
                  any of split, group, text, start, end
FEATURES.npz      one array [T, D] or [D] an id
FEATURES.npz:KEY  the array KEY, [N, T, D] or [N, D], rows in the CSV's order, and
                  KEY_lengths [N] if shorter sequences are padded
FEATURES.npy      the same, one array
FOLDER, FILE.h5   one .npy or one dataset an id
"""

import csv
import os
from collections.abc import Mapping, Sequence

import numpy as np

from cmarr_jax.data import pack as pack_lib
from cmarr_jax.data import values as values_lib
from cmarr_jax.data.importers import stores
from cmarr_jax.data.importers.assemble import Archive, unread
from cmarr_jax.data.importers.labels import to_classes
from cmarr_jax.errors import UserError


def read(
    utterances: str,
    features: Mapping[str, str],
    *,
    classes: Sequence[str] = (),
    polarity: str = "",
) -> Archive:
    """Reads the CSV and opens the features.

    Args:
      utterances: path of the CSV; other columns than a pack's are counted, not read.
      features: modality -> where its features are, see above.
      classes: see `labels.to_classes`; integers in the label column are class indices.
      polarity: makes two classes of scores in the label column; "" = labels are classes.

    Raises:
      UserError: a file is missing, or the two do not fit.
    """
    columns, others = _read_csv(utterances)
    lines = unread(f"{stores.short(utterances)}: columns", others)
    ids, values = columns.pop("id"), columns.pop("label")
    columns = {c: _without_missing(c, v) for c, v in columns.items()}
    if classes and not polarity and (numbers := _indices(values, classes)) is not None:
        values = numbers
    labels, class_names = to_classes(values, utterances, classes=classes, polarity=polarity)
    return Archive(
        ids,
        labels,
        class_names,
        {m: _open(path, ids, lines) for m, path in features.items()},
        columns,
        {
            "layout": "csv",
            "labels": os.path.basename(utterances),
            "features": {m: stores.short(p) for m, p in features.items()},
        },
        tuple(lines),
    )


def _without_missing(column: str, values: list[str]) -> list[str]:
    if column == "text":
        return values
    return ["" if values_lib.is_missing(v) else v for v in values]


def _indices(values: list[str], classes: Sequence[str]) -> list[float] | None:
    """The numbers that the labels are, NaN where one is missing; None if one is a word or class."""
    numbers = []
    for value in values:
        try:
            numbers.append(float(value or "nan"))
        except ValueError:
            return None
        if value in classes:
            return None
    return numbers


def _read_csv(file: str) -> tuple[dict[str, list[str]], list[str]]:
    """The known columns, and the names of the others."""
    try:
        with open(file, newline="", encoding="utf-8-sig") as f:
            rows = list(csv.reader(f))
    except OSError as e:
        raise UserError(f"{file}: {e.strerror or e}") from None
    except (UnicodeDecodeError, csv.Error) as e:
        raise UserError(f"{file}: not a UTF-8 CSV file ({e})") from None
    header = rows[0] if rows else []
    known = [c for c in header if c in pack_lib.REQUIRED_COLUMNS + pack_lib.OPTIONAL_COLUMNS]
    if not {"id", "label"} <= set(known) or len(set(known)) < len(known):
        raise UserError(f"{file}: header is {','.join(header)!r}; wanted id and label, each once")
    rows = [row for row in rows[1:] if row]
    if not rows:
        raise UserError(f"{file}: has no utterance below its header")
    for number, row in enumerate(rows, start=1):
        if len(row) != len(header):
            raise UserError(
                f"{file}: utterance {number} has {len(row)} fields, wanted {len(header)}"
            )
    columns = {c: [row[header.index(c)] for row in rows] for c in known}
    return columns, [c for c in header if c not in known]


def _open(path: str, ids: Sequence[str], lines: list[str]) -> stores.Store:
    """Opens features; adds to `lines` what of an archive is not read."""
    file, colon, key = path.rpartition(":")
    if colon and file.endswith(".npz"):
        archive = stores.open_npz(file)
        if key not in archive:
            raise UserError(f"{file}: has no array {key!r}; found {', '.join(archive):.120}")
        array = archive[key]()
        rows = [values_lib.sequence(row, f"{path}: row {k}") for k, row in enumerate(array)]
        of_lengths = f"{key}_lengths"
        if of_lengths in archive:
            rows = _cut(path, rows, archive[of_lengths](), lines)
        lines += unread(f"{stores.short(file)}: arrays", set(archive) - {key, of_lengths})
        return stores.of_rows(path, ids, rows)
    if path.endswith(".npy"):
        return stores.of_rows(path, ids, stores.load_rows(path))
    return stores.open_store(path)


def _cut(
    path: str, rows: list[np.ndarray], given: np.ndarray, lines: list[str]
) -> list[np.ndarray]:
    longest = max(map(len, rows), default=0)
    lengths = values_lib.lengths(given, len(rows), longest, f"{path}_lengths")
    kept, beyond = [], 0
    for row, length in zip(rows, lengths, strict=True):
        inside, lost = values_lib.window(row, np.arange(len(row)) < length)
        kept.append(inside)
        beyond += lost
    if beyond:
        lines.append(f"{stores.short(path)}: {beyond} rows beyond their utterance's length cut")
    return kept
