"""Whose a work directory is: the config that it was begun with, and what its numbers hang on."""

import contextlib
import hashlib
import json
import os
from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from cmarr_jax.config import leaves
from cmarr_jax.errors import UserError
from cmarr_jax.runtime.files import remove_drafts
from cmarr_jax.runtime.lock import locked
from cmarr_jax.workdir import files, status

# Fields that may change while a sweep is under way.
_FREE = ("checkpoint_seconds", "teachers", "data.stream")


def claim(workdir: str, config: ConfigDict) -> tuple[str, dict]:
    """The config's file and content.

    Raises:
      UserError: the work directory was begun with another config.
    """
    file = os.path.join(workdir, files.CONFIG)
    content = json.loads(config.to_json_best_effort())
    if os.path.exists(file):
        before = dict(leaves(files.read_json(file)))
        for field, value in leaves(content):
            if field == "members" and value and before.get(field):
                continue  # a table may grow
            if before.get(field) != value and field not in _FREE:
                raise UserError(
                    f"{file}: this work directory belongs to a sweep with {field}="
                    f"{before.get(field)}, now {value}; name a new --workdir"
                )
    return file, content


def is_ended(workdir: str, config: ConfigDict) -> bool:
    """Whether the sweep of `config`, or each of its members, lies in `workdir` to its end.

    Raises:
      UserError: the work directory was begun with another config.
    """
    saved, content = claim(workdir, config)
    if not (os.path.exists(saved) and status.is_ended(workdir)):
        return False
    tidy(workdir)
    before = files.read_json(saved).get("members") or []
    return before == content["members"]  # else the table has grown


def origin(
    content: dict, corpus: bytes, run_ids: Sequence[Any], layouts: Sequence[str]
) -> dict[str, str]:
    """What a checkpoint must agree in to be gone on from, as digests.

    Args:
      content: of `claim`.
      corpus: of `data.pipeline.Corpus.digest`.
      run_ids: `runs.RunId` of each run.
      layouts: `train_step.Vector.layout` of each stage.
    """
    fields = [item for item in leaves(content) if item[0] not in _FREE]
    config = json.dumps(fields, sort_keys=True).encode()
    folds = hashlib.blake2b()
    for fold, seed in run_ids:
        rows = [r.tolist() for r in (fold.train, fold.val, fold.test)]
        folds.update(repr((fold.number, seed, rows)).encode())
    digests = {"config": hashlib.blake2b(config).digest(), "corpus": corpus}
    digests["folds"] = folds.digest()
    digests["parameters"] = hashlib.blake2b("".join(layouts).encode()).digest()
    return {name: digest[:8].hex() for name, digest in digests.items()}


def tidy(workdir: str) -> None:
    """Takes away what a run that was killed at its very end has left, where it may be written."""
    with contextlib.suppress(UserError), locked(workdir):
        remove_drafts(workdir)


def make_folder(flag: str, folder: str) -> None:
    """Makes `folder`, which `flag` has named.

    Raises:
      UserError: it cannot be made.
    """
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as e:
        raise UserError(
            f"{flag}={folder}: cannot be made ({e.strerror}); name a folder where you may write"
        ) from None


def newest(workdir: str) -> list[tuple[str, int]]:
    """(kind, newest epoch) of each kind of checkpoint in a work directory."""
    folder = os.path.join(workdir, files.CHECKPOINTS)
    found = []
    for kind in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
        epochs = [int(name) for name in os.listdir(os.path.join(folder, kind)) if name.isdigit()]
        if epochs:
            found.append((kind, max(epochs)))
    return found
