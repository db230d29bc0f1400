"""SIGTERM, by which a machine that is taken away is announced: save, then go, within 10 s."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable

from cmarr_jax.runtime import exits

_PATIENCE = 7.0  # seconds that the running epoch may still take


def listen() -> Callable[[], bool]:
    """From here on SIGTERM is a request that the loop grants after the running epoch.

    What does not end in time, a long epoch or a long compilation, is cut off: every file is
    written whole or not at all, so that costs no more than what no checkpoint holds yet.

    Returns:
      Whether SIGTERM has come.
    """
    requested = threading.Event()
    read, write = os.pipe()
    os.set_blocking(write, False)
    # Python runs a handler between two of its own instructions, an epoch is one: so a thread that
    # the kernel's signal wakes keeps the time.
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
