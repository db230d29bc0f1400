"""The one place where a command ends: it turns any error into one line and an exit code."""

import codecs
import os
import sys
import threading
from collections.abc import Callable
from typing import TextIO

from cmarr_jax.runtime import exits

_IN_ASCII = {"±": "+-", "–": "-", "—": "-", "…": "...", "→": "->", "≥": ">=", "≤": "<=", "×": "x"}


def run(main: Callable[[], int | None], interrupted: str = "") -> int:
    """Calls `main`, prints one line about an error that it raises, and returns the exit code.

    CMARR_DEBUG=1 in the environment shows the traceback too. If the reader of the output closes it,
    such as `| head`, the command ends silently. Characters that the output's encoding lacks are
    written in ASCII.

    Args:
      main: the command; returning None means 0. A SystemExit passes through.
      interrupted: says what Ctrl-C leaves; printed after "interrupted; ".
    """
    codecs.register_error("spelt", _spell)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # not in a test or a notebook
            stream.reconfigure(errors="spelt")
    if not exits.shows_tracebacks():
        # A thread that writes files reports its failure to its caller, which prints one line.
        threading.excepthook = lambda failure: None
        sys.unraisablehook = lambda failure: None
    try:
        code = _guarded(main, interrupted)
        sys.stdout.flush()
    except BrokenPipeError:  # the output reaches the pipe only at the flush
        code = exits.DONE
        abandon(sys.stdout)
    return code


def _guarded(main: Callable[[], int | None], interrupted: str) -> int:
    try:
        return main() or 0
    except SystemExit:
        _flush(sys.stdout)
        raise
    except BrokenPipeError:
        for stream in (sys.stdout, sys.stderr):
            _flush(stream)
        return exits.DONE
    except (Exception, KeyboardInterrupt) as e:
        try:
            code = exits.say(e, interrupted)
        except BrokenPipeError:
            abandon(sys.stderr)
            code = exits.ending(e)[1]
        if isinstance(e, exits.Preempted):
            _flush(sys.stdout)
            os._exit(code)  # all files are closed; the libraries' own shutdown takes seconds
        return code


def abandon(stream: TextIO) -> None:
    """Connects a stream whose reader is gone to the null device, so that it can still be closed."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, stream.fileno())
    os.close(nothing)


def _flush(stream: TextIO) -> None:
    try:
        stream.flush()
    except BrokenPipeError:
        abandon(stream)


def _spell(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    odd = error.object[error.start : error.end]
    return "".join(_IN_ASCII.get(character, "?") for character in odd), error.end
