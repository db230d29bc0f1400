"""Which config owns a work directory, and what its numbers depend on."""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from typing import Any

from ml_collections import ConfigDict

from cmarr_jax.config import leaves
from cmarr_jax.data.protocol import Fold
from cmarr_jax.errors import UserError
from cmarr_jax.runtime.files import remove_drafts, write_json
from cmarr_jax.runtime.lock import locked
from cmarr_jax.workdir import files, status

# Fields that may change before a sweep has ended.
_FREE = ("checkpoint_seconds", "teachers", "data.stream")


class WorkDir:
    """The folder of one config: a sweep's, or that of a table, which joins its members' results.

    Attributes:
      folder: its path.
      config: the whole config.
    """

    def __init__(self, folder: str, config: ConfigDict):
        """Creates no folder yet."""
        self.folder, self.config = folder, config
        self._content = json.loads(config.to_json_best_effort())

    @property
    def name(self) -> str:
        """The last component of its path: the sweep's name in its table."""
        return os.path.basename(self.folder)

    @property
    def is_ended(self) -> bool:
        """Whether nothing is left to train: the sweep, or each member of the table, has ended.

        Raises:
          UserError: another config owns the folder.
        """
        before = self._check()
        if before is None or not status.is_ended(self.folder):
            return False
        # A run that was killed at its very end leaves drafts; the folder may be read-only.
        with contextlib.suppress(UserError), locked(self.folder):
            remove_drafts(self.folder)
        # Else the table has grown, or is to be trained for longer.
        same_epochs = before["train"]["epochs"] == self._content["train"]["epochs"]
        return same_epochs and (before.get("members") or []) == self._content["members"]

    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        """Creates and locks the folder, removes what killed runs left, and writes the config.

        Raises:
          UserError: it cannot be created or written, another run is at work in it, or another
            config owns it.
        """
        make_folder("--workdir", self.folder)
        with locked(self.folder):
            self._check()  # again: another run may have written its config before the lock
            remove_drafts(self.folder)
            write_json(os.path.join(self.folder, files.CONFIG), self._content)
            yield

    def newest(self) -> list[tuple[str, int]]:
        """(kind, newest epoch) for each kind of checkpoint in the folder."""
        folder = os.path.join(self.folder, files.CHECKPOINTS)
        found = []
        for kind in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
            names = os.listdir(os.path.join(folder, kind))
            epochs = [int(name) for name in names if name.isdigit()]
            if epochs:
                found.append((kind, max(epochs)))
        return found

    def origin(
        self, corpus: bytes, run_ids: Sequence[tuple[Fold, int]], parameters: Sequence[str]
    ) -> dict[str, str]:
        """Digests of what a checkpoint's numbers depend on; training resumes only if they agree.

        Args:
          corpus: from `data.pipeline.Corpus.digest`.
          run_ids: (fold, seed) of each run.
          parameters: for each stage, the digest of how its parameters lie.
        """
        free = (*_FREE, "train.epochs") if self._may_be_longer else _FREE
        fields = [item for item in leaves(self._content) if item[0] not in free]
        config = json.dumps(fields, sort_keys=True).encode()
        folds = hashlib.blake2b()
        for fold, seed in run_ids:
            rows = [r.tolist() for r in (fold.train, fold.val, fold.test)]
            folds.update(repr((fold.number, seed, rows)).encode())
        digests = {"config": hashlib.blake2b(config).digest(), "corpus": corpus}
        digests["folds"] = folds.digest()
        digests["parameters"] = hashlib.blake2b("".join(parameters).encode()).digest()
        return {name: digest[:8].hex() for name, digest in digests.items()}

    @property
    def _may_be_longer(self) -> bool:
        """Whether an epoch of the last stage does not depend on how many there will be."""
        train = self._content["train"]
        return train["schedule"] == "constant" and not train["warmup"]

    def _check(self) -> dict[str, Any] | None:
        """The config that owns the folder; None = none does yet."""
        file = os.path.join(self.folder, files.CONFIG)
        if not os.path.exists(file):
            return None
        content = files.read_json(file)
        before = dict(leaves(content))
        for field, value in leaves(self._content):
            if field == "members" and value and before.get(field):
                continue  # a table may grow
            if field == "train.epochs" and value > before.get(field, value):
                if self._may_be_longer:
                    continue
                train = self._content["train"]
                raise UserError(
                    f"{file}: train.epochs={before[field]} cannot become {value} here: the "
                    "learning rate follows the number of epochs (schedule="
                    f"{train['schedule']}, warmup={train['warmup']}; it does not with constant and "
                    "0); name a new --workdir"
                )
            if before.get(field) != value and field not in _FREE:
                raise UserError(
                    f"{file}: this work directory belongs to a sweep with {field}="
                    f"{before.get(field)}, now {value}; name a new --workdir"
                )
        return content


def make_folder(flag: str, folder: str) -> None:
    """Creates `folder`, whose name `flag` gave.

    Raises:
      UserError: it cannot be created.
    """
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as e:
        raise UserError(
            f"{flag}={folder}: cannot be made ({e.strerror}); name a folder where you may write"
        ) from None
