"""The lock of a folder: one living process at a time works in it.

`filelock` asks the kernel, whose lock goes when its process dies, however that dies. What the file
says is ours: it names the holder to people, and it decides on disks that know no such lock or
share the file with other machines, for filelock's own lock for those disks (SoftFileLock) does not
see a holder that has the kernel's lock.
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
    """Holds `folder`, made if need be, against other processes; a dead one's lock is taken over.

    Args:
      folder: what is held.
      flags: those that may have named it.

    Raises:
      UserError: a living process holds it, or one on another machine, of which nothing can be
        known; or the folder cannot be written.
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
            os.remove(file)  # while it is held, so that it is nobody else's
        lock.release()


def _claim(lock: FileLock, file: str) -> dict:
    """Acquires `lock`, unless somebody else holds it: then the holder, as far as it is known."""
    while True:
        try:
            lock.acquire()
        except Timeout:
            if not os.path.exists(file):
                continue  # its holder removed it between filelock's two steps
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
    """What a lock says; nothing where its process was killed while writing that."""
    try:
        with open(file, encoding="utf-8", errors="replace") as f:
            holder = json.load(f)
        return {k: holder[k] for k in ("pid", "host", "started")}
    except (FileNotFoundError, ValueError, KeyError, TypeError):
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
