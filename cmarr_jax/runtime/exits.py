"""The exit codes of all commands, and the line that each way to end prints."""

import os
import re
import signal
import sys
import sysconfig
import traceback

from cmarr_jax.errors import UserError

DONE = 0
FAULT = 1  # in the code, not with the user or the machine
MISTAKE = 2  # by the user or the machine, named in one line
INCOMPLETE = 3  # done, but a run was stopped or an utterance has no modality left
GONE = 4  # another process of --distributed ended; resumable
INTERRUPTED = 128 + signal.SIGINT  # resumable
TERMINATED = 128 + signal.SIGTERM  # resumable

_DEBUG = "CMARR_DEBUG"


class Preempted(Exception):
    """A signal asked to stop, and all finished work is saved."""

    def __init__(self, where: str, asked: object = None):
        """`where`: the epoch that is saved; `asked`: the signal, SIGTERM if it is none."""
        super().__init__(where)
        self.number = asked if isinstance(asked, signal.Signals) else signal.SIGTERM


def shows_tracebacks() -> bool:
    """Whether the user asked to see where an error comes from."""
    return os.environ.get(_DEBUG, "0") not in ("", "0")


def say(error: BaseException, interrupted: str = "") -> int:
    """Prints the line of the error that ended a command; returns the exit code.

    Its traceback comes first if the user asked for it. `interrupted`: says what Ctrl-C leaves.
    """
    said, code = ending(error, interrupted)
    if shows_tracebacks():
        traceback.print_exception(error)
    if said:
        print(said, file=sys.stderr, flush=True)
    return code


def ending(error: BaseException, interrupted: str = "") -> tuple[str, int]:
    """The line about the error that ended a command ("" for a closed pipe), and the exit code.

    `interrupted`: says what Ctrl-C leaves.
    """
    match error:
        case UserError():
            return f"error: {_one_line(error)}", MISTAKE
        case BrokenPipeError():
            return "", DONE
        case OSError() if error.filename:
            return f"error: {error.filename}: {error.strerror}", MISTAKE
        case OSError():
            return f"error: {_one_line(error)}", MISTAKE
        case Preempted():
            said = f"{error.number.name}: saved after {error}; the same command resumes there"
            return said, 128 + error.number
        case KeyboardInterrupt():
            return f"\ninterrupted; {interrupted}".rstrip("; "), INTERRUPTED
    text = str(error)
    of_jaxlib = isinstance(error, RuntimeError) and "RESOURCE_EXHAUSTED" in text
    if isinstance(error, MemoryError) or of_jaxlib:
        said = (
            "out of memory; take fewer runs at a time (--config.fold=1, --config.num_seeds=1), or "
            "a smaller --config.train.batch_size; what is saved stays"
        )
        return f"error: {said}", MISTAKE
    if said := _of_the_shell(error):
        return f"error: {said}", MISTAKE
    for cause in _causes(error):  # a library may have wrapped our error
        if isinstance(cause, UserError):
            return f"error: {_one_line(cause)}", MISTAKE
    return f"error: {_name(error)}{_place(error)}; {_DEBUG}=1 shows the traceback", FAULT


def _of_the_shell(error: BaseException) -> str:
    """What is wrong with one of JAX's environment variables; "" if nothing is."""
    text = str(error)
    frames = traceback.extract_tb(error.__traceback__)
    looks_for_devices = bool(frames) and frames[-1].filename.endswith("xla_bridge.py")
    if looks_for_devices or re.search("initialize backend|[Uu]nknown backend", text):
        names = ("JAX_PLATFORMS", "JAX_PLATFORM_NAME")
        given = [f"{name}={os.environ[name]}" for name in names if os.environ.get(name)]
        if given:
            return (
                f"{given[0]}: set in the shell, but JAX finds no such device here "
                f"({_name(error)[:100]}); unset it, or set JAX_PLATFORMS=cpu"
            )
    named = re.findall(r"\bJAX_[A-Z0-9_]+", text) if isinstance(error, ValueError) else []
    given = [f"{name}={os.environ[name]}: " for name in named if name in os.environ]
    return f"{given[0]}{_one_line(error)}; unset it" if given else ""


def _causes(error: BaseException) -> list[BaseException]:
    """The chain of errors that led to `error`, the nearest first."""
    found: list[BaseException] = []
    while True:
        inner = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        if inner is None or inner in found:
            return found
        found.append(inner)
        error = inner


def _name(error: BaseException) -> str:
    line = _one_line(error)
    return type(error).__name__ + (f": {line}" if line else "")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:500]


def _place(error: BaseException) -> str:
    """The innermost place of the traceback outside of libraries: " (FILE, line N)"."""
    paths = sysconfig.get_paths()
    libraries = tuple({paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")})
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if os.path.isfile(frame.filename)
        and (frame.filename.startswith(package) or not frame.filename.startswith(libraries))
    ]
    return f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
