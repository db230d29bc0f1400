"""The models of earlier stages, which later ones learn from: trained once, kept in files."""

import hashlib
import io
import json
import os
from collections.abc import Callable
from typing import Any

import numpy as np

from cmarr_jax.errors import UserError
from cmarr_jax.runtime import processes
from cmarr_jax.runtime.files import write_whole

_FORMAT = 3  # of what lies in a file
_DIGEST_SIZE = 16  # bytes


class Teachers:
    """Chosen parameters of earlier stages, a file a run, named by all that they depend on.

    A teacher is so trained once for each fold and seed, and serves every sweep of its system that
    is given the same folder, be its student another.
    """

    def __init__(self, folder: str, corpus: Any, digest: Callable[[], bytes]):
        """`folder` must exist; `digest` is the corpus'."""
        self._folder, self._corpus, self._digest = folder, corpus, digest

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
            "format": _FORMAT,
        }
        if config.protocol.shuffled_labels:  # the control's teachers must teach nothing else
            settings["shuffled_labels"] = True
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode() + self._digest())
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
        with open(file, "rb") as f:
            content = f.read()
        content, digest = content[:-_DIGEST_SIZE], content[-_DIGEST_SIZE:]
        if hashlib.blake2b(content, digest_size=_DIGEST_SIZE).digest() != digest:
            raise UserError(f"{file}: damaged; delete it to train it anew")
        params = np.load(io.BytesIO(content), allow_pickle=False)
        if params.shape != (size,):
            raise UserError(f"{file}: holds {params.shape}, wanted ({size},); delete it")
        return params

    def save(self, file: str, params: np.ndarray) -> None:
        """Writes one run's parameters, whole or not at all."""
        buffer = io.BytesIO()
        np.save(buffer, params)
        content = buffer.getvalue()
        digest = hashlib.blake2b(content, digest_size=_DIGEST_SIZE).digest()
        write_whole(file, content + digest)  # a reader of .npy files does not look beyond its array


class FirstTeachers:
    """The `Teachers` that the first of several processes keeps, for all of them."""

    def __init__(self, own: Teachers):
        self._own = own
        self.file = own.file

    def has(self, file: str) -> bool:
        return processes.tell(processes.is_first() and self._own.has(file))

    def load(self, file: str, size: int) -> np.ndarray:
        first = processes.is_first()
        return processes.broadcast(
            self._own.load(file, size) if first else np.zeros(size, np.float32)
        )

    def save(self, file: str, params: np.ndarray) -> None:
        if processes.is_first():
            self._own.save(file, params)
