"""Several processes that train one sweep: those of a TPU slice's hosts, or of a cluster.

All run the same command and hold their share of the runs, or of the batch. The first one decides
what is trained, writes and speaks; the others touch no work directory. A process that is alone is
the first.
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

_HEARTBEAT = 30  # seconds without a sign of life, then a process counts as gone
_GONE = ("Gloo", "onnection", "eartbeat", "UNAVAILABLE")  # in what jaxlib raises then
_MESSAGE = 4096  # bytes, and multiples of it: each size compiles once


@contextlib.contextmanager
def joined() -> Iterator[None]:
    """Joins the other processes, before anything asks for a device.

    The hosts of a TPU slice and Slurm's tasks find one another; others are told by the
    environment: JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID. What ends one
    process ends all, at once: none waits for one that will not come.

    Raises:
      UserError: they were not found.
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
        raise  # all go
    except (Exception, KeyboardInterrupt) as e:
        if exits.ending(e)[1] == exits.FAULT and any(word in str(e) for word in _GONE):
            print(
                "error: another process of this sweep is gone; the same command in all of them "
                "resumes from the last checkpoint",
                file=sys.stderr,
                flush=True,
            )
            os._exit(exits.GONE)
        os._exit(exits.say(e))  # a process that ends as usual waits for the others first


def are_joined() -> bool:
    """Whether this process trains together with others."""
    return jax.distributed.is_initialized()


def is_first() -> bool:
    """Whether this process is the one that writes and speaks; a process alone is."""
    return not are_joined() or jax.process_index() == 0


def tell(message: Any = None) -> Any:
    """What the first process says, JSON, to all of them, which must all call this."""
    if not are_joined():
        return message
    text = np.frombuffer(json.dumps(message).encode(), np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(text))))
    padded = np.zeros(size + -size % _MESSAGE, np.uint8)
    if is_first():
        padded[:size] = text
    return json.loads(multihost_utils.broadcast_one_to_all(padded)[:size].tobytes())


def broadcast(tree: PyTree) -> PyTree:
    """The arrays of the first process, in all; the others give some of the same shapes."""
    return multihost_utils.broadcast_one_to_all(tree) if are_joined() else tree


def gather_processes(array: np.ndarray) -> np.ndarray:
    """`[P, ...]` of all processes."""
    return multihost_utils.process_allgather(array) if are_joined() else array[None]


@contextlib.contextmanager
def one_before_the_others() -> Iterator[None]:
    """The first process goes through its body before the others begin with it."""
    if not is_first():
        tell()
    yield
    if is_first():
        tell()


def any_says(*flags: bool) -> list[bool]:
    """Of each flag, whether it is set in any process."""
    return [any(said) for said in gather_processes(np.array(flags)).T.tolist()]


def same_everywhere(digest: Callable[[], bytes]) -> bool:
    """Whether this process computes the digest that the first one computes."""
    return not are_joined() or tell(digest().hex()) == digest().hex()
