"""BERT's encoder (Devlin et al., 2019, arXiv:1810.04805), without pooler or heads."""

import re
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cmarr_jax.errors import UserError
from cmarr_jax.extract.models.tensors import Tensors
from cmarr_jax.extract.models.transformer import Layer

_MODULES = {
    "tokens": "embeddings.word_embeddings",
    "positions": "embeddings.position_embeddings",
    "segments": "embeddings.token_type_embeddings",
    "embedding_norm": "embeddings.LayerNorm",
}
_LAYER = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "out": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "expand": "intermediate.dense",
    "contract": "output.dense",
    "feed_forward_norm": "output.LayerNorm",
}
_IGNORED = r"(embeddings\.position_ids|(pooler|cls|classifier)\..*)"


class Bert(nn.Module):
    """Token vectors of one segment.

    Attributes:
      vocab_size: V.
      max_length: positions that were trained.
      num_segments: token types; every token is of type 0.
      features: D.
      num_layers: layers.
      num_heads: attention heads; divides D.
      hidden_features: hidden width of the feed-forward layers.
      epsilon: of the LayerNorms.
      dtype: of the matrix products.
    """

    vocab_size: int
    max_length: int
    num_segments: int
    features: int
    num_layers: int
    num_heads: int
    hidden_features: int
    epsilon: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, ids: jax.Array, mask: jax.Array) -> list[jax.Array]:
        """Encodes.

        Args:
          ids: `[B, T]` int32.
          mask: `[B, T]`, False = padding.

        Returns:
          The embeddings and each layer's output, `num_layers + 1` times `[B, T, D]` float32.
        """
        tokens = nn.Embed(self.vocab_size, self.features, name="tokens")(ids)
        positions = nn.Embed(self.max_length, self.features, name="positions")
        segments = nn.Embed(self.num_segments, self.features, name="segments")
        place = positions(jnp.arange(ids.shape[1])) + segments(jnp.zeros(1, jnp.int32))
        x = nn.LayerNorm(self.epsilon, name="embedding_norm")(tokens + place[None])
        states = [x]
        for k in range(self.num_layers):
            x = Layer(
                self.num_heads, self.hidden_features, self.epsilon, self.dtype, name=f"layer_{k}"
            )(x, mask)
            states.append(x)
        return states


def from_config(file: str, config: Mapping[str, Any], dtype: jnp.dtype) -> Bert:
    """The module that a Hugging Face `config.json` describes.

    Args:
      file: the config's path, for messages.
      config: its content, defaults filled in.
      dtype: of the matrix products.

    Raises:
      UserError: it describes no BERT, or one with parts that this module lacks.
    """
    wanted = {
        "model_type": "bert",
        "hidden_act": "gelu",
        "is_decoder": False,
        "position_embedding_type": "absolute",
    }
    for field, value in wanted.items():
        if (found := config.get(field, value)) != value:
            raise UserError(
                f"{file}: {field} is {found!r}, wanted {value!r}; this library encodes text "
                "with models of BERT's kind"
            )
    return Bert(
        vocab_size=config["vocab_size"],
        max_length=config["max_position_embeddings"],
        num_segments=config["type_vocab_size"],
        features=config["hidden_size"],
        num_layers=config["num_hidden_layers"],
        num_heads=config["num_attention_heads"],
        hidden_features=config["intermediate_size"],
        epsilon=config["layer_norm_eps"],
        dtype=dtype,
    )


def tensors(module: Bert) -> Tensors:
    """The names of a published checkpoint's tensors."""
    modules = dict(_MODULES)
    for k in range(module.num_layers):
        modules |= {
            f"layer_{k}/{ours}": f"encoder.layer.{k}.{name}" for ours, name in _LAYER.items()
        }
    inputs = jnp.zeros((1, 2), jnp.int32), jnp.ones((1, 2), bool)
    return Tensors(("bert.",), modules, _IGNORED, inputs, _rename_norms)


def _rename_norms(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The first checkpoints came from TensorFlow and have its names for LayerNorm's parameters."""
    for old, new in (("gamma", "weight"), ("beta", "bias")):
        pattern = rf"LayerNorm\.{old}$"
        tensors = {re.sub(pattern, f"LayerNorm.{new}", k): v for k, v in tensors.items()}
    return tensors
