"""DeBERTa of the second and third version (He et al., 2021, arXiv:2006.03654, 2111.09543).

Attention is disentangled: a token meets another by content, and content meets distance both ways.
With distance d = i - j of a query i and a key j, and its embedding r(d),

    score = (q_i k_j + q_i K r(d) + k_j Q r(d)) / sqrt(3 D / H)

where K and Q are the projections that make keys and queries, or a pair of their own.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cmarr_jax.errors import UserError
from cmarr_jax.extract.models import bert
from cmarr_jax.extract.models.config import activation, of_bert, require, whole
from cmarr_jax.extract.models.tensors import Tensors
from cmarr_jax.extract.models.transformer import ACTIVATIONS, Bias, run_layers
from cmarr_jax.nn.dropout import Dropout

_MODULES = {
    "embedding_projection": "embeddings.embed_proj",
    "distances": "encoder.rel_embeddings",
    "distance_norm": "encoder.LayerNorm",
    "convolution": "encoder.conv.conv",
    "convolution_norm": "encoder.conv.LayerNorm",
}
_LAYER = {
    "query": "attention.self.query_proj",
    "key": "attention.self.key_proj",
    "value": "attention.self.value_proj",
    "distance_key": "attention.self.pos_key_proj",
    "distance_query": "attention.self.pos_query_proj",
}
_FARTHEST = 100_000  # tokens
# Of fields that a config may leave out and that transformers does not fill in.
_DEFAULTS = {
    "share_att_key": False,
    "norm_rel_ebd": "none",
    "position_buckets": -1,
    "conv_kernel_size": 0,
    "conv_act": "tanh",
}
# The third version's own heads, and a table of positions that is published and not used.
_IGNORED = rf"({bert.IGNORED}|(lm|mask)_predictions\..*|embeddings\.position_embeddings\.weight)"


class Deberta(nn.Module):
    """Token vectors; attributes that are not said here are `bert.Bert`'s.

    The embeddings of the distances drop as the tokens' do, alike in all rows, anew in each layer.

    Attributes:
      num_positions: the largest length that was trained.
      absolute: whether the embeddings have a table of positions.
      embedding_features: of the embeddings, which a matrix brings to D if they have others.
      buckets: distances up to half of them have a row each, larger ones share the other half by
        their logarithm; 0: every distance has its row.
      max_distance: where the rows end.
      norm_distances: whether a LayerNorm goes over the rows.
      shared: whether distances are projected as tokens are.
      kernel: taps of the convolution beside the first layer; 0 = none.
      kernel_activation: a name in `ACTIVATIONS`.
    """

    vocab_size: int
    num_positions: int
    num_segments: int
    features: int
    num_layers: int
    num_heads: int
    hidden_features: int
    epsilon: float
    dtype: jnp.dtype
    activation: str
    absolute: bool
    embedding_features: int
    buckets: int
    max_distance: int
    norm_distances: bool
    shared: bool
    kernel: int
    kernel_activation: str
    hidden_dropout: float = 0.0
    attention_dropout: float = 0.0
    batch_axis: str | None = None
    recompute: bool = False

    @property
    def max_length(self) -> int:
        """Tokens of the longest text that was trained."""
        return self.num_positions

    @nn.compact
    def __call__(
        self, inputs: jax.Array, mask: jax.Array, start: int | None = None
    ) -> list[jax.Array]:
        """As `bert.Bert`; state 0 is 0 where `mask` is False."""
        keep = mask[..., None]
        x = inputs
        if start is None:
            x = self._embed(inputs) * keep
        elif start == 0:  # the convolution sees it
            x = jnp.where(keep, inputs, 0)
        distances = self._distances(x.shape[1])

        def after(k, before, x):
            return self._convolve(before, x, keep) if k == 0 and self.kernel else x

        return run_layers(
            self,
            x,
            mask,
            start,
            self.epsilon,
            lambda encoder, k: self._disentangle(*distances),
            after,
            activation=self.activation,
            score_scale=self._scale,
        )

    @property
    def _scale(self) -> float:
        return (3 * self.features / self.num_heads) ** -0.5

    def _embed(self, ids: jax.Array) -> jax.Array:
        def table(rows, name):
            return nn.Embed(rows, self.embedding_features, name=name)

        x = table(self.vocab_size, "tokens")(ids)
        if self.absolute:
            x = x + table(self.num_positions, "positions")(jnp.arange(ids.shape[1])[None])
        if self.num_segments:
            x = x + table(self.num_segments, "segments")(jnp.zeros((1, 1), jnp.int32))
        if self.embedding_features != self.features:
            x = nn.Dense(
                self.features, use_bias=False, dtype=self.dtype, name="embedding_projection"
            )(x)
        return nn.LayerNorm(self.epsilon, name="embedding_norm")(x)

    def _distances(self, length: int) -> tuple[jax.Array, np.ndarray]:
        """Embeddings of distances T - 1 to 1 - T, `[2T - 1, D]`, and their rows in the table."""
        half = self.buckets or self.max_distance
        d = bucketed(np.arange(length - 1, -length, -1), self.buckets, self.max_distance)
        table = nn.Embed(2 * half, self.features, name="distances")
        row = np.clip(d + half, 0, 2 * half - 1)
        distances = table(row)
        if self.norm_distances:
            distances = nn.LayerNorm(self.epsilon, name="distance_norm")(distances)
        return distances, row

    def _disentangle(self, distances: jax.Array, row: np.ndarray) -> Bias:
        def bias(_, query, key, project):
            rows = distances
            if self.hidden_dropout and self.has_rng("dropout"):
                table = jnp.ones((row.max() + 1, self.features))
                rows = rows * Dropout(self.hidden_dropout)(table)[row]

            def projected(name):
                dense = project[name]
                if not self.shared:
                    dense = nn.Dense(self.features, dtype=self.dtype, name=f"distance_{name}")
                return dense(rows).reshape(-1, *query.shape[-2:])

            by_query = align(_products(query, projected("key")))
            # Seen from a key, the distances lie the other way round.
            by_key = align(_products(key, projected("query")[::-1])).swapaxes(-1, -2)
            return self._scale * (by_query + by_key)

        return bias

    def _convolve(self, embedded: jax.Array, x: jax.Array, keep: jax.Array) -> jax.Array:
        y = nn.Conv(self.features, (self.kernel,), dtype=self.dtype, name="convolution")(embedded)
        y = jnp.where(keep, y.astype(jnp.float32), 0)
        y = ACTIVATIONS[self.kernel_activation](Dropout(self.hidden_dropout, self.batch_axis)(y))
        return nn.LayerNorm(self.epsilon, name="convolution_norm")(x + y) * keep


def _products(tokens: jax.Array, rows: jax.Array) -> jax.Array:
    """`[B, T, H, D/H]` with `[N, H, D/H]` to `[B, H, T, N]` float32."""
    return jnp.matmul(
        tokens.transpose(0, 2, 1, 3),
        rows.transpose(1, 2, 0)[None],
        preferred_element_type=jnp.float32,
    )


def align(by_distance: jax.Array) -> jax.Array:
    """`[..., T, 2T - 1]`, of distances T - 1 to 1 - T, to `[..., T, T]`, of keys.

    Row i of the result begins T - 1 - i columns into row i. As each row begins one column earlier
    than the row before, one reshape does it; a gather is several times slower.
    """
    length, width = by_distance.shape[-2:]
    if length == 1:
        return by_distance
    flat = by_distance.reshape(*by_distance.shape[:-2], -1)[..., length - 1 :]
    flat = flat[..., : length * (width - 1)]
    return flat.reshape(*by_distance.shape[:-1], width - 1)[..., :length]


def bucketed(distances: np.ndarray, buckets: int, max_distance: int) -> np.ndarray:
    """Distances of more than half of `buckets` by their logarithm; `buckets` 0: as they are.

    Float32 throughout, as the reference implementation has it, so that both round alike.
    """
    if not buckets:
        return distances
    half = buckets // 2
    far = np.maximum(np.abs(distances), half).astype(np.float32) / np.float32(half)
    whole = np.log(np.float32((max_distance - 1) / half))
    far = np.ceil(np.log(far) / whole * np.float32(half - 1)).astype(np.int32) + half
    return np.where(np.abs(distances) <= half, distances, np.sign(distances) * far)


def from_config(file: str, config: Mapping[str, Any], dtype: jnp.dtype) -> Deberta:
    """The module that a Hugging Face `config.json` describes, see `bert.from_config`."""
    config = _DEFAULTS | dict(config)
    width, heads = config["hidden_size"], config["num_attention_heads"]
    require(
        file,
        config,
        {
            "relative_attention": (True,),
            "norm_rel_ebd": ("none", "layer_norm"),
            "share_att_key": (True, False),
            "conv_groups": (1,),
            "attention_head_size": (width // heads,),
        },
    )
    if {*(config["pos_att_type"] or ())} != {"c2p", "p2c"}:
        raise UserError(
            f"{file}: pos_att_type is {config['pos_att_type']!r}, wanted ['p2c', 'c2p']; "
            "this library has no other kind of this model"
        )
    kernel = whole(file, config, "conv_kernel_size", 0, 99)
    if kernel and kernel % 2 == 0:
        raise UserError(f"{file}: conv_kernel_size is {kernel}, wanted an odd number")
    max_distance = whole(file, config, "max_relative_positions", -1, _FARTHEST)
    max_distance = max_distance if max_distance > 0 else config["max_position_embeddings"]
    buckets = max(whole(file, config, "position_buckets", -1, _FARTHEST), 0)
    if buckets and not 2 <= buckets < 2 * (max_distance - 1):
        raise UserError(
            f"{file}: position_buckets is {buckets}, wanted 2 to {2 * max_distance - 3} for "
            f"distances up to {max_distance}"
        )
    return Deberta(
        **of_bert(file, config),
        num_segments=config["type_vocab_size"],
        dtype=dtype,
        absolute=config["position_biased_input"],
        embedding_features=config.get("embedding_size") or width,
        buckets=buckets,
        max_distance=max_distance,
        norm_distances=config["norm_rel_ebd"] == "layer_norm",
        shared=config["share_att_key"],
        kernel=kernel,
        kernel_activation=activation(file, config, "conv_act"),
    )


def tensors(module: Deberta) -> Tensors:
    """The names of a published checkpoint's tensors."""
    layers = {
        f"layer_{k}/{ours}": f"encoder.layer.{k}.{theirs}"
        for k in range(module.num_layers)
        for ours, theirs in (bert.LAYER | _LAYER).items()
    }
    return Tensors(("deberta.",), bert.EMBEDDINGS | _MODULES | layers, _IGNORED, bert.INPUTS)
