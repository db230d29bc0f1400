"""The lock of a work directory: one living run at a time.

The kernel's lock on the file decides, for it goes when its process dies, however that dies. What
the file says is for people, and for disks that know no such lock or share it with other machines.
"""

import contextlib
import fcntl
import json
import os
import platform
from collections.abc import Iterator
from typing import IO

from cmarr_jax.errors import UserError
from cmarr_jax.runtime.files import cannot_write


@contextlib.contextmanager
def locked(folder: str) -> Iterator[None]:
    """Holds the existing `folder` against other runs; a dead one's lock is taken over.

    Raises:
      UserError: a living run holds it, or one on another machine, of which nothing can be
        known; or the folder cannot be written.
    """
    file = os.path.join(folder, "lock")
    try:
        f = _claim(folder, file)
    except OSError as e:
        raise UserError(cannot_write(f"--workdir={folder}", e)) from None
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            os.remove(file)
        f.close()


def _claim(folder: str, file: str) -> IO[str]:
    while True:
        f = open(file, "a+", encoding="utf-8", errors="replace")  # noqa: SIM115, held by the caller
        f.seek(0)
        try:
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _refuse(folder, file, _parse(f.read()))
        except OSError:
            pass  # a disk without such locks: the file's word has to do
        # Whoever held it may have removed it between our two steps.
        if os.path.exists(file) and os.path.samestat(os.fstat(f.fileno()), os.stat(file)):
            break
        f.close()
    holder = _parse(f.read())
    if holder and (holder["host"] != platform.node() or _is_alive(holder)):
        _refuse(folder, file, holder)
    pid = os.getpid()
    f.truncate(0)
    f.write(json.dumps({"pid": pid, "host": platform.node(), "started": _started(pid)}) + "\n")
    f.flush()
    return f


def _parse(text: str) -> dict:
    """What a lock says; nothing where it was killed while writing that."""
    try:
        holder = json.loads(text)
        return {k: holder[k] for k in ("pid", "host", "started")}
    except (ValueError, KeyError, TypeError):
        return {}


def _is_alive(holder: dict) -> bool:
    """Whether the same process still runs on this machine, not another one of its number."""
    return holder["pid"] != os.getpid() and _started(holder["pid"]) == holder["started"] != ""


def _started(pid: int) -> str:
    """The boot and the tick of it at which process `pid` began; "" where there is none."""
    try:
        with open(f"/proc/{pid}/stat") as f:
            tick = f.read().rsplit(")", 1)[1].split()[19]  # the name before may hold anything
        with open("/proc/sys/kernel/random/boot_id") as f:
            return f"{f.read().strip()} {tick}"
    except OSError:
        return ""


def _refuse(folder: str, file: str, holder: dict) -> None:
    here = holder.get("host", platform.node()) == platform.node()
    who = f"process {holder.get('pid', 'unknown')}" + ("" if here else f" on {holder['host']}")
    remedy = "wait for it or end it" if here else f"if that machine is gone, delete {file}"
    raise UserError(
        f"--workdir={folder}: {who} is at work there; {remedy}, or name another --workdir"
    )
