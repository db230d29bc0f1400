"""Requests to stop: SIGTERM, by which a machine that is taken away is announced, and Ctrl-C.

Either is granted after the running epoch, which is saved. SIGTERM waits 7 s for that, since the
machine is gone soon; Ctrl-C waits until it is pressed again.
"""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator

from cmarr_jax.runtime import exits

_PATIENCE = 7.0  # seconds that the running epoch may still take after SIGTERM

_training = threading.Event()  # there is an epoch whose end is worth waiting for


@contextlib.contextmanager
def epochs() -> Iterator[None]:
    """While it holds, Ctrl-C is a request; elsewhere it ends the command at once."""
    _training.set()
    try:
        yield
    finally:
        _training.clear()


def listen() -> Callable[[], signal.Signals | None]:
    """From now on SIGTERM, and Ctrl-C within `epochs`, ask the loop to leave after the epoch.

    A long epoch or compilation that does not end in time is cut off. Every file is written whole or
    not at all, so only the work since the last checkpoint is lost.

    Returns:
      A function: the signal that has come, None where none has.
    """
    came: list[signal.Signals] = []
    read, write = os.pipe()
    os.set_blocking(write, False)

    def interrupted(*_) -> None:
        if not _training.is_set():
            raise KeyboardInterrupt

    # Python runs a handler only between two of its own instructions, and an epoch is a single one:
    # so a thread, which the signal wakes through the pipe, keeps the time.
    signal.signal(signal.SIGTERM, lambda *_: None)
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as in the background of a shell
        signal.signal(signal.SIGINT, interrupted)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)

    def end(said: str, code: int) -> None:
        _say(f"{said}; the same command resumes from the last checkpoint")
        os._exit(code)

    def watch() -> None:
        while True:
            number = os.read(read, 1)[0]
            if number == signal.SIGTERM:
                came.append(signal.SIGTERM)
                time.sleep(_PATIENCE)
                end("error: SIGTERM, and the epoch takes too long to wait for", exits.TERMINATED)
            elif number == signal.SIGINT and _training.is_set():
                if signal.SIGINT in came:
                    end("\ninterrupted", exits.INTERRUPTED)
                came.append(signal.SIGINT)
                _say("\nCtrl-C: the running epoch is saved at its end; once more ends at once")

    threading.Thread(target=watch, daemon=True).start()
    return lambda: came[-1] if came else None


def _say(line: str) -> None:
    with contextlib.suppress(OSError):  # a terminal that is gone
        print(line, file=sys.stderr, flush=True)
