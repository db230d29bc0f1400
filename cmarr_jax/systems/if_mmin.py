"""IF-MMIN: MMIN with modality-invariant features (Zuo et al., ICASSP 2023).

The teacher has one shared encoder on top of the vectors of all modalities; the central moment
discrepancy draws its results together. The student computes these invariants c from what is
available and feeds them to every block of its cascade.

    CE + MSE(h', teacher(missing)) + w MSE(c, teacher's c of complete data)
"""

import functools
import itertools
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
from cmarr_jax.systems.checks import check_faithful_to
from cmarr_jax.systems.system import (
    Batch,
    Stage,
    System,
    gather,
    whole_cross_entropy,
    whole_squared_error,
)
from cmarr_jax.systems.teacher_student import make_student, make_teacher, teach, teacher_network

# w: the published script asks for 100 by a flag that its parser refuses; without it, 1.
_INVARIANCE_WEIGHT = {"paper": 100.0, "code": 1.0}


class SharedEncoder(nn.Module):
    """Two layers of Linear and LeakyReLU, the same for all modalities."""

    width: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`[..., W]` -> `[..., W]`."""
        for _ in range(2):
            x = nn.leaky_relu(nn.Dense(self.width, dtype=self.dtype)(x), 0.01)
        return x


class Student(nn.Module):
    """Encoders, the shared encoder, a cascade and a classifier of its codes."""

    config: ConfigDict
    modalities: tuple[str, ...]
    num_classes: int
    batch_axis: str | None = None
    dtype: DTypeLike = jnp.float32

    def setup(self):
        """Encoders of h, the shared encoder of c, the cascade, the classifier."""
        c = self.config
        dropout = functools.partial(Dropout, c.dropout, self.batch_axis)
        self.encoders = UtteranceEncoders(self.modalities, c.width, dropout, dtype=self.dtype)
        self.shared = SharedEncoder(c.width, self.dtype)
        self.imagine = Cascade(c.num_blocks, wiring="context", output="last", dtype=self.dtype)
        self.classifier = Classifier(self.num_classes, dropout, dtype=self.dtype)

    def __call__(self, batch: Batch, available: jax.Array) -> tuple[jax.Array, ...]:
        """-> h' `[B, M, W]`, logits `[B, C]`, c `[B, M, W]`."""
        return self.decide(self.embed(batch, available))

    def embed(self, batch: Batch, available: jax.Array) -> jax.Array:
        """-> h `[B, M, W]`."""
        return self.encoders(batch.features, batch.mask, available)

    def decide(self, vectors: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """h `[B, M, W]` -> the same as `__call__`."""
        invariants = self.shared(vectors)
        flat = (vectors.reshape(len(vectors), -1), invariants.reshape(len(vectors), -1))
        imagined, code = self.imagine(*flat)
        return imagined.reshape(vectors.shape), self.classifier(code), invariants


def make(
    config: ConfigDict,
    modalities: Sequence[str],
    num_classes: int,
    batch_axis: str | None = None,
    dtype: DTypeLike = jnp.float32,
) -> System:
    """IF-MMIN as a system; arguments as in `systems.cmarr.make`.

    Raises:
      UserError: a field of `config` has a value that it cannot have.
    """
    check_faithful_to(config)
    network = Student(config, tuple(modalities), num_classes, batch_axis, dtype)
    shared = SharedEncoder(config.width, dtype)
    teacher = teacher_network(config, modalities, num_classes, batch_axis, dtype, shared=shared)

    def loss(params, batch, available, key):
        imagined, logits, invariants = network.apply(
            params, batch, available, rngs={"dropout": key}
        )
        target = teach(teacher, params, batch, batch.present & ~available)
        _, (_, invariants_target) = teach(teacher, params, batch, batch.present, "__call__")
        return {
            "cls": whole_cross_entropy(logits, batch, batch_axis),
            "forward": whole_squared_error(imagined, target, batch, batch_axis),
            "invariance": whole_squared_error(invariants, invariants_target, batch, batch_axis),
        }

    weights = {"invariance": _INVARIANCE_WEIGHT[config.faithful_to]}
    student = make_student(network, teacher, loss, weights, copied=("encoders", "shared"))
    return System((make_discrepancy_teacher(teacher, batch_axis), student))


def make_discrepancy_teacher(network: nn.Module, batch_axis: str | None) -> Stage:
    """The first stage of a `network` with vectors and invariants: CE, and CMD of the invariants."""

    def loss(params, batch, available, key):
        logits, (_, invariants) = network.apply(params, batch, available, rngs={"dropout": key})
        whole = (gather(x, batch_axis=batch_axis) for x in (invariants, batch.present))
        return {
            "cls": whole_cross_entropy(logits, batch, batch_axis),
            "cmd": mean_discrepancy(*whole),
        }

    return make_teacher(network, loss, depends=("width", "teacher_dropout"))


def mean_discrepancy(invariants: jax.Array, present: jax.Array) -> jax.Array:
    """Mean of CMD_5 over all pairs of modalities of `[B, M, W]`; 0 for a single modality."""
    pairs = list(itertools.combinations(range(invariants.shape[1]), 2))
    each = [
        losses.central_moment_discrepancy(
            invariants[:, n], invariants[:, m], present[:, n] & present[:, m]
        )
        for n, m in pairs
    ]
    return sum(each, jnp.zeros(())) / max(1, len(pairs))
