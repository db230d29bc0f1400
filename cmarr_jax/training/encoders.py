"""Published encoders' upper layers, trained before a system: from a front's states to features.

A pack may hold hidden states of a frozen front (`extract --layers K`). The layers above K then
stand before the system's projection: an utterance goes through them at its own length, is pooled to
the system's T positions and normalised by what the published weights give on the training part. So
a system sees `[B, T, D]`, and with a learning rate of 0 what it would see of the last layer's pack.

An encoder's parameters are part of its stage's, under `UPPER`. A later stage starts with those of
the stage before, and what it keeps of that stage's parameters keeps their own.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cmarr_jax.data import pooling
from cmarr_jax.data.pipeline import Corpus
from cmarr_jax.systems.system import Batch, Encoder, Params, Stage, System
from cmarr_jax.training.normalise import Statistics, normalise

UPPER = "upper_layers"  # under it {modality: an encoder's parameters}, among a stage's modules
_SHORTEST = 16  # positions of the smallest bucket
_AT_ONCE = 16  # utterances, where the published encoder shows the whole corpus


def with_encoders(system: System, encoders: Sequence[Encoder]) -> System:
    """The system, with `encoders` before each of its stages."""
    if not encoders:
        return system
    stages = []
    for number, stage in enumerate(system.stages):
        init = functools.partial(_init, stage.init, number == 0)
        stages.append(stage._replace(init=init, encoders=tuple(encoders)))
    return System(tuple(stages))


def published(encoders: Sequence[Encoder]) -> Params:
    """What the `init` of a first stage is given as the stage before; None without encoders."""
    return {"params": {UPPER: {e.modality: e.params for e in encoders}}} if encoders else None


class OfLeaf(NamedTuple):
    """The encoder that a parameter belongs to."""

    encoder: Encoder
    factor: float  # of the encoder's learning rate


def of_leaf(stage: Stage, path: Sequence) -> OfLeaf | None:
    """Whose parameter lies at `path` of a stage's parameters; None = the system's."""
    keys = [entry.key for entry in path]
    if UPPER not in keys:
        return None
    place = keys.index(UPPER)
    (encoder,) = (e for e in stage.encoders if e.modality == keys[place + 1])
    depth = encoder.depths
    for key in keys[place + 2 :]:
        depth = depth[key]
    return OfLeaf(encoder, encoder.layer_decay**depth)


def _init(init: Callable, is_first: bool, key: jax.Array, batch: Batch, before: Params) -> Params:
    params = init(key, batch, None if is_first else before)["params"]
    return {"params": params | {UPPER: before["params"][UPPER]}}


def see(
    stage: Stage,
    params: Params,
    batch: Batch,
    rows: dict[str, jax.Array],
    statistics: Statistics[jax.Array],
    key: jax.Array | None = None,
) -> Batch:
    """The batch as a stage's system sees it; unchanged for a stage without encoders.

    Args:
      stage: its `encoders` encode, and those that its frozen modules kept.
      params: of the stage.
      batch: features of modalities with an encoder are its input, `[B, L_m, D_m]`, not normalised.
      rows: modality -> `[B]` int32, how many of the L_m are an utterance's; of those that keep
        their own length.
      statistics: normalise what the encoders give.
      key: of the encoders' dropout; None = there is none.
    """
    if not stage.encoders:
        return batch

    def encode(upper: Params, key: jax.Array | None) -> dict[str, jax.Array]:
        encoded = {}
        for k, encoder in enumerate(stage.encoders):
            m, own = encoder.modality, None if key is None else jax.random.fold_in(key, k)
            encoded[m] = _apply(encoder, upper[m], batch.features[m], batch.mask, rows.get(m), own)
        return dict(batch.features) | normalise(encoded, statistics, stage.precision.dtype)

    modules = params["params"]
    kept = [modules[name][UPPER] for name in stage.frozen if UPPER in modules.get(name, {})]
    taught = jax.lax.stop_gradient(encode(kept[0], None)) if kept else None
    return batch._replace(features=encode(modules[UPPER], key), taught=taught)


def _apply(
    encoder: Encoder,
    params: Params,
    x: jax.Array,
    mask: jax.Array,
    rows: jax.Array | None,
    key: jax.Array | None,
) -> jax.Array:
    """`[B, L, D]` with `rows` `[B]`, or `[B, T, D]` without -> `[B, T, dim]`; `mask` `[B, T]`."""
    x, length = x.astype(jnp.float32), mask.shape[1]
    if rows is None:
        return encoder.encode(params, x, mask, key)

    def within(size: int, x: jax.Array) -> jax.Array:
        own = jnp.arange(size)[None] < rows[:, None]
        y = encoder.encode(params, jnp.where(own[..., None], x[:, :size], 0), own, key)
        return pool(y, rows, length)

    sizes = buckets(x.shape[1])
    if len(sizes) == 1:
        return within(sizes[0], x)
    longest = jnp.max(rows)
    if encoder.batch_axis:  # of the whole batch, or dropout would draw for another shape
        longest = jax.lax.pmax(longest, encoder.batch_axis)
    which = jnp.searchsorted(jnp.asarray(sizes), longest)
    # Gradients run the chosen branch anew: what a branch keeps for them, `switch` also fills with
    # zeros in all others.
    again = functools.partial(jax.checkpoint, prevent_cse=False)
    return jax.lax.switch(which, [again(functools.partial(within, size)) for size in sizes], x)


def buckets(length: int) -> list[int]:
    """Positions that a batch may be cut to, up to `length`: each about half more than the last."""
    sizes = [min(_SHORTEST, length)]
    while sizes[-1] < length:
        sizes.append(min(-(-sizes[-1] * 3 // 2 // 8) * 8, length))
    return sizes


def pool(x: jax.Array, rows: jax.Array, length: int) -> jax.Array:
    """`pooling.fix_length`'s "pool" of each utterance's own rows.

    Args:
      x: `[B, L, D]`.
      rows: `[B]`, of each utterance; 0 = none, and zeros come back.
      length: T.

    Returns:
      `[B, T, D]` float32.
    """
    windows = jax.vmap(lambda own: pooling.windows(jnp.arange(length), own))(rows)
    first, last = (each[..., None] for each in windows)  # [B, T, 1]
    place = jnp.arange(x.shape[1])[None, None]
    weights = ((place >= first) & (place < last)) / jnp.maximum(last - first, 1)
    return jnp.einsum("btl,bld->btd", weights, x.astype(jnp.float32), precision="highest")


def as_published(corpus: Corpus, stage: Stage) -> Corpus:
    """The corpus as a stage's system sees it under the published weights, but not normalised."""
    if not stage.encoders:
        return corpus
    features, every = dict(corpus.features), np.arange(len(corpus.labels))
    for encoder in stage.encoders:
        m, length = encoder.modality, corpus.mask.shape[1]
        shown = np.zeros((len(every), length, encoder.dim), np.float32)
        apply = jax.jit(functools.partial(_apply, encoder))
        params, order, rows = jax.device_put(encoder.params), every, corpus.rows.get(m)
        if rows is not None:  # alike ones together, so that they share a small bucket
            order = np.argsort(rows, kind="stable")
        for start in range(0, len(order), _AT_ONCE):
            some = np.resize(order[start : start + _AT_ONCE], _AT_ONCE)
            own = None if rows is None else rows[some]
            shown[some] = apply(params, corpus.features[m][some], corpus.mask[some], own, None)
        features[m] = shown
    return corpus._replace(features=features)
