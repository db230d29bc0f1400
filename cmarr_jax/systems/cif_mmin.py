"""CIF-MMIN: MMIN with contrastively learned invariant features (Liu et al., TAFFC 2024).

Unlike IF-MMIN, the invariants come from encoders of their own. A contrast draws the invariants of
one utterance's modalities together, against other utterances. The student classifies h + h'.

    teacher  CE + sum over pairs of w contrast(u, u'),  w = 1/4 with text, 1/2 without
    student  CE + 8 MSE(h', teacher(missing)) + 100 MSE(c, teacher's c of complete data)
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

_FORWARD_WEIGHT, _INVARIANCE_WEIGHT = 8.0, 100.0


class Projection(nn.Module):
    """One modality's head for the contrast; its result has unit length and is float32."""

    width: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`[B, W]` -> `[B, W]`."""
        x = nn.leaky_relu(nn.Dense(self.width, dtype=self.dtype)(x), 0.01)
        x = nn.LayerNorm(dtype=self.dtype)(x)
        x = nn.leaky_relu(nn.Dense(self.width, dtype=self.dtype)(x), 0.01).astype(jnp.float32)
        return x / jnp.sqrt(jnp.sum(x * x, axis=-1, keepdims=True) + 1e-12)


class Contrast(nn.Module):
    """The rest of the teacher's network: encoders of invariants, and their projections.

    Its parameters and those of `teacher_student.Teacher` lie in one dictionary.
    """

    config: ConfigDict
    modalities: tuple[str, ...]
    batch_axis: str | None = None
    dtype: DTypeLike = jnp.float32

    def setup(self):
        """The invariants' encoders, a projection for each modality, the contrast's scale."""
        c = self.config
        dropout = functools.partial(Dropout, c.teacher_dropout, self.batch_axis)
        self.invariant = UtteranceEncoders(
            self.modalities, c.width, dropout, text="lstm", dtype=self.dtype
        )
        self.projections = [
            Projection(c.width, self.dtype, name=f"project_{m}") for m in self.modalities
        ]
        if c.faithful_to == "paper":
            self.log_scale = self.param("log_scale", nn.initializers.ones, ())

    def __call__(self, batch: Batch, available: jax.Array) -> tuple[jax.Array, jax.Array]:
        """-> projected invariants `[B, M, W]`, the contrast's log scale."""
        invariants = self.embed(batch, available)
        projected = [p(invariants[:, k]) for k, p in enumerate(self.projections)]
        # The published optimiser never receives the scale: it stays at e.
        log_scale = self.log_scale if self.config.faithful_to == "paper" else jnp.float32(1)
        return jnp.stack(projected, axis=1), log_scale

    def embed(self, batch: Batch, available: jax.Array) -> jax.Array:
        """-> invariants `[B, M, W]`."""
        return self.invariant(batch.features, batch.mask, available)


class Student(nn.Module):
    """Both kinds of encoders, a cascade and a classifier of h + h'."""

    config: ConfigDict
    modalities: tuple[str, ...]
    num_classes: int
    batch_axis: str | None = None
    dtype: DTypeLike = jnp.float32

    def setup(self):
        """Encoders of h and of the invariants c, the cascade, the classifier."""
        c = self.config
        dropout = functools.partial(Dropout, c.dropout, self.batch_axis)
        encoders = functools.partial(
            UtteranceEncoders, self.modalities, c.width, dropout, dtype=self.dtype
        )
        self.encoders = encoders()
        # The published student pools the text's invariants in another way than the teacher.
        text = "lstm_last" if c.faithful_to == "code" else "lstm"
        self.invariant = encoders(text=text)
        self.imagine = Cascade(c.num_blocks, wiring="context", dtype=self.dtype)
        self.classifier = Classifier(self.num_classes, dropout, dtype=self.dtype)

    def __call__(self, batch: Batch, available: jax.Array) -> tuple[jax.Array, ...]:
        """-> h', c `[B, M, W]` and logits `[B, C]`."""
        vectors, invariants = self.embed(batch, available)
        imagined, logits = self.decide((vectors, invariants))
        return imagined, invariants, logits

    def embed(self, batch: Batch, available: jax.Array) -> tuple[jax.Array, jax.Array]:
        """-> h, c, both `[B, M, W]`."""
        inputs = (batch.features, batch.mask, available)
        return self.encoders(*inputs), self.invariant(*inputs)

    def decide(self, embedded: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        """h, c -> h' `[B, M, W]`, logits `[B, C]`."""
        vectors, invariants = embedded
        flat = vectors.reshape(len(vectors), -1)
        imagined, _ = self.imagine(flat, invariants.reshape(flat.shape))
        return imagined.reshape(vectors.shape), self.classifier(flat + imagined)


def make(
    config: ConfigDict,
    modalities: Sequence[str],
    num_classes: int,
    batch_axis: str | None = None,
    dtype: DTypeLike = jnp.float32,
) -> System:
    """CIF-MMIN as a system; arguments as in `systems.cmarr.make`.

    Raises:
      UserError: a field of `config` has a value that it cannot have.
    """
    check_faithful_to(config)
    network = Student(config, tuple(modalities), num_classes, batch_axis, dtype)
    teacher = teacher_network(config, modalities, num_classes, batch_axis, dtype)
    contrast = Contrast(config, tuple(modalities), batch_axis, dtype)

    def loss(params, batch, available, key):
        imagined, invariants, logits = network.apply(
            params, batch, available, rngs={"dropout": key}
        )
        target = teach(teacher, params, batch, batch.present & ~available)
        invariants_target = teach(contrast, params, batch, batch.present)
        return {
            "cls": whole_cross_entropy(logits, batch, batch_axis),
            "forward": whole_squared_error(imagined, target, batch, batch_axis),
            "invariance": whole_squared_error(invariants, invariants_target, batch, batch_axis),
        }

    weights = {"forward": _FORWARD_WEIGHT, "invariance": _INVARIANCE_WEIGHT}
    student = make_student(network, teacher, loss, weights, copied=("encoders", "invariant"))
    return System((_make_teacher(teacher, contrast), student))


def _make_teacher(teacher: nn.Module, contrast: Contrast) -> Stage:
    modalities, batch_axis = contrast.modalities, contrast.batch_axis

    def init(key, batch, before):
        own, contrasting = (
            net.init(key, batch, batch.present)["params"] for net in (teacher, contrast)
        )
        return {"params": own | contrasting}

    def loss(params, batch, available, key):
        rngs = {"dropout": key}
        logits, _ = teacher.apply(params, batch, available, rngs=rngs)
        projected, log_scale = contrast.apply(params, batch, available, rngs=rngs)
        projected = gather(projected, batch_axis=batch_axis)
        present = gather(batch.present, batch_axis=batch_axis)
        contrasts = jnp.zeros(())
        for n, m in itertools.combinations(range(len(modalities)), 2):
            weight = 0.25 if "text" in (modalities[n], modalities[m]) else 0.5
            contrasts += weight * losses.decoupled_contrast(
                projected[:, n], projected[:, m], present[:, n] & present[:, m], log_scale
            )
        return {"cls": whole_cross_entropy(logits, batch, batch_axis), "contrast": contrasts}

    stage = make_teacher(teacher, loss, ("width", "teacher_dropout", "faithful_to"))
    return stage._replace(init=init)
