"""BERT's encoder (Devlin et al., 2019, arXiv:1810.04805), without pooler or heads."""

import re
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cmarr_jax.extract.models.config import activation, require
from cmarr_jax.extract.models.tensors import Tensors
from cmarr_jax.extract.models.transformer import Layer

EMBEDDINGS = {
    "tokens": "embeddings.word_embeddings",
    "positions": "embeddings.position_embeddings",
    "segments": "embeddings.token_type_embeddings",
    "embedding_norm": "embeddings.LayerNorm",
}
LAYER = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "out": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "expand": "intermediate.dense",
    "contract": "output.dense",
    "feed_forward_norm": "output.LayerNorm",
}
IGNORED = r"(embeddings\.position_ids|(pooler|cls|classifier|lm_head|qa_outputs)\..*)"
INPUTS = np.zeros((1, 2), np.int32), np.ones((1, 2), bool)


class Bert(nn.Module):
    """Token vectors of one segment.

    Attributes:
      vocab_size: V.
      num_positions: rows in the table of positions.
      num_segments: token types; every token is of type 0, and a model may have none.
      features: D.
      num_layers: layers.
      num_heads: attention heads; divides D.
      hidden_features: hidden width of the feed-forward layers.
      epsilon: of the LayerNorms.
      dtype: of the matrix products.
      activation: a name in `ACTIVATIONS`.
      padding: the token that is padding to the positions, which then begin one row after its
        number; None: they begin at row 0.
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
    activation: str = "gelu"
    padding: int | None = None

    @property
    def max_length(self) -> int:
        """Tokens that have a position."""
        return self.num_positions - (0 if self.padding is None else self.padding + 1)

    @nn.compact
    def __call__(self, ids: jax.Array, mask: jax.Array) -> list[jax.Array]:
        """Encodes.

        Args:
          ids: `[B, T]` int32.
          mask: `[B, T]`, False = padding.

        Returns:
          The embeddings and each layer's output, `num_layers + 1` times `[B, T, D]` float32.
        """
        x = nn.Embed(self.vocab_size, self.features, name="tokens")(ids)
        positions = nn.Embed(self.num_positions, self.features, name="positions")
        place = positions(token_positions(ids, self.padding))
        if self.num_segments:
            segments = nn.Embed(self.num_segments, self.features, name="segments")
            place = place + segments(jnp.zeros((1, 1), jnp.int32))
        x = nn.LayerNorm(self.epsilon, name="embedding_norm")(x + place)
        states = [x]
        for k in range(self.num_layers):
            x = Layer(
                self.num_heads,
                self.hidden_features,
                self.epsilon,
                self.dtype,
                activation=self.activation,
                name=f"layer_{k}",
            )(x, mask)
            states.append(x)
        return states


def token_positions(ids: jax.Array, padding: int | None) -> jax.Array:
    """Rows of the table of positions, `[1 | B, T]` int32; the arguments as `Bert` has them.

    Of a `padding` token inside a text the reference implementation counts none, and so do we.
    """
    if padding is None:
        return jnp.arange(ids.shape[1])[None]
    counts = ids != padding
    return padding + jnp.cumsum(counts, axis=1, dtype=jnp.int32) * counts


def from_config(file: str, config: Mapping[str, Any], dtype: jnp.dtype) -> Bert:
    """The module that a Hugging Face `config.json` describes.

    Args:
      file: the config's path, for messages.
      config: its content, defaults filled in.
      dtype: of the matrix products.

    Raises:
      UserError: it describes a model with parts that this module lacks.
    """
    wanted = {"is_decoder": (False,), "position_embedding_type": ("absolute",)}
    require(file, config, wanted)
    return Bert(
        vocab_size=config["vocab_size"],
        num_positions=config["max_position_embeddings"],
        num_segments=config["type_vocab_size"],
        features=config["hidden_size"],
        num_layers=config["num_hidden_layers"],
        num_heads=config["num_attention_heads"],
        hidden_features=config["intermediate_size"],
        epsilon=config["layer_norm_eps"],
        dtype=dtype,
        activation=activation(file, config, "hidden_act"),
    )


def tensors(module: Bert) -> Tensors:
    """The names of a published checkpoint's tensors."""
    return Tensors(("bert.",), names(module), IGNORED, INPUTS, _rename_norms)


def names(module: Any) -> dict[str, str]:
    """The names that BERT and its kin give to the parts of `module`."""
    layers = range(module.num_layers)
    return EMBEDDINGS | {
        f"layer_{k}/{ours}": f"encoder.layer.{k}.{theirs}"
        for k in layers
        for ours, theirs in LAYER.items()
    }


def _rename_norms(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The first checkpoints came from TensorFlow and have its names for LayerNorm's parameters."""
    for old, new in (("gamma", "weight"), ("beta", "bias")):
        pattern = rf"LayerNorm\.{old}$"
        tensors = {re.sub(pattern, f"LayerNorm.{new}", k): v for k, v in tensors.items()}
    return tensors
