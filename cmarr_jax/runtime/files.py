"""Files that appear whole or not at all."""

import contextlib
import csv
import errno
import glob
import io
import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

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


def write_whole(file: str, content: bytes) -> None:
    """Writes `file`; whoever reads it meanwhile, or after a kill, finds the old one or the new.

    Raises:
      UserError: no space, no permission, a read-only disk.
    """
    draft = f"{file}.tmp{os.getpid()}"
    try:
        with open(draft, "wb") as f:
            f.write(content)
            f.flush()
            os.fsync(f.fileno())
        os.replace(draft, file)
    except OSError as e:
        with contextlib.suppress(OSError):
            os.remove(draft)
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
    for draft in glob.glob(os.path.join(glob.escape(folder), "*.tmp[0-9]*")):
        shutil.rmtree(draft) if os.path.isdir(draft) else os.remove(draft)


def write_json(file: str, content: Mapping[str, Any]) -> None:
    """Writes a JSON file, whole or not at all."""
    write_whole(file, json.dumps(content, indent=2, default=str).encode() + b"\n")


def write_csv(
    file: str, rows: Sequence[Mapping[str, Any]], columns: Iterable[str] | None = None
) -> None:
    """Writes a CSV file, whole or not at all; `columns` = None: those of the first row.

    A column that a row lacks is empty there.
    """
    text = io.StringIO()
    names = list(rows[0] if columns is None else columns)
    writer = csv.DictWriter(text, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_whole(file, text.getvalue().encode())
