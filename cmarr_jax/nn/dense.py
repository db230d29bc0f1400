"""Dense layers over positions, as XLA:CPU differentiates them fastest."""

import functools

import flax.linen as nn
import jax


def product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`[..., D]` times `[D, F]` -> `[..., F]`, with all positions in one dimension.

    The product is in the type of `x`, whatever the kernel's is.

    The kernel's gradient is a sum over positions. If these lie in two dimensions, utterances and
    time, XLA:CPU first transposes the cotangent.
    """
    rows = x.reshape(-1, x.shape[-1]) @ kernel.astype(x.dtype)
    return rows.reshape(*x.shape[:-1], kernel.shape[-1])


def affine(x: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
    """`product` plus a bias `[F]`, in the type of `x`."""
    ones = (1,) * (x.ndim - 1)
    return product(x, kernel) + bias.astype(x.dtype).reshape(*ones, -1)


def _dot_general(x: jax.Array, kernel: jax.Array, dimensions: tuple, precision: None) -> jax.Array:
    del dimensions, precision  # flax.linen.Dense always asks for a plain product
    return product(x, kernel)


Dense = functools.partial(nn.Dense, dot_general=_dot_general)
