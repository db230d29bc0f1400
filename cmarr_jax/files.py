"""Files of the work directory that appear whole or not at all."""

import contextlib
import glob
import os

from cmarr_jax.errors import UserError


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
        raise UserError(cannot_write(file, e.strerror)) from None


def cannot_write(file: str, reason: str | None) -> str:
    """One line about a file of the work directory that could not be written."""
    return (
        f"{file}: cannot be written ({reason}); nothing that lies there was harmed: make room or "
        "give permission, and the same command goes on"
    )


def remove_drafts(folder: str) -> None:
    """Removes what killed writes left in `folder`, which must be locked."""
    for draft in glob.glob(os.path.join(glob.escape(folder), "*.tmp[0-9]*")):
        os.remove(draft)
