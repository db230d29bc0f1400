"""The one place where a command ends: whatever is raised below it becomes one line and a code."""

import codecs
import os
import sys
import threading
from collections.abc import Callable
from typing import TextIO

from cmarr_jax.runtime import exits

_IN_ASCII = {"±": "+-", "–": "-", "—": "-", "…": "...", "→": "->", "≥": ">=", "≤": "<=", "×": "x"}


def run(main: Callable[[], int | None], interrupted: str = "") -> int:
    """Calls `main`, says in one line what it raised, and returns the exit code.

    CMARR_DEBUG=1 in the environment shows the traceback too. A reader that goes away, such as
    `| head`, ends the command without a word; characters that the output lacks are spelt.

    Args:
      main: the command; None is 0. Where it calls sys.exit, that is its end.
      interrupted: what Ctrl-C leaves, to be said after "interrupted; ".
    """
    codecs.register_error("spelt", _spell)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a test's or a notebook's has none
            stream.reconfigure(errors="spelt")
    if not exits.shows_tracebacks():
        # Of a failure in a thread that writes files its caller hears too, and says it in one line.
        threading.excepthook = sys.unraisablehook = lambda failure: None
    try:
        code = _guarded(main, interrupted)
        sys.stdout.flush()
    except BrokenPipeError:  # only now does what was printed reach the pipe
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
            os._exit(code)  # everything is closed; to take the libraries down takes seconds
        return code


def abandon(stream: TextIO) -> None:
    """Points a stream whose reader is gone at nothing, so that it can be written to and closed."""
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
