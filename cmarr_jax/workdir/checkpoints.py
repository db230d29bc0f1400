"""Checkpoints of a sweep, by orbax: `last` to resume from, `best` to predict with.

    checkpoints/last/EPOCH/state    the leaves of the state, `[R, ...]` NumPy arrays
    checkpoints/last/EPOCH/about    what they depend on, and a digest of everything
    checkpoints/best/EPOCH/...      the same for the chosen models

A checkpoint gets its name when it is whole, and is used only if its digest is right, because a disk
may later lose or change bytes. The two newest of `last` are kept, and one of `best`. A system's
earlier stages have folders of their own, such as `teacher_last`; their chosen models go to
`cmarr_jax.training.teachers`.

By hand on orbax's checkpointers, not its `CheckpointManager`: that one lists what is still being
written, removes what a killed process left only before the next save, and would leave the digest,
the refusals and the return to an older checkpoint to us.
"""

import contextlib
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from cmarr_jax.errors import UserError
from cmarr_jax.runtime import processes
from cmarr_jax.runtime.files import cannot_write
from cmarr_jax.runtime.processes import PyTree
from cmarr_jax.workdir import files

_FORMAT = 4  # changes with the content of a checkpoint and its order
_KEPT = {"last": 2, "best": 1}
_DIGEST_SIZE = 16  # bytes
# Of several processes only the first writes checkpoints; it waits for no other.
_ALONE = ocp.options.MultiprocessingOptions(primary_host=0, active_processes={0})


class Resumed(NamedTuple):
    """A checkpoint of `last`."""

    epoch: int
    state: PyTree
    stopped: list[dict[str, Any] | None]  # as given to `Checkpoints.save`


class _Damaged(Exception):
    pass


