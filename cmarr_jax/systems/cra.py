"""CRA: cascaded residual autoencoder (Tran et al., CVPR 2017), for emotion.

It follows the only public version for emotion, GCNet's baseline of that name, with the MMIN
family's encoders in front. The joined vectors pass a cascade of two residual autoencoders; its
result is classified, and decoded to the utterance's mean input of every modality. No teacher.

    CE + w sum over missing modalities of the decoded inputs' mean squared error
"""

import functools
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from ml_collections import ConfigDict

from cmarr_jax.nn.cascade import Cascade
from cmarr_jax.nn.dropout import Dropout
from cmarr_jax.nn.umc import masked_mean
from cmarr_jax.nn.utterance_encoders import Classifier, UtteranceEncoders
from cmarr_jax.systems.system import Batch, Output, Stage, System, whole_cross_entropy
from cmarr_jax.systems.teacher_student import as_sequences, embed_both, pick


class Decoders(nn.Module):
    """For each modality two hidden layers, from the completed vectors to its mean input."""

    modalities: tuple[str, ...]
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, widths: Sequence[int]) -> list[jax.Array]:
        """`[B, D]` -> one `[B, D_m]` for each modality."""
        decoded = []
        for modality, width in zip(self.modalities, widths, strict=True):
            out = x
            for k in range(2):
                out = nn.relu(nn.Dense(128, dtype=self.dtype, name=f"{modality}_{k}")(out))
            decoded.append(nn.Dense(width, dtype=self.dtype, name=f"{modality}_2")(out))
        return decoded


class CRA(nn.Module):
    """Encoders, the cascade, a classifier and the decoders."""

    config: ConfigDict
    modalities: tuple[str, ...]
    num_classes: int
    batch_axis: str | None = None
    dtype: DTypeLike = jnp.float32

    def setup(self):
        """Encoders, the cascade, and what reads its result."""
        c = self.config
        dropout = functools.partial(Dropout, c.dropout, self.batch_axis)
        self.encoders = UtteranceEncoders(self.modalities, c.width, dropout, dtype=self.dtype)
        self.complete = Cascade(c.num_blocks, widths=(256, 128), dtype=self.dtype)
        self.classifier = Classifier(self.num_classes, dropout, dtype=self.dtype)
        self.decoders = Decoders(self.modalities, self.dtype)

    def __call__(self, batch: Batch, available: jax.Array) -> tuple[list[jax.Array], jax.Array]:
        """-> decoded mean inputs, one `[B, D_m]` for each modality, and logits `[B, C]`."""
        widths = [batch.features[m].shape[-1] for m in self.modalities]
        return self.decide(self.embed(batch, available), widths)

    def embed(self, batch: Batch, available: jax.Array) -> jax.Array:
        """-> `[B, M, W]`."""
        return self.encoders(batch.features, batch.mask, available)

    def decide(
        self, vectors: jax.Array, widths: Sequence[int]
    ) -> tuple[list[jax.Array], jax.Array]:
        """`[B, M, W]` -> the same as `__call__`."""
        completed, _ = self.complete(vectors.reshape(len(vectors), -1))
        return self.decoders(completed, widths), self.classifier(completed)


def make(
    config: ConfigDict,
    modalities: Sequence[str],
    num_classes: int,
    batch_axis: str | None = None,
    dtype: DTypeLike = jnp.float32,
) -> System:
    """CRA as a system; arguments as in `systems.cmarr.make`."""
    network = CRA(config, tuple(modalities), num_classes, batch_axis, dtype)

    def mean_inputs(batch):  # encoders before the system must not learn to be easy to decode
        inputs = jax.lax.stop_gradient(batch.features)
        return [masked_mean(inputs[m], batch.mask) for m in modalities]

    def loss(params, batch, available, key):
        decoded, logits = network.apply(params, batch, available, rngs={"dropout": key})
        pairs = zip(decoded, mean_inputs(batch), strict=True)
        errors = jnp.stack([jnp.mean(jnp.square(x - y), axis=-1) for x, y in pairs], axis=1)
        missing = batch.present & ~available
        return {
            "cls": whole_cross_entropy(logits, batch, batch_axis),
            "rec": jnp.mean(jnp.sum(errors * missing, axis=1)),
        }

    def encode(params, batch):
        return embed_both(network, params, batch), mean_inputs(batch)

    def predict(params, encoded, mask, available):
        both, target = encoded
        widths = [x.shape[-1] for x in target]
        decoded, logits = network.apply(params, pick(both, available), widths, method="decide")
        return Output(logits, _stack(decoded), _stack(target))

    def init(key, batch, before):
        return network.init(key, batch, batch.present)

    weights = {"rec": config.rec_weight}
    return System((Stage("train", init, loss, encode, predict, weights),))


def _stack(vectors: Sequence[jax.Array]) -> jax.Array:
    """One `[B, D_m]` for each modality -> `[M, B, 1, D]`, padded with zeros to the widest."""
    widest = max(x.shape[-1] for x in vectors)
    padded = [jnp.pad(x, ((0, 0), (0, widest - x.shape[-1]))) for x in vectors]
    return as_sequences(jnp.stack(padded, axis=1))
