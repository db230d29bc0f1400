"""What status.json says about a work directory: whether it has ended, which runs were stopped."""

import os
import platform
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


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that the numbers depend on."""
    packages = ("jax", "jaxlib", "flax", "optax", "numpy")
    return {"python": platform.python_version()} | {p: metadata.version(p) for p in packages}
