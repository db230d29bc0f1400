"""What the first of several processes keeps on its disk, for all of them."""

from typing import Any

import numpy as np

from cmarr_jax.checkpoints import Checkpoints, Resumed, Teachers
from cmarr_jax.processes import is_first, spread, tell


class FirstCheckpoints:
    """Its `checkpoints.Checkpoints`: what it resumes, all go on from."""

    def __init__(self, own: Checkpoints | None):
        """`own`: None but in the first process."""
        self._own = own

    def save(self, *args) -> None:
        if self._own:
            self._own.save(*args)

    def resume(self, prefix: str, like: Any) -> Resumed | None:
        found = self._own.resume(prefix, like) if self._own else None
        about = tell(found and [found.epoch, found.stopped])
        if about is None:
            return None
        epoch, stopped = about
        return Resumed(epoch, spread(found.state if found else like), stopped)


class FirstTeachers:
    """Its `checkpoints.Teachers`."""

    def __init__(self, own: Teachers):
        self._own = own
        self.file = own.file

    def has(self, file: str) -> bool:
        return tell(is_first() and self._own.has(file))

    def load(self, file: str, size: int) -> np.ndarray:
        return spread(self._own.load(file, size) if is_first() else np.zeros(size, np.float32))

    def save(self, file: str, params: np.ndarray) -> None:
        if is_first():
            self._own.save(file, params)
