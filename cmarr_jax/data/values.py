"""What a missing or odd value means: one rule each, the same wherever values come in.

Importers, `pack.write`, extraction and `Predictor` call these functions; docs/packs.md has the
rules as a table.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from cmarr_jax.errors import UserError

_MISSING = ("", "nan", "NaN")  # as pandas and NumPy write what is missing


class Finite(NamedTuple):
    """Features that a pack can hold, and what became of the rest."""

    rows: np.ndarray  # [T, D]
    zeroed: int  # numbers that became 0
    dropped: int  # rows without one finite number, left out

    @property
    def said(self) -> str:
        """What was done, "" if nothing was."""
        parts = []
        if self.zeroed:
            parts.append(f"{self.zeroed} numbers that {self.rows.dtype} cannot hold count as 0")
        if self.dropped:
            parts.append(f"{self.dropped} rows without a finite number are left out")
        return "; ".join(parts)


def is_missing(value: Any) -> bool:
    """None, a NaN of any kind, "", "nan" or "NaN"."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):  # pandas'
        return True
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    if isinstance(value, str):
        return value in _MISSING
    return isinstance(value, float | np.floating) and math.isnan(value)


def text(value: Any) -> str:
    """A value of a column as text: bytes are decoded, `2.0` is "2", None and NaN are "".

    The words "nan" and "NaN" stay: a name or a sentence may be so.

    Raises:
      UserError: it is no single value, or bytes that are not UTF-8.
    """
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.item()
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, str):
        return value
    if is_missing(value):
        return ""
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise UserError(f"{value!r:.60} is not UTF-8; wanted text") from None
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, list | tuple | dict | set | np.ndarray):
        raise UserError(f"{value!r:.60} is a {type(value).__name__}; wanted one value")
    return str(value)


def label(value: Any, class_names: Sequence[str]) -> str:
    """The class that a label names, "" = unlabelled.

    A class' name stands for itself, whatever it is; what is missing is unlabelled; an integer
    that is no name, `2`, `2.0` or `True`, is the index of a class, and below zero unlabelled.

    Raises:
      UserError: a number that is no class' index.
    """
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.item()
    name = text(value)
    if name in class_names:
        return name
    if is_missing(value) or not name:
        return ""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bool | int | float):
        if value != value // 1 or value >= len(class_names):
            raise UserError(
                f"{value!r} is neither a class' name nor an index of "
                f"{', '.join(map(str, class_names))}; for a score of sentiment make classes of it"
            )
        return class_names[int(value)] if value >= 0 else ""
    return name


def numbers(value: Any, where: str) -> np.ndarray:
    """An array of numbers of any dtype as float16, float32 or float64 in the machine's order.

    Booleans and integers are numbers; among objects, what is missing is NaN.

    Args:
      value: an array, a list, or objects that can be an array.
      where: what it is, for errors.

    Raises:
      UserError: it is ragged, or holds what is no number.
    """
    try:
        if isinstance(value, np.ma.MaskedArray):  # else the mask is dropped without a word
            value = np.ma.filled(value.astype(np.float64), np.nan)
        array = np.asarray(value)
        if array.dtype.name == "bfloat16":  # JAX's, no dtype of NumPy's own
            array = array.astype(np.float32)
        if array.dtype == object:
            array = np.asarray(_plain(array.tolist()), np.float64)
        elif array.dtype.kind in "US" and not isinstance(value, np.ndarray):
            array = np.asarray(_plain(value), np.float64)
    except (ValueError, TypeError, OverflowError, RuntimeError):  # the last is PyTorch's
        raise UserError(
            f"{where}: rows of unequal length or an array of objects that are no numbers; "
            "wanted numbers"
        ) from None
    if array.dtype.kind not in "fiub":
        raise UserError(f"{where}: dtype is {array.dtype}, wanted numbers")
    kept = array.dtype.kind == "f" and array.dtype.itemsize in (2, 4)
    return array.astype(array.dtype.newbyteorder("=") if kept else np.float64, copy=False)


