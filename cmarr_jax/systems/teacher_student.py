"""What the MMIN family shares: a teacher on complete data, and a student that keeps its copy.

Both networks have

    embed(batch, available)   -> its encoders' vectors `[B, M, W]`, or a tuple of such arrays

A teacher's network also has

    classify(embedded)        -> logits `[B, C]`

and a student's has

    decide(embedded)          -> imagined vectors `[B, M, W]`, logits, and what its loss needs

A student's parameters hold those of its teacher under the name "teacher"; its network does not.
"""

import functools
from collections.abc import Callable, Mapping, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from ml_collections import ConfigDict

from cmarr_jax.nn.dropout import Dropout
from cmarr_jax.nn.utterance_encoders import Classifier, UtteranceEncoders
from cmarr_jax.systems.system import Batch, Encoded, Output, Params, Stage


class Teacher(nn.Module):
    """Encoders, and a classifier that reads all of their vectors side by side.

    Attributes:
      encoders: (features, mask, available) -> vectors `[B, M, W]`, or a tuple of such arrays.
      classifier: `[B, D]` -> logits `[B, C]`.
      shared: the encoders' vectors `[B, M, W]` -> invariants `[B, M, W]`, which the classifier
        reads too; None = there are none.
    """

    encoders: nn.Module
    classifier: nn.Module
    shared: nn.Module | None = None

    def __call__(self, batch: Batch, available: jax.Array) -> tuple[jax.Array, Encoded]:
        """-> logits `[B, C]`, and the vectors that the classifier read."""
        embedded = self.embed(batch, available)
        return self.classify(embedded), self._with_shared(embedded)

    def embed(self, batch: Batch, available: jax.Array) -> Encoded:
        """-> the encoders' vectors `[B, M, W]`, or a tuple of such arrays."""
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
    dtype: DTypeLike = jnp.float32,
    encoders: Callable[..., nn.Module] = UtteranceEncoders,
    shared: nn.Module | None = None,
) -> Teacher:
    """The family's teacher.

    Args:
      config, modalities, num_classes, batch_axis, dtype: as in `systems.cmarr.make`.
      encoders: (modalities, width, dropout, dtype=) -> `Teacher.encoders`.
      shared: `Teacher.shared`.
    """
    dropout = functools.partial(Dropout, config.teacher_dropout, batch_axis)
    network = encoders(tuple(modalities), config.width, dropout, dtype=dtype)
    return Teacher(network, Classifier(num_classes, dropout, dtype=dtype), shared)


def make_teacher(network: nn.Module, loss: Callable, depends: Sequence[str]) -> Stage:
    """The first stage; `loss` and `depends` as in `systems.system.Stage`."""

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
      network: the student's.
      teacher: the network of the first stage.
      loss, weights: as in `systems.system.Stage`.
      copied: names of the modules whose parameters start as the teacher's.
      blank: batch -> a batch and an availability that stand for "nothing is available"; by
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

    No gradient passes through it, and no dropout acts in it.
    """
    own = {"params": params["params"]["teacher"]}
    return jax.lax.stop_gradient(teacher.apply(own, batch.as_taught(), available, method=method))


def embed_both(
    network: nn.Module, params: Params, batch: Batch, blank: Callable | None = None
) -> Encoded:
    """What `embed` gives of all that is present, and of nothing; `blank` as in `make_student`."""
    nothing = blank(batch) if blank else (batch, jnp.zeros_like(batch.present))
    inputs = ((batch, batch.present), nothing)
    return tuple(network.apply(params, *each, method="embed") for each in inputs)


def pick(both: Encoded, available: jax.Array) -> Encoded:
    """What `embed` gives under `available` `[B, M]`, put together from what `embed_both` gave.

    This is exact, because `embed` treats each modality on its own.
    """
    return jax.tree.map(lambda real, blank: jnp.where(available[..., None], real, blank), *both)


def as_sequences(vectors: jax.Array) -> jax.Array:
    """`[B, M, W]` -> `[M, B, 1, W]`, the shape of an output's recovered sequences."""
    return jnp.swapaxes(vectors, 0, 1)[:, :, None]
