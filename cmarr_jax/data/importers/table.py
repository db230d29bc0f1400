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
from cmarr_jax.data.importers import stores
from cmarr_jax.data.importers.assemble import Archive
from cmarr_jax.data.importers.labels import to_classes
from cmarr_jax.errors import UserError


def read(utterances: str, features: Mapping[str, str], *, classes: Sequence[str] = ()) -> Archive:
    """Reads the CSV and opens the features.

    Args:
      utterances: path of the CSV; other columns than a pack's are ignored.
      features: modality -> where its features are, see above.
      classes: see `labels.to_classes`; integers in the label column are class indices.

    Raises:
      UserError: a file is missing, or the two do not fit.
    """
    columns = _read_csv(utterances)
    ids, values = columns.pop("id"), columns.pop("label")
    if classes and all(v == "" or v.lstrip("-").isdigit() for v in values):
        values = [int(v) if v else -1 for v in values]
    labels, class_names = to_classes(values, utterances, classes=classes)
    return Archive(
        ids,
        labels,
        class_names,
        {m: _open(path, ids) for m, path in features.items()},
        columns,
        {
            "layout": "csv",
            "labels": os.path.basename(utterances),
            "features": {m: stores.short(p) for m, p in features.items()},
        },
    )


def _read_csv(file: str) -> dict[str, list[str]]:
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
    return {c: [row[header.index(c)] for row in rows] for c in known}


def _open(path: str, ids: Sequence[str]) -> stores.Store:
    file, colon, key = path.rpartition(":")
    if colon and file.endswith(".npz"):
        archive = stores.open_npz(file)
        if key not in archive:
            raise UserError(f"{file}: has no array {key!r}; found {', '.join(archive):.120}")
        array = archive[key]()
        if array.dtype.kind not in "fiu" or array.ndim not in (2, 3):
            raise UserError(f"{path}: {array.dtype} {array.shape}, wanted [N, T, D] or [N, D]")
        if f"{key}_lengths" in archive:
            array = _cut(path, array, archive[f"{key}_lengths"]())
        return stores.of_rows(path, ids, array)
    if path.endswith(".npy"):
        return stores.of_rows(path, ids, stores.load_rows(path))
    return stores.open_store(path)


def _cut(path: str, array: np.ndarray, lengths: np.ndarray) -> list[np.ndarray]:
    if array.ndim != 3 or lengths.shape != array.shape[:1] or lengths.dtype.kind not in "iu":
        raise UserError(
            f"{path}_lengths: {lengths.dtype} {lengths.shape}, wanted one integer a row"
        )
    return [row[:length] for row, length in zip(array, lengths, strict=True)]
