"""A sequence at a fixed length, by adaptive average pooling or interpolation, as one matrix.

Bringing every modality of an utterance to the same T puts position i of each at the same
relative time, which the mean of latents (paper, Eq. 7) silently needs.
"""

from typing import Any

import numpy as np

KINDS = ("pool", "interp")
LAST = "last"
STATISTICS = ("mean", "mean_max")  # the latter beside each other, for one position


def times(statistics: str) -> int:
    """How many numbers a feature becomes under `statistics`."""
    return 2 if statistics == "mean_max" else 1


def weights(positions: Any, frames: Any, length: Any, kind: str, xp: Any = np) -> Any:
    """Weights W `[T, length]` with `fixed = W @ sequence`; rows sum to one.

    "pool": row i averages frames floor(i * length / T) to ceil((i + 1) * length / T), so a
    sequence shorter than T repeats frames and a longer one is averaged. "interp": row i reads
    the sequence linearly at the middle of the i-th of T equal parts, so a longer sequence is
    subsampled. A length of zero gives `[T, 0]`: the result is zero.

    Args:
      positions: 0 to T - 1, float64.
      frames: 0 to length - 1, float64.
      length: of the sequence, float64.
      kind: one of `KINDS`; or `LAST`, every row reads the last frame: of a sorted sequence
        the maximum.
      xp: the arrays' module, `numpy` or `tensorflow`, so that both loaders share one formula.
    """
    target = positions.shape[0]
    if kind == "interp":
        place = (positions + 0.5) * length / target - 0.5
        place = xp.minimum(xp.maximum(place, 0.0), xp.maximum(length - 1.0, 0.0))
        return xp.maximum(1.0 - xp.abs(place[:, None] - frames), 0.0)
    if kind == LAST:
        last = xp.where(frames == length - 1.0, 0.0 * frames + 1.0, 0.0 * frames)
        return last[None] + 0.0 * positions[:, None]
    first = positions * length // target
    last = -(-(positions + 1.0) * length // target)
    inside = (frames >= first[:, None]) & (frames < last[:, None])
    return xp.where(inside, 1.0 / xp.maximum(last - first, 1.0)[:, None], 0.0)


def fix_length(
    sequence: np.ndarray, target: int, kind: str = "pool", statistics: str = "mean"
) -> np.ndarray:
    """`[length, D]` -> `[target, D]` float32; `[target, 2 D]` for "mean_max"."""
    positions, frames = np.arange(target) * 1.0, np.arange(len(sequence)) * 1.0
    sequence = sequence.astype(np.float32)

    def pooled(values, kind):
        matrix = weights(positions, frames, np.float64(len(sequence)), kind)
        return matrix.astype(np.float32) @ values

    fixed = pooled(sequence, kind)
    if statistics == "mean":
        return fixed
    return np.concatenate([fixed, pooled(np.sort(sequence, axis=0), LAST)], axis=-1)
