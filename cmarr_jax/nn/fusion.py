"""Cross-modal fusion and classification (paper, Eq. 10-13)."""

import itertools
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from ml_collections import ConfigDict

from cmarr_jax.nn.attention import AttentionBlock
from cmarr_jax.nn.umc import masked_mean

VARIANTS = ("attention", "concat")


def parse_pairs(pairs: Sequence[str], modalities: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """("text<-video", ...) -> (("text", "video"), ...), the query first.

    Without `pairs`, text (or the first modality if there is no text) attends to every other.
    ("each",) is every two modalities once: of three, the text's three blocks. Text queries where
    it is one of the two, else the first of them.
    """
    if tuple(pairs) == ("each",):
        text_first = sorted(modalities, key=lambda m: m != "text")
        return tuple(itertools.combinations(text_first, 2))
    if not pairs:
        query = "text" if "text" in modalities else modalities[0]
        return tuple((query, m) for m in modalities if m != query)
    return tuple((query, key) for query, _, key in (pair.partition("<-") for pair in pairs))


class Fusion(nn.Module):
    """Cross-attention from text to the others, self-attention, mean over time, classifier.

    Attributes:
      config: with the sections `fusion` and `classifier` of configs/common.py.
      modalities: names of the M inputs.
      pairs: (query, key) modalities, each with a stack of cross-attention blocks of its own.
      num_classes: C.
      dropout: rate -> makes a dropout layer.
      dtype: of the products, see `cmarr_jax.nn`; logits are float32.
    """

    config: ConfigDict
    modalities: Sequence[str]
    pairs: Sequence[tuple[str, str]]
    num_classes: int
    dropout: Callable[[float], Callable[[], nn.Module]]
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, inputs: jax.Array, mask: jax.Array) -> jax.Array:
        """`[M, B, T, D]` under `mask` `[B, T]` -> logits `[B, C]`."""
        c, classifier = self.config.fusion, self.config.classifier
        options = {
            "num_heads": c.num_heads,
            "dropout": self.dropout(c.dropout),
            "dtype": self.dtype,
        }
        attends = c.variant == "attention"
        streams = inputs
        if attends and self.pairs:
            named = dict(zip(self.modalities, inputs, strict=True))
            queries, keys = zip(*self.pairs, strict=True)
            streams, contexts = (jnp.stack([named[m] for m in side]) for side in (queries, keys))
            if len(self.pairs) > 1:
                cross = nn.vmap(
                    AttentionBlock,
                    variable_axes={"params": 0},
                    split_rngs={"params": True, "dropout": True},
                    in_axes=(0, None, 0),
                )
                for n in range(c.cross_layers):
                    streams = cross(**options, name=f"cross_{n}")(streams, mask, contexts)
            else:  # a vmapped axis of length 1 would only cost time
                for n in range(c.cross_layers):
                    name = f"cross_{queries[0]}_{keys[0]}_{n}"
                    block = AttentionBlock(**options, name=name)
                    streams = block(streams[0], mask, contexts[0])[None]
        fused = jnp.concatenate(list(streams), axis=-1)
        for n in range(c.self_layers if attends else 0):
            fused = AttentionBlock(**options, name=f"self_{n}")(fused, mask)
        hidden = masked_mean(fused, mask)
        for _ in range(classifier.layers):
            hidden = nn.relu(nn.Dense(classifier.hidden)(hidden))
            hidden = self.dropout(classifier.dropout)()(hidden)
        return nn.Dense(self.num_classes, name="classifier")(hidden)
