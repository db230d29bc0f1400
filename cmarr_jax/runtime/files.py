"""Files that appear whole or not at all."""

import contextlib
import csv
import errno
import glob
import io
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import IO

from cmarr_jax.errors import UserError

_CAUSES = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.EFBIG,
    errno.EIO,
)


@contextlib.contextmanager
def draft(path: str) -> Iterator[str]:
    """The name of a draft beside `path`, to which the caller writes a file or a folder.

    At the end the draft is renamed to `path` and replaces a file there; after an error it is
    removed. `remove_drafts` removes what a killed process leaves.

    Raises:
      OSError: it cannot be renamed, such as when `path` is a folder.
    """
    name = f"{path}.tmp{os.getpid()}"
    _remove(name)  # it may be left by a killed process with the same number
    try:
        yield name
        os.replace(name, path)
    finally:
        _remove(name)


@contextlib.contextmanager
def opened(file: str, mode: str = "wb") -> Iterator[IO]:
    """A file to write to (text in UTF-8), which appears when all of it is on the disk.

    Raises:
      OSError: no space, no permission, a read-only disk.
    """
    encoding = None if "b" in mode else "utf-8"
    with draft(file) as name, open(name, mode, encoding=encoding) as f:
        yield f
        sync(f)


def sync(f: IO) -> None:
    """Waits until all that was written to `f` is on the disk, safe from a power cut."""
    f.flush()
    os.fsync(f.fileno())


def write_whole(file: str, content: bytes) -> None:
    """Writes `file`; a reader at any time, even after a kill, finds the old content or the new.

    Raises:
      UserError: no space, no permission, a read-only disk.
    """
    try:
        with opened(file) as f:
            f.write(content)
    except OSError as e:
        raise UserError(cannot_write(file, e)) from None


def cannot_write(file: str, error: Exception) -> str:
    """The error line about a file of a work directory that could not be written."""
    text = getattr(error, "strerror", None) or getattr(error, "message", None) or str(error)
    # Libraries surround the system's reason with pages of their own text.
    words = [os.strerror(e) for e in _CAUSES if os.strerror(e) in text]
    reason = words[0] if words else f"{type(error).__name__}: {text.strip()[:200]}"
    return (
        f"{file}: cannot be written ({reason}); nothing that lies there was harmed: make room or "
        "give permission, and the same command goes on"
    )


def remove_drafts(folder: str) -> None:
    """Removes the drafts of killed processes in `folder`, which must be locked."""
    for path in glob.glob(os.path.join(glob.escape(folder), "*.tmp[0-9]*")):
        _remove(path)


def _remove(path: str) -> None:
    if os.path.isdir(path):
        shutil.rmtree(path, ignore_errors=True)
    elif os.path.lexists(path):
        with contextlib.suppress(OSError):
            os.remove(path)


def write_json(file: str, content: Mapping[str, object]) -> None:
    """Writes a JSON file, whole or not at all."""
    write_whole(file, json.dumps(content, indent=2, default=str).encode() + b"\n")


def write_csv(
    file: str, rows: Sequence[Mapping[str, object]], columns: Iterable[str] | None = None
) -> None:
    """Writes a CSV file, whole or not at all; arguments as in `to_csv`."""
    write_whole(file, to_csv(rows, columns).encode())


def to_csv(rows: Sequence[Mapping[str, object]], columns: Iterable[str] | None = None) -> str:
    """Rows as CSV; `columns` = None takes those of the first row.

    Where a row lacks a column, its cell is empty.
    """
    text = io.StringIO()
    names = list(rows[0] if columns is None else columns)
    writer = csv.DictWriter(text, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
