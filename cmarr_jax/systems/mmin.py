"""MMIN: missing modality imagination network (Zhao, Li and Jin, ACL 2021).

A teacher learns on complete data. The student encodes what is available, imagines the teacher's
vectors of what is missing with a cascade of residual autoencoders, restores its own input with a
second cascade, and classifies the codes of the first one.

    CE + w_f MSE(h', teacher(missing)) + w_c MSE(h'', stopgrad(h))

The published code has w_f = 4 and w_c = 2 on IEMOCAP, 2 and 0.5 on MSP-IMPROV, where the two
cascades also share their weights.
"""

import functools
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from ml_collections import ConfigDict

from cmarr_jax import losses
from cmarr_jax.nn.cascade import Cascade
from cmarr_jax.nn.dropout import Dropout
from cmarr_jax.nn.utterance_encoders import Classifier, UtteranceEncoders
from cmarr_jax.systems.system import Batch, System, whole_cross_entropy, whole_squared_error
from cmarr_jax.systems.teacher_student import make_student, make_teacher, teach, teacher_network


class Student(nn.Module):
    """Encoders, the two cascades and a classifier of the first one's codes."""

    config: ConfigDict
    modalities: tuple[str, ...]
    num_classes: int
    batch_axis: str | None = None
    dtype: DTypeLike = jnp.float32

    def setup(self):
        """Encoders, the cascades there and back, the classifier."""
        c = self.config
        dropout = functools.partial(Dropout, c.dropout, self.batch_axis)
        self.encoders = UtteranceEncoders(self.modalities, c.width, dropout, dtype=self.dtype)
        cascade = functools.partial(Cascade, c.num_blocks, dtype=self.dtype)
        self.imagine = cascade()
        self.imagine_back = self.imagine if c.share_weights else cascade()
        self.classifier = Classifier(self.num_classes, dropout, dtype=self.dtype)

    def __call__(self, batch: Batch, available: jax.Array) -> tuple[jax.Array, ...]:
        """-> h, h', h'' `[B, M, W]` and logits `[B, C]`."""
        vectors = self.embed(batch, available)
        imagined, logits = self.decide(vectors)
        back, _ = self.imagine_back(imagined.reshape(len(imagined), -1))
        return vectors, imagined, back.reshape(vectors.shape), logits

    def embed(self, batch: Batch, available: jax.Array) -> jax.Array:
        """-> h `[B, M, W]`."""
        return self.encoders(batch.features, batch.mask, available)

    def decide(self, vectors: jax.Array) -> tuple[jax.Array, jax.Array]:
        """h `[B, M, W]` -> h' `[B, M, W]`, logits `[B, C]`."""
        imagined, code = self.imagine(vectors.reshape(len(vectors), -1))
        return imagined.reshape(vectors.shape), self.classifier(code)


def make(
    config: ConfigDict,
    modalities: Sequence[str],
    num_classes: int,
    batch_axis: str | None = None,
    dtype: DTypeLike = jnp.float32,
) -> System:
    """MMIN as a system; arguments as in `systems.cmarr.make`."""
    network = Student(config, tuple(modalities), num_classes, batch_axis, dtype)
    teacher = teacher_network(config, modalities, num_classes, batch_axis, dtype)

    def teacher_loss(params, batch, available, key):
        logits, _ = teacher.apply(params, batch, available, rngs={"dropout": key})
        return {"cls": whole_cross_entropy(logits, batch, batch_axis)}

    def loss(params, batch, available, key):
        vectors, imagined, back, logits = network.apply(
            params, batch, available, rngs={"dropout": key}
        )
        target = teach(teacher, params, batch, batch.present & ~available)
        return {
            "cls": whole_cross_entropy(logits, batch, batch_axis),
            "forward": whole_squared_error(imagined, target, batch, batch_axis),
            "backward": losses.mean_squared_error(back, jax.lax.stop_gradient(vectors)),
        }

    weights = {"forward": config.forward_weight, "backward": config.backward_weight}
    student = make_student(network, teacher, loss, weights, copied=("encoders",))
    return System((make_teacher(teacher, teacher_loss, ("width", "teacher_dropout")), student))