class Checkpoints:
    """The folder `WORKDIR/checkpoints`; a context manager that waits for its writes at the end."""

    def __init__(self, workdir: str, origin: Mapping[str, str] | None = None):
        """`origin`: digests of what the numbers depend on, by name; a checkpoint of another origin
        is refused. Without it nothing can be saved or resumed, only restored.
        """
        self._folder = os.path.join(os.path.abspath(workdir), files.CHECKPOINTS)
        self._origin = {"format": str(_FORMAT), "jax": jax.__version__} | dict(origin or {})
        self._writers: dict[str, ocp.AsyncCheckpointer] = {}

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind, error, traceback) -> None:
        for name in self._writers:
            try:
                self._wait(name)
            except UserError:
                if error is None:
                    raise
        for writer in self._writers.values():
            with contextlib.suppress(Exception):  # waits again, and repeats an error from above
                writer.close()

    def save(
        self,
        stage: str,
        kind: str,
        epoch: int,
        state: PyTree,
        stopped: Sequence[Mapping[str, object] | None] = (),
    ) -> None:
        """Saves the state after `epoch` epochs; returns before it is written.

        Args:
          stage: name of an earlier stage, "" of the last.
          kind: "last" or "best".
          epoch: counted from 1.
          state: any tree of arrays.
          stopped: saved with it, as JSON.

        Raises:
          UserError: this checkpoint or the one before could not be written.
        """
        name = _name(stage, kind)
        self._wait(name)
        leaves = [np.array(leaf) for leaf in jax.tree.leaves(state)]
        about = {"origin": self._origin, "epoch": epoch, "stopped": list(stopped)}
        about["last"] = self.latest_epoch(stage, "last")  # None while no `last` is whole
        about["leaves"] = [[list(leaf.shape), leaf.dtype.str] for leaf in leaves]
        about["digest"] = _digest(about, leaves)
        if name not in self._writers:
            self._writers[name] = ocp.AsyncCheckpointer(_handler(), multiprocessing_options=_ALONE)
        path = os.path.join(self._folder, name, str(epoch))
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(dict(zip(_names(leaves), leaves, strict=True))),
            about=ocp.args.JsonSave(about),
        )
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            self._writers[name].save(path, args=args, force=True)
        except Exception as e:
            raise UserError(cannot_write(path, e)) from None

    def latest_epoch(self, stage: str, kind: str) -> int | None:
        """Epoch of the newest checkpoint, sound or damaged; None if there is none."""
        return max(self._epochs(_name(stage, kind)), default=None)

    def resume(self, stage: str, like: PyTree) -> Resumed | None:
        """The newest sound `last` of a stage, in the structure of `like`; None if there is none.

        Removes newer checkpoints, whose epochs are trained again, and what killed writes left.

        Raises:
          UserError: all are damaged, or missing although `best` is there; or the newest is of
            another origin or does not fit `like`.
        """
        last, best = names = _name(stage, "last"), _name(stage, "best")
        self._tidy(names)
        damage = []
        for epoch in sorted(self._epochs(last), reverse=True):
            path = os.path.join(self._folder, last, str(epoch))
            try:
                leaves, about = _read(path)
            except _Damaged as e:
                damage.append(f"{path}: damaged ({e})")
                continue
            self._check_origin(path, about["origin"])
            state = _fit(path, leaves, like)
            for line in damage:
                print(f"{line}; going on from epoch {epoch}", file=sys.stderr)
            for name in names:
                for newer in self._epochs(name):
                    if newer > epoch:
                        self._remove(name, newer)
                self._prune(name)
            return Resumed(epoch, state, about["stopped"])
        for epoch in [] if damage else self._epochs(best):
            if self._is_first(best, epoch):  # the first `last` was not written to its end
                self._remove(best, epoch)
            else:
                missing = os.path.join(self._folder, last)
                damage = [f"{missing}: missing, though {best} is there"]
        if damage:
            raise UserError(
                f"{'; '.join(damage)}; no checkpoint is left to go on from: delete "
                f"{self._folder} to train from the start, or name a new --workdir"
            )
        return None

    def restore(self, stage: str, kind: str, like: PyTree) -> PyTree:
        """The newest checkpoint of a stage and kind, in the structure of `like` (arrays or shapes).

        Raises:
          UserError: there is none, it is damaged, or does not fit `like`.
        """
        epoch = self.latest_epoch(stage, kind)
        path = os.path.join(self._folder, _name(stage, kind), str(epoch))
        if epoch is None:
            raise UserError(f"{os.path.dirname(path)}: holds no checkpoint")
        try:
            leaves, _ = _read(path)
        except _Damaged as e:
            raise UserError(
                f"{path}: damaged ({e}); delete status.json beside checkpoints/ and give train.py "
                "the same flags: it writes this anew"
            ) from None
        return _fit(path, leaves, like)

    def _epochs(self, name: str) -> list[int]:
        try:
            names = os.listdir(os.path.join(self._folder, name))
        except FileNotFoundError:
            return []
        return sorted(int(each) for each in names if each.isdigit())

    def _wait(self, name: str) -> None:
        """Waits until the last write of `name` is done, then removes older ones."""
        if name in self._writers:
            try:
                self._writers[name].wait_until_finished()
            except Exception as e:
                folder = os.path.join(self._folder, name)
                raise UserError(cannot_write(folder, e)) from None
            self._prune(name)

    def _prune(self, name: str) -> None:
        for epoch in self._epochs(name)[: -_KEPT[name.rpartition("_")[2]]]:
            self._remove(name, epoch)

    def _is_first(self, name: str, epoch: int) -> bool:
        """Whether this `best` was saved before there was a whole `last`."""
        try:
            return _read(os.path.join(self._folder, name, str(epoch)))[1]["last"] is None
        except _Damaged:
            return False

    def _remove(self, name: str, epoch: int) -> None:
        path = os.path.join(self._folder, name, str(epoch))
        os.rename(path, f"{path}.removed")  # so that a half removed one does not look damaged
        shutil.rmtree(f"{path}.removed")

    def _tidy(self, names: Sequence[str]) -> None:
        for folder in (os.path.join(self._folder, name) for name in names):
            for epoch in os.listdir(folder) if os.path.isdir(folder) else ():
                if not epoch.isdigit():
                    shutil.rmtree(os.path.join(folder, epoch), ignore_errors=True)

    def _check_origin(self, path: str, origin: Mapping[str, str]) -> None:
        for field, ours in self._origin.items():
            theirs = origin.get(field)
            if theirs != ours:
                raise UserError(
                    f"{path}: was written with {field} {theirs}, this is {ours}; go on with that "
                    "one, or name a new --workdir"
                )


def _name(stage: str, kind: str) -> str:
    """Name of the folder in checkpoints/."""
    return f"{stage}_{kind}" if stage else kind


def _handler() -> ocp.CompositeCheckpointHandler:
    options = ocp.CompositeOptions(multiprocessing_options=_ALONE)
    return ocp.CompositeCheckpointHandler(composite_options=options)


def _names(leaves: Sequence) -> list[str]:
    return [f"leaf{k:03d}" for k in range(len(leaves))]


def _digest(about: Mapping[str, object], leaves: Sequence[np.ndarray]) -> str:
    about = {field: value for field, value in about.items() if field != "digest"}
    digest = hashlib.blake2b(json.dumps(about, sort_keys=True).encode(), digest_size=_DIGEST_SIZE)
    for leaf in leaves:
        digest.update(np.ascontiguousarray(leaf))
    return digest.hexdigest()


