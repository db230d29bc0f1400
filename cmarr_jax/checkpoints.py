"""Checkpoints of a sweep, by orbax: `last` to go on from, `best` to predict with.

Leaves are `[R, ...]` NumPy arrays, whatever devices they were trained on. The two are separate
managers: one that keeps the best would not promise to keep the latest. A system's earlier stages
have kinds of their own, `teacher_last` and so on, and leave what was chosen in `Teachers`.
"""

import functools
import hashlib
import io
import json
import os
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from cmarr_jax.errors import UserError
from cmarr_jax.files import write_whole


class Checkpoints:
    """The folder `WORKDIR/checkpoints`; a context manager that waits for writes on leaving."""

    def __init__(self, workdir: str):
        self._folder = os.path.join(os.path.abspath(workdir), "checkpoints")
        self._managers = {}

    def _manager(self, kind: str) -> ocp.CheckpointManager:
        if kind not in self._managers:
            keep = 1 if kind.endswith("best") else 2
            self._managers[kind] = ocp.CheckpointManager(
                os.path.join(self._folder, kind),
                options=ocp.CheckpointManagerOptions(max_to_keep=keep),
            )
        return self._managers[kind]

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exception) -> None:
        for manager in self._managers.values():
            manager.close()

    def save(self, kind: str, epoch: int, state: Any) -> None:
        """Saves `state` after `epoch` epochs as `kind`; returns before it is written."""
        self._manager(kind).save(epoch, args=ocp.args.StandardSave(state))

    def latest_epoch(self, kind: str) -> int | None:
        return self._manager(kind).latest_step()

    def restore(self, kind: str, like: Any) -> Any:
        """The newest `kind`, in the structure of `like` (arrays or their shapes).

        Raises:
          UserError: it does not fit `like`, or cannot be read.
        """
        epoch = self.latest_epoch(kind)
        try:
            state = self._manager(kind).restore(epoch, args=ocp.args.StandardRestore(like))
        except (ValueError, KeyError, TypeError, OSError) as e:
            reason = str(e).strip().splitlines()[0][:200]
            raise UserError(
                f"{self._manager(kind).directory}/{epoch}: does not fit this config ({reason}); "
                "name a new --workdir"
            ) from None
        return jax.tree.map(np.asarray, state)


class Teachers:
    """Chosen parameters of earlier stages, a file a run, named by all that they depend on.

    A teacher is so trained once for each fold and seed, and serves every sweep of its system that
    is given the same folder, be its student another.
    """

    def __init__(self, folder: str, corpus: Any):
        """`folder` must exist."""
        self._folder, self._corpus = folder, corpus

    @functools.cached_property
    def _digest(self) -> bytes:
        digest = hashlib.blake2b()
        for array in (*self._corpus.features.values(), self._corpus.mask, self._corpus.present):
            digest.update(np.ascontiguousarray(array))
        return digest.digest()

    def file(self, config: Any, stage: Any, run_id: Any) -> str:
        """The file of one run's teacher.

        Args:
          config: of `configs/`.
          stage: `systems.system.Stage`.
          run_id: fold and seed.
        """
        fold, seed = run_id
        settings = {
            "system": config.system,
            "stage": stage.name,
            "model": {field: config.model[field] for field in stage.depends},
            "train": config.pretrain.to_dict(),
            "masking": config.masking.to_dict(),
            "normalise": config.data.normalise,
            "quantiles": config.data.quantiles,
            "classes": self._corpus.class_names,
            "modalities": self._corpus.modalities,
            "fold": fold.number,
            "seed": seed,
        }
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode() + self._digest)
        for rows in (fold.train, fold.val):
            digest.update(rows.tobytes() + self._corpus.labels[rows].tobytes())
        name = f"{config.system}_{stage.name}_fold{fold.number}_seed{seed}"
        return os.path.join(self._folder, f"{name}_{digest.hexdigest()[:16]}.npy")

    def has(self, file: str) -> bool:
        return os.path.exists(file)

    def load(self, file: str, size: int) -> np.ndarray:
        """`[P]` float32.

        Raises:
          UserError: the file is damaged.
        """
        try:
            params = np.load(file, allow_pickle=False)
        except (ValueError, OSError, EOFError) as e:
            raise UserError(f"{file}: damaged ({e}); delete it to train it anew") from None
        if params.shape != (size,):
            raise UserError(f"{file}: holds {params.shape}, wanted ({size},); delete it")
        return params

    def save(self, file: str, params: np.ndarray) -> None:
        """Writes one run's parameters, whole or not at all."""
        buffer = io.BytesIO()
        np.save(buffer, params)
        write_whole(file, buffer.getvalue())
