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
    """The name of a draft beside `path`, which the caller makes: a file or a folder.

    It takes `path`'s name at the end, and a file that is there gives way; after an error it is
    removed. What a killed process leaves is for `remove_drafts`.

    Raises:
      OSError: it cannot take the name, as where a folder is there.
    """
    name = f"{path}.tmp{os.getpid()}"
    _remove(name)  # of a process that was killed and had the same number
    try:
        yield name
        os.replace(name, path)
    finally:
        _remove(name)


@contextlib.contextmanager
def opened(file: str, mode: str = "wb") -> Iterator[IO]:
    """A file to write into, text in UTF-8, that appears when all is written and on the disk.

    Raises:
      OSError: no space, no permission, a read-only disk.
    """
    encoding = None if "b" in mode else "utf-8"
    with draft(file) as name, open(name, mode, encoding=encoding) as f:
        yield f
        sync(f)


def sync(f: IO) -> None:
    """Sees that what was written into `f` is on the disk, so that a power cut does not undo it."""
    f.flush()
    os.fsync(f.fileno())


def write_whole(file: str, content: bytes) -> None:
    """Writes `file`; whoever reads it meanwhile, or after a kill, finds the old one or the new.

    Raises:
      UserError: no space, no permission, a read-only disk.
    """
    try:
        with opened(file) as f:
            f.write(content)
    except OSError as e:
        raise UserError(cannot_write(file, e)) from None


def cannot_write(file: str, error: Exception) -> str:
    """One line about a file of the work directory that could not be written."""
    text = getattr(error, "strerror", None) or getattr(error, "message", None) or str(error)
    # Libraries wrap the system's word in pages of their own.
    words = [os.strerror(e) for e in _CAUSES if os.strerror(e) in text]
    reason = words[0] if words else f"{type(error).__name__}: {text.strip()[:200]}"
    return (
        f"{file}: cannot be written ({reason}); nothing that lies there was harmed: make room or "
        "give permission, and the same command goes on"
    )


def remove_drafts(folder: str) -> None:
    """Removes what killed writes left in `folder`, which must be locked."""
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
    """Writes a CSV file, whole or not at all; arguments of `to_csv`."""
    write_whole(file, to_csv(rows, columns).encode())


def to_csv(rows: Sequence[Mapping[str, object]], columns: Iterable[str] | None = None) -> str:
    """Rows as CSV; `columns` = None: those of the first row.

    A column that a row lacks is empty there.
    """
    text = io.StringIO()
    names = list(rows[0] if columns is None else columns)
    writer = csv.DictWriter(text, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
