"""The models of earlier stages, which later stages learn from: trained once, kept in files.

A teacher is trained once for each fold and seed. It then serves every sweep of its system that uses
the same folder, whatever the student is. Of several processes the first one keeps the files.
"""

import hashlib
import io
import json
import os
from collections.abc import Callable

import numpy as np
from ml_collections import ConfigDict

from cmarr_jax.data.pipeline import Corpus
from cmarr_jax.errors import UserError
from cmarr_jax.runtime import processes
from cmarr_jax.runtime.files import write_whole
from cmarr_jax.systems.precision import FLOAT32
from cmarr_jax.systems.system import Stage
from cmarr_jax.training.runs import RunId

_FORMAT = 4  # of these files
_DIGEST_SIZE = 16  # bytes


class Teachers:
    """Chosen parameters of earlier stages: a file for each run, named by all that it depends on."""

    def __init__(self, folder: str, corpus: Corpus, digest: Callable[[], bytes]):
        """`folder` must exist before a teacher is saved; `digest` -> the corpus' digest."""
        self._folder, self._corpus, self._digest = folder, corpus, digest

    def file(self, config: ConfigDict, stage: Stage, run_id: RunId) -> str:
        """The file of one run's teacher."""
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
        if stage.precision != FLOAT32:
            settings["precision"] = stage.precision.name
        if config.data.normalised:
            settings["normalised"] = list(config.data.normalised)
        own = {m: e.to_dict() for m, e in config.encoders.items() if e.model or e.mix}
        if own:
            settings["encoders"] = own
        if config.protocol.shuffled_labels:  # only the control may use its teachers
            settings["shuffled_labels"] = True
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode() + self._digest())
        for rows in (fold.train, fold.val):
            digest.update(rows.tobytes() + self._corpus.labels[rows].tobytes())
        name = f"{config.system}_{stage.name}_fold{fold.number}_seed{seed}"
        return os.path.join(self._folder, f"{name}_{digest.hexdigest()[:16]}.npy")

    def has(self, file: str) -> bool:
        """Whether `file` exists."""
        return processes.tell(processes.is_first() and os.path.exists(file))

    def load(self, file: str, size: int) -> np.ndarray:
        """The parameters `[P]`, float32; `size` = P.

        Raises:
          UserError: the file is damaged.
        """
        own = _read(file, size) if processes.is_first() else np.zeros(size, np.float32)
        return processes.broadcast(own)

    def save(self, file: str, params: np.ndarray) -> None:
        """Writes one run's parameters, whole or not at all."""
        if not processes.is_first():
            return
        buffer = io.BytesIO()
        np.save(buffer, params)
        content = buffer.getvalue()
        digest = hashlib.blake2b(content, digest_size=_DIGEST_SIZE).digest()
        write_whole(file, content + digest)  # readers of .npy files stop at the array's end


def _read(file: str, size: int) -> np.ndarray:
    with open(file, "rb") as f:
        content = f.read()
    content, digest = content[:-_DIGEST_SIZE], content[-_DIGEST_SIZE:]
    if hashlib.blake2b(content, digest_size=_DIGEST_SIZE).digest() != digest:
        raise UserError(f"{file}: damaged; delete it to train it anew")
    params = np.load(io.BytesIO(content), allow_pickle=False)
    if params.shape != (size,):
        raise UserError(f"{file}: holds {params.shape}, wanted ({size},); delete it")
    return params
