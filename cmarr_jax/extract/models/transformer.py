"""The post-norm transformer layer that BERT and wav2vec2-base share (Vaswani et al., 2017).

Matrix products run in the encoder's `dtype`; norms, softmax and the residual stream stay in
float32, so that bfloat16 costs rounding in the products alone.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cmarr_jax.nn.gelu import gelu

_MASKED = -1e9  # finite, so that a row of padding alone gives a mean, not a NaN


class Layer(nn.Module):
    """Self-attention and feed-forward, each followed by its residual and LayerNorm.

    Attributes:
      num_heads: H; divides D.
      hidden_features: hidden width of the feed-forward layers.
      epsilon: of the LayerNorms.
      dtype: of the matrix products.
    """

    num_heads: int
    hidden_features: int
    epsilon: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        """`x` `[B, T, D]` float32, `mask` `[B, T]`, False = padding -> `[B, T, D]` float32."""
        width = x.shape[-1]

        def heads(name):
            split = (self.num_heads, width // self.num_heads)
            return nn.Dense(width, dtype=self.dtype, name=name)(x).reshape(*x.shape[:-1], *split)

        mixed = _attend(heads("query"), heads("key"), heads("value"), mask).reshape(x.shape)
        x = x + nn.Dense(width, dtype=self.dtype, name="out")(mixed)
        x = nn.LayerNorm(self.epsilon, name="attention_norm")(x)
        hidden = nn.Dense(self.hidden_features, dtype=self.dtype, name="expand")(x)
        x = x + nn.Dense(width, dtype=self.dtype, name="contract")(gelu(hidden))
        return nn.LayerNorm(self.epsilon, name="feed_forward_norm")(x)


def _attend(query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array) -> jax.Array:
    """Scaled dot-product attention, `[B, T, H, D]`.

    Twice as fast on XLA:CPU as `cmarr_jax.nn.attention.attend` at speech's lengths: heads come
    before time, so that both products are plain batched ones, and the division by the weights'
    sum comes after the second.
    """
    query = query.transpose(0, 2, 1, 3) * np.array(query.shape[-1] ** -0.5, query.dtype)
    key = key.transpose(0, 2, 3, 1)
    scores = jnp.matmul(query, key, preferred_element_type=jnp.float32)
    scores = scores + jnp.where(mask, 0, _MASKED)[:, None, None, :]
    weights = jnp.exp(scores - jnp.max(scores, axis=-1, keepdims=True))
    mixed = weights.astype(value.dtype) @ value.transpose(0, 2, 1, 3)
    mixed = mixed / jnp.sum(weights, axis=-1, keepdims=True).astype(value.dtype)
    return mixed.transpose(0, 2, 1, 3)
