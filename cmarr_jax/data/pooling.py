"""A sequence at a fixed length, by adaptive average pooling or interpolation, as one matrix.

Bringing every modality of an utterance to the same T puts position i of each at the same
relative time, which the mean of latents (paper, Eq. 7) silently needs.
"""

from typing import Any

import numpy as np

KINDS = ("pool", "interp")


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
      kind: one of `KINDS`.
      xp: the arrays' module, `numpy` or `tensorflow`, so that both loaders share one formula.
    """
    target = positions.shape[0]
    if kind == "interp":
        place = (positions + 0.5) * length / target - 0.5
        place = xp.minimum(xp.maximum(place, 0.0), xp.maximum(length - 1.0, 0.0))
        return xp.maximum(1.0 - xp.abs(place[:, None] - frames), 0.0)
    first = positions * length // target
    last = -(-(positions + 1.0) * length // target)
    inside = (frames >= first[:, None]) & (frames < last[:, None])
    return xp.where(inside, 1.0 / xp.maximum(last - first, 1.0)[:, None], 0.0)


def fix_length(sequence: np.ndarray, target: int, kind: str = "pool") -> np.ndarray:
    """`[length, D]` -> `[target, D]` float32."""
    length = len(sequence)
    matrix = weights(np.arange(target) * 1.0, np.arange(length) * 1.0, np.float64(length), kind)
    return matrix.astype(np.float32) @ sequence.astype(np.float32)
