"""Several processes that train one sweep: those of a TPU slice's hosts, or of a cluster.

All run the same command and hold a share of the runs, or of the batch. The first process decides
what is trained, writes files and prints; the others touch no work directory. A process that is
alone is the first.
"""

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import jax
import numpy as np
from jax.experimental import multihost_utils

from cmarr_jax.errors import UserError
from cmarr_jax.runtime import exits

PyTree: TypeAlias = Any  # of arrays, as in jax.tree

_HEARTBEAT = 30  # seconds without a sign of life after which a process counts as gone
_GONE = (
    "Gloo",
    "onnection",
    "eartbeat",
    "UNAVAILABLE",
)  # words of the errors that jaxlib raises then
_MESSAGE = 4096  # bytes; messages are padded to a multiple, because each size compiles


@contextlib.contextmanager
def joined() -> Iterator[None]:
    """Joins the other processes; call it before anything asks for a device.

    The hosts of a TPU slice and Slurm's tasks find one another. Others need the variables
    JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID. An error in one process ends all
    at once, so that none waits for a process that is gone.

    Raises:
      UserError: the others were not found.
    """
    numbers: dict[str, Any] = {}  # arguments of many types, by name
    try:
        for name in ("num_processes", "process_id"):
            if text := os.environ.get(f"JAX_{name.upper()}"):
                numbers[name] = int(text)
        jax.distributed.initialize(**numbers, heartbeat_timeout_seconds=_HEARTBEAT)
    except (ValueError, RuntimeError) as e:
        raise UserError(
            f"--distributed: found no other processes ({str(e).splitlines()[0]}); outside a TPU "
            "slice and Slurm, set JAX_COORDINATOR_ADDRESS=HOST:PORT, JAX_NUM_PROCESSES and "
            "JAX_PROCESS_ID, 0 for the first"
        ) from None
    try:
        yield
    except exits.Preempted:
        raise  # in all processes, at the same epoch
    except (Exception, KeyboardInterrupt) as e:
        if exits.ending(e)[1] == exits.FAULT and any(word in str(e) for word in _GONE):
            print(
                "error: another process of this sweep is gone; the same command in all of them "
                "resumes from the last checkpoint",
                file=sys.stderr,
                flush=True,
            )
            os._exit(exits.GONE)
        os._exit(exits.say(e))  # the usual exit would wait for the others


def are_joined() -> bool:
    """Whether this process trains together with others."""
    return jax.distributed.is_initialized()


def is_first() -> bool:
    """Whether this process is the one that writes and speaks; a process alone is."""
    return not are_joined() or jax.process_index() == 0


def tell(message: Any = None) -> Any:
    """The first process' `message` (JSON), in all processes; all must call this."""
    if not are_joined():
        return message
    text = np.frombuffer(json.dumps(message).encode(), np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(text))))
    padded = np.zeros(size + -size % _MESSAGE, np.uint8)
    if is_first():
        padded[:size] = text
    return json.loads(multihost_utils.broadcast_one_to_all(padded)[:size].tobytes())


def broadcast(tree: PyTree) -> PyTree:
    """The first process' arrays, in all processes; the others give arrays of the same shapes."""
    return multihost_utils.broadcast_one_to_all(tree) if are_joined() else tree


def gather_processes(array: np.ndarray) -> np.ndarray:
    """An array of each of the P processes -> `[P, ...]`, on every host; all must call this.

    Between hosts; inside a program it is `systems.system.gather` that joins devices' shards.
    """
    return multihost_utils.process_allgather(array) if are_joined() else array[None]


@contextlib.contextmanager
def one_before_the_others() -> Iterator[None]:
    """A `with` whose body the first process finishes before the others begin it."""
    if not is_first():
        tell()
    yield
    if is_first():
        tell()


def any_says(*flags: bool) -> list[bool]:
    """For each flag, whether it is True in any process; all must call this."""
    return [any(said) for said in gather_processes(np.array(flags)).T.tolist()]


def same_everywhere(digest: Callable[[], bytes]) -> bool:
    """Whether this process and the first compute the same digest; all must call this."""
    return not are_joined() or tell(digest().hex()) == digest().hex()
