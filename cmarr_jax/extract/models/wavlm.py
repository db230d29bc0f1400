"""WavLM (Chen et al., 2022, arXiv:2110.13900): wav2vec 2.0's network with gated relative positions.

Each head has a number for each bucket of distances, shared by all layers; a gate made from the
query's own features, in every layer, scales it before it is added to the scores (section III-B).
"""

import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cmarr_jax.errors import UserError
from cmarr_jax.extract.models import wav2vec2
from cmarr_jax.extract.models.tensors import Tensors


class GatedPositions(nn.Module):
    """What is added to attention's scores.

    Attributes:
      num_heads: H.
      num_buckets: of distances, one half for each direction.
      max_distance: frames from which all distances are one.
    """

    num_heads: int
    num_buckets: int
    max_distance: int

    @nn.compact
    def __call__(self, layer: int, x: jax.Array, *_: Any) -> jax.Array:
        """What attention sees in layer number `layer`, `[B, T, D]` -> `[B, H, T, T]` float32.

        A `transformer.Bias`, once `layer` is given; it needs no queries or keys.
        """
        length, heads = x.shape[1], self.num_heads
        # One row a distance, [2 T - 1, H], laid out as [H, T, T].
        found = bucket_of_distance(length, self.num_buckets, self.max_distance)
        by_distance = nn.Embed(self.num_buckets, heads, name="buckets")(jnp.asarray(found))
        frame = jnp.arange(length)
        position = by_distance.T[:, frame[None] - frame[:, None] + length - 1]
        gate = nn.Dense(8, name=f"gate_{layer}")(x.reshape(*x.shape[:2], heads, -1))
        gate = nn.sigmoid(jnp.sum(gate.reshape(*gate.shape[:-1], 2, 4), -1))
        scale = self.param(f"scale_{layer}", nn.initializers.ones, (1, heads, 1, 1))
        gate = gate.transpose(3, 0, 2, 1)[..., None]  # [2, B, H, T, 1]
        return (gate[0] * (gate[1] * scale - 1) + 2) * position[None]


def from_config(file: str, config: Mapping[str, Any], dtype: jnp.dtype) -> wav2vec2.Wav2Vec2:
    """As `wav2vec2.from_config`."""
    buckets, distance = config["num_buckets"], config["max_bucket_distance"]
    if buckets < 4 or distance <= buckets // 4:
        raise UserError(
            f"{file}: num_buckets is {buckets} and max_bucket_distance {distance}; wanted 4 or "
            "more, and a distance beyond a quarter of them"
        )
    positions = GatedPositions(
        num_heads=config["num_attention_heads"],
        num_buckets=buckets,
        max_distance=distance,
    )
    return wav2vec2.make(file, config, dtype, "wavlm", attention_bias=positions)


def tensors(module: wav2vec2.Wav2Vec2) -> Tensors:
    """The names of a published checkpoint's tensors."""
    names = wav2vec2.tensors(module)
    modules = {"attention_bias/buckets": "encoder.layers.0.attention.rel_attn_embed"}
    for k in range(module.num_layers):
        attention = f"encoder.layers.{k}.attention"
        modules[f"attention_bias/gate_{k}"] = f"{attention}.gru_rel_pos_linear"
        modules[f"attention_bias/scale_{k}"] = f"{attention}.gru_rel_pos_const"
    return names._replace(prefixes=("wavlm.",), modules={**names.modules, **modules})


def bucket_of_distance(length: int, num_buckets: int, max_distance: int) -> np.ndarray:
    """Bucket of every distance, of a key from its query, from `1 - length` to `length - 1` frames.

    The first half of a direction's buckets holds one distance each; the others grow with the
    logarithm. In float32 throughout, as where the models were trained.
    """
    distance = np.arange(1 - length, length)
    half = num_buckets // 2
    exact = half // 2
    size = np.abs(distance)
    large = np.log(np.maximum(size, 1).astype(np.float32) / np.float32(exact))
    large = large / np.float32(math.log(max_distance / exact)) * np.float32(half - exact)
    large = np.minimum((np.float32(exact) + large).astype(np.int32), half - 1)
    return np.where(size < exact, size, large) + half * (distance > 0)
