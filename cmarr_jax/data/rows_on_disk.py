"""Rows of an array that shall not lie in memory."""

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import DTypeLike

from cmarr_jax.errors import UserError

_BLOCK = 256  # rows


class RowsOnDisk:
    """An array `[N, ...]` in a file.

    A row, a slice or an array of rows is read when it is asked for, as an array of NumPy's. The
    file has no name: it goes with the process, however that ends. What was never written is
    zero.
    """

    def __init__(self, folder: str, shape: Sequence[int], dtype: DTypeLike):
        """Makes the file, with room for all of it.

        Args:
          folder: where it lies.
          shape: of the array.
          dtype: of the array.

        Raises:
          UserError: the folder cannot be written, or has no room.
        """
        self.shape, self.dtype = tuple(shape), np.dtype(dtype)
        self.nbytes = int(np.prod(self.shape)) * self.dtype.itemsize
        self.folder, self._row_bytes = folder, self.nbytes // max(len(self), 1)
        try:
            self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115, open as long as this
            if self.nbytes:
                os.posix_fallocate(self._file.fileno(), 0, self.nbytes)
        except OSError as e:
            raise UserError(
                f"--config.data.stream={folder}: cannot hold {self.nbytes / 1e6:,.0f} MB "
                f"({e.strerror}); name a folder with room on a local disk"
            ) from None

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: int | slice | np.ndarray) -> np.ndarray:
        wanted, shape = self._wanted(rows)
        values = np.empty((len(wanted), *self.shape[1:]), self.dtype)
        self._move(os.preadv, wanted, values)
        return values.reshape(shape)

    def __setitem__(self, rows: int | slice | np.ndarray, values: np.ndarray) -> None:
        wanted, shape = self._wanted(rows)
        values = np.ascontiguousarray(values, self.dtype).reshape(shape)
        self._move(os.pwritev, wanted, values)

    def _wanted(self, rows: int | slice | np.ndarray) -> tuple[np.ndarray, tuple[int, ...]]:
        """The rows one after another, and the shape of their values."""
        if isinstance(rows, slice):
            rows = np.arange(*rows.indices(len(self)))
        rows = np.asarray(rows)
        if rows.size and (rows.min() < 0 or rows.max() >= len(self)):
            raise IndexError(f"rows {rows.min()} to {rows.max()} of {len(self)}")
        return rows.reshape(-1), (*rows.shape, *self.shape[1:])

    def _move(self, transfer: Callable[..., int], rows: np.ndarray, values: np.ndarray) -> None:
        """Reads or writes; rows that follow one another at once."""
        if not values.nbytes:
            return
        buffer, size = memoryview(values).cast("B"), self._row_bytes
        ends = [*(np.flatnonzero(np.diff(rows) != 1) + 1).tolist(), len(rows)]
        begin = 0
        for end in ends:
            rest, place = buffer[begin * size : end * size], int(rows[begin]) * size
            while rest:  # a call moves at most 2 GiB
                try:
                    moved = transfer(self._file.fileno(), [rest], place)
                except OSError as e:
                    raise UserError(
                        f"--config.data.stream={self.folder}: the disk failed ({e.strerror})"
                    ) from None
                rest, place = rest[moved:], place + moved
            begin = end


def zeros_beside(
    values: np.ndarray | RowsOnDisk, shape: Sequence[int], dtype: DTypeLike
) -> np.ndarray | RowsOnDisk:
    """A new array where `values` lies: in its folder or in memory."""
    if isinstance(values, RowsOnDisk):
        return RowsOnDisk(values.folder, shape, dtype)
    return np.zeros(shape, dtype)


def blocks(num: int) -> Iterator[slice]:
    """Slices of 0 to `num`, small enough to be held in memory whatever the corpus."""
    for start in range(0, num, _BLOCK):
        yield slice(start, min(start + _BLOCK, num))
