"""Checkpoints of a sweep, by orbax: `last` to go on from, `best` to predict with.

Leaves are `[R, ...]` NumPy arrays, whatever devices they were trained on. The two are separate
managers: one that keeps the best would not promise to keep the latest.
"""

import os
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from cmarr_jax.errors import UserError


class Checkpoints:
    """The folder `WORKDIR/checkpoints`; a context manager that waits for writes on leaving."""

    def __init__(self, workdir: str):
        folder = os.path.join(os.path.abspath(workdir), "checkpoints")
        self._managers = {
            "last": ocp.CheckpointManager(
                os.path.join(folder, "last"), options=ocp.CheckpointManagerOptions(max_to_keep=2)
            ),
            "best": ocp.CheckpointManager(
                os.path.join(folder, "best"), options=ocp.CheckpointManagerOptions(max_to_keep=1)
            ),
        }

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exception) -> None:
        for manager in self._managers.values():
            manager.close()

    def save(self, kind: str, epoch: int, state: Any) -> None:
        """Saves `state` after `epoch` epochs as `kind`; returns before it is written."""
        self._managers[kind].save(epoch, args=ocp.args.StandardSave(state))

    def latest_epoch(self, kind: str) -> int | None:
        return self._managers[kind].latest_step()

    def restore(self, kind: str, like: Any) -> Any:
        """The newest `kind`, in the structure of `like` (arrays or their shapes).

        Raises:
          UserError: it does not fit `like`, or cannot be read.
        """
        epoch = self.latest_epoch(kind)
        try:
            state = self._managers[kind].restore(epoch, args=ocp.args.StandardRestore(like))
        except (ValueError, KeyError, TypeError, OSError) as e:
            reason = str(e).strip().splitlines()[0][:200]
            raise UserError(
                f"{self._managers[kind].directory}/{epoch}: does not fit this config ({reason}); "
                "name a new --workdir"
            ) from None
        return jax.tree.map(np.asarray, state)