def _read(path: str) -> tuple[list[np.ndarray], dict]:
    """Leaves and `about` of one checkpoint.

    Raises:
      UserError: no permission to read its files; or it is of a version without `about`.
      _Damaged: it differs from what was written.
    """
    if os.path.isdir(os.path.join(path, "default")):
        raise UserError(
            f"{path}: written by an older version of this library; name a new --workdir"
        )
    only_about = ocp.args.Composite(about=ocp.args.JsonRestore())
    try:
        with ocp.Checkpointer(_handler(), multiprocessing_options=_ALONE) as reader:
            about = reader.restore(path, args=only_about).about
            like = [np.empty(shape, dtype) for shape, dtype in about["leaves"]]
            named = dict(zip(_names(like), like, strict=True))
            args = ocp.args.Composite(state=ocp.args.StandardRestore(named))
            state = reader.restore(path, args=args).state
        leaves = [np.asarray(state[name]) for name in named]
    except Exception as e:  # a JSON parser and tensorstore may raise anything on damaged bytes
        for folder, _, names in os.walk(path):
            for file in (os.path.join(folder, name) for name in names):
                if not os.access(file, os.R_OK):
                    raise UserError(f"{file}: no permission to read") from None
        raise _Damaged(_reason(e)) from None
    right = _digest(about, leaves) == about.get("digest")
    if not right or os.path.basename(path) != str(about["epoch"]):
        raise _Damaged("other bytes than were written")
    return leaves, about


def _fit(path: str, leaves: Sequence[np.ndarray], like: PyTree) -> PyTree:
    wanted, structure = jax.tree.flatten(like)
    ours = [(tuple(x.shape), np.dtype(x.dtype)) for x in wanted]
    theirs = [(x.shape, x.dtype) for x in leaves]
    if ours != theirs:
        odd = next((pair for pair in zip(theirs, ours, strict=False) if pair[0] != pair[1]), None)
        found = f"{odd[0][0]}, wanted {odd[1][0]}" if odd else f"{len(theirs)} arrays"
        raise UserError(f"{path}: does not fit this config (holds {found}); name a new --workdir")
    return jax.tree.unflatten(structure, leaves)


def _reason(error: Exception) -> str:
    lines = (getattr(error, "strerror", None) or str(error)).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:100]}" if lines else type(error).__name__


class JoinedCheckpoints:
    """Checkpoints of sweeps that one program trains, each in its own folder, so that each sweep can
    be resumed alone. Of several processes only the first reads and writes them; it sends the others
    what it resumes.
    """

    def __init__(self, sweeps: Sequence[Checkpoints], slices: Sequence[slice]):
        """`sweeps`: of each sweep; empty in all processes but the first. `slices`: for each sweep,
        which of all runs are its own.
        """
        self._sweeps, self._slices = sweeps, slices

    def save(
        self,
        stage: str,
        kind: str,
        epoch: int,
        state: PyTree,
        stopped: Sequence[Mapping[str, object] | None] = (),
    ) -> None:
        """`Checkpoints.save` for all sweeps together, leaves `[R, ...]`."""
        for sweep, runs in zip(self._sweeps, self._slices, strict=bool(self._sweeps)):
            own = jax.tree.map(lambda leaf, runs=runs: leaf[runs], state)
            sweep.save(stage, kind, epoch, own, stopped[runs])

    def resume(self, stage: str, like: PyTree) -> Resumed | None:
        """`Checkpoints.resume` for all sweeps together, leaves `[R, ...]`.

        Raises:
          UserError: as there; or damage has left the sweeps at different epochs.
        """
        found = self._resume(stage, like) if self._sweeps else None
        about = processes.tell(found and [found.epoch, found.stopped])
        if about is None:
            return None
        epoch, stopped = about
        return Resumed(epoch, processes.broadcast(found.state if found else like), stopped)

    def _resume(self, stage: str, like: PyTree) -> Resumed | None:
        found = [
            sweep.resume(stage, jax.tree.map(lambda leaf, runs=runs: leaf[runs], like))
            for sweep, runs in zip(self._sweeps, self._slices, strict=True)
        ]
        if len(epochs := {each and each.epoch for each in found}) > 1:
            shown = ", ".join(str(epoch or 0) for epoch in sorted(epochs, key=lambda e: e or 0))
            raise UserError(
                f"sweeps that were trained together are left at epochs {shown} by the damage "
                "above; the same command goes on with each from there"
            )
        begun = [each for each in found if each]  # all or none
        if not begun:
            return None
        of_stage = f" ({stage})" if stage else ""
        print(f"resumed at epoch {begun[0].epoch}{of_stage}", file=sys.stderr, flush=True)
        state = jax.tree.map(
            lambda *leaves: np.concatenate(leaves), *(each.state for each in begun)
        )
        return Resumed(begun[0].epoch, state, [stop for each in begun for stop in each.stopped])
