"""Normalisation of features, by statistics of a fold's training part alone."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Generic, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from cmarr_jax.data.pipeline import Corpus
from cmarr_jax.data.rows_on_disk import blocks

_QUANTILES = 201  # K, of each feature
_QUANTILE_VALUES = 8_000_000  # that are sorted at once, to bound the memory
_FARTHEST = 3.0  # the largest normal score, in standard deviations


A = TypeVar("A")  # of an array: jax.Array on the devices, np.ndarray on the host


class Statistics(NamedTuple, Generic[A]):
    """Of one run's training part; for R runs every leaf has R in front."""

    mean: dict[str, A]  # modality -> [D_m]
    scale: dict[str, A]  # modality -> [D_m], 1 / standard deviation
    quantiles: dict[str, A]  # modality -> [K, D_m]; empty = normalised by mean and scale


def normalise(
    features: Mapping[str, jax.Array],
    statistics: Statistics[jax.Array],
    dtype: DTypeLike = jnp.float32,
) -> dict[str, jax.Array]:
    """Modality -> `[B, T, D_m]` of any float type; the same normalised, in float32, as `dtype`."""
    normalised = {}
    for modality, values in features.items():
        x = values.astype(jnp.float32)
        if statistics.quantiles:
            x = normal_scores(x, statistics.quantiles[modality])
        mean, scale = statistics.mean[modality], statistics.scale[modality]
        x = (x - mean.reshape(1, 1, -1)) * scale.reshape(1, 1, -1)
        normalised[modality] = x.astype(dtype)
    return normalised


def normal_scores(x: jax.Array, quantiles: jax.Array) -> jax.Array:
    """Values mapped so that their feature becomes standard normal, cut to -3 to 3.

    Args:
      x: `[..., D]`.
      quantiles: `[K, D]`, at K equal steps of probability from 0 to 1; linear in between.
    """
    steps = jnp.linspace(0, 1, len(quantiles))
    scores = jnp.clip(jax.scipy.special.ndtri(steps), -_FARTHEST, _FARTHEST)
    along = jax.vmap(jnp.interp, in_axes=(-1, -1, None), out_axes=-1)
    return along(x, quantiles, scores)


def measure(
    corpus: Corpus,
    rows: np.ndarray,
    *,
    by_mean: bool,
    by_quantiles: bool,
    only: Sequence[str] = (),
) -> Statistics[np.ndarray]:
    """The statistics of one training part.

    Args:
      corpus: all utterances.
      rows: the utterances of the training part, `[n]`.
      by_mean: normalises to mean 0 and deviation 1; else features stay as they are.
      by_quantiles: normalises to normal scores instead; `by_mean` and `only` then do nothing.
      only: the modalities that `by_mean` acts on; () = all.
    """
    mean, scale, quantiles = {}, {}, {}
    for m, (modality, values) in enumerate(corpus.features.items()):
        having = rows[corpus.learnable[rows, m]]
        dim = values.shape[-1]
        mean[modality], scale[modality] = np.zeros(dim, np.float32), np.ones(dim, np.float32)
        count = int(corpus.mask[having].sum())
        if by_quantiles:
            quantiles[modality] = np.zeros((_QUANTILES, dim), np.float32)
        if by_quantiles and count:
            steps = np.linspace(0, 1, _QUANTILES)
            width = max(1, _QUANTILE_VALUES // count)
            for some in (slice(d, d + width) for d in range(0, dim, width)):
                known = [frames[:, some] for frames in _frames(corpus, modality, having)]
                known = np.concatenate(known).astype(np.float64)
                quantiles[modality][:, some] = np.quantile(known, steps, axis=0)
        elif by_mean and count and (not only or modality in only):
            total = sum(f.sum(0, dtype=np.float64) for f in _frames(corpus, modality, having))
            centre = total / count
            squares = sum(np.square(f - centre).sum(0) for f in _frames(corpus, modality, having))
            deviation = np.sqrt(squares / count)
            mean[modality] = centre.astype(np.float32)
            scale[modality] = (1 / np.where(deviation > 1e-6, deviation, 1)).astype(np.float32)
    return Statistics(mean, scale, quantiles)


def _frames(corpus: Corpus, modality: str, rows: np.ndarray) -> Iterator[np.ndarray]:
    """The valid positions `[F, D]` of the utterances `rows`, some at a time."""
    for some in (rows[block] for block in blocks(len(rows))):
        yield corpus.features[modality][some][corpus.mask[some]]
