"""Whether a posterior of 0.8 is right eight times in ten.

The reliability diagram and the expected calibration error over bins of equal width, as Guo et
al., *On Calibration of Modern Neural Networks* (ICML 2017), define them.
"""

from typing import NamedTuple

import numpy as np


class Reliability(NamedTuple):
    """B bins of confidence, the posterior of the predicted class; NaN in an empty bin."""

    edges: np.ndarray  # [B + 1], 0 to 1; a bin holds (low, high]
    share: np.ndarray  # [B], of the predictions, sums to 1
    confidence: np.ndarray  # [B], mean
    accuracy: np.ndarray  # [B]
    ece: float  # mean of |accuracy - confidence| over the predictions


def reliability(posteriors: np.ndarray, labels: np.ndarray, bins: int = 10) -> Reliability:
    """Bins the predictions by their confidence.

    Args:
      posteriors: `[n, C]`.
      labels: `[n]` class indices.
      bins: B.

    Returns:
      The bins; all NaN, and so the ECE, for n = 0.
    """
    edges = np.linspace(0, 1, bins + 1)
    confidence = posteriors.max(axis=-1)
    right = posteriors.argmax(axis=-1) == labels
    bin_of = np.digitize(confidence, edges[1:-1], right=True)
    counts = np.bincount(bin_of, minlength=bins)
    with np.errstate(invalid="ignore"):
        share = counts / len(labels) if len(labels) else np.full(bins, np.nan)
        sums = [np.bincount(bin_of, weights=x, minlength=bins) for x in (confidence, right)]
        means = [of_bin / counts for of_bin in sums]
    gaps = np.abs(means[1] - means[0]) * share
    ece = float(gaps[counts > 0].sum()) if len(labels) else float("nan")
    return Reliability(edges, share, *means, ece)
