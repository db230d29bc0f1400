"""Every exit code of the commands, and the line that goes with each end."""

import signal

from cmarr_jax.errors import UserError

MISTAKE = 2  # of the user or the machine, named in one line
INCOMPLETE = 3  # done, but a run was stopped, or an utterance has no modality left
GONE = 4  # another process of --distributed; resumable
INTERRUPTED = 128 + signal.SIGINT  # resumable
TERMINATED = 128 + signal.SIGTERM  # resumable


class Preempted(Exception):
    """SIGTERM came, and everything that is finished is saved."""


def ending(error: BaseException) -> tuple[str, int]:
    """The line that is said of what ended a command, and the exit code; "" and 1 where neither
    the user nor the machine but the code is at fault.
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
