"""Cross-modal fusion and classification (paper, Eq. 10-13)."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cmarr_jax.nn.attention import AttentionBlock
from cmarr_jax.nn.umc import masked_mean

VARIANTS = ("attention", "concat")


class Fusion(nn.Module):
    """Text attends to each other modality, self-attention mixes, the mean over time is classified.

    Attributes:
      config: with the parts `fusion` and `classifier` of configs/common.py.
      modalities: names of the M inputs.
      pairs: (query, key) modalities, each with a stack of cross-attention blocks of its own.
      num_classes: C.
      dropout: rate -> makes a dropout layer.
    """

    config: Any
    modalities: Sequence[str]
    pairs: Sequence[tuple[str, str]]
    num_classes: int
    dropout: Callable[[float], Callable[[], nn.Module]]

    @nn.compact
    def __call__(self, inputs: jax.Array, mask: jax.Array) -> jax.Array:
        """`[M, B, T, D]` under `mask` `[B, T]` -> logits `[B, C]`."""
        c, classifier = self.config.fusion, self.config.classifier
        block = functools.partial(AttentionBlock, c.num_heads, self.dropout(c.dropout))
        attends = c.variant == "attention"
        streams = list(inputs)
        if attends and self.pairs:
            named = dict(zip(self.modalities, inputs, strict=True))
            streams = [named[query] for query, _ in self.pairs]
            for n in range(c.cross_layers):
                streams = [
                    block(name=f"cross_{query}_{key}_{n}")(stream, mask, named[key])
                    for (query, key), stream in zip(self.pairs, streams, strict=True)
                ]
        fused = jnp.concatenate(streams, axis=-1)
        for n in range(c.self_layers if attends else 0):
            fused = block(name=f"self_{n}")(fused, mask)
        hidden = masked_mean(fused, mask)
        for _ in range(classifier.layers):
            hidden = nn.relu(nn.Dense(classifier.hidden)(hidden))
            hidden = self.dropout(classifier.dropout)()(hidden)
        return nn.Dense(self.num_classes, name="classifier")(hidden)
