"""The transformer layer that the encoders share (Vaswani et al., 2017, arXiv:1706.03762).

Matrix products run in the encoder's `dtype`; norms, softmax and the residual stream stay in
float32, so that bfloat16 costs rounding in the products alone.
"""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cmarr_jax.nn.dropout import Dropout
from cmarr_jax.nn.gelu import gelu

_MASKED = -1e9  # finite, so that a row of padding alone gives a mean, not a NaN
_LONG = 500  # positions from which a head's scores, of all rows at once, outgrow a CPU's cache


def quick_gelu(x: jax.Array) -> jax.Array:
    """x sigmoid(1.702 x), CLIP's approximation of GELU."""
    return x * nn.sigmoid(1.702 * x)


# Named as `hidden_act` of a Hugging Face configuration names them.
ACTIVATIONS = {
    "gelu": gelu,
    "gelu_new": nn.gelu,  # linen's is the approximation by tanh
    "gelu_pytorch_tanh": nn.gelu,
    "quick_gelu": quick_gelu,
    "relu": nn.relu,
    "tanh": jnp.tanh,
}
# What a layer adds to its scores, from what attention sees `[B, T, D]`, the queries and keys
# `[B, T, H, D/H]` made from it, and the projections that made them, by name.
Bias = Callable[[jax.Array, jax.Array, jax.Array, Mapping[str, nn.Dense]], jax.Array]


