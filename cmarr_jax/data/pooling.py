"""Adaptive average pooling of a sequence to a fixed length, as one small matrix.

Pooling every modality of an utterance to the same T puts position i of each at the same
relative time, which the mean of latents (paper, Eq. 7) silently needs.
"""

import numpy as np


def weights(length: int, target: int) -> np.ndarray:
    """Averaging weights W `[target, length]` with `pooled = W @ sequence`; rows sum to one.

    Row i averages frames floor(i * length / target) to ceil((i + 1) * length / target), so a
    sequence shorter than the target repeats frames and a longer one is averaged. A length of
    zero gives `[target, 0]`: the pooled sequence is zero.
    """
    positions = np.arange(target)
    first = positions * length // target
    last = -(-(positions + 1) * length // target)
    frames = np.arange(length)
    inside = (frames >= first[:, None]) & (frames < last[:, None])
    return inside / np.maximum(last - first, 1)[:, None].astype(np.float32)


def pool(sequence: np.ndarray, target: int) -> np.ndarray:
    """`[T, D]` -> `[target, D]` float32."""
    return weights(len(sequence), target).astype(np.float32) @ sequence.astype(np.float32)
