"""Uncertainty modelling component (UMC): from points to Gaussians (paper, Fig. 3)."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from cmarr_jax.nn.attention import FeedForward, attend
from cmarr_jax.nn.dense import Dense
from cmarr_jax.nn.gelu import gelu

_INIT = nn.initializers.normal(0.02)  # MAP's
_EPSILON = 1e-5  # PyTorch's LayerNorm


class Gaussian(NamedTuple):
    """Diagonal Gaussians: `mu` and `log_sigma`, the logarithm of the standard deviation."""

    mu: jax.Array
    log_sigma: jax.Array


class UMC(nn.Module):
    """MAP's probability distribution encoder (Ji et al., CVPR 2023, arXiv:2210.05335).

    Attention mixes positions; half of its heads feed the mean, half the deviation. MLPs mix
    features. The mean keeps a residual from the input, the deviation does not.

    Attributes:
      variant: "pde" as above; "mlp" leaves the attention out.
      num_heads: even; divides the width.
      mlp_ratio: hidden width of the MLPs over the width.
      log_sigma_range: bounds of log_sigma; () = none, as MAP: sigma = exp(log_sigma) may overflow.
      dropout: makes a dropout layer.
      dtype: of the products, see `cmarr_jax.nn`.
    """

    variant: str
    num_heads: int
    mlp_ratio: int
    log_sigma_range: tuple[float, ...]
    dropout: Callable[[], nn.Module]
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array) -> Gaussian:
        """`x` `[B, T, D]` -> one Gaussian for each position, `mu` and `log_sigma` `[B, T, D]`."""
        batch, length, width = x.shape
        dense = functools.partial(Dense, kernel_init=_INIT, dtype=self.dtype)

        def norm(y):
            return nn.LayerNorm(epsilon=_EPSILON, dtype=self.dtype)(y)

        def mlp(y):
            return FeedForward(self.mlp_ratio * width, self.dropout, self.dtype)(norm(y))

        hidden = norm(gelu(dense(width)(x)))
        if self.variant == "mlp":
            mu, log_sigma = x, hidden
        else:
            heads = (batch, length, 3, self.num_heads, width // self.num_heads)
            qkv = dense(3 * width, use_bias=False)(hidden).reshape(heads)
            mixed = attend(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2], mask, self.dropout())
            for_mu, for_sigma = jnp.split(mixed.reshape(x.shape), 2, axis=-1)
            mu = x + self.dropout()(dense(width)(for_mu))
            log_sigma = self.dropout()(dense(width)(for_sigma))
        mu = mu + mlp(mu)
        log_sigma = log_sigma + mlp(log_sigma)
        if self.log_sigma_range:
            log_sigma = jnp.clip(log_sigma, *self.log_sigma_range)
        return Gaussian(mu, log_sigma)


class GaussianPooling(nn.Module):
    """From a Gaussian for each position to one for each utterance, in float32.

    Attributes:
      kind: "mean" over the valid positions; "first" position (MAP's [CLS]); "attn", a learned
        weighting.
    """

    kind: str

    @nn.compact
    def __call__(self, tokens: Gaussian, mask: jax.Array) -> Gaussian:
        """`[B, T, D]` -> `[B, D]`."""
        if self.kind == "first":
            return Gaussian(*(t[:, 0].astype(jnp.float32) for t in tokens))
        if self.kind == "attn":
            scores = Dense(1, kernel_init=nn.initializers.zeros, dtype=jnp.float32)(tokens.mu)[
                ..., 0
            ]
            weights = jax.nn.softmax(jnp.where(mask, scores, -1e9), axis=-1)[..., None]
            return Gaussian(*(jnp.sum(weights * t, axis=1) for t in tokens))
        return Gaussian(*(masked_mean(t, mask) for t in tokens))


def masked_mean(x: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean over the valid positions, `[B, T, D]` and `[B, T]` -> `[B, D]`; 0 if none is valid.

    The result is float32.
    """
    weights = mask.astype(jnp.float32)[..., None]
    return jnp.sum(x * weights, axis=-2) / jnp.maximum(jnp.sum(weights, axis=-2), 1)
