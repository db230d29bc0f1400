"""SIGTERM, which says that the machine is about to be taken away: save and leave within 10 s."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable

from cmarr_jax.runtime import exits

_PATIENCE = 7.0  # seconds that the running epoch may still take


def listen() -> Callable[[], bool]:
    """From now on SIGTERM asks the loop to leave after the running epoch.

    A long epoch or compilation that does not end in time is cut off. Every file is written whole or
    not at all, so only the work since the last checkpoint is lost.

    Returns:
      A function: whether SIGTERM has come.
    """
    requested = threading.Event()
    read, write = os.pipe()
    os.set_blocking(write, False)
    # Python runs a handler only between two of its own instructions, and an epoch is a single one:
    # so a thread, which the signal wakes through the pipe, keeps the time.
    signal.signal(signal.SIGTERM, lambda *_: requested.set())
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)

    def watch():
        while os.read(read, 1) != bytes([signal.SIGTERM]):
            pass
        requested.set()
        time.sleep(_PATIENCE)
        print(
            "error: SIGTERM, and the epoch takes too long to wait for; the same command resumes "
            "from the last checkpoint",
            file=sys.stderr,
            flush=True,
        )
        os._exit(exits.TERMINATED)

    threading.Thread(target=watch, daemon=True).start()
    return requested.is_set