def sequence(value: Any, where: str) -> np.ndarray:
    """One utterance's features, `[T, D]`; `[0, 0]` where the modality is missing.

    None or a NaN in the place of an array is missing, and a vector is one row. Axes of one
    before the last two are dropped.

    Raises:
      UserError: as `numbers`, or it has another number of axes.
    """
    if not isinstance(value, np.ndarray | list | tuple) and is_missing(value):
        return np.zeros((0, 0), np.float32)
    array = numbers(value, where)
    while array.ndim > 2 and 1 in array.shape[:-1]:
        array = array.squeeze(array.shape.index(1))
    if array.ndim == 1 and array.size:
        array = array[None]
    if not array.size:
        return np.zeros((0, array.shape[1] if array.ndim == 2 else 0), array.dtype)
    if array.ndim != 2:
        raise UserError(f"{where}: shape is {array.shape}, wanted (rows, dims)")
    return array


def stored(array: np.ndarray) -> np.dtype:
    """The dtype that a pack keeps these numbers in: float16 stays, all else is float32."""
    return np.dtype(np.float16 if array.dtype == np.float16 else np.float32)


def finite(array: np.ndarray, dtype: DTypeLike, *, keep_rows: bool = False) -> Finite:
    """`[T, D]` as `dtype`: NaN, infinities and what `dtype` cannot hold become 0.

    Args:
      array: the numbers.
      dtype: float16 or float32.
      keep_rows: rows without one finite number stay, as zeros; else they are left out, since a
        row of zeros would be a recording, and these are none.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        rows = array.astype(dtype, copy=False)
    odd = ~np.isfinite(rows)
    if not odd.any():
        return Finite(rows, 0, 0)
    rows = np.where(odd, np.zeros((), dtype), rows)
    lost = np.zeros(len(rows), bool) if keep_rows else odd.all(axis=-1)
    return Finite(rows[~lost], int(odd[~lost].sum()), int(lost.sum()))


def window(row: np.ndarray, claimed: np.ndarray) -> tuple[np.ndarray, int]:
    """The rows of a padded sequence that are no padding, wherever the padding is.

    Args:
      row: `[T, D]`, padded.
      claimed: `[T]` bool, the rows that a length or mask names; their number is believed, and
        their place if nothing else lies beyond them.

    Returns:
      The rows; and how many others were left out that do not look like padding, which is zeros
      or one row repeated.
    """
    outside = _filled(row) & ~claimed
    if not outside.any():
        return row[claimed], 0
    num = int(claimed.sum())
    filled = np.flatnonzero(_filled(row))
    if filled[-1] - filled[0] < num:  # all that is filled fits: it lies elsewhere
        flipped = claimed[::-1]
        inside = flipped[filled].all()
        return row[flipped if inside else slice(filled[0], filled[-1] + 1)], 0
    for place in (claimed, claimed[::-1]):  # padded with something else than zeros
        rest = row[~place]
        if (rest == rest[0]).all():
            return row[place], 0
    return row[claimed], int(outside.sum())


def _filled(row: np.ndarray) -> np.ndarray:
    """`[T, D]` -> `[T]`: rows that hold something; a NaN is something only beside numbers."""
    return (np.isfinite(row) & (row != 0)).any(axis=-1)


def lengths(values: Any, num: int, longest: int, where: str) -> np.ndarray:
    """`[num]` int64 of the rows that each padded sequence has.

    Raises:
      UserError: not one whole number each, from 0 to `longest`.
    """
    try:
        array = numbers(values, where).astype(np.float64).reshape(-1)
    except UserError:
        array = np.zeros(0)
    if len(array) != num:
        raise UserError(f"{where}: {len(array)} lengths, wanted one integer an utterance, {num}")
    odd = ~((array % 1 == 0) & (array >= 0) & (array <= longest))
    if odd.any():
        k = int(np.argmax(odd))
        raise UserError(
            f"{where}: utterance {k} has length {array[k]:g}, wanted a whole number from 0 to "
            f"{longest}, the rows that there are"
        )
    return array.astype(np.int64)


def _plain(value: Any) -> Any:
    """Nested lists of numbers; what is missing is NaN.

    Raises:
      TypeError: a value that is no number.
    """
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if is_missing(value):
        return math.nan
    if isinstance(value, str | bytes | complex):
        raise TypeError
    return value
