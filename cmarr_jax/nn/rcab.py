"""Reconstruction head of residual channel-attention blocks (RCAN, ECCV 2018), in 1-D.

In the order of DiCMoR (Wang et al., ICCV 2023): widen, a group of blocks with a long skip, narrow.
Channel statistics are taken over valid positions only.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from cmarr_jax.nn.conv import Conv1D
from cmarr_jax.nn.dense import Dense
from cmarr_jax.nn.umc import masked_mean


class RCAB(nn.Module):
    """x + CA(conv(relu(conv(x)))), CA(y) = y * sigmoid(W2 relu(W1 mean_t y)).

    Attributes:
      reduction: the width divided by that of the channel attention's bottleneck.
      kernel_size: of the convolutions.
      dtype: of the products, see `cmarr_jax.nn`.
    """

    reduction: int
    kernel_size: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array) -> tuple[jax.Array, None]:
        """`[B, T, D]` -> `[B, T, D]`; the None makes it a scan body."""
        width, valid = x.shape[-1], mask[..., None]
        conv = functools.partial(Conv1D, width, self.kernel_size, dtype=self.dtype)
        y = nn.relu(conv()(x)) * valid
        y = conv()(y)
        dense = functools.partial(Dense, dtype=self.dtype)
        gate = nn.relu(dense(max(1, width // self.reduction))(masked_mean(y, mask)))
        gate = nn.sigmoid(dense(width)(gate))
        return (x + y * gate[:, None, :]) * valid, None


class ReconstructionHead(nn.Module):
    """D -> expansion * D, `num_blocks` RCABs and a convolution with a long skip, -> D.

    Attributes:
      num_blocks: blocks in a row; DiCMoR's 20 have 8.3 M parameters at D = 128, 4 have 1.9 M.
      expansion: inner width over D.
      reduction: of the channel attention.
      kernel_size: of the convolutions.
      dtype: of the products, see `cmarr_jax.nn`.
    """

    num_blocks: int
    expansion: int = 2
    reduction: int = 16
    kernel_size: int = 3
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        """`[B, T, D]` under `mask` `[B, T]` -> `[B, T, D]`, zero where padded."""
        width, valid = x.shape[-1], mask[..., None]
        wide = Dense(self.expansion * width, dtype=self.dtype)(x) * valid
        blocks = nn.scan(
            RCAB,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=nn.broadcast,
            length=self.num_blocks,
        )(self.reduction, self.kernel_size, self.dtype)
        refined, _ = blocks(wide, mask)
        conv = Conv1D(wide.shape[-1], self.kernel_size, dtype=self.dtype)
        refined = wide + conv(refined) * valid
        return Dense(width, dtype=self.dtype)(refined) * valid
