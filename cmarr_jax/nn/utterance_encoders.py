"""The MMIN family's encoders: one vector for each utterance and modality (Zhao et al., ACL 2021).

Text goes through a convolutional network over tokens, everything else through an LSTM whose
steps are max-pooled. The published code pads a batch with zeros and pools over the padding, so
its predictions depend on what else is in the batch; here only valid positions are pooled.
"""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from cmarr_jax.nn.dense import affine, product

_LOWEST = -1e9  # finite, so that an utterance with no valid position gives no NaN gradient
_KERNEL = nn.initializers.he_normal()


class LSTMEncoder(nn.Module):
    """A one-layer LSTM; the maximum over its steps, or the last one.

    Attributes:
      features: hidden width H. PyTorch has 4 H parameters more, a second bias.
      pool: "max" or "last".
      dtype: of the products, see `cmarr_jax.nn`; gates and the cell are float32.
    """

    features: int
    pool: str = "max"
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        """`[B, T, D]` under `mask` `[B, T]` -> `[B, H]`."""
        width = self.features
        uniform = nn.initializers.uniform(2 / jnp.sqrt(width))  # PyTorch's, shifted below

        def init(key, shape):
            return uniform(key, shape) - 1 / jnp.sqrt(width)

        kernel = self.param("kernel", init, (x.shape[-1], 4 * width))
        recurrent = self.param("recurrent_kernel", init, (width, 4 * width))
        bias = self.param("bias", init, (4 * width,))
        inputs = affine(x.astype(self.dtype), kernel, bias)

        def step(carry, now):
            hidden, cell = carry
            gates, valid = now
            gates = gates + product(hidden, recurrent)
            i, f, g, o = jnp.split(gates.astype(jnp.float32), 4, axis=-1)
            new_cell = nn.sigmoid(f) * cell + nn.sigmoid(i) * jnp.tanh(g)
            new_hidden = (nn.sigmoid(o) * jnp.tanh(new_cell)).astype(hidden.dtype)
            keep = valid[:, None]
            carry = jnp.where(keep, new_hidden, hidden), jnp.where(keep, new_cell, cell)
            return carry, jnp.where(keep, new_hidden, _LOWEST)

        hidden, cell = (jnp.zeros((x.shape[0], width), d) for d in (inputs.dtype, jnp.float32))
        (last, _), steps = jax.lax.scan(
            step, (hidden, cell), (jnp.swapaxes(inputs, 0, 1), jnp.swapaxes(mask, 0, 1))
        )
        return last if self.pool == "last" else jnp.max(steps, axis=0)


class TextCNN(nn.Module):
    """Windows of 3, 4 and 5 tokens, the maximum over time of each map, one dense layer.

    Attributes:
      features: width of the result and maps of each window size.
      dropout: makes the dropout layer before the dense one.
      dtype: of the products, see `cmarr_jax.nn`.
    """

    features: int
    dropout: Callable[[], nn.Module]
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        """`[B, T, D]` under `mask` `[B, T]` -> `[B, features]`."""
        width = x.shape[-1]
        x = jnp.pad(x.astype(self.dtype) * mask[..., None], ((0, 0), (0, 4), (0, 0)))
        lengths = jnp.sum(mask, axis=1)
        position = jnp.arange(mask.shape[1])
        pooled = []
        for size in (3, 4, 5):
            kernel = self.param(f"kernel_{size}", _KERNEL, (size * width, self.features))
            bias = self.param(f"bias_{size}", nn.initializers.zeros, (self.features,))
            shifted = [x[:, k : k + mask.shape[1]] for k in range(size)]
            maps = affine(jnp.concatenate(shifted, axis=-1), kernel, bias)
            # An utterance shorter than the window has one window, filled up with padding.
            starts = jnp.maximum(lengths - size, 0)[:, None] >= position[None, :]
            pooled.append(jnp.max(jnp.where(starts[..., None], nn.relu(maps), _LOWEST), axis=1))
        hidden = self.dropout()(jnp.concatenate(pooled, axis=-1))
        return nn.relu(nn.Dense(self.features, kernel_init=_KERNEL, dtype=self.dtype)(hidden))


class UtteranceEncoders(nn.Module):
    """One encoder for each modality.

    Attributes:
      modalities: names, in the corpus' order.
      features: width of each vector.
      dropout: makes a dropout layer.
      text: the encoder of text: "cnn", "lstm" (max-pooled) or "lstm_last".
      dtype: of the products, see `cmarr_jax.nn`.
    """

    modalities: Sequence[str]
    features: int
    dropout: Callable[[], nn.Module]
    text: str = "cnn"
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, features: dict[str, jax.Array], mask: jax.Array, available: jax.Array
    ) -> jax.Array:
        """-> `[B, M, features]`; what is not `available` `[B, M]` counts as a zero input."""
        vectors = []
        for k, modality in enumerate(self.modalities):
            x = jnp.where(available[:, k, None, None], features[modality], 0)
            if modality == "text" and self.text == "cnn":
                encoder = TextCNN(self.features, self.dropout, self.dtype, name=modality)
            else:
                last = modality == "text" and self.text == "lstm_last"
                pool = "last" if last else "max"
                encoder = LSTMEncoder(self.features, pool, self.dtype, name=modality)
            vectors.append(encoder(x, mask))
        return jnp.stack(vectors, axis=1)


class Classifier(nn.Module):
    """Two hidden layers of Linear-ReLU-Dropout and a linear one.

    Attributes:
      num_classes: C.
      dropout: makes a dropout layer.
      hidden: width of both hidden layers.
      dtype: of the hidden layers' products, see `cmarr_jax.nn`; logits are float32.
    """

    num_classes: int
    dropout: Callable[[], nn.Module]
    hidden: int = 128
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`[B, D]` -> logits `[B, C]`."""
        for _ in range(2):
            dense = nn.Dense(self.hidden, kernel_init=_KERNEL, dtype=self.dtype)
            x = self.dropout()(nn.relu(dense(x)))
        return nn.Dense(self.num_classes, kernel_init=_KERNEL, dtype=jnp.float32)(x)
