"""CRA: cascaded residual autoencoder (Tran et al., CVPR 2017), for emotion.

After the only public version for emotion, GCNet's baseline of that name, with the MMIN family's
encoders in front: the joined vectors pass a cascade of two residual autoencoders; its result is
classified, and decoded to the utterance's mean input of every modality. No teacher.

    CE + w mean over missing modalities of the decoded inputs' squared error
"""

import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cmarr_jax import losses
from cmarr_jax.nn.cascade import Cascade
from cmarr_jax.nn.dropout import Dropout
from cmarr_jax.nn.umc import masked_mean
from cmarr_jax.nn.utterance_encoders import Classifier, UtteranceEncoders
from cmarr_jax.systems.system import Batch, Prediction, Stage, System, gather
from cmarr_jax.systems.teacher_student import (
    as_sequences,
    embed_both,
    pick,
    whole_cross_entropy,
)


class CRA(nn.Module):
    config: Any
    modalities: tuple[str, ...]
    num_classes: int
    batch_axis: str | None = None

    def setup(self):
        c = self.config
        dropout = functools.partial(Dropout, c.dropout, self.batch_axis)
        self.encoders = UtteranceEncoders(self.modalities, c.width, dropout)
        self.complete = Cascade(c.num_blocks, widths=(256, 128))
        self.classifier = Classifier(self.num_classes, dropout)

    @nn.compact
    def __call__(self, batch: Batch, available: jax.Array) -> tuple[list[jax.Array], jax.Array]:
        """-> decoded mean inputs, `[B, D_m]` a modality, and logits `[B, C]`."""
        completed, logits = self.decide(self.embed(batch, available))
        hidden = completed.reshape(len(completed), -1)
        decoded = []
        for modality in self.modalities:
            out = hidden
            for k in range(2):
                out = nn.relu(nn.Dense(128, name=f"decode_{modality}_{k}")(out))
            width = batch.features[modality].shape[-1]
            decoded.append(nn.Dense(width, name=f"decode_{modality}_2")(out))
        return decoded, logits

    def embed(self, batch: Batch, available: jax.Array) -> jax.Array:
        return self.encoders(batch.features, batch.mask, available)

    def decide(self, vectors: jax.Array) -> tuple[jax.Array, jax.Array]:
        """`[B, M, W]` -> the completed vectors `[B, M, W]`, logits `[B, C]`."""
        completed, _ = self.complete(vectors.reshape(len(vectors), -1))
        return completed.reshape(vectors.shape), self.classifier(completed)


def make(
    config: Any, modalities: Sequence[str], num_classes: int, batch_axis: str | None = None
) -> System:
    """CRA as a system; arguments as of `systems.cmarr.make`."""
    network = CRA(config, tuple(modalities), num_classes, batch_axis)

    def loss(params, batch, available, key):
        decoded, logits = network.apply(params, batch, available, rngs={"dropout": key})
        errors = []
        for modality, out in zip(modalities, decoded, strict=True):
            target = masked_mean(batch.features[modality], batch.mask)
            errors.append(jnp.mean(jnp.square(out - target), axis=-1))
        missing = batch.present & ~available
        whole = (gather(x, batch_axis=batch_axis) for x in (jnp.stack(errors, axis=1), missing))
        terms = {
            "cls": whole_cross_entropy(logits, batch, batch_axis),
            "rec": losses.weighted_mean(*whole),
        }
        return terms["cls"] + config.rec_weight * terms["rec"], terms

    def encode(params, batch):
        return embed_both(network, params, batch)

    def predict(params, encoded, mask, available):
        completed, logits = network.apply(params, pick(encoded, available), method="decide")
        return Prediction(logits, as_sequences(completed), as_sequences(encoded[0]))

    def init(key, batch, before):
        return network.init(key, batch, batch.present)

    return System((Stage("train", init, loss, encode, predict),))
