"""Multi-head attention and the pre-norm blocks of the cross-modal fusion (paper, Eq. 10-13)."""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from cmarr_jax.nn.dense import Dense
from cmarr_jax.nn.gelu import gelu

_MASKED = -1e9  # finite, so that a sequence with no valid position gives a mean, not a NaN


def attend(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    mask: jax.Array,
    drop: Callable[[jax.Array], jax.Array] = lambda weights: weights,
) -> jax.Array:
    """Scaled dot-product attention (Vaswani et al., 2017, Eq. 1), softmax in float32.

    Args:
      query: `[B, Tq, H, D]`.
      key, value: `[B, Tk, H, D]`.
      mask: `[B, Tk]`; False = padding, which gets no weight.
      drop: applied to the weights `[B, H, Tq, Tk]`.

    Returns:
      `[B, Tq, H, D]`.
    """
    scores = jnp.einsum("bqhd,bkhd->bhqk", query, key).astype(jnp.float32)
    scores = jnp.where(mask[:, None, None, :], scores / jnp.sqrt(query.shape[-1]), _MASKED)
    weights = drop(jax.nn.softmax(scores, axis=-1).astype(value.dtype))
    return jnp.einsum("bhqk,bkhd->bqhd", weights, value)


class FeedForward(nn.Module):
    """D -> hidden -> D with GELU and dropout after both layers.

    Attributes:
      hidden: width of the hidden layer.
      dropout: makes a dropout layer.
      dtype: of the products, see `cmarr_jax.nn`.
    """

    hidden: int
    dropout: Callable[[], nn.Module]
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`[..., D]` -> `[..., D]`."""
        width = x.shape[-1]
        hidden = gelu(Dense(self.hidden, dtype=self.dtype)(x))
        return self.dropout()(Dense(width, dtype=self.dtype)(self.dropout()(hidden)))


class AttentionBlock(nn.Module):
    """Pre-norm transformer block; cross-attention if `context` is given, else self-attention.

    Attributes:
      num_heads: must divide the width.
      dropout: makes a dropout layer.
      hidden: width of the hidden feed-forward layer; 0 = four times the block's width.
      dtype: of the products, see `cmarr_jax.nn`.
    """

    num_heads: int
    dropout: Callable[[], nn.Module]
    hidden: int = 0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        mask: jax.Array,
        context: jax.Array | None = None,
        weight_dropout: jax.Array | None = None,
    ) -> jax.Array:
        """Queries `x` `[B, Tq, D]`; keys and values `context` `[B, Tk, D]`, masked by `[B, Tk]`.

        `weight_dropout` is the attention weights' rate, if it is another than `dropout`'s.
        """
        width = x.shape[-1]
        query = nn.LayerNorm(dtype=self.dtype)(x)
        context = query if context is None else nn.LayerNorm(dtype=self.dtype)(context)

        def heads(name, y):
            split = (self.num_heads, width // self.num_heads)
            return Dense(width, dtype=self.dtype, name=name)(y).reshape(*y.shape[:-1], *split)

        mixed = attend(
            heads("query", query),
            heads("key", context),
            heads("value", context),
            mask,
            functools.partial(self.dropout(), rate=weight_dropout),
        )
        out = Dense(width, dtype=self.dtype, name="out")(mixed.reshape(x.shape))
        x = x + self.dropout()(out)
        forward = FeedForward(self.hidden or 4 * width, self.dropout, self.dtype)
        return x + forward(nn.LayerNorm(dtype=self.dtype)(x))
