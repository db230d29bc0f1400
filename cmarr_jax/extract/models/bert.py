"""BERT's encoder (Devlin et al., 2019, arXiv:1810.04805), without pooler or heads."""

import re
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cmarr_jax.extract.models.config import of_bert, require
from cmarr_jax.extract.models.tensors import Tensors
from cmarr_jax.extract.models.transformer import run_layers

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
      hidden_dropout, attention_dropout, drop_attended, batch_axis: of each `transformer.Layer`.
      recompute: gradients run each layer anew, so that only its input is kept.
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
    hidden_dropout: float = 0.0
    attention_dropout: float = 0.0
    drop_attended: bool = True
    batch_axis: str | None = None
    recompute: bool = False

    @property
    def max_length(self) -> int:
        """Tokens that have a position."""
        return self.num_positions - (0 if self.padding is None else self.padding + 1)

    @nn.compact
    def __call__(
        self, inputs: jax.Array, mask: jax.Array, start: int | None = None
    ) -> list[jax.Array]:
        """Encodes; drops with an rng "dropout" alone.

        Args:
          inputs: ids of tokens, `[B, T]` int32; with `start` the hidden state of that number,
            `[B, T, D]` float32.
          mask: `[B, T]`, False = padding.
          start: 0 to `num_layers - 1`; what lies below that state is neither run nor has
            parameters.

        Returns:
          The embeddings and each layer's output, `num_layers + 1` times `[B, T, D]` float32; with
          `start` those from `inputs` on.
        """
        x = self._embed(inputs) if start is None else inputs
        return run_layers(
            self,
            x,
            mask,
            start,
            self.epsilon,
            activation=self.activation,
            drop_attended=self.drop_attended,
        )

    def _embed(self, ids: jax.Array) -> jax.Array:
        x = nn.Embed(self.vocab_size, self.features, name="tokens")(ids)
        positions = nn.Embed(self.num_positions, self.features, name="positions")
        place = positions(token_positions(ids, self.padding))
        if self.num_segments:
            segments = nn.Embed(self.num_segments, self.features, name="segments")
            place = place + segments(jnp.zeros((1, 1), jnp.int32))
        return nn.LayerNorm(self.epsilon, name="embedding_norm")(x + place)


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
    return Bert(**of_bert(file, config), num_segments=config["type_vocab_size"], dtype=dtype)


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
