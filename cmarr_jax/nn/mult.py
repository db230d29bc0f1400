"""MulT's fusion (Tsai et al., ACL 2019): every modality attends to every other one."""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from cmarr_jax.nn.attention import AttentionBlock
from cmarr_jax.nn.dense import Dense
from cmarr_jax.nn.umc import masked_mean


class MulT(nn.Module):
    """Cross-modal stacks for each ordered pair, a self-attention stack for each target.

    The published code is causal and reads the last step. Here padded utterances end at different
    steps, so attention sees the whole utterance and the result is the mean over it. The blocks are
    this library's (GELU, no norm after the last one). Stacks of equal shape are one vmapped module
    with scanned layers.

    Attributes:
      num_modalities: M, at least 2.
      num_layers: of a cross-modal stack; a self-attention stack has three at least.
      num_heads: must divide D.
      dropout: makes a dropout layer, after attention and in the feed-forward layers.
      embed_dropout: makes that of every stack's inputs.
      weight_dropout: rates of the attention weights, one for each modality that is attended to,
        and that of the self-attention stacks.
      dtype: of the products, see `cmarr_jax.nn`.
    """

    num_modalities: int
    num_layers: int
    num_heads: int
    dropout: Callable[[], nn.Module]
    embed_dropout: Callable[[], nn.Module]
    weight_dropout: tuple[tuple[float, ...], float]
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, inputs: jax.Array, mask: jax.Array) -> jax.Array:
        """`[M, B, T, D]` under `mask` `[B, T]` -> `[B, M * (M - 1) * D]`."""
        m, _, length, width = inputs.shape
        inputs = jnp.sqrt(width) * inputs + _positions(length, width)[None, None]
        inputs = inputs.astype(self.dtype)
        pairs = [(n, k) for n in range(m) for k in range(m) if n != k]
        target, source = (jnp.stack([inputs[p[i]] for p in pairs]) for i in (0, 1))
        target, source = self.embed_dropout()(target), self.embed_dropout()(source)
        of_source, of_self = self.weight_dropout
        rates = jnp.float32([of_source[k] for _, k in pairs])
        crossed = _stack(self, len(pairs), self.num_layers, "cross")(target, mask, source, rates)
        joined = crossed.reshape(m, m - 1, *crossed.shape[1:])
        joined = jnp.concatenate(list(jnp.swapaxes(joined, 0, 1)), axis=-1)
        joined = self.embed_dropout()(joined)
        rates = jnp.full(m, of_self, jnp.float32)
        mixed = _stack(self, m, max(self.num_layers, 3), "self")(joined, mask, None, rates)
        return jnp.concatenate([masked_mean(x, mask) for x in mixed], axis=-1)


class _Layer(nn.Module):
    """One block; a scan body over a stack's layers."""

    num_heads: int
    dropout: Callable[[], nn.Module]
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self, x: jax.Array, mask: jax.Array, context: jax.Array | None, rate: jax.Array
    ) -> tuple[jax.Array, None]:
        block = AttentionBlock(self.num_heads, self.dropout, dtype=self.dtype)
        return block(x, mask, context, rate), None


def _stack(net: MulT, num: int, layers: int, name: str) -> Callable:
    """`num` stacks of `layers` blocks side by side: `[num, B, T, D]`, `[B, T]`, context, rates."""
    scanned = functools.partial(
        nn.scan,
        variable_axes={"params": 0},
        split_rngs={"params": True, "dropout": True},
        in_axes=nn.broadcast,
        length=layers,
    )
    beside = functools.partial(
        nn.vmap,
        variable_axes={"params": 0},
        split_rngs={"params": True, "dropout": True},
        axis_size=num,
    )
    blocks = beside(scanned(_Layer), in_axes=(0, None, 0 if name == "cross" else None, 0))
    module = blocks(net.num_heads, net.dropout, net.dtype, name=name)
    return lambda *args: module(*args)[0]


def _positions(length: int, width: int) -> np.ndarray:
    """Sinusoids, `[T, D]` (Vaswani et al., 2017)."""
    rates = 10_000 ** (-np.arange(0, width, 2) / width)
    angles = np.arange(1, length + 1)[:, None] * rates[None]
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)[:, :width]


class ResidualMLP(nn.Module):
    """x + Linear Dropout ReLU Linear x, then the classifier."""

    num_classes: int
    dropout: Callable[[], nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`[B, D]` -> logits `[B, C]`."""
        hidden = self.dropout()(nn.relu(Dense(x.shape[-1])(x)))
        return Dense(self.num_classes)(x + Dense(x.shape[-1])(hidden))
