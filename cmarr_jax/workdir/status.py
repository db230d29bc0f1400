"""What status.json says about a work directory: whether it has ended, which runs were stopped."""

import os
import platform
from collections.abc import Iterable
from importlib import metadata
from typing import Any, NamedTuple

from cmarr_jax.errors import UserError
from cmarr_jax.workdir import files


class Stopped(NamedTuple):
    """A run that ended early, because something in it was no longer finite."""

    fold: int
    seed: int
    stage: str  # name of an earlier stage, "" of the last
    epoch: int  # counted from 1
    step: int  # of the stage, counted from 1
    term: str  # the loss, or "val/posteriors"
    value: str  # "nan", "inf" or "-inf"

    @property
    def reason(self) -> str:
        """What was no longer finite."""
        return f"{self.stage}_{self.term}".lstrip("_") + f" became {self.value}"

    def __str__(self) -> str:
        return (
            f"fold {self.fold}, seed {self.seed}: stopped at step {self.step} (epoch {self.epoch}),"
            f" where {self.reason}"
        )


def read_status(workdir: str) -> dict[str, Any]:
    """WORKDIR/status.json.

    Raises:
      UserError: there is none.
    """
    file = os.path.join(workdir, files.STATUS)
    try:
        return files.read_json(file)
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"{file}: missing, so --workdir={workdir} holds no sweep of train.py"
        ) from None


def seconds(workdir: str) -> float:
    """How long the sweep has taken so far; 0 if it has not begun."""
    there = os.path.exists(os.path.join(workdir, files.STATUS))
    return read_status(workdir)["seconds"] if there else 0.0


def check_precision(workdir: str, precision: str) -> None:
    """Refuses to go on in another precision than the sweep began with.

    Where a config leaves it to the backend, its fields alone do not tell.

    Raises:
      UserError: names both.
    """
    there = os.path.exists(os.path.join(workdir, files.STATUS))
    before = read_status(workdir).get("precision", precision) if there else precision
    if before != precision:
        raise UserError(
            f"{os.path.join(workdir, files.STATUS)}: this work directory belongs to a sweep in "
            f"{before}, now {precision}, as this machine's default or a flag has it; go on where "
            "it began, or name a new --workdir"
        )


def is_ended(workdir: str) -> bool:
    """Whether the sweep in `workdir` is done: each of its runs has results or was stopped."""
    if not os.path.exists(os.path.join(workdir, files.STATUS)):
        return False
    status = read_status(workdir)
    return bool(status.get("complete") or status.get("stopped"))


def has_results(workdir: str) -> bool:
    """Whether a run of an ended sweep has results."""
    return os.path.exists(os.path.join(workdir, files.RESULTS))


def stopped_runs(workdir: str) -> list[str]:
    """A line for each stopped run of an ended sweep; such runs have no results."""
    return [
        (f"{s.pop('sweep')}: " if "sweep" in s else "") + str(Stopped(**s))
        for s in read_status(workdir).get("stopped", ())
    ]


def check_same_corpus(workdirs: Iterable[str]) -> None:
    """Refuses sweeps that read the same pack when it held something else.

    A pack that was made anew where the old one was is another corpus, whatever its name. Sweeps of
    older versions, which do not say what they read, pass.

    Raises:
      UserError: names two of the folders.
    """
    known: dict[str, tuple[str, str]] = {}
    for workdir in workdirs:
        pack, corpus = corpus_of(workdir)
        if not corpus:
            continue
        first, of_first = known.setdefault(pack, (workdir, corpus))
        if of_first != corpus:
            raise UserError(
                f"{workdir}: its results are of corpus {corpus}, those of {first} of corpus "
                f"{of_first}: the pack {pack} was changed in between; train all of them on one, in "
                "a new --workdir"
            )


def corpus_of(workdir: str) -> tuple[str, str]:
    """The pack that a sweep was trained on, as its config names it, and the pack's fingerprint; ""
    where it is unknown.
    """
    found = []
    for name in (files.CONFIG, files.STATUS):
        file = os.path.join(workdir, name)
        found.append(files.read_json(file) if os.path.exists(file) else {})
    config, status = found
    data = config.get("data", {})
    return data.get("pack") or data.get("data_dir", ""), status.get("corpus", "")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that the numbers depend on."""
    packages = ("jax", "jaxlib", "flax", "optax", "numpy")
    return {"python": platform.python_version()} | {p: metadata.version(p) for p in packages}
