"""What the MMIN family shares: a teacher on complete data, a student that keeps a copy of it.

A teacher's network has

    embed(batch, available)   -> a tuple of what the encoders make, each `[B, ...]`
    classify(*embedded)       -> logits `[B, C]`

and a student's, which holds its teacher as the module "teacher",

    embed(batch, available)   -> as above
    decide(*embedded)         -> imagined vectors `[B, M, W]`, logits, and whatever its loss needs
    target(batch, available)  -> what the teacher makes of it `[B, M, W]`, and whatever else
"""

from collections.abc import Callable, Mapping, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from cmarr_jax import losses
from cmarr_jax.systems.system import Batch, Encoded, Params, Prediction, Stage, gather


def whole_cross_entropy(logits: jax.Array, batch: Batch, batch_axis: str | None) -> jax.Array:
    """L_cls over the whole batch, wherever it lies."""
    of = (logits, batch.labels, batch.weights)
    return losses.cross_entropy(*(gather(x, batch_axis=batch_axis) for x in of))


def make_teacher(network: nn.Module, loss: Callable, depends: Sequence[str]) -> Stage:
    """The first stage. `loss` and `depends` as of `systems.system.Stage`."""

    def predict(params, encoded, mask, available):
        logits = network.apply(params, *pick(encoded, available), method="classify")
        return Prediction(logits, None, None)

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
    loss: Callable,
    weights: Mapping[str, float],
    copied: Sequence[str],
    blank: Callable[[Batch], tuple[Batch, jax.Array]] | None = None,
) -> Stage:
    """The second stage.

    Args:
      network: of the student.
      loss, weights: of `systems.system.Stage`.
      copied: names of the teacher's modules where the student's own start.
      blank: batch -> the batch and the availability that stand for nothing being available; by
        default zero inputs.
    """

    def init(key, batch, before):
        params = network.init(key, batch, batch.present)["params"]
        teacher = before["params"]
        return {"params": params | {"teacher": teacher} | {name: teacher[name] for name in copied}}

    def encode(params, batch):
        target, *_ = network.apply(params, batch, batch.present, method="target")
        return embed_both(network, params, batch, blank), target

    def predict(params, encoded, mask, available):
        both, target = encoded
        imagined, logits, *_ = network.apply(params, *pick(both, available), method="decide")
        return Prediction(logits, as_sequences(imagined), as_sequences(target))

    return Stage("student", init, loss, encode, predict, weights, frozen=("teacher",))


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
    """`[B, M, W]` -> `[M, B, 1, W]`, the shape of a prediction's recovered sequences."""
    return jnp.swapaxes(vectors, 0, 1)[:, :, None]
