"""The lock of a folder: only one living process at a time works in it.

`filelock` takes a lock of the kernel, which is released however its process dies. The content of
the file is ours. It names the holder to people, and it decides on disks that have no such lock or
share the file with other machines: filelock's own lock for those disks (SoftFileLock) does not
notice a holder of the kernel's lock.
"""

import contextlib
import errno
import json
import os
import platform
from collections.abc import Iterator, Sequence

from filelock import FileLock, Timeout

from cmarr_jax.errors import UserError
from cmarr_jax.runtime.files import cannot_write

_NO_LOCKS_HERE = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL)


@contextlib.contextmanager
def locked(folder: str, flags: Sequence[str] = ("--workdir",)) -> Iterator[None]:
    """Keeps other processes out of `folder`, created if need be; takes over a dead process' lock.

    Args:
      folder: what is locked.
      flags: the flags that may have named it, for the error.

    Raises:
      UserError: a living process holds it, or a process on another machine, which may be alive; or
        the folder cannot be written.
    """
    name = f"{flags[0]}={folder}" if len(flags) == 1 else folder
    file = os.path.join(folder, "lock")
    lock = FileLock(file, blocking=False, fallback_to_soft=False)
    try:
        holder = _claim(lock, file)
        if not holder:
            _sign(file)
    except OSError as e:
        lock.release()
        raise UserError(cannot_write(name, e)) from None
    if holder:
        lock.release()
        here = holder.get("host", platform.node()) == platform.node()
        who = f"process {holder.get('pid', 'unknown')}" + ("" if here else f" on {holder['host']}")
        remedy = "wait for it or end it" if here else f"if that machine is gone, delete {file}"
        others = " or ".join(flags)
        raise UserError(f"{name}: {who} is at work there; {remedy}, or name another {others}")
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            os.remove(file)  # before the release: after it the file may be another's
        lock.release()


def _claim(lock: FileLock, file: str) -> dict:
    """Acquires `lock` and returns {}; if another process holds it, returns what is known of it."""
    while True:
        try:
            lock.acquire()
        except Timeout:
            if not os.path.exists(file):
                continue  # the holder removed it after filelock had opened it
            return _read(file) or {"pid": "unknown"}
        except OSError as e:
            if e.errno not in _NO_LOCKS_HERE:
                raise
        break
    holder = _read(file)
    elsewhere = holder and holder["host"] != platform.node()
    return holder if elsewhere or (holder and _is_alive(holder)) else {}


def _sign(file: str) -> None:
    pid = os.getpid()
    with open(file, "w", encoding="utf-8") as f:
        json.dump({"pid": pid, "host": platform.node(), "started": _started(pid)}, f)
        f.write("\n")


def _read(file: str) -> dict:
    """What a lock file says; {} if it is missing or its process was killed while writing it."""
    try:
        with open(file, encoding="utf-8", errors="replace") as f:
            holder = json.load(f)
        return {k: holder[k] for k in ("pid", "host", "started")}
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return {}


def _is_alive(holder: dict) -> bool:
    """Whether that process still runs on this machine, not another one with the same number."""
    return holder["pid"] != os.getpid() and _started(holder["pid"]) == holder["started"] != ""


def _started(pid: int) -> str:
    """The boot and the tick at which process `pid` started; "" if there is no such process."""
    try:
        with open(f"/proc/{pid}/stat") as f:
            tick = f.read().rsplit(")", 1)[1].split()[19]  # the name before ")" may hold anything
        with open("/proc/sys/kernel/random/boot_id") as f:
            return f"{f.read().strip()} {tick}"
    except OSError:
        return ""
