"""Dense layers over positions, as XLA:CPU differentiates them fastest."""

import functools

import flax.linen as nn
import jax


def product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`[..., D]` times `[D, F]` -> `[..., F]`, with all positions in one dimension.

    The kernel's gradient sums over positions. Where these take two dimensions, utterances and
    time, XLA:CPU transposes the cotangent before it does.
    """
    return (x.reshape(-1, x.shape[-1]) @ kernel).reshape(*x.shape[:-1], kernel.shape[-1])


def _dot_general(x: jax.Array, kernel: jax.Array, dimensions: tuple, precision: None) -> jax.Array:
    del dimensions, precision  # flax.linen.Dense's, always those of a product
    return product(x, kernel)


Dense = functools.partial(nn.Dense, dot_general=_dot_general)
