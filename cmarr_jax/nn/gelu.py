"""GELU as XLA:CPU computes it fastest (Hendrycks and Gimpel, 2016)."""

import jax
import numpy as np


def gelu(x: jax.Array) -> jax.Array:
    """Exact GELU, x times the normal distribution's cumulative function.

    `jax.nn.gelu` goes through erfc, which takes XLA:CPU about three times as long as erf.
    """
    return 0.5 * x * (1 + jax.lax.erf(x * np.array(0.5**0.5, x.dtype)))