class Layer(nn.Module):
    """Self-attention and feed-forward, each with its residual and LayerNorm.

    Attributes:
      num_heads: H; divides D.
      hidden_features: hidden width of the feed-forward layers.
      epsilon: of the LayerNorms.
      dtype: of the matrix products.
      pre_norm: norms what goes into a residual branch, instead of the sum after it.
      activation: a name in `ACTIVATIONS`.
      key_bias: whether the projection to keys has a bias.
      residual_scale: whether each branch is multiplied by one learned number a channel before it
        is added (LayerScale, Touvron et al., 2021, arXiv:2103.17239).
      score_scale: of a query's product with a key; None = 1 / sqrt(D / H).
      hidden_dropout: rate of dropout on what each branch gives; of every rate, see `Dropout`.
      attention_dropout: on attention's weights, after the softmax.
      activation_dropout: on what the activation gives.
      drop_attended: whether `hidden_dropout` holds for attention's branch too.
      batch_axis: that of `Dropout`.
    """

    num_heads: int
    hidden_features: int
    epsilon: float
    dtype: jnp.dtype
    pre_norm: bool = False
    activation: str = "gelu"
    key_bias: bool = True
    residual_scale: bool = False
    score_scale: float | None = None
    hidden_dropout: float = 0.0
    attention_dropout: float = 0.0
    activation_dropout: float = 0.0
    drop_attended: bool = True
    batch_axis: str | None = None

    @nn.compact
    def __call__(
        self, x: jax.Array, mask: jax.Array, bias: jax.Array | Bias | None = None
    ) -> jax.Array:
        """Encodes.

        Args:
          x: `[B, T, D]` float32.
          mask: `[B, T]`, False = padding.
          bias: added to the scores before the softmax, broadcast to `[B, H, T, T]`; queries come
            before keys. Or what makes it.

        Returns:
          `[B, T, D]` float32.
        """
        width = x.shape[-1]
        norm_attention = nn.LayerNorm(self.epsilon, name="attention_norm")
        norm_feed_forward = nn.LayerNorm(self.epsilon, name="feed_forward_norm")

        def add(x, branch, name):
            if self.residual_scale:
                branch = branch * self.param(name, nn.initializers.ones, (width,))[None, None]
            return x + branch

        def drop(branch, rate):
            return Dropout(rate, self.batch_axis)(branch)

        inner = norm_attention(x) if self.pre_norm else x

        biased = {"query": True, "key": self.key_bias, "value": True}
        project = {
            name: nn.Dense(width, use_bias=use, dtype=self.dtype, name=name)
            for name, use in biased.items()
        }
        heads = (*x.shape[:-1], self.num_heads, width // self.num_heads)
        query, key, value = (dense(inner).reshape(heads) for dense in project.values())
        if callable(bias):
            bias = bias(inner, query, key, project)
        keys = self._keys(len(x)) if self.attention_dropout else None
        mixed = attend(
            query, key, value, mask, bias, self.score_scale, self.attention_dropout, keys
        )
        mixed = nn.Dense(width, dtype=self.dtype, name="out")(mixed.reshape(x.shape))
        mixed = drop(mixed, self.hidden_dropout if self.drop_attended else 0.0)
        x = add(x, mixed, "attention_scale")
        x = x if self.pre_norm else norm_attention(x)
        inner = norm_feed_forward(x) if self.pre_norm else x
        hidden = nn.Dense(self.hidden_features, dtype=self.dtype, name="expand")(inner)
        hidden = drop(ACTIVATIONS[self.activation](hidden), self.activation_dropout)
        hidden = nn.Dense(width, dtype=self.dtype, name="contract")(hidden)
        x = add(x, drop(hidden, self.hidden_dropout), "feed_forward_scale")
        return x if self.pre_norm else norm_feed_forward(x)

    def _keys(self, rows: int) -> jax.Array | None:
        """A key for each row and head, `[B, H]`, alike whether the batch is cut; None: no rng."""
        if not self.has_rng("dropout"):
            return None
        shards = jax.lax.axis_size(self.batch_axis) if self.batch_axis else 1
        keys = jax.random.split(self.make_rng("dropout"), (rows * shards, self.num_heads))
        if self.batch_axis:
            start = jax.lax.axis_index(self.batch_axis) * rows
            keys = jax.lax.dynamic_slice_in_dim(keys, start, rows)
        return keys


def run_layers(
    encoder: Any,
    x: jax.Array,
    mask: jax.Array,
    start: int | None,
    epsilon: float,
    bias: Callable[[Any, int], jax.Array | Bias | None] = lambda encoder, k: None,
    after: Callable[[int, jax.Array, jax.Array], jax.Array] = lambda k, before, x: x,
    **fields: Any,
) -> list[jax.Array]:
    """Hidden states `start` to the last; called in the `__call__` of an encoder.

    What all layers drop, what goes into the first one drops too: so the families were published.
    LayerDrop (Fan et al., 2020, arXiv:1909.11556), with which some speech models were trained, is
    left out.

    Args:
      encoder: its attributes say what its layers are; layer k becomes its `layer_k`.
      x: state number `start`, `[B, T, D]` float32.
      mask: `[B, T]`, False = padding.
      start: layers passed over; None = 0.
      epsilon: of the LayerNorms.
      bias: the encoder and k -> layer k's, see `Layer`.
      after: k, what went into layer k and what it gave -> state k + 1.
      **fields: further attributes of `Layer`.

    Returns:
      `num_layers - start + 1` times `[B, T, D]` float32; the first is `x`, the last not normed.
    """
    first = start or 0
    if not 0 <= first < encoder.num_layers:
        raise ValueError(f"start is {start}, wanted 0 to {encoder.num_layers - 1}")
    states = [x]
    if first == 0:
        x = Dropout(encoder.hidden_dropout, encoder.batch_axis)(x)
    for k in range(first, encoder.num_layers):

        def layer(encoder: Any, x: jax.Array, mask: jax.Array, k: int = k) -> jax.Array:
            return Layer(
                encoder.num_heads,
                encoder.hidden_features,
                epsilon,
                encoder.dtype,
                hidden_dropout=encoder.hidden_dropout,
                attention_dropout=encoder.attention_dropout,
                batch_axis=encoder.batch_axis,
                name=f"layer_{k}",
                **fields,
            )(x, mask, bias(encoder, k))

        run = nn.remat(layer) if encoder.recompute else layer
        x = after(k, x, run(encoder, x, mask))
        states.append(x)
    return states


def attend(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    mask: jax.Array,
    bias: jax.Array | None = None,
    scale: float | None = None,
    dropout: float = 0.0,
    keys: jax.Array | None = None,
) -> jax.Array:
    """Scaled dot-product attention, `[B, T, H, D]`; `bias` and `scale` as `Layer` has them.

    With `keys` `[B, H]` each row's head drops its weights at the rate `dropout`.

    Twice as fast on XLA:CPU as `cmarr_jax.nn.attention.attend` at speech's lengths: heads come
    before time, so that both products are plain batched ones, and the division by the weights'
    sum comes after the second.
    """
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    query = query.transpose(0, 2, 1, 3) * np.array(scale, query.dtype)
    key, value = key.transpose(0, 2, 3, 1), value.transpose(0, 2, 1, 3)
    hidden = jnp.where(mask, 0, _MASKED)[:, None, None, :]

    def drop(weights, key):
        return Dropout(dropout).apply({}, weights, rngs={"dropout": key})

    if bias is None and mask.shape[1] >= _LONG and jax.default_backend() == "cpu":
        # One head after the other: its scores stay in the cache, half the time at 1,500 frames.
        hidden = jnp.broadcast_to(hidden, (*query.shape[:2], 1, mask.shape[1]))
        given = (query, key, value, hidden, *(() if keys is None else (keys,)))
        parts = [x.reshape(-1, *x.shape[2:]) for x in given]
        mixed = jax.lax.map(lambda part: _attend(*part[:4], drop, *part[4:]), parts)
        mixed = mixed.reshape(query.shape)
    else:
        hidden = hidden if bias is None else bias + hidden
        mixed = _attend(query, key, value, hidden, jax.vmap(jax.vmap(drop)), keys)
    return mixed.transpose(0, 2, 1, 3)


def _attend(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    bias: jax.Array,
    drop: Callable[[jax.Array, jax.Array], jax.Array],
    keys: jax.Array | None = None,
) -> jax.Array:
    """`[..., T, D]`, `[..., D, T]` and `[..., T, D]` -> `[..., T, D]`; `keys` is for `drop`."""
    scores = jnp.matmul(query, key, preferred_element_type=jnp.float32) + bias
    # The maximum changes no weight. Its gradient compares scores that XLA computes twice, not
    # always to the same bits, and would divide by the number of equal ones, 0.
    highest = jax.lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True))
    weights = jnp.exp(scores - highest)
    # What is dropped counts in the sum: it is the softmax that drops.
    kept = weights if keys is None else drop(weights, keys)
    mixed = kept.astype(value.dtype) @ value
    return mixed / jnp.sum(weights, axis=-1, keepdims=True).astype(value.dtype)
