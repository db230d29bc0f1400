"""Dropout that draws the same mask however many devices the batch is cut over."""

import flax.linen as nn
import jax
import jax.numpy as jnp


class Dropout(nn.Module):
    """Zeroes each element with probability `rate` (rounded to 1/256), scales the rest up.

    One random 32-bit word serves four elements, because on CPU dropout's cost is its random bits.

    Attributes:
      rate: probability of a zero.
      batch_axis: name of the mapped axis that the batch (leading dimension) is cut over, if
        it is cut; every shard draws the whole batch's mask and keeps its own share.
    """

    rate: float
    batch_axis: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, rate: jax.Array | None = None) -> jax.Array:
        """`[B, ...]` -> the same shape and dtype; `x` itself without an rng "dropout".

        `rate`, a scalar that may be traced, takes the place of the attribute: layers that are one
        vmapped module can then have rates of their own.
        """
        threshold = round(self.rate * 256) if rate is None else jnp.round(rate * 256)
        if (rate is None and threshold == 0) or not self.has_rng("dropout"):
            return x
        shards = jax.lax.axis_size(self.batch_axis) if self.batch_axis else 1
        words = jax.random.bits(self.make_rng("dropout"), (-(-x.size * shards // 4),), "uint32")
        draws = jax.lax.bitcast_convert_type(words, jnp.uint8).reshape(-1)
        if self.batch_axis:
            start = jax.lax.axis_index(self.batch_axis) * x.size
            draws = jax.lax.dynamic_slice_in_dim(draws, start, x.size)
        keep = draws[: x.size].reshape(x.shape) >= threshold
        scale = jnp.float32(256 / (256 - threshold))  # so that bfloat16 does not round the mean
        return jnp.where(keep, x * scale, 0).astype(x.dtype)


def draw_normal(key: jax.Array, shape: tuple[int, ...], batch_axis: str | None) -> jax.Array:
    """Standard normal numbers of `shape` `[B, ...]`: the same whether the batch is cut or not."""
    if not batch_axis:
        return jax.random.normal(key, shape)
    whole = jax.random.normal(key, (shape[0] * jax.lax.axis_size(batch_axis), *shape[1:]))
    start = jax.lax.axis_index(batch_axis) * shape[0]
    return jax.lax.dynamic_slice_in_dim(whole, start, shape[0])
