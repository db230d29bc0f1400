"""CIF-MMIN: MMIN with contrastively learned invariant features (Liu et al., TAFFC 2024).

As IF-MMIN, but the invariants come from encoders of their own, drawn together by a contrast of
the same utterance's modalities against other utterances; the student classifies h + h'.

    teacher  CE + sum over pairs of w contrast(u, u'),  w = 1/4 with text, 1/2 without
    student  CE + 8 MSE(h', teacher(missing)) + 100 MSE(c, teacher's c of complete data)
"""

import functools
import itertools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cmarr_jax import losses
from cmarr_jax.nn.cascade import Cascade
from cmarr_jax.nn.dropout import Dropout
from cmarr_jax.nn.utterance_encoders import Classifier, UtteranceEncoders
from cmarr_jax.systems.system import Batch, Stage, System, check_faithful_to, gather
from cmarr_jax.systems.teacher_student import make_student, make_teacher, whole_cross_entropy

_FORWARD_WEIGHT, _INVARIANCE_WEIGHT = 8.0, 100.0


class Projection(nn.Module):
    """The contrast's head of one modality; its result has unit length."""

    width: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`[B, W]` -> `[B, W]`."""
        x = nn.LayerNorm()(nn.leaky_relu(nn.Dense(self.width)(x), 0.01))
        x = nn.leaky_relu(nn.Dense(self.width)(x), 0.01)
        return x / jnp.sqrt(jnp.sum(x * x, axis=-1, keepdims=True) + 1e-12)


class Teacher(nn.Module):
    """Specific and invariant encoders; the classifier sees the specific ones alone."""

    config: Any
    modalities: tuple[str, ...]
    num_classes: int
    batch_axis: str | None = None

    def setup(self):
        c = self.config
        dropout = functools.partial(Dropout, c.teacher_dropout, self.batch_axis)
        self.encoders = UtteranceEncoders(self.modalities, c.width, dropout)
        self.invariant = UtteranceEncoders(self.modalities, c.width, dropout, text="lstm")
        self.projections = [Projection(c.width, name=f"project_{m}") for m in self.modalities]
        self.classifier = Classifier(self.num_classes, dropout)
        if c.faithful_to == "paper":
            self.log_scale = self.param("log_scale", nn.initializers.ones, ())

    def __call__(self, batch: Batch, available: jax.Array) -> tuple[jax.Array, ...]:
        """-> logits `[B, C]`, projected invariants `[B, M, W]`, the contrast's log scale."""
        invariants = self.embed_invariant(batch, available)
        projected = [p(invariants[:, k]) for k, p in enumerate(self.projections)]
        # The published optimiser never receives the scale: it stays at e.
        log_scale = self.log_scale if self.config.faithful_to == "paper" else jnp.float32(1)
        logits = self.classify(*self.embed(batch, available))
        return logits, jnp.stack(projected, axis=1), log_scale

    def embed(self, batch: Batch, available: jax.Array) -> tuple[jax.Array]:
        return (self.encoders(batch.features, batch.mask, available),)

    def embed_invariant(self, batch: Batch, available: jax.Array) -> jax.Array:
        return self.invariant(batch.features, batch.mask, available)

    def classify(self, vectors: jax.Array) -> jax.Array:
        return self.classifier(vectors.reshape(len(vectors), -1))


class Student(nn.Module):
    """The student; `teacher` is a frozen copy that gives its targets."""

    config: Any
    modalities: tuple[str, ...]
    num_classes: int
    batch_axis: str | None = None

    def setup(self):
        c = self.config
        dropout = functools.partial(Dropout, c.dropout, self.batch_axis)
        self.teacher = Teacher(c, self.modalities, self.num_classes, self.batch_axis)
        self.encoders = UtteranceEncoders(self.modalities, c.width, dropout)
        # The published student pools its invariant text encoder otherwise than the teacher.
        text = "lstm_last" if c.faithful_to == "code" else "lstm"
        self.invariant = UtteranceEncoders(self.modalities, c.width, dropout, text=text)
        self.imagine = Cascade(c.num_blocks, wiring="context")
        self.classifier = Classifier(self.num_classes, dropout)

    def __call__(self, batch: Batch, available: jax.Array) -> tuple[jax.Array, ...]:
        """-> h', c `[B, M, W]` and logits `[B, C]`."""
        if self.is_initializing():
            self.teacher(batch, available)  # makes its parameters
        vectors, invariants = self.embed(batch, available)
        imagined, logits = self.decide(vectors, invariants)
        return imagined, invariants, logits

    def embed(self, batch: Batch, available: jax.Array) -> tuple[jax.Array, jax.Array]:
        of = (batch.features, batch.mask, available)
        return self.encoders(*of), self.invariant(*of)

    def decide(self, vectors: jax.Array, invariants: jax.Array) -> tuple[jax.Array, jax.Array]:
        flat = vectors.reshape(len(vectors), -1)
        imagined, _ = self.imagine(flat, invariants.reshape(flat.shape))
        return imagined.reshape(vectors.shape), self.classifier(flat + imagined)

    def target(self, batch: Batch, available: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The teacher's vectors of what is `available`, its invariants of complete data."""
        invariants = self.teacher.embed_invariant(batch, batch.present)
        return *self.teacher.embed(batch, available), invariants


def make(
    config: Any, modalities: Sequence[str], num_classes: int, batch_axis: str | None = None
) -> System:
    """CIF-MMIN as a system; arguments as of `systems.cmarr.make`.

    Raises:
      UserError: a field of `config` has no meaning.
    """
    check_faithful_to(config)
    network = Student(config, tuple(modalities), num_classes, batch_axis)

    def loss(params, batch, available, key):
        imagined, invariants, logits = network.apply(
            params, batch, available, rngs={"dropout": key}
        )
        targets = network.apply(params, batch, batch.present & ~available, method="target")
        target, invariants_target = jax.lax.stop_gradient(targets)
        return {
            "cls": whole_cross_entropy(logits, batch, batch_axis),
            "forward": jnp.mean(jnp.square(imagined - target)),
            "invariance": jnp.mean(jnp.square(invariants - invariants_target)),
        }

    teacher = _make_teacher(config, modalities, num_classes, batch_axis)
    weights = {"forward": _FORWARD_WEIGHT, "invariance": _INVARIANCE_WEIGHT}
    student = make_student(network, loss, weights, copied=("encoders", "invariant"))
    return System((teacher, student))


def _make_teacher(
    config: Any, modalities: Sequence[str], num_classes: int, batch_axis: str | None
) -> Stage:
    network = Teacher(config, tuple(modalities), num_classes, batch_axis)

    def loss(params, batch, available, key):
        logits, projected, log_scale = network.apply(
            params, batch, available, rngs={"dropout": key}
        )
        projected = gather(projected, batch_axis=batch_axis)
        present = gather(batch.present, batch_axis=batch_axis)
        contrast = jnp.zeros(())
        for n, m in itertools.combinations(range(len(modalities)), 2):
            weight = 0.25 if "text" in (modalities[n], modalities[m]) else 0.5
            contrast += weight * losses.decoupled_contrast(
                projected[:, n], projected[:, m], present[:, n] & present[:, m], log_scale
            )
        return {"cls": whole_cross_entropy(logits, batch, batch_axis), "contrast": contrast}

    return make_teacher(network, loss, depends=("width", "teacher_dropout", "faithful_to"))
