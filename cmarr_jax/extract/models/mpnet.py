"""MPNet (Song et al., 2020, arXiv:2004.09297): one bias by distance for every layer's attention."""

import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cmarr_jax.extract.models import bert
from cmarr_jax.extract.models.config import of_bert, require
from cmarr_jax.extract.models.tensors import Tensors
from cmarr_jax.extract.models.transformer import run_layers

_PADDING = 1  # the reference implementation's, whatever a config says
_NUM_BUCKETS = 32
_MAX_DISTANCE = 128
_MODULES = {"distances": "encoder.relative_attention_bias"}
_LAYER = {
    "query": "attention.attn.q",
    "key": "attention.attn.k",
    "value": "attention.attn.v",
    "out": "attention.attn.o",
    "attention_norm": "attention.LayerNorm",
}


class MPNet(nn.Module):
    """Token vectors; its attributes are `bert.Bert`'s."""

    vocab_size: int
    num_positions: int
    features: int
    num_layers: int
    num_heads: int
    hidden_features: int
    epsilon: float
    dtype: jnp.dtype
    activation: str = "gelu"
    hidden_dropout: float = 0.0
    attention_dropout: float = 0.0
    batch_axis: str | None = None
    recompute: bool = False

    @property
    def max_length(self) -> int:
        """Tokens that have a position."""
        return self.num_positions - _PADDING - 1

    @nn.compact
    def __call__(
        self, inputs: jax.Array, mask: jax.Array, start: int | None = None
    ) -> list[jax.Array]:
        """As `bert.Bert`."""
        x = self._embed(inputs) if start is None else inputs
        by_distance = nn.Embed(_NUM_BUCKETS, self.num_heads, name="distances")
        bias = by_distance(buckets(x.shape[1])).transpose(2, 0, 1)[None]
        return run_layers(
            self,
            x,
            mask,
            start,
            self.epsilon,
            lambda encoder, k: bias,
            activation=self.activation,
        )

    def _embed(self, ids: jax.Array) -> jax.Array:
        x = nn.Embed(self.vocab_size, self.features, name="tokens")(ids)
        positions = nn.Embed(self.num_positions, self.features, name="positions")
        place = positions(bert.token_positions(ids, _PADDING))
        return nn.LayerNorm(self.epsilon, name="embedding_norm")(x + place)


def buckets(length: int) -> np.ndarray:
    """T5's buckets of the distances between `length` tokens (Raffel et al., 2020, 1910.10683).

    Half of the 32 are of keys after the query. In each half the first eight hold one distance, the
    rest grow with its logarithm, and the last takes all from 128 on.

    Returns:
      `[T, T]` int32, queries before keys.
    """
    half = _NUM_BUCKETS // 2
    exact = half // 2
    ahead = np.arange(length)[None] - np.arange(length)[:, None]
    distance = np.abs(ahead)
    share = np.log(np.maximum(distance, 1).astype(np.float32) / np.float32(exact))
    share = share / np.float32(math.log(_MAX_DISTANCE / exact)) * np.float32(half - exact)
    large = np.minimum(exact + share.astype(np.int32), half - 1)
    return (np.where(distance < exact, distance, large) + half * (ahead > 0)).astype(np.int32)


def from_config(file: str, config: Mapping[str, Any], dtype: jnp.dtype) -> MPNet:
    """The module that a Hugging Face `config.json` describes, see `bert.from_config`."""
    require(file, config, {"relative_attention_num_buckets": (_NUM_BUCKETS,)})
    return MPNet(**of_bert(file, config), dtype=dtype)


def tensors(module: MPNet) -> Tensors:
    """The names of a published checkpoint's tensors."""
    layers = {
        f"layer_{k}/{ours}": f"encoder.layer.{k}.{theirs}"
        for k in range(module.num_layers)
        for ours, theirs in (bert.LAYER | _LAYER).items()
    }
    return Tensors(("mpnet.",), bert.EMBEDDINGS | _MODULES | layers, bert.IGNORED, bert.INPUTS)
