"""The exit codes of all commands, and the line that each way to end prints."""

import signal

from cmarr_jax.errors import UserError

MISTAKE = 2  # by the user or the machine, named in one line
INCOMPLETE = 3  # done, but a run was stopped or an utterance has no modality left
GONE = 4  # another process of --distributed ended; resumable
INTERRUPTED = 128 + signal.SIGINT  # resumable
TERMINATED = 128 + signal.SIGTERM  # resumable


class Preempted(Exception):
    """SIGTERM came, and all finished work is saved."""


def ending(error: BaseException) -> tuple[str, int]:
    """The line to print about the error that ended a command, and the exit code.

    The line is "" and the code 1 where the fault is in the code, not with the user or the machine.
    """
    match error:
        case UserError():
            return f"error: {error}", MISTAKE
        case OSError() if error.filename:
            return f"error: {error.filename}: {error.strerror}", MISTAKE
        case Preempted():
            return f"SIGTERM: saved after {error}; the same command resumes there", TERMINATED
        case KeyboardInterrupt():
            said = "\ninterrupted; the same command resumes from the last checkpoint"
            return said, INTERRUPTED
    of_jaxlib = isinstance(error, RuntimeError) and "RESOURCE_EXHAUSTED" in str(error)
    if isinstance(error, MemoryError) or of_jaxlib:
        said = (
            "out of memory; take fewer runs at a time (--config.fold=1, --config.num_seeds=1), or "
            "a smaller --config.train.batch_size; what is saved stays"
        )
        return f"error: {said}", MISTAKE
    return "", 1
