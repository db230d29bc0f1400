"""What the MMIN family shares: a teacher on complete data, and a student that keeps a copy of it.

A network of either kind has

    embed(batch, available)   -> what its encoders make: vectors `[B, M, W]`, or a tuple of such

a teacher's besides

    classify(embedded)        -> logits `[B, C]`

and a student's

    decide(embedded)          -> imagined vectors `[B, M, W]`, logits, and what its loss needs

A student's parameters hold those of its teacher under the name "teacher"; its network does not.
"""

import functools
from collections.abc import Callable, Mapping, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from cmarr_jax.nn.dropout import Dropout
from cmarr_jax.nn.utterance_encoders import Classifier, UtteranceEncoders
from cmarr_jax.systems.system import Batch, Encoded, Output, Params, Stage


class Teacher(nn.Module):
    """Encoders, and a classifier of all that they make, side by side.

    Attributes:
      encoders: (features, mask, available) -> vectors `[B, M, W]`, or a tuple of such.
      classifier: `[B, D]` -> logits `[B, C]`.
      shared: `[B, M, W]` -> invariants `[B, M, W]` of the encoders' vectors, which then stand
        beside these; None = there are none.
    """

    encoders: nn.Module
    classifier: nn.Module
    shared: nn.Module | None = None

    def __call__(self, batch: Batch, available: jax.Array) -> tuple[jax.Array, Encoded]:
        """-> logits `[B, C]`, and the vectors that they are made of."""
        embedded = self.embed(batch, available)
        return self.classify(embedded), self._with_shared(embedded)

    def embed(self, batch: Batch, available: jax.Array) -> Encoded:
        """-> the encoders' vectors `[B, M, W]`, or a tuple of such."""
        return self.encoders(batch.features, batch.mask, available)

    def classify(self, embedded: Encoded) -> jax.Array:
        """-> logits `[B, C]`."""
        joined = jnp.concatenate(jax.tree.leaves(self._with_shared(embedded)), axis=1)
        return self.classifier(joined.reshape(len(joined), -1))

    def _with_shared(self, embedded: Encoded) -> Encoded:
        return (embedded, self.shared(embedded)) if self.shared else embedded


def teacher_network(
    config: ConfigDict,
    modalities: Sequence[str],
    num_classes: int,
    batch_axis: str | None = None,
    encoders: Callable[..., nn.Module] = UtteranceEncoders,
    shared: nn.Module | None = None,
) -> Teacher:
    """The family's teacher.

    Args:
      config, modalities, num_classes, batch_axis: as of `systems.cmarr.make`.
      encoders: (modalities, width, dropout) -> `Teacher.encoders`.
      shared: `Teacher.shared`.
    """
    dropout = functools.partial(Dropout, config.teacher_dropout, batch_axis)
    made = encoders(tuple(modalities), config.width, dropout)
    return Teacher(made, Classifier(num_classes, dropout), shared)


def make_teacher(network: nn.Module, loss: Callable, depends: Sequence[str]) -> Stage:
    """The first stage. `loss` and `depends` as of `systems.system.Stage`."""

    def predict(params, encoded, mask, available):
        logits = network.apply(params, pick(encoded, available), method="classify")
        return Output(logits, None, None)

    return Stage(
        "teacher",
        lambda key, batch, before: network.init(key, batch, batch.present),
        loss,
        lambda params, batch: embed_both(network, params, batch),
        predict,
        complete=True,
        depends=tuple(depends),
    )


def make_student(
    network: nn.Module,
    teacher: nn.Module,
    loss: Callable,
    weights: Mapping[str, float],
    copied: Sequence[str],
    blank: Callable[[Batch], tuple[Batch, jax.Array]] | None = None,
) -> Stage:
    """The second stage.

    Args:
      network: of the student.
      teacher: network of the first stage.
      loss, weights: of `systems.system.Stage`.
      copied: names of the teacher's modules where the student's own start.
      blank: batch -> the batch and the availability that stand for nothing being available; by
        default zero inputs.
    """

    def init(key, batch, before):
        params = network.init(key, batch, batch.present)["params"]
        kept = before["params"]
        return {"params": params | {"teacher": kept} | {name: kept[name] for name in copied}}

    def encode(params, batch):
        target = jax.tree.leaves(teach(teacher, params, batch, batch.present))[0]
        return embed_both(network, params, batch, blank), target

    def predict(params, encoded, mask, available):
        both, target = encoded
        imagined, logits, *_ = network.apply(params, pick(both, available), method="decide")
        return Output(logits, as_sequences(imagined), as_sequences(target))

    return Stage("student", init, loss, encode, predict, weights, frozen=("teacher",))


def teach(
    teacher: nn.Module, params: Params, batch: Batch, available: jax.Array, method: str = "embed"
) -> Encoded:
    """What a `method` of the teacher in a student's `params` makes of a batch.

    It is a constant, and made without dropout.
    """
    own = {"params": params["params"]["teacher"]}
    return jax.lax.stop_gradient(teacher.apply(own, batch, available, method=method))


def embed_both(
    network: nn.Module, params: Params, batch: Batch, blank: Callable | None = None
) -> Encoded:
    """The network's `embed` of everything, and of nothing, as of `make_student`."""
    nothing = blank(batch) if blank else (batch, jnp.zeros_like(batch.present))
    return tuple(
        network.apply(params, *of, method="embed") for of in ((batch, batch.present), nothing)
    )


def pick(both: Encoded, available: jax.Array) -> Encoded:
    """What `embed` would make of `available` `[B, M]`: modalities do not meet before it ends."""
    return jax.tree.map(lambda real, blank: jnp.where(available[..., None], real, blank), *both)


def as_sequences(vectors: jax.Array) -> jax.Array:
    """`[B, M, W]` -> `[M, B, 1, W]`, the shape of an output's recovered sequences."""
    return jnp.swapaxes(vectors, 0, 1)[:, :, None]
