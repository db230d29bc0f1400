"""The arrays of a sweep's results: confusion matrices, and what was recovered beside the truth."""

import io
import os
from collections.abc import Sequence

import numpy as np

from cmarr_jax.runtime.files import write_whole
from cmarr_jax.workdir import files
from cmarr_jax.workdir.files import read_arrays


def write_confusion(
    workdir: str,
    confusion: np.ndarray,
    classes: Sequence[str],
    conditions: Sequence[str],
    runs: Sequence[tuple[int, int]],
) -> None:
    """Writes the counts `[R, K, C, C]`, and what its axes stand for.

    Args:
      workdir: the sweep's folder.
      confusion: rows are the true classes.
      classes: C names.
      conditions: K names.
      runs: the number of the fold, and the seed, of the R runs.
    """
    buffer = io.BytesIO()
    np.savez(
        buffer,
        confusion=confusion,
        folds=np.array([fold for fold, _ in runs]),
        seeds=np.array([seed for _, seed in runs]),
        conditions=np.array(conditions),
        classes=np.array(classes),
    )
    write_whole(os.path.join(workdir, files.CONFUSION), buffer.getvalue())


def read_confusion(workdir: str) -> dict[str, np.ndarray]:
    """Arrays of WORKDIR/confusion.npz: confusion, folds, seeds, conditions, classes.

    Raises:
      UserError: there is none, as in the folder of a table.
    """
    file = os.path.join(workdir, files.CONFUSION)
    return read_arrays(file, "--figure draws one sweep: name a folder below --workdir")


def write_representations(
    workdir: str, modalities: Sequence[str], pair: Sequence[np.ndarray]
) -> None:
    """Writes representations of n test utterances, each modality missing alone.

    Args:
      workdir: the sweep's folder.
      modalities: M names.
      pair: what the first run recovered, and what is true; `[M, n, D]` each.
    """
    buffer = io.BytesIO()
    np.savez(buffer, recovered=pair[0], true=pair[1], modalities=np.array(modalities))
    write_whole(os.path.join(workdir, files.REPRESENTATIONS), buffer.getvalue())


def read_representations(workdir: str) -> dict[str, np.ndarray]:
    """Arrays of WORKDIR/representations.npz: recovered, true, modalities.

    Raises:
      UserError: there is none.
    """
    return read_arrays(
        os.path.join(workdir, files.REPRESENTATIONS),
        "wanted the folder of one finished sweep whose system recovers missing modalities",
    )
