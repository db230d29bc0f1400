"""A sequence at a fixed length, by adaptive average pooling or interpolation.

Bringing every modality of an utterance to the same T puts position i of each at the same
relative time, which the mean of latents (paper, Eq. 7) silently needs.
"""

from typing import Any

import numpy as np

KINDS = ("pool", "interp")
STATISTICS = ("mean", "mean_max")  # the latter beside each other, for one position


def times(statistics: str) -> int:
    """How many numbers a feature becomes under `statistics`."""
    return 2 if statistics == "mean_max" else 1


def windows(positions: Any, rows: Any) -> tuple[Any, Any]:
    """The first row that each position averages under "pool", and the one after the last.

    Position i of T averages rows floor(i * rows / T) to ceil((i + 1) * rows / T), so a sequence
    shorter than T repeats rows and a longer one is averaged.

    Args:
      positions: 0 to T - 1, integers.
      rows: of the sequence, an integer; NumPy's or TensorFlow's, as `positions`.
    """
    target = positions.shape[0]
    return positions * rows // target, -(-(positions + 1) * rows // target)


def places(positions: Any, rows: Any, xp: Any = np) -> Any:
    """Where between the rows of a sequence each position reads under "interp".

    That is the middle of the i-th of T equal parts, so a sequence longer than T is subsampled.

    Args:
      positions: 0 to T - 1, float64.
      rows: of the sequence, float64.
      xp: the arrays' module, `numpy` or `tensorflow`.
    """
    place = (positions + 0.5) * rows / positions.shape[0] - 0.5
    return xp.minimum(xp.maximum(place, 0.0), xp.maximum(rows - 1.0, 0.0))


def fix_length(
    sequence: np.ndarray, target: int, kind: str = "pool", statistics: str = "mean"
) -> np.ndarray:
    """`[length, D]` -> `[target, D]` float32; `[target, 2 D]` for "mean_max". Zero if empty."""
    sequence, positions = sequence.astype(np.float32), np.arange(target)
    frames = np.arange(len(sequence))
    if kind == "interp":
        place = places(positions.astype(np.float64), np.float64(len(sequence)))
        weights = np.maximum(1 - np.abs(place[:, None] - frames), 0)
    else:
        first, last = (w[:, None] for w in windows(positions, len(sequence)))
        weights = ((frames >= first) & (frames < last)) / np.maximum(last - first, 1)
    fixed = weights.astype(np.float32) @ sequence
    if statistics == "mean":
        return fixed
    highest = sequence.max(axis=0) if len(sequence) else fixed[0]
    return np.concatenate([fixed, highest[None]], axis=-1)
